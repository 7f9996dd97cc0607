"""What logits of categories may be, with their axis and mask."""

from backdraw.backend import Array, Backend, belongs
from backdraw.distributions.checks import check_logits
from backdraw.errors import InvalidTypeError, InvalidValueError


def check_rows(logits: Array, axis: int, where: Array | None) -> tuple[Backend, int]:
    """Check logits of categories with their axis and mask; return their backend, and the axis as counted from the end."""
    be = check_logits(logits)
    if where is None and type(axis) is int and axis == -1 and logits.ndim > 0 and logits.shape[-1] > 0:
        return be, -1  # the common case, checked at little cost
    shape = tuple(logits.shape)
    if not shape:
        raise InvalidValueError("logits: expected at least one axis, got a scalar of shape ()")
    if isinstance(axis, bool) or not isinstance(axis, int):
        raise InvalidTypeError(f"axis: expected an int, got {type(axis).__name__}")
    if not -len(shape) <= axis < len(shape):
        raise InvalidValueError(f"axis: expected {-len(shape)} to {len(shape) - 1} for logits of shape {shape}, got {axis}")
    if axis >= 0:  # counted from the end, it stays right when samples add axes in front
        axis -= len(shape)
    if shape[axis] == 0:
        raise InvalidValueError(f"logits: expected at least one category along axis {axis}, got shape {shape}")
    if where is not None:
        _check_mask(be, where, shape)
    return be, axis


def _check_mask(be: Backend, where: Array, shape: tuple[int, ...]) -> None:
    if not (belongs(where, be) and be.xp.isdtype(where.dtype, "bool")):
        got = f"{type(where).__name__} of dtype {getattr(where, 'dtype', None)}"
        raise InvalidTypeError(f"where: expected a boolean {be.name} array, got {got}")
    sizes = tuple(where.shape)
    tail = shape[len(shape) - len(sizes) :] if len(sizes) <= len(shape) else None
    if tail is None or any(a not in (1, b) for a, b in zip(sizes, tail, strict=True)):
        raise InvalidValueError(f"where: expected a shape that broadcasts to the logits' shape {shape}, got {sizes}")
