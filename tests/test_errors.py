"""Bad input: the class of the error, and a message that names the argument, what came and what was expected."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from helpers import Backend, Library, call_anyhow, run_python

import backdraw
from backdraw import BackdrawError, Bernoulli, Categorical
from backdraw.backend import adapter
from backdraw.estimators import ESTIMATORS, estimator

X = np.asarray([[0.1, 0.2, 0.7], [0.3, 0.3, 0.4]])
KEY = backdraw.key(0)
WITH_TEMPERATURE: dict[str, Callable[..., Any]] = {
    "gumbel_softmax": lambda x, **o: backdraw.gumbel_softmax(x, rng=KEY, **o),
    "gumbel_softmax of bits": lambda x, **o: backdraw.gumbel_softmax(Bernoulli(x), rng=KEY, **o),
    "straight_through": lambda x, **o: backdraw.straight_through(x, rng=KEY, **o),
    "select": backdraw.select,
}
ALL: dict[str, Callable[[Any], Any]] = {
    "draw": lambda x: backdraw.draw(x, rng=KEY),
    "gumbel_max": lambda x: backdraw.gumbel_max(x, rng=KEY),
    "intermediate_loss": lambda x: backdraw.intermediate_loss(x, rng=KEY),
    "Categorical": Categorical,
    "Bernoulli": Bernoulli,
    **WITH_TEMPERATURE,
}


class Subclass(np.ndarray):
    """An array type that no adapter has seen before."""


temperatures = pytest.mark.parametrize("f", WITH_TEMPERATURE.values(), ids=WITH_TEMPERATURE)
everything = pytest.mark.parametrize("f", ALL.values(), ids=ALL)
of_logits = pytest.mark.parametrize("f", [f for n, f in ALL.items() if "ernoulli" not in n and "bits" not in n])


def test_hierarchy() -> None:
    from backdraw.errors import InvalidTypeError, InvalidValueError

    for error, builtin in (
        (InvalidValueError, ValueError),
        (InvalidTypeError, TypeError),
        (backdraw.GradientError, RuntimeError),
        (backdraw.BackendError, ImportError),
    ):
        assert issubclass(error, BackdrawError)
        assert issubclass(error, builtin)


# ------------------------------------------------------------------------------------------------------- temperature
@temperatures
@pytest.mark.parametrize("bad", [0, 0.0, -1, -0.5, np.inf, np.nan, np.float64(0)])
def test_temperature_not_positive(lib: Library, f: Any, bad: Any) -> None:
    with pytest.raises(ValueError, match=f"temperature: expected a positive finite number, got {float(bad)}") as info:
        f(lib.asarray(X), temperature=bad)
    assert isinstance(info.value, BackdrawError)


@temperatures
@pytest.mark.parametrize("bad", [0.0, -0.5, np.inf, np.nan])
def test_temperature_array_not_positive(lib: Library, f: Any, bad: float) -> None:
    if lib.backend is Backend.CUPY:
        pytest.skip("a value on the device is not waited for")
    with pytest.raises(ValueError, match=f"temperature: expected a positive finite number, got {bad}"):
        f(lib.asarray(X), temperature=lib.asarray(np.asarray(bad)))


@temperatures
def test_temperature_too_small_for_the_dtype(lib: Library, f: Any) -> None:
    with pytest.raises(ValueError, match=r"temperature: expected at least 1\.18e-38.*got 1e-39"):
        f(lib.asarray(X, "float32"), temperature=1e-39)


@temperatures
@pytest.mark.parametrize("bad", [True, "1", None, 1j, [1.0]])
def test_temperature_of_another_type(lib: Library, f: Any, bad: Any) -> None:
    with pytest.raises(TypeError, match=f"temperature: expected a .*number.*, got {type(bad).__name__}"):
        f(lib.asarray(X), temperature=bad)


@temperatures
def test_temperature_array_that_is_no_scalar(lib: Library, f: Any) -> None:
    with pytest.raises(ValueError, match=r"temperature: expected a scalar array of shape \(\), got shape \(1,\)"):
        f(lib.asarray(X), temperature=lib.asarray(np.ones(1)))
    with pytest.raises(TypeError, match=r"temperature: expected a real floating array, got .*int64"):
        f(lib.asarray(X), temperature=lib.asarray(np.asarray(1)))


@pytest.mark.needs("torch")
def test_temperature_of_another_framework() -> None:
    import torch

    with pytest.raises(TypeError, match="temperature: expected a number or a scalar numpy array, got a torch array"):
        backdraw.select(X, temperature=torch.tensor(1.0))


# ------------------------------------------------------------------------------------------------------------ logits
@everything
@pytest.mark.parametrize("dtype", ["int64", "int32", "bool", "complex128"])
def test_logits_of_another_dtype(lib: Library, f: Any, dtype: str) -> None:
    with pytest.raises(TypeError, match=rf"logits: expected a real floating dtype, got .*{dtype}.* of shape \(2, 3\)") as info:
        f(lib.asarray(X.astype(dtype), dtype))
    assert isinstance(info.value, BackdrawError)


@everything
@pytest.mark.parametrize("bad", [[0.1, 0.2], (0.1, 0.2), 1.0, "x", None, {"a": 1}])
def test_logits_that_are_no_array(f: Any, bad: Any) -> None:
    with pytest.raises(TypeError, match=f"logits: expected an array of NumPy.*|logits: expected .*{type(bad).__name__}"):
        f(bad)


@of_logits
def test_no_categories(lib: Library, f: Any) -> None:
    with pytest.raises(ValueError, match=r"logits: expected at least one category along axis -1, got shape \(2, 0\)"):
        f(lib.asarray(np.zeros((2, 0))))


@of_logits
def test_scalar_logits(lib: Library, f: Any) -> None:
    with pytest.raises(ValueError, match=r"logits: expected at least one axis, got a scalar of shape \(\)"):
        f(lib.asarray(np.asarray(0.5)))


@pytest.mark.parametrize("bad", [2, -3, 10])
def test_axis_out_of_range(lib: Library, bad: int) -> None:
    for f in (Categorical, lambda x, axis: backdraw.gumbel_softmax(x, axis=axis, rng=KEY)):
        with pytest.raises(ValueError, match=rf"axis: expected -2 to 1 for logits of shape \(2, 3\), got {bad}"):
            f(lib.asarray(X), axis=bad)


@pytest.mark.parametrize("bad", [1.0, "0", None, True])
def test_axis_of_another_type(lib: Library, bad: Any) -> None:
    with pytest.raises(TypeError, match=f"axis: expected an int, got {type(bad).__name__}"):
        Categorical(lib.asarray(X), axis=bad)


# -------------------------------------------------------------------------------------------------------------- mask
@pytest.mark.parametrize("shape", [(2,), (3, 3), (1, 2, 3), (2, 1, 3), (4,)])
def test_mask_of_the_wrong_shape(lib: Library, shape: tuple[int, ...]) -> None:
    where = lib.asarray(np.ones(shape, bool))
    message = r"where: expected a shape that broadcasts to the logits' shape \(2, 3\), got "
    for f in (Categorical, lambda x, where: backdraw.gumbel_softmax(x, where=where, rng=KEY)):
        with pytest.raises(ValueError, match=message) as info:
            f(lib.asarray(X), where=where)
        assert str(info.value).endswith(f"got {shape}")


def test_mask_of_another_type(lib: Library) -> None:
    for bad in (lib.asarray(np.ones(3)), lib.asarray(np.ones(3, np.int64)), [True, True, False], True):
        with pytest.raises(TypeError, match=rf"where: expected a boolean {lib.be.name} array, got {type(bad).__name__}"):
            Categorical(lib.asarray(X), where=bad)


@pytest.mark.needs("torch", "jax")
def test_mask_of_another_framework() -> None:
    import jax.numpy as jnp
    import torch

    for where in (torch.ones(3, dtype=torch.bool), jnp.ones(3, dtype=bool)):
        with pytest.raises(TypeError, match="where: expected a boolean numpy array, got "):
            Categorical(X, where=where)
    with pytest.raises(TypeError, match="where: expected a boolean torch array, got ndarray"):
        Categorical(torch.zeros(3), where=np.ones(3, bool))


# ---------------------------------------------------------------------------------------------------- draws and needs
@pytest.mark.parametrize("bad", [-1, (2, -1), 1.5, "3", (1.0,), None, True])
def test_bad_shape(bad: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"shape: expected .*, got ") as info:
        backdraw.draw(X, shape=bad, rng=KEY)
    assert isinstance(info.value, BackdrawError)


def test_numpy_integers_are_sizes() -> None:
    assert backdraw.draw(X, shape=(np.int64(2), 1), rng=KEY).shape == (2, 1, 2, 3)  # type: ignore[arg-type]
    assert backdraw.draw(X, shape=np.int32(2), rng=KEY).shape == (2, 2, 3)  # type: ignore[arg-type]


def test_a_need_that_is_not_met() -> None:
    class Bare(backdraw.Distribution):
        arrays, parameters = ("logits",), ("logits",)

    bare = Bare.rebuild([X], [])
    for name, entry in ESTIMATORS.items():
        with pytest.raises(TypeError, match=rf"dist: \w+ needs {entry.needs[0]}\(\) of Bare, but it"):
            call_anyhow(entry, bare)
        assert name


@dataclass(frozen=True)
class Bits(backdraw.Distribution):
    """What a user writes of a distribution: its fields, exact draws and a score."""

    logits: Any
    arrays, parameters = ("logits",), ("logits",)

    def sample(self, noise: Any) -> Any:
        return self.backend.cast(noise < self.backend.sigmoid(self.logits), self.logits.dtype)

    def score(self, x: Any) -> Any:
        return x - self.backend.sigmoid(self.logits)


def test_a_distribution_of_ones_own() -> None:
    p = Bits(X)
    assert backdraw.draw(p, shape=(5,), rng=backdraw.key(0)).shape == (5, *X.shape)
    value, (grad,) = backdraw.value_and_grad(
        lambda u: backdraw.reinforce(lambda x: x.sum(tuple(range(1, x.ndim))), Bits(u), samples=4, rng=backdraw.key(0))
    )(X)
    assert np.isfinite(value)
    assert grad.shape == X.shape
    assert copy.deepcopy(p).backend is p.backend
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(p)).logits, X)


@dataclass(frozen=True)
class Gates(backdraw.Distribution):
    """One that relaxes, and whose parameter has a name of its own."""

    weights: Any
    arrays, parameters, noise = ("weights",), ("weights",), "logistic"

    @property
    def utilities(self) -> Any:
        return self.weights

    def __getattr__(self, name: str) -> Any:
        if name in ("draw_noise", "sample", "mean", "argmax", "perturb_noise", "perturb", "relax", "gapped"):
            return getattr(Bernoulli(self.weights), name)
        return super().__getattr__(name)  # type: ignore[misc]


def test_estimators_ask_for_no_more_than_they_list() -> None:
    taken = []
    for name, entry in ESTIMATORS.items():
        if entry.kind == "draw" and all(hasattr(Gates(X), need) for need in entry.needs):
            noise = {"rng": backdraw.key(0)} if "rng" in entry.function.__kwdefaults__ else {}
            taken.append(name)
            np.testing.assert_array_equal(entry(Gates(X), **noise), entry(Bernoulli(X), **noise))
    assert {"straight_through", "select", "gapped_straight_through", "gumbel_softmax", "stochastic_softmax"} < set(taken)


def test_a_continuous_distribution_has_no_loss_of_fenchel_and_young() -> None:
    @dataclass(frozen=True)
    class Levels(Bits):
        discrete = False

        def log_partition(self) -> Any:
            return self.logits

        def log_prob(self, x: Any) -> Any:
            return x * self.logits

    with pytest.raises(TypeError, match="dist: fenchel_young is for discrete distributions, got Levels"):
        backdraw.fenchel_young(Levels(X), X)


def test_asking_for_what_is_not_offered() -> None:
    p = backdraw.PlackettLuce(X)
    assert not hasattr(p, "log_partition")
    assert getattr(p, "log_partition", None) is None
    with pytest.raises(
        TypeError, match=r"PlackettLuce has no log_partition\(\): its draws do not maximise .* take -log_prob"
    ) as info:
        p.log_partition()  # type: ignore[attr-defined]
    assert isinstance(info.value, BackdrawError)


def test_unknown_estimator() -> None:
    with pytest.raises(ValueError, match=r"estimator: expected one of .*draw, .*straight_through, .*got 'reinforced'"):
        estimator("reinforced")


def test_distribution_where_an_array_is_meant() -> None:
    with pytest.raises(TypeError, match="logits: expected an array, got the distribution Bernoulli"):
        Categorical(Bernoulli(X))


# ---------------------------------------------------------------------------------------------------------- backends
def test_unknown_backend() -> None:
    with pytest.raises(backdraw.BackendError, match="backend: expected one of cupy, jax, numpy, torch, got 'tensorflow'"):
        adapter("tensorflow")


@pytest.mark.parametrize("name", ["torch", "jax", "cupy"])
def test_framework_not_installed(name: str) -> None:
    code = f"""
