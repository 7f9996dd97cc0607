"""What a backend must offer, and which backend holds an array."""

import importlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache, wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from backdraw.errors import BackendError, InvalidTypeError

if TYPE_CHECKING:
    from backdraw.primitive import Primitive

Array = Any  # an array of whichever framework; the Array API has no common base class
F = TypeVar("F", bound=Callable[..., Any])

# Our own adapters, in a folder beside the core; others come through the entry points of the same name.
GROUP = "backdraw.backends"
PACKAGE = "backdraw_backends"
OURS = ("numpy", "cupy", "torch", "jax")


class Backend(ABC):
    """One array framework, as seen by backdraw: an Array API namespace and the little that the standard lacks.

    Attributes
    ----------
    name : str
        The framework's module name, such as ``"torch"``.
    xp : module
        Its Array API namespace.
    native_rng : str
        What the framework's users pass as ``rng=``; for error messages.
    fuses : bool
        Several operations make one pass over the memory, and both ways of `either` are compiled: two algorithms for one thing
        then cost more than they save.
    """

    # An instance that needs none has no dictionary, in which torch.compile would look for every method before every call.
    __slots__ = ()

    name: str
    xp: Any
    native_rng: str
    fuses: bool = False

    @abstractmethod
    def owns(self, x: object) -> bool:
        """Whether `x` is an array of this framework."""

    @abstractmethod
    def apply(self, primitive: "Primitive", arrays: tuple[Array, ...], static: dict[str, Any]) -> Array:
        """Return the primitive's output, with the primitive's own rule as its gradient."""

    def surrogate(self, primitive: "Primitive", hard: Array, soft: Array) -> Array:
        """``primitive(hard, soft)``, which has the value of `hard` and the gradient of `soft`."""
        return self.apply(primitive, (hard, soft), {})

    @abstractmethod
    def stop_gradient(self, x: Array) -> Array:
        """Return the same values, with no gradient."""

    @abstractmethod
    def vjp(self, fn: Callable[..., Any], arrays: tuple[Array, ...]) -> tuple[Any, Callable[[Any], tuple[Array, ...]]]:
        """Return the output of ``fn(*arrays)`` and the function that carries a cotangent back to the arrays."""

    @abstractmethod
    def noise(self, kind: str, rng: Any, shape: tuple[int, ...], dtype: Any, device: Any) -> Array:
        """Fresh noise of one of the kinds in `backdraw.random.TRANSFORMS`, float32 or wider, owned by the caller."""

    @abstractmethod
    def words(self, rng: Any, n: int, device: Any) -> Array:
        """Return `n` random 32-bit words, as non-negative integers of a dtype that the framework computes in."""

    @abstractmethod
    def streams(self, rng: Any, num: int, device: Any) -> tuple[Any, ...]:
        """Make `num` sources of noise of one native ``rng=``; of a stateful generator, that generator every time."""

    def scalars(self, x: Array) -> tuple[Any, ...]:
        """Return the elements of a vector of integers as Python ints, or as scalar arrays where they are traced."""
        return tuple(int(x[i]) for i in range(x.shape[0]))

    @abstractmethod
    def host(self, f: Callable[..., Any], *arrays: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        """Run ``f`` on NumPy copies of the arrays; its result is an array of `shape` and `dtype`, with no gradient."""

    def scan(
        self,
        f: Callable[[Any, Any], tuple[Any, Array]],
        init: Any,
        xs: Any,
        until: Callable[[Any], Array] | None = None,
        *,
        reverse: bool = False,
    ) -> tuple[Any, Array]:
        """Loop ``carry, y = f(carry, x)`` over the first axis of `xs`; return the last carry and the stacked y, or None."""
        # xs is an array, or a tuple of arrays, and then x is a tuple too; so may y be. Once the bool `until` of a carry holds,
        # f changes nothing, and the loop may end: there are as many y as steps were made. In reverse the last x comes first;
        # its y is the last all the same.
        carry, n, y = init, (xs[0] if isinstance(xs, tuple) else xs).shape[0], None
        kept: list[Any] = []
        for i in range(n)[:: -1 if reverse else 1]:
            carry, y = f(carry, tuple(x[i, ...] for x in xs) if isinstance(xs, tuple) else xs[i, ...])
            if y is not None:
                parts = y if isinstance(y, tuple) else (y,)
                kept = kept or [self.collector(n) for _ in parts]
                for place, part in zip(kept, parts, strict=True):
                    place[i] = part
            if until is not None and self.either(until(carry), lambda: True, lambda: False):
                break
        every = tuple(self.stacked(place) for place in kept)
        return carry, every if isinstance(y, tuple) else every[0] if every else None

    def collector(self, n: int) -> Any:  # noqa: ARG002
        """Return what takes up to `n` results of `scan`, each set at its index."""
        return {}

    def stacked(self, ys: Any) -> Array:
        """Return what a collector took as one array, in the order of the indices."""
        return self.xp.stack([ys[i] for i in sorted(ys)])

    def either(self, flag: Array, fast: Callable[..., Array], safe: Callable[..., Array], *arrays: Array) -> Array:
        """``fast(*arrays)`` where a scalar of bool holds, else ``safe(*arrays)``, which is right in any case."""
        return (fast if bool(flag) else safe)(*arrays)

    def shortcut(self, flag: Array, fast: Callable[..., Array], safe: Callable[..., Array], *arrays: Array) -> Array:
        """`either`, or ``safe(*arrays)`` in any case where a second way costs more than it saves."""
        return safe(*arrays) if self.fuses else self.either(flag, fast, safe, *arrays)

    def double(self) -> AbstractContextManager[Any]:
        """Return a context in which float64 exists, where the framework otherwise hides it."""
        return nullcontext()

    def detached(self) -> AbstractContextManager[Any]:
        """Return a context in which the gradients that `vjp` gives are taken for constants by everything outside."""
        return nullcontext()

    def refuses_second_derivatives(self) -> bool:
        """Whether the framework, as it runs now, raises for every second derivative by itself."""
        return False

    def outside(self, x: Array) -> Array:
        """Return what the end of a derivative leaves of its argument: the array that was given."""
        return x

    def device(self, x: Array) -> Any:
        """Return the device of `x`, to be passed to creation functions; None leaves it to the framework."""
        return x.device

    def constant(self, x: np.ndarray, like: Array) -> Array:
        """Return numbers of the program, no argument's, beside `like`: floats in its dtype, integers as an index."""
        device = self.device(like)
        dtype = like.dtype if x.dtype.kind == "f" else self.xp.arange(1, device=device).dtype
        return self.xp.asarray(x, dtype=dtype, device=device, copy=True)

    def rowwise(self, body: Callable[..., Array], *arrays: Array, **static: Any) -> Array:
        """``body(be, *arrays, **static)``, for a body that treats the rows along the last axis one by one."""
        return body(self, *arrays, **static)

    def program(self, body: Callable[..., Array], *arrays: Array, **static: Any) -> Array:
        """`rowwise`, for a body of many steps: a function of a module, which may be compiled once and for all."""
        return self.rowwise(body, *arrays, **static)

    def add_to(self, fresh: Array, x: Array) -> Array:
        """``fresh + x``, where `fresh` has the wider dtype and belongs to nobody: its memory may be used."""
        return fresh + self.cast(x, fresh.dtype)

    def gather(self, x: Array, index: Array) -> Array:
        """``take_along_axis`` along the last axis; the axes in front are the same."""
        return self.xp.take_along_axis(x, index, axis=-1)

    def inverse(self, x: Array) -> Array:
        """Inverses of positive definite matrices; NaN or anything, but no error, where one is singular."""
        return self.xp.linalg.inv(x)

    def row_max(self, x: Array) -> Array:
        """Maximum along the last axis, which is kept with size 1."""
        return self.xp.max(x, axis=-1, keepdims=True)

    def row_sum(self, x: Array) -> Array:
        """Sum along the last axis, which is kept with size 1."""
        return self.xp.sum(x, axis=-1, keepdims=True)

    def first_argmax(self, x: Array) -> Array:
        """Index of the largest entry along the first axis, the first of equals."""
        # argmax itself would ask JAX for 64-bit integers when it is compiled, where there are none.
        xp, n = self.xp, x.shape[0]
        places = xp.reshape(xp.arange(n, device=self.device(x)), (n, *(1,) * (x.ndim - 1)))
        return xp.min(xp.where(x == xp.max(x, axis=0, keepdims=True), places, n - 1), axis=0)

    def sum_samples(self, x: Array) -> Array:
        """Sum of floats over the first axis."""
        return self.xp.sum(x, axis=0)

    def sum_of(self, body: Callable[..., Array], *arrays: Array, **static: Any) -> Array:
        """`sum_samples` of ``body(be, *arrays, **static)``, for a body that treats the samples one by one."""
        return self.sum_samples(body(self, *arrays, **static))

    def softmax(self, x: Array, temperature: float = 1.0) -> Array:
        """Softmax of ``x / temperature`` along the last axis; a row of -inf alone gives zeros."""
        return self.rowwise(_softmax, x, temperature=temperature)

    def noisy_softmax(self, x: Array, noise: Array, temperature: float) -> Array:
        """`softmax` of ``x + noise``, where the noise belongs to nobody: its memory may be used."""
        return self.rowwise(_noisy_softmax, x, noise, temperature=temperature)

    def softmax_vjp(self, y: Array, g: Array, temperature: float = 1.0) -> Array:
        """Pull a cotangent of ``y = softmax(x, temperature)`` back to x."""
        return self.rowwise(_softmax_vjp, y, g, temperature=temperature)

    def hardmax(self, x: Array) -> Array:
        """One-hot of the largest entry along the last axis, the first of equals; a row of -inf alone gives zeros."""
        return self.rowwise(_hardmax, x)

    def at_least(self, x: Array, bound: float) -> Array:
        """``maximum(x, bound)``, NaN where x is."""
        return self.xp.where(x < bound, bound, x)

    def clip(self, x: Array, low: float, high: float) -> Array:
        """``minimum(maximum(x, low), high)``, NaN where x is."""
        return self.xp.where(x < low, low, self.xp.where(x > high, high, x))

    def logsumexp(self, x: Array) -> Array:
        """``log(sum(exp(x)))`` along the last axis, which is kept with size 1; a row of -inf alone gives -inf."""
        xp = self.xp
        top = self.at_least(self.stop_gradient(self.row_max(x)), self.lowest(x))
        total = self.row_sum(xp.exp(x - top))
        live = total != 0  # a NaN lives on
        return xp.where(live, top + xp.log(xp.where(live, total, 1.0)), -xp.inf)

    def cumsum(self, x: Array) -> Array:
        """Cumulative sum along the last axis."""
        return self.xp.cumulative_sum(x, axis=-1)

    def sums_beyond(self, x: Array, *, after: bool = False) -> Array:
        """Sum of all entries before each one along the last axis, or of all after it."""
        if after:
            return self.xp.flip(self.sums_beyond(self.xp.flip(x, axis=-1)), axis=-1)
        return self.xp.concat([self.xp.zeros_like(x[..., :1]), self.cumsum(x)[..., :-1]], axis=-1)

    def weights(self, x: Array) -> Array:
        """``exp(x - max(x))`` along the last axis, or a multiple of it; a row of -inf alone gives zeros."""
        wide = self.cast(x, self.wide(x.dtype))
        return self.xp.exp(wide - self.at_least(self.row_max(wide), self.lowest(x)))

    def invert_cdf(self, weights: Array, uniform: Array) -> Array:
        """Index, on an axis of size 1, of whose interval of the weights' running sum holds the uniform times their total."""
        # Sums in float64, whatever the weights; n where all n are 0.
        edges = self.cumsum(self.cast(weights, self.xp.float64))
        return self.xp.count_nonzero(edges <= uniform * edges[..., -1:], axis=-1, keepdims=True)

    def sigmoid(self, x: Array, temperature: float = 1.0) -> Array:
        """``1 / (1 + exp(-x / temperature))`` without overflow."""
        z = x if temperature == 1.0 else x / temperature
        e = self.xp.exp(-self.xp.abs(z))
        return self.xp.where(z >= 0, 1.0, e) / (1.0 + e)

    def log_sigmoid(self, x: Array) -> Array:
        """``log(sigmoid(x))`` without overflow."""
        return self.xp.where(x < 0, x, 0.0) - self.xp.log1p(self.xp.exp(-self.xp.abs(x)))

    def one_hot(self, index: Array, n: int, dtype: Any) -> Array:
        """Make a last axis of size 1 one of length `n` that is 1 at `index` and 0 elsewhere; an index of `n` gives zeros."""
        places = self.xp.arange(n, dtype=index.dtype, device=self.device(index))
        return self.xp.astype(index == self.xp.reshape(places, (*(1,) * (index.ndim - 1), n)), dtype)

    def top_k(self, x: Array, k: int) -> tuple[Array, Array]:
        """Return the `k` largest values along the last axis, in descending order, and their indices."""
        index = self.xp.argsort(x, axis=-1, descending=True, stable=True)[..., :k]
        return self.gather(x, index), index

    def is_floating(self, dtype: Any) -> bool:
        """Whether a dtype is one of real floating numbers."""
        return self.xp.isdtype(dtype, "real floating")

    def cast(self, x: Array, dtype: Any) -> Array:
        """`x` itself where it has the dtype, else a copy in it."""
        return x if x.dtype == dtype else self.xp.astype(x, dtype)

    def wide(self, dtype: Any) -> Any:
        """Return the dtype to compute in: float32 for the half-precision types, else `dtype` itself."""
        if dtype == self.xp.float32 or dtype == self.xp.float64:
            return dtype
        return self.xp.float32 if self.xp.finfo(dtype).bits < 32 else dtype

    def lowest(self, x: Array) -> float:
        """Return the most negative finite number of the dtype of `x`."""
        return max(float(self.xp.finfo(x.dtype).min), -sys.float_info.max)


def _softmax(be: Backend, x: Array, *, temperature: float) -> Array:
    # Shift before the division: finite logits, however large, then never meet inf - inf. The total is at least 1, the
    # largest entry's, and 0 only in a row of -inf alone.
    z = x - be.at_least(be.stop_gradient(be.row_max(x)), be.lowest(x))
    e = be.xp.exp(z if temperature == 1.0 else z / temperature)
    return e / be.at_least(be.row_sum(e), 0.5)


def _noisy_softmax(be: Backend, x: Array, noise: Array, *, temperature: float) -> Array:
    return be.softmax(x + noise, temperature)


def _hardmax(be: Backend, x: Array) -> Array:
    xp, n = be.xp, x.shape[-1]
    index = xp.where(be.row_max(x) == -xp.inf, n, xp.argmax(x, axis=-1, keepdims=True))
    return be.one_hot(index, n, x.dtype)


def _softmax_vjp(be: Backend, y: Array, g: Array, *, temperature: float) -> Array:
    back = y * (g - be.row_sum(y * g))
    return back if temperature == 1.0 else back / temperature


# -------------------------------------------------------------------------------------------- whose array is it?
_BY_TYPE: dict[type, Backend] = {}


def backend_of(*arrays: Array) -> Backend:
    """Return the backend that all `arrays` belong to.

    Parameters
    ----------
    *arrays : array or None
        Arrays of one framework; None is passed over.

    Returns
    -------
    Backend
        Theirs.

    Raises
    ------
    TypeError
        If something is no array of a known framework, or the arrays belong to different frameworks.
    """
    found: Backend | None = None
    for x in arrays:
        if x is None:
            continue
        _meet(type(x))
        be = _BY_TYPE.get(type(x)) or _learn(x)
        if found is not None and be is not found:
            names = ", ".join(f"{type(a).__module__.partition('.')[0]} {type(a).__name__}" for a in arrays if a is not None)
            raise InvalidTypeError(f"all arrays must belong to one framework, got: {names}")
        found = be
    if found is None:
        raise InvalidTypeError("expected at least one array, got none")
    return found


_ADAPTERS: dict[str, Any] = {}


def adapter(name: str) -> Any:
    """Return the adapter module of the framework `name`; the framework is imported with it.

    Parameters
    ----------
    name : str
        One of our own, or the name of an entry point in the group ``backdraw.backends``.

    Returns
    -------
    module
        With a `Backend` named ``backend``.

    Raises
    ------
    BackendError
        If there is no such adapter, or its framework is not installed.
    """
    if name not in _ADAPTERS:
        path = _adapter_path(name)
        try:
            _ADAPTERS[name] = importlib.import_module(path)
        except ImportError as error:
            raise BackendError(
                f"backend {name!r} cannot be used: {error}. Install it with: pip install 'backdraw[{name}]'"
            ) from error
    return _ADAPTERS[name]


def _entry_points() -> Any:
    import importlib.metadata  # here, for it takes as long to import as all of backdraw

    return importlib.metadata.entry_points(group=GROUP)


def _adapter_path(name: str) -> str:
    if name in OURS:  # these work from a plain checkout too, where no entry point is installed
        return f"{PACKAGE}.{name}"
    for entry in _entry_points():
        if entry.name == name:
            return entry.value
    known = ", ".join(sorted({*OURS, *(e.name for e in _entry_points())}))
    raise BackendError(f"backend: expected one of {known}, got {name!r}")


def _meet(kind: type) -> None:
    """Load the adapter of the framework of a type not seen before, if there is one."""
    if kind not in _BY_TYPE:
        _load(kind.__module__.partition(".")[0])


def _load(root: str) -> None:
    """Load the adapter of the framework whose module is `root`, if there is one."""
    root = {"jaxlib": "jax"}.get(root, root)
    if root in sys.modules and (root in OURS or any(e.name == root for e in _entry_points())):
        for array_type in adapter(root).backend.array_types():
            _BY_TYPE[array_type] = adapter(root).backend


def load_imported() -> None:
    """Load the adapters of all frameworks that the program has imported, before their first array is seen."""
    for name in OURS:
        if name in sys.modules and name not in _ADAPTERS:
            with suppress(BackendError):  # who uses its arrays will be told
                _load(name)


# torch.compile cannot trace an import. This mark (what torch.compiler.assume_constant_result sets) has it run these
# while tracing instead, so that the first call of a process may already be inside a compiled function, also where the
# trace is begun anew.
_meet._dynamo_marked_constant = True  # type: ignore[attr-defined]
load_imported._dynamo_marked_constant = True  # type: ignore[attr-defined]


def remembered(function: F) -> F:
    """Call a function of ints and tuples of them once for each; torch.compile takes what it returns for constants."""
    once = cache(function)

    @wraps(function)
    def call(*arguments: Any) -> Any:  # torch.compile would trace into what `cache` returns
        return once(*arguments)

    call._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return cast(F, call)


def _learn(x: Array) -> Backend:
    """Find the backend of a type not seen before: a subclass, a tracer, or any other Array API array."""
    load_imported()
    for be in (module.backend for module in list(_ADAPTERS.values())):
        if be.owns(x):
            break
    else:
        if type(x).__module__ == "builtins" or not hasattr(x, "__array_namespace__"):
            raise InvalidTypeError(
                f"expected an array of NumPy, CuPy, PyTorch, JAX or another Array API library, got {type(x).__name__}"
            )
        be = importlib.import_module(f"{PACKAGE}.standard").backend_for(x)
    _BY_TYPE[type(x)] = be
    return be
