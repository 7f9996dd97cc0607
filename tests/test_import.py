"""What `import backdraw` brings in, how long it takes, and the public names. Also run on the built wheel and sdist."""

import importlib.metadata
import inspect
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

import backdraw

CLASSES = [
    "Arborescence", "BackdrawError", "BackendError", "Bernoulli", "Categorical", "Chain", "Concrete", "Distribution",
    "ExpConcrete", "Exponential", "GradientError", "Gumbel", "Key", "Laplace", "LogNormal", "Logistic",
    "MultivariateNormal", "Normal", "Oracle", "Permutation", "PlackettLuce", "Primitive", "SpanningTree", "StepState",
    "Subset", "Uniform",
]  # fmt: skip
FUNCTIONS = [
    "adaptive_step", "arm", "arsm", "blackbox", "disarm", "draw", "exact", "fenchel_young", "fold_in",
    "gapped_straight_through", "gumbel_max", "gumbel_rao", "gumbel_softmax", "hard_concrete", "hard_concrete_nonzero",
    "implicit_mle", "indecater", "intermediate_loss", "key", "kl", "measure_valued", "muprop", "pathwise",
    "perturbed_argmax", "primitive", "rebar", "reinforce", "reinmax", "relax", "reparameterize", "rloo", "select",
    "split", "stochastic_softmax", "stop_gradient", "straight_through", "sum_and_sample", "unordered_set",
    "value_and_grad", "variance_loss", "vimco", "vjp",
]  # fmt: skip
MODULES = [
    "backend", "baselines", "distributions", "errors", "estimators", "gradient", "operations", "random", "schedules",
    "surrogate", "threefry",
]  # fmt: skip

ELSEWHERE = ["torch", "jax", "jaxlib", "cupy", "scipy", "sklearn", "matplotlib", "typer", "rich"]
LOADED = f"print([name for name in {ELSEWHERE} if name in sys.modules])"


def run(code: str, **variables: str) -> str:
    """Return what a fresh interpreter prints, these environment variables set."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **variables}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_loads_no_framework() -> None:
    assert run(f"import sys, backdraw; {LOADED}") == "[]"


def test_drawing_with_numpy_loads_no_other_framework() -> None:
    assert run(f"import sys, numpy, backdraw; backdraw.draw(numpy.zeros(3), rng=0); {LOADED}") == "[]"


def test_import_takes_little_on_top_of_numpy(tmp_path: Path) -> None:
    # Of the processor: the other tests run at the same time. From bytecode, as pip leaves it: a checkout may have none.
    code = "import time, numpy; start = time.process_time(); import backdraw; print(time.process_time() - start)"
    bytecode = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    run(code, **bytecode)
    assert min(float(run(code, **bytecode)) for _ in range(5)) < 0.15


def test_public_names() -> None:
    found = run("import backdraw; print(*(name for name in dir(backdraw) if not name.startswith('_')))").split()
    assert found == sorted(CLASSES + FUNCTIONS + MODULES)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_are_documented(name: str) -> None:
    text = inspect.getdoc(getattr(backdraw, name)) or ""
    missing = [s for s in ("Parameters", "Returns", "Examples") if f"\n{s}\n{'-' * len(s)}\n" not in text]
    assert not missing


@pytest.mark.parametrize("package", ["backdraw", "backdraw_backends"])
def test_packages_are_typed(package: str) -> None:
    assert (files(package) / "py.typed").is_file()


def test_metadata_agrees() -> None:
    try:
        metadata = importlib.metadata.metadata("backdraw")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("not installed")
    assert metadata["Version"] == backdraw.__version__
    hard = {r.split(";")[0].split(">")[0] for r in metadata.get_all("Requires-Dist", []) if "extra ==" not in r}
    assert hard == {"numpy", "array-api-compat"}


def test_entry_points_name_the_adapters() -> None:
    try:
        entries = importlib.metadata.distribution("backdraw").entry_points
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("not installed")
    found = {e.name: e.value for e in entries if e.group == "backdraw.backends"}
    assert found == {name: f"backdraw_backends.{name}" for name in ("numpy", "cupy", "torch", "jax")}