import sys
sys.modules["{name}"] = None  # as if it were not installed: importing it raises ModuleNotFoundError
import numpy as np, backdraw
from backdraw.backend import adapter
backdraw.draw(np.zeros(3))
try:
    adapter("{name}")
except backdraw.BackendError as error:
    assert isinstance(error, ImportError) and isinstance(error, backdraw.BackdrawError)
    print(error)
"""
    message = run_python(code)
    assert message.startswith(f"backend '{name}' cannot be used:")
    assert message.endswith(f"Install it with: pip install 'backdraw[{name}]'")


@pytest.mark.needs("strict")
def test_an_adapter_of_ones_own() -> None:
    code = """
import sys, types
import array_api_strict, numpy as np
import backdraw
from backdraw import backend
from backdraw_backends.standard import StandardBackend

class Mine(StandardBackend):
    pass

sys.modules["of_mine"] = types.SimpleNamespace(backend=Mine(array_api_strict))
entries = [types.SimpleNamespace(name=n, value=v) for n, v in (("array_api_strict", "of_mine"), ("other", "not_installed"))]
backend._entry_points = lambda: entries
x = array_api_strict.zeros(3)
assert type(backend.backend_of(x)) is Mine
assert backdraw.draw(x, rng=backdraw.key(0)).shape == (3,)
try:
    backend.adapter("other")
