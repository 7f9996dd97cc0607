"""The ``backdraw`` command."""

import importlib.util
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from backdraw import __version__, cli_backends, cli_study
from backdraw.backend import adapter
from backdraw.cli_checks import backends, check_name, check_writable, fail, versions
from backdraw.errors import BackdrawError
from backdraw.study import digits, latents
from backdraw.study.properties import tabulate

if TYPE_CHECKING:
    import typer

NEEDS = ("typer", "rich", "matplotlib", "sklearn", "threadpoolctl")
LINES = 20  # of the table that a training prints, about
DEFAULT = digits.Config()
_ESTIMATORS = "; ".join(
    f"{', '.join(name for name in latents.trainable(latent) if latents.latent_for(name) == latent)} ({latent} latents)"
    for latent in latents.LATENTS
)
_DEFAULTS = "gumbel_softmax, or reparameterize for normal"

DIGITS = """Train a variational autoencoder of handwritten digits.

Each image of 8 x 8 pixels is encoded as 20 draws of one of 10 categories (or of 10 bits, or a normal, each: the
**latent**), and decoded from these draws alone; the gradient of the loss comes back through the draws by the
**estimator**. The loss is the negative ELBO: what the
image costs given its code, plus what the code costs, in nats. 1500 of scikit-learn's digits are trained on, 297
are held out. It takes about half a minute on two cores.

Written to the folder:

- `curve.png`: the negative ELBO by epoch
- `reconstructions.png`: held-out digits, and each as decoded from its code
- `samples.png`: digits decoded from random codes
- `metrics.json`: the settings, the curves, the final values, seconds, versions

Examples:

- `backdraw train digits`
- `backdraw train digits --backend torch --estimator straight_through --out straight`
"""


def main() -> None:
    """Run the command, or say what is missing to run it."""
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        print(f"backdraw needs {', '.join(missing)}, not installed here: pip install 'backdraw[cli]'", file=sys.stderr)
        raise SystemExit(1)
    application()(prog_name="backdraw")


def application() -> "typer.Typer":
    """Build the command; typer is imported here so that its absence can be told."""
    import typer

    app = typer.Typer(name="backdraw", no_args_is_help=True, rich_markup_mode="markdown", pretty_exceptions_enable=False)
    train = typer.Typer(no_args_is_help=True, help="Train a model through random draws.")
    app.add_typer(train, name="train")

    def version(wanted: bool) -> None:
        if wanted:
            print(f"backdraw {__version__}")
            raise typer.Exit

    @app.callback()
    def backdraw(
        version: Annotated[
            bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version, and end.")
        ] = False,
    ) -> None:
        """Gradients through random draws, on NumPy, CuPy, PyTorch and JAX."""

    @train.command("digits", help=DIGITS)
    def train_digits(
        backend: Annotated[
            str, typer.Option(help="What computes: numpy, torch, jax or cupy. One seed, one curve.")
        ] = DEFAULT.backend,
        latent: Annotated[
            str,
            typer.Option(
                help=f"What the code is made of: {', '.join(latents.LATENTS)}.",
                show_default="the first of these that the estimator can train",
            ),
        ] = "",
        estimator: Annotated[
            str,
            typer.Option(help=f"How the gradient comes back through the draw: {_ESTIMATORS}.", show_default=_DEFAULTS),
        ] = "",
        epochs: Annotated[int, typer.Option(help="Passes over the 1500 training images.")] = DEFAULT.epochs,
        seed: Annotated[int, typer.Option(help="Of the parameters, the order of the images and the draws.")] = DEFAULT.seed,
        out: Annotated[Path, typer.Option(help="The folder to write to; made if it is not there.")] = Path("digits"),
    ) -> None:
        """Check everything, train, write."""
        _train_digits(backend=backend, latent=latent, estimator=estimator, epochs=epochs, seed=seed, out=out)

    @app.command("study", help=cli_study.STUDY)
    def study(
        problem: Annotated[
            list[str] | None,
            typer.Option(
                help="One of --list, or path/to/file.py:function for your own; may be given again.",
                show_default=cli_study.PROBLEM,
            ),
        ] = None,
        estimator: Annotated[
            list[str] | None,
            typer.Option(help="Measure this one; may be given again. name:option=value,... sets options.", show_default="all"),
        ] = None,
        backend: Annotated[str, typer.Option(help="What computes: numpy, torch, jax or cupy, in float64.")] = DEFAULT.backend,
        repeats: Annotated[
            int | None,
            typer.Option(
                help="Independent gradients of each estimator, or trainings.",
                show_default=f"{cli_study.REPEATS}, trainings {cli_study.TRAININGS}",
            ),
        ] = None,
        seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
        out: Annotated[Path, typer.Option(help="The folder to write to; made if it is not there.")] = Path(),
        workers: Annotated[int, typer.Option(help="Processes to spread the repeats over; -1 is one for each core.")] = 1,
        scheduler: Annotated[str, typer.Option(help="A Dask scheduler to spread them over instead, tcp://host:port.")] = "",
        train: Annotated[
            bool, typer.Option("--train", help="Train with each estimator instead, and draw the curves.")
        ] = False,
        steps: Annotated[int | None, typer.Option(help="How long, with --train.", show_default="the problem's")] = None,
        list_problems: Annotated[bool, typer.Option("--list", help="Print the built-in problems, and end.")] = False,
        properties: Annotated[
            bool, typer.Option("--properties", help="Print what is stated of every estimator, and end.")
        ] = False,
    ) -> None:
        """Check everything, measure, write."""
        if list_problems or properties:
            print(cli_study.listed() if list_problems else tabulate())
            return
        chosen = cli_study.Options(
            problem or [cli_study.PROBLEM], estimator or [], backend, repeats, seed, out, workers, scheduler, train, steps
        )
        cli_study.run(chosen)

    @app.command("backends")
    def backends_found() -> None:
        """Print the frameworks and devices that are found here, and what to install for the others."""
        print(cli_backends.found())

    return app


