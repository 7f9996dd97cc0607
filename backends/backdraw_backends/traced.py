"""A mark on the NumPy arrays that the tape hands out, and on what NumPy derives from them."""

from typing import Any

import numpy as np

from backdraw.errors import GradientError
from backdraw_backends.tape import Tape


class Traced(np.ndarray):
    """An array that `backdraw.vjp` hands to the user's function, or that NumPy derived from one.

    NumPy computes with it as ever; the tape knows only the arrays it tracks. The mark tells the others, derived by
    arithmetic that is not recorded, from true constants, so that a broken chain is an error and not a zero.
    """

    _tape: Tape | None = None
    _origin: str = "a NumPy view (indexing, reshaping)"

    def __array_finalize__(self, obj: Any) -> None:
        if isinstance(obj, Traced):
            self._tape = obj._tape

    def refuse_thread(self) -> None:
        """Raise: a primitive would take the array on another thread than the one whose tape tracks it."""
        raise GradientError(
            f"an array of shape {self.shape} that backdraw.vjp tracks was used on another thread, where nothing is "
            "recorded; wrap it in backdraw.stop_gradient if it needs no gradient"
        )

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        owner = next((x for x in (*inputs, *(out or ())) if isinstance(x, Traced)), self)
        if out is not None:
            kwargs["out"] = tuple(raw(x) for x in out)
        result = getattr(ufunc, method)(*(raw(x) for x in inputs), **kwargs)
        return mark(result, owner._tape, f"numpy.{ufunc.__name__}")

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return mark(super().__array_function__(func, types, args, kwargs), self._tape, f"numpy.{func.__name__}")


def raw(x: Any) -> Any:
    """Return a plain ndarray of what carries a mark."""
    return x.view(np.ndarray) if isinstance(x, Traced) else x


def mark(result: Any, tape: Tape | None, origin: str) -> Any:
    """Mark arrays as derived, by the operation `origin`, from an array of the tape."""
    if isinstance(result, (tuple, list)):
        return type(result)(mark(r, tape, origin) for r in result)
    if not isinstance(result, (np.ndarray, np.generic)):
        return result
    plain = raw(np.asanyarray(result))
    if tape is None or not tape.open or not np.issubdtype(plain.dtype, np.floating):
        return result if isinstance(result, np.generic) else plain
    marked = plain.view(Traced)
    marked._tape, marked._origin = tape, origin
    return marked
