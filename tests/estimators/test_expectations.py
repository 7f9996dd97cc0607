"""Every estimator of expectations in the registry: what is stated of it, on every backend."""

from typing import Any

import numpy as np
import pytest
from helpers import Backend, Library, finite_difference, pulled
from problems import PROBLEMS, Problem, bowl

import backdraw
from backdraw.estimators import ESTIMATORS, Entry

KEY = backdraw.key(5)
RNG = np.random.default_rng(5)
# What an estimator must be given beyond its defaults.
OPTIONS: dict[str, dict[str, Any]] = {"reinforce": {"baseline": 0.1}}
NAMES = [name for name, e in ESTIMATORS.items() if e.kind == "expectation"]
PAIRS = [
    (name, problem)
    for name in NAMES
    for problem, p in PROBLEMS.items()
    if all(hasattr(p.make(np.zeros((2, *p.logits.shape))), need) for need in ESTIMATORS[name].needs)
]
SMALL = [(name, problem) for name, problem in PAIRS if problem in ("four factors", "shared")]
ONE = list({name: (name, problem) for name, problem in reversed(SMALL)}.values())  # of each estimator


def options(entry: Entry, event: int) -> dict[str, Any]:
    """Return the options of a call, with a key where the estimator draws."""
    noise = {"rng": KEY} if "rng" in (entry.function.__kwdefaults__ or {}) else {}
    needed = {"surrogate": lambda x: bowl(x, event=event)} if entry.name == "relax" else {}
    return {**OPTIONS.get(entry.name, {}), **needed, **noise}


def samples_of(entry: Entry) -> int:
    """Return how many samples the estimator takes by default."""
    return (entry.function.__kwdefaults__ or {}).get("samples", 1)


def estimate(name: str, problem: str, f: Any, logits: Any) -> Any:
    """Call the estimator."""
    entry = ESTIMATORS[name]
    return entry(f, PROBLEMS[problem].make(logits), **options(entry, PROBLEMS[problem].event))


def many(problem: str, n: int) -> np.ndarray:
    """Return the problem's logits as a batch."""
    logits = PROBLEMS[problem].logits
    return np.broadcast_to(logits, (n, *logits.shape))


def truth(entry: Entry, problem: Problem, f: Any) -> np.ndarray:
    """Return the exact gradient of the objective, by differences of its enumeration."""
    objective = lambda l: problem.objective(l, f, samples=samples_of(entry), kind=entry.objective)  # noqa: E731
    return finite_difference(objective, problem.logits, 1.0)


@pytest.mark.needs("numpy")
@pytest.mark.parametrize(("name", "problem"), [(n, p) for n, p in PAIRS if ESTIMATORS[n].gradient == "unbiased"])
def test_unbiased(name: str, problem: str) -> None:
    entry, p = ESTIMATORS[name], PROBLEMS[problem]
    f: Any = p.smooth(p.weights) if entry.differentiable_f else p.f
    logits = many(problem, 10 if name == "exact" else 100_000)
    value, pullback = backdraw.vjp(lambda l: estimate(name, problem, f, l), logits)
    grads = pullback(np.ones_like(value))[0]
    for found, exact in (
        (grads, truth(entry, p, f)),
        (value, p.objective(p.logits, f, samples=samples_of(entry), kind=entry.objective)),
    ):
        error, spread = found.mean(0) - exact, found.std(0) / len(found) ** 0.5
        # Finite differences are good to 1e-8; an estimator without variance is held to that.
        assert np.all(np.abs(error) < 4.5 * spread + 1e-8), (error, spread)


@pytest.mark.needs("numpy")
@pytest.mark.parametrize(
    ("name", "samples", "variance"),
    [("reinforce", 1, 1.5638e-2), ("rloo", 2, 2.5e-5), ("arm", 1, 8.3333e-6), ("disarm", 1, 0.0)],
)
def test_exact_variances(name: str, samples: int, variance: float) -> None:
    entry = ESTIMATORS[name]
    value, pullback = backdraw.vjp(
        lambda l: entry(PROBLEMS["toy"].f, backdraw.Bernoulli(l), samples=samples, rng=KEY), many("toy", 1_000_000)
    )
    grads = pullback(np.ones_like(value))[0]
    spread = ((grads - grads.mean()) ** 2).std() / len(grads) ** 0.5
    assert abs(grads.var() - variance) < 4.5 * spread + 0.5e-4 * variance + 1e-30