except backdraw.BackendError as error:
    print(error)
"""
    assert run_python(code) == "backend 'other' cannot be used: No module named 'not_installed'"


def test_import_loads_no_framework() -> None:
    code = """
import sys, backdraw
print(sorted({"torch", "jax", "cupy", "scipy", "array_api_strict"} & set(sys.modules)))
"""
    assert run_python(code) == "[]"


# ----------------------------------------------------------------------------------------------------- read-only input
def test_inputs_are_never_written_to() -> None:
    x, t, where = X.copy(), np.asarray(0.7), np.asarray([True, True, False])
    for a in (x, t, where):
        a.flags.writeable = False
    g = np.ones_like(X)
    g.flags.writeable = False
    for f in ALL.values():
        f(x)
    for f in WITH_TEMPERATURE.values():
        backdraw.vjp(lambda x, t, f=f: f(x, temperature=t), x, t)[1](g)
    p = Categorical(x, where=where)
    for h in (p.entropy, p.mean, p.support, lambda: backdraw.kl(p, p), lambda: backdraw.draw(p), lambda: p.log_prob(g)):
        h()
    np.testing.assert_array_equal(x, X)


@pytest.mark.needs("torch")
def test_torch_inputs_are_never_written_to() -> None:
    import torch

    x = torch.tensor(X)
    version = x._version
    for f in ALL.values():
        f(x)
    assert x._version == version
    assert torch.equal(x, torch.tensor(X))


def test_masked_array() -> None:
    with pytest.raises(TypeError, match="logits: expected an array without a mask"):
        Categorical(np.ma.masked_array(X, mask=X > 0.5))


@pytest.mark.parametrize("make", [lambda x: x.astype(">f4"), lambda x: x.view(Subclass)], ids=["swapped", "own"])
@everything
def test_numpy_arrays_of_other_kinds(f: Any, make: Any) -> None:
    expected = f(X.astype(np.float32) if make(X).dtype == ">f4" else X)
    got = f(make(X))
    if isinstance(expected, np.ndarray):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_long_doubles_of_probability_zero() -> None:
    logits = np.full((2, 3), -np.inf, np.longdouble)
    assert not np.any(Categorical(logits).mean())
    assert not np.any(backdraw.draw(logits, rng=KEY))


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_matrices_are_arrays() -> None:
    np.testing.assert_array_equal(backdraw.draw(np.asmatrix(X), rng=KEY), backdraw.draw(X, rng=KEY))
    np.testing.assert_array_equal(backdraw.select(np.asmatrix(X)), backdraw.select(X))
