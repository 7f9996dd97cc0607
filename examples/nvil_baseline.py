"""A baseline that sees the input: NVIL (arXiv 1402.0030) on handwritten digits, coded in bits.

An encoder gives each image the logits of 20 bits, a decoder makes the image of the bits, and reinforce trains the encoder.
What it is paid, the log-likelihood, differs more between images than between codes of one image, so that the gradient drowns
in noise. A moving average takes away what all images have in common; a small network that sees the image then takes
away what it can foresee of each one's value. It is trained beside the rest, by regression on the values that come anyway.

The picture ``nvil_baseline.png`` shows on the left the negative ELBO while training, on the right the variance of the
gradient in the logits. Each baseline's curve ends below that of the one before, in both.

    python examples/nvil_baseline.py [FOLDER] [--quick]
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits
from torch.nn import Linear, ReLU, Sequential

import backdraw
from backdraw.study.pictures import save

BITS, WIDTH, BATCH, REPEATS = 20, 100, 100, 100
STYLES = {"none": ("#000000", ":"), "moving average": ("#D55E00", "--"), "learned": ("#0072B2", "-")}


def train(baseline: str, epochs: int) -> tuple[list[float], list[float]]:
    """Return, for each epoch, the mean negative ELBO and the variance of the gradient at its end."""
    torch.manual_seed(0)
    images = torch.tensor(load_digits().data[:1500] / 16, dtype=torch.float32)
    encoder = Sequential(Linear(64, WIDTH), ReLU(), Linear(WIDTH, BITS))
    decoder = Sequential(Linear(BITS, WIDTH), ReLU(), Linear(WIDTH, 64))
    critic = Sequential(Linear(64, WIDTH), ReLU(), Linear(WIDTH, 1))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters(), *critic.parameters()], lr=2e-3)
    average = backdraw.baselines.moving_average(0.95)
    state = average.init(torch.zeros(()))

    def foreseen(x: torch.Tensor) -> torch.Tensor | None:
        if baseline == "none":
            return None
        return state.value + critic(x - images.mean(0))[:, 0] if baseline == "learned" else state.value

    def reconstruction(x: torch.Tensor, logits: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
        """Mean over draws of the negative log-likelihood of each image, with reinforce's gradient."""
        loss = torch.nn.BCEWithLogitsLoss(reduction="none")
        f = lambda code: loss(decoder(code), x.expand(*code.shape[:-1], 64)).sum(-1)  # noqa: E731
        return backdraw.reinforce(f, backdraw.Bernoulli(logits), baseline=b)

    def variance() -> float:
        """Variance of one image's gradient in its logits, summed over them, mean over images."""
        x = images[:BATCH]
        with torch.no_grad():
            logits, b = encoder(x).repeat(REPEATS, 1, 1), foreseen(x)
        logits.requires_grad_()
        b = b.expand(REPEATS, BATCH) if b is not None and b.shape else b
        value = reconstruction(x, logits, b)
        return float(torch.autograd.grad(value.sum(), logits)[0].var(0).sum(-1).mean())

    losses, variances = [], []
    for _ in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(images)).split(BATCH):
            x = images[batch]
            logits, b = encoder(x), foreseen(x)
            value = reconstruction(x, logits, b)
            prior = backdraw.Bernoulli(torch.zeros_like(logits))
            loss = (value + backdraw.kl(backdraw.Bernoulli(logits), prior).sum(-1)).mean()
            total += float(loss.detach()) * len(x) / len(images)
            if baseline == "learned":  # it is no part of the gradient above, which takes it for a constant
                loss = loss + ((value.detach() - b) ** 2).mean()
            state = average.update(value, state)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(total)
        variances.append(variance())
    return losses, variances


def main(arguments: list[str] | None = None) -> dict[str, tuple[float, float]]:
    """Draw the picture; return the last negative ELBO and variance of each baseline."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), help="where the picture goes")
    parser.add_argument("--quick", action="store_true", help="fewer epochs")
    given = parser.parse_args(arguments)

    fig = Figure(figsize=(9.6, 4.0), layout="constrained", dpi=150)
    left, right = fig.subplots(1, 2)
    last = {}
    for name, (color, line) in STYLES.items():
        with threadpool_limits(1):  # the arrays are small: threads would only wait for each other
            losses, variances = train(name, 8 if given.quick else 60)
        left.plot(range(1, len(losses) + 1), losses, color=color, linestyle=line, label=f"baseline: {name}")
        right.semilogy(range(1, len(losses) + 1), variances, color=color, linestyle=line)
        last[name] = losses[-1], variances[-1]
        print(f"baseline {name}: negative ELBO {losses[-1]:.2f} nats, variance of the gradient {variances[-1]:.3g}")
    left.set_ylabel("negative ELBO (nats per image)")
    if not given.quick:
        left.set_ylim(25.5, 28.5)  # the first epochs, alike in all, would flatten the rest
    right.set_ylabel("variance of the gradient")
    left.legend(frameon=False)
    for ax in (left, right):
        ax.set_xlabel("epoch")
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    save(fig, given.folder / "nvil_baseline.png")
    return last


if __name__ == "__main__":
    main()