def _train_digits(*, backend: str, latent: str, estimator: str, epochs: int, seed: int, out: Path) -> None:
    """Check everything, train, write."""
    from rich.console import Console

    check_name("backend", backend, backends())
    if latent:
        check_name("latent", latent, list(latents.LATENTS))
    if estimator:
        kinds = [latent] if latent else list(latents.LATENTS)
        check_name("estimator", estimator, sorted({name for kind in kinds for name in latents.trainable(kind)}))
    try:
        config = digits.Config(backend=backend, latent=latent, estimator=estimator, epochs=epochs, seed=seed)
        adapter(backend)
    except BackdrawError as error:
        fail(str(error))
    check_writable(out)
    console = Console(highlight=False, soft_wrap=True)
    trained = _run(console, config)
    written = _write(out, trained)
    console.print(f"held-out negative ELBO: {trained.held_out:.3f} nats per image, after {trained.epochs[-1].seconds:.1f} s")
    console.print(f"written to {out}: {', '.join(written)}", markup=False)


def _run(console: Any, config: digits.Config) -> digits.Trained:
    """Train under a progress bar, and print every so many epochs."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from threadpoolctl import threadpool_limits

    images, held_out = digits.load()
    console.print(
        f"{config.latents} draws, {config.latent}, {config.estimator} on {config.backend}, "
        f"seed {config.seed}; negative ELBO in nats per image:"
    )
    console.print(f"{'epoch':>6}  {'train':>8}  {'held-out':>8}  {'seconds':>7}")
    every = -(-config.epochs // LINES)
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs"), TimeRemainingColumn())
    # The matrices are small: a second BLAS thread gains nothing on an idle machine and waits for its turn on a busy one.
    with threadpool_limits(1), Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=config.epochs)

        def report(e: digits.Epoch) -> None:
            progress.update(task, completed=e.number)
            if e.number % every == 0 or e.number in (1, config.epochs):
                console.print(f"{e.number:6d}  {e.train:8.3f}  {e.held_out:8.3f}  {e.seconds:7.1f}")

        return digits.train(config, images, held_out, report)


def _write(out: Path, trained: digits.Trained) -> list[str]:
    """Write the pictures and the numbers, and return the names of the files."""
    import backdraw
    from backdraw.study import pictures

    config, epochs = trained.config, trained.epochs
    images = digits.load()[1][:20]
    train, held_out = [e.train for e in epochs], [e.held_out for e in epochs]
    first, second = backdraw.split(backdraw.key(config.seed))
    pictures.curve(out / "curve.png", train, held_out)
    pictures.reconstructions(out / "reconstructions.png", images, digits.reconstruct(trained, images, first))
    pictures.samples(out / "samples.png", digits.generate(trained, 64, second))
    metrics = {
        "unit": "nats per image",
        "config": asdict(config),
        "epoch": [e.number for e in epochs],
        "train_negative_elbo": train,
        "held_out_negative_elbo": held_out,
        "training_loss": [float(e.losses.mean()) for e in epochs],
        "final": {"train_negative_elbo": train[-1], "held_out_negative_elbo": trained.held_out},
        "seconds": epochs[-1].seconds,
        "versions": versions(config.backend),
    }
    text = json.dumps(metrics, indent=2) + "\n"
    pictures.atomically(out / "metrics.json", lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return ["curve.png", "reconstructions.png", "samples.png", "metrics.json"]
