"""What a backend must offer, and which backend holds an array."""

import importlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from backdraw.errors import BackendError, InvalidTypeError
from backdraw.operations import Array as Array
from backdraw.operations import Operations

if TYPE_CHECKING:
    from backdraw.primitive import Primitive

F = TypeVar("F", bound=Callable[..., Any])

# Our own adapters, in a folder beside the core; others come through the entry points of the same name.
GROUP = "backdraw.backends"
PACKAGE = "backdraw_backends"
OURS = ("numpy", "cupy", "torch", "jax")


class Backend(Operations, ABC):
    """One array framework, as seen by backdraw: an Array API namespace and the little that the standard lacks.

    Attributes
    ----------
    name : str
        The framework's module name, such as ``"torch"``.
    xp : module
        Its Array API namespace.
    native_rng : str
        What the framework's users pass as ``rng=``; for error messages.
    """

    __slots__ = ()

    name: str
    xp: Any
    native_rng: str

    @abstractmethod
    def owns(self, x: object) -> bool:
        """Whether `x` is an array of this framework."""

    def array_types(self) -> tuple[type, ...]:
        """Return the types of arrays that are known beforehand; `owns` decides about all others."""
        return ()

    @abstractmethod
    def apply(self, primitive: "Primitive", arrays: tuple[Array, ...], static: dict[str, Any]) -> Array:
        """Return the primitive's output, with the primitive's own rule as its gradient."""

    def surrogate(self, primitive: "Primitive", hard: Array, soft: Array) -> Array:
        """``primitive(hard, soft)``, which has the value of `hard` and the gradient of `soft`."""
        return self.apply(primitive, (hard, soft), {})

    def relaxed(self, primitive: "Primitive", logits: Array, rng: Any, static: dict[str, Any]) -> Array:
        """``primitive(logits, noise, **static)`` of exponential noise: the relaxed draw, or the vertex with its gradient."""
        # Gumbel noise is minus the logarithm of exponentials: taken there, it needs no pass of its own to be negated.
        noise = self.noise("exponential", rng, tuple(logits.shape), self.wide(logits.dtype), self.device(logits))
        return self.apply(primitive, (logits, noise), static)

    @abstractmethod
    def stop_gradient(self, x: Array) -> Array:
        """Return the same values, with no gradient."""

    @abstractmethod
    def vjp(self, fn: Callable[..., Any], arrays: tuple[Array, ...]) -> tuple[Any, Callable[[Any], tuple[Array, ...]]]:
        """Return the output of ``fn(*arrays)`` and the function that carries a cotangent back to the arrays."""

    @abstractmethod
    def noise(self, kind: str, rng: Any, shape: tuple[int, ...], dtype: Any, device: Any) -> Array:
        """Fresh noise of one of the kinds in `backdraw.transforms.TRANSFORMS`, float32 or wider, owned by the caller."""

    @abstractmethod
    def words(self, rng: Any, n: int, device: Any) -> Array:
        """Return `n` random 32-bit words, as non-negative integers of a dtype that the framework computes in."""

    @abstractmethod
    def streams(self, rng: Any, num: int, device: Any) -> tuple[Any, ...]:
        """Make `num` sources of noise of one native ``rng=``; of a stateful generator, that generator every time."""

    def scalars(self, x: Array) -> tuple[Any, ...]:
        """Return the elements of a vector of integers as Python ints, or as scalar arrays where they are traced."""
        return tuple(int(x[i]) for i in range(x.shape[0]))

    def number(self, x: Array) -> float | None:
        """Return the value of a floating scalar, or None where it is traced, or a device would have to be waited for."""
        return float(x)

    @abstractmethod
    def host(self, f: Callable[..., Any], *arrays: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        """Run ``f`` on NumPy copies of the arrays; its result is an array of `shape` and `dtype`, with no gradient."""

    def double(self) -> AbstractContextManager[Any]:
        """Return a context in which float64 exists, where the framework otherwise hides it."""
        return nullcontext()

    def double_by_default(self) -> AbstractContextManager[Any]:
        """Return a context in which plain numbers become arrays of float64, for a program to run in."""
        return self.double()

    def detached(self) -> AbstractContextManager[Any]:
        """Return a context in which the gradients that `vjp` gives are taken for constants by everything outside."""
        return nullcontext()

    def refuses_second_derivatives(self) -> bool:
        """Whether the framework, as it runs now, raises for every second derivative by itself."""
        return False

    def constant(self, x: np.ndarray, like: Array) -> Array:
        """Return numbers of the program, no argument's, beside `like`: floats in its dtype, integers as an index."""
        device = self.device(like)
        dtype = like.dtype if x.dtype.kind == "f" else self.xp.arange(1, device=device).dtype
        return self.xp.asarray(x, dtype=dtype, device=device, copy=True)


# -------------------------------------------------------------------------------------------- whose array is it?
# The backends by a number, and for each type of arrays the number of its backend. What `_meet` returns is a constant to
# torch.compile: of the two dictionaries, only the look-up in that of the backends is checked at each call.
_NUMBERS: dict[type, int] = {}
_BACKENDS: dict[int, Backend] = {}


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
        number = _meet(type(x))
        be = _learn(x) if number is None else _BACKENDS[number]
        if found is not None and be is not found:
            names = ", ".join(f"{type(a).__module__.partition('.')[0]} {type(a).__name__}" for a in arrays if a is not None)
            raise InvalidTypeError(f"all arrays must belong to one framework, got: {names}")
        found = be
    if found is None:
        raise InvalidTypeError("expected at least one array, got none")
    return found


def belongs(x: Any, be: Backend) -> bool:
    """Whether something is an array of a backend."""
    try:
        return backend_of(x) is be
    except InvalidTypeError:
        return False


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
            hint = f". Install it with: pip install 'backdraw[{name}]'" if name in OURS else ""
            raise BackendError(f"backend {name!r} cannot be used: {error}{hint}") from error
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


def _meet(kind: type) -> int | None:
    """Return the number of the backend of a type, whose adapter is loaded if need be; None of a type not seen before."""
    if kind not in _NUMBERS:
        _load(kind.__module__.partition(".")[0])
    return _NUMBERS.get(kind)


def _enlist(kind: type, be: Backend) -> None:
    _NUMBERS[kind] = id(be)
    _BACKENDS[id(be)] = be


def _load(root: str) -> None:
    """Load the adapter of the framework whose module is `root`, if there is one."""
    root = {"jaxlib": "jax"}.get(root, root)
    if root in sys.modules and (root in OURS or any(e.name == root for e in _entry_points())):
        for array_type in adapter(root).backend.array_types():
            _enlist(array_type, adapter(root).backend)


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
    """Keep the last results of a function of ints and tuples of them; torch.compile takes them for constants."""
    once = lru_cache(64)(function)

    @wraps(function)
    def call(*arguments: Any) -> Any:  # torch.compile would trace into what `lru_cache` returns
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
    _enlist(type(x), be)
    return be