@pytest.mark.parametrize(("name", "problem"), SMALL)
def test_agrees_with_numpy(lib: Library, name: str, problem: str) -> None:
    p = PROBLEMS[problem]
    logits = p.logits + RNG.normal(size=(3, *p.logits.shape))
    g = RNG.normal(size=3)

    def run(lib: Library) -> Any:
        f = lambda l, w: estimate(name, problem, p.smooth(w), l)  # noqa: E731
        value, grads = pulled(lib, f, lib.asarray(g), lib.asarray(logits), lib.asarray(p.weights))
        return value, *grads

    for ours, expected in zip(run(lib), run(Library(Backend.NUMPY)), strict=True):
        lib.check(ours, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize(("name", "problem"), ONE)
def test_dtypes(framework: Library, name: str, problem: str, dtype: str) -> None:
    if dtype not in framework.dtypes:
        pytest.skip(f"{framework.backend.value} has no {dtype}")
    p = PROBLEMS[problem]
    logits, w = framework.asarray(many(problem, 3), dtype), framework.asarray(p.weights, dtype)
    f = lambda l, w: estimate(name, problem, p.smooth(w), l)  # noqa: E731
    value, grads = pulled(framework, f, framework.asarray(np.ones(3), dtype), logits, w)
    assert value.shape == (3,)
    for grad, x in zip(grads, (logits, w), strict=True):
        assert grad.dtype == x.dtype
        assert tuple(grad.shape) == tuple(x.shape)
        assert np.all(np.isfinite(framework.to_numpy(grad)))


@pytest.mark.needs("numpy")
@pytest.mark.parametrize(("name", "problem"), PAIRS)
def test_weights_of_f_get_its_mean_gradient(name: str, problem: str) -> None:
    entry, p = ESTIMATORS[name], PROBLEMS[problem]
    logits = many(problem, 10 if name == "exact" else 20_000)
    w = np.broadcast_to(p.weights, logits.shape)  # one copy per batch element, so that their spread is seen

    def run(w: np.ndarray) -> Any:
        return estimate(name, problem, p.smooth(w), logits)

    value, pullback = backdraw.vjp(run, w)
    found = pullback(np.ones_like(value))[0]
    objective = lambda w: p.objective(p.logits, p.smooth(w), samples=samples_of(entry), kind=entry.objective)  # noqa: E731
    error = found.mean(0) - finite_difference(objective, p.weights, 1.0)
    assert np.all(np.abs(error) < 4.5 * found.std(0) / len(found) ** 0.5 + 1e-8), error


@pytest.mark.parametrize(("name", "problem"), ONE)
def test_nan_stays_in_its_batch_element(name: str, problem: str, framework: Library) -> None:
    p = PROBLEMS[problem]
    bad = framework.asarray(np.asarray([0.0, np.nan, 0.0]))
    smooth = p.smooth(framework.asarray(p.weights))
    logits = framework.asarray(many(problem, 3))
    spoilt = lambda x: add(smooth(x), bad)  # noqa: E731
    f = lambda l: estimate(name, problem, spoilt, l)  # noqa: E731
    value, (grad,) = pulled(framework, f, framework.asarray(np.ones(3)), logits)
    grads = framework.to_numpy(grad)
    assert np.array_equal(np.isnan(framework.to_numpy(value)), [False, True, False])
    assert np.all(np.isfinite(grads[[0, 2]]))
    assert np.any(np.isnan(grads[1]))


@backdraw.primitive
def add(be: Any, x: Any, y: Any) -> Any:
    """``x + y`` with a constant y."""
    return x + y


add.defvjp(lambda be, x, y: (x + y, ()), lambda be, res, g: (g, None))


@pytest.mark.needs("jax")
@pytest.mark.parametrize(("name", "problem"), ONE)
def test_under_jit_and_vmap(name: str, problem: str) -> None:
    import jax

    lib, p = Library(Backend.JAX), PROBLEMS[problem]
    w, logits = lib.asarray(p.weights), lib.asarray(many(problem, 2) + RNG.normal(size=(2, *p.logits.shape)))
    both = jax.jit(jax.value_and_grad(lambda l: estimate(name, problem, p.smooth(w), l)))
    value, grad = jax.vmap(both)(logits)
    for i in range(2):
        expected = both(logits[i])
        lib.check(value[i], np.asarray(expected[0]), rtol=1e-10, atol=1e-12)
        lib.check(grad[i], np.asarray(expected[1]), rtol=1e-10, atol=1e-12)


@pytest.mark.needs("torch")
@pytest.mark.filterwarnings(r"ignore:[\s\S]*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(("name", "problem"), ONE)
def test_under_backward_and_compile(name: str, problem: str) -> None:
    import torch

    torch._dynamo.reset()
    lib, p = Library(Backend.TORCH), PROBLEMS[problem]
    w = lib.asarray(p.weights)
    f = lambda l, w: estimate(name, problem, p.smooth(w), l)  # noqa: E731
    expected = backdraw.vjp(f, lib.asarray(many(problem, 2)), w)[1](torch.ones(2, dtype=torch.float64))
    compiled = torch.compile(f, fullgraph=True, backend="eager")
    for run in (f, compiled):
        leaves = [lib.asarray(many(problem, 2)).requires_grad_(), lib.asarray(p.weights).requires_grad_()]
        run(*leaves).sum().backward()
        for leaf, grad in zip(leaves, expected, strict=True):
            torch.testing.assert_close(leaf.grad, grad)


@pytest.mark.parametrize(("name", "problem"), ONE)
def test_second_derivative_is_refused(framework: Library, name: str, problem: str) -> None:
    if name == "exact" or not framework.backend.differentiates:
        pytest.skip("a true derivative, or a framework without a second one")
    p = PROBLEMS[problem]
    f = p.smooth(framework.asarray(p.weights))
    x = framework.asarray(many(problem, 2))

    def first(l: Any) -> Any:
        value, pullback = backdraw.vjp(lambda l: estimate(name, problem, f, l), l)
        return pullback(framework.xp.ones_like(value))[0]

    second = lambda x: backdraw.vjp(first, x)[1](x)  # noqa: E731
    if framework.backend is Backend.JAX:
        import jax

        second = jax.jit(second)  # which fails while it is traced: nothing needs to be compiled
    with pytest.raises(backdraw.GradientError, match="no second derivative"):
        second(x)


def normal(loc: Any) -> Any:
    """Return a continuous distribution."""
    return backdraw.Normal(loc, 1.0)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_values_of_f(framework: Library, name: str) -> None:
    entry = ESTIMATORS[name]
    made = (make(framework.asarray(np.zeros((2, 3)))) for make in (backdraw.Categorical, backdraw.Bernoulli, normal))
    dist = next(d for d in made if all(hasattr(d, need) for need in entry.needs))
    xp = framework.xp
    with pytest.raises(ValueError, match="expected values of shape"):
        entry(lambda x: x[:, :1, ...], dist, **options(entry, 2))
    with pytest.raises(ValueError, match="expected values of shape"):
        entry(lambda x: xp.sum(x), dist, **options(entry, 2))
    with pytest.raises(TypeError, match=r"expected a function that returns .* arrays, got float"):
        entry(lambda x: 1.0, dist, **options(entry, 2))
    if "samples" in (entry.function.__kwdefaults__ or {}):
        with pytest.raises(ValueError, match="samples: "):
            entry(lambda x: xp.sum(x, axis=(-1, -2)), dist, **{**options(entry, 2), "samples": 0})
        with pytest.raises(TypeError, match="samples: expected an int"):
            entry(lambda x: xp.sum(x, axis=(-1, -2)), dist, **{**options(entry, 2), "samples": 1.5})


# --------------------------------------------------------------------------------------------------------- many samples
def test_many_samples_cost_no_digits(framework: Library) -> None:
    n = 100_000
    x = framework.asarray(np.cos(np.arange(8.0 * n)).reshape(n, 8) + 3.0, "float32")
    be = backdraw.Normal(x, 1.0).backend
    expected = framework.to_numpy(x).astype(np.float64).sum(0)
    framework.check(be.sum_samples(x), expected, dtype="float32", rtol=2e-6)
    framework.check(be.mean_samples(x), expected / n, dtype="float32", rtol=2e-6)

    loc = framework.asarray(np.full(8, 1e4), "float32")  # a value and a gradient whose terms are all alike
    cotangent = framework.asarray(np.ones(8), "float32")

    def estimate(loc: Any) -> Any:
        return backdraw.pathwise(lambda x: x, backdraw.Normal(loc, 1.0), samples=n, rng=KEY)

    value, (grad,) = pulled(framework, estimate, cotangent, loc)
    framework.check(value, np.full(8, 1e4), dtype="float32", rtol=5e-6)
    framework.check(grad, np.ones(8), dtype="float32", rtol=5e-6)
