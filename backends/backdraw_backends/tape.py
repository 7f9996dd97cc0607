"""The tape: reverse-mode differentiation for arrays whose framework has none.

It records primitives, and only those, by the identity of the arrays that went in and came out.
"""

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from backdraw.backend import Array, Backend
from backdraw.errors import GradientError, InvalidTypeError, InvalidValueError
from backdraw.primitive import Primitive

ADVICE = "Write it as a primitive (backdraw.primitive), or wrap it in backdraw.stop_gradient if it needs no gradient."


@dataclass(slots=True)
class Record:
    """One application of a primitive: its inputs and output are places on the tape, None where nothing is tracked."""

    primitive: Primitive
    static: dict[str, Any]
    inputs: list[int | None]
    shapes: list[tuple[int, ...]]
    residuals: tuple[Any, ...]
    output: int


class Tape:
    """The primitives applied during one call of `backdraw.vjp`."""

    def __init__(self) -> None:
        self.open = True  # while fn runs
        self.records: list[Record] = []
        self.size = 0
        # By id, which is unique only while the array lives: hence the weak reference, so that the tape keeps no memory.
        self._places: dict[int, tuple[Callable[[], Array], int]] = {}

    def place(self, x: Array) -> int | None:
        """Return the place of an array on the tape, or None."""
        found = self._places.get(id(x))
        return found[1] if found is not None and found[0]() is x else None

    def add(self, x: Array, place: int | None = None) -> int:
        """Track an array, at a new place or as another name of one."""
        if place is None:
            place, self.size = self.size, self.size + 1
        try:
            reference: Callable[[], Array] = weakref.ref(x)
        except TypeError:  # this kind of array has none
            reference = lambda: x  # noqa: E731
        self._places[id(x)] = reference, place
        return place


class _Active(threading.local):
    def __init__(self) -> None:
        self.tapes: list[Tape] = []


_active = _Active()


def active_tapes() -> list[Tape]:
    """Return the tapes now recording on this thread, outermost first."""
    return _active.tapes


def apply(be: Any, primitive: Primitive, arrays: tuple[Array, ...], static: dict[str, Any]) -> Array:
    """Run the primitive, and record it on every tape that tracks one of its inputs."""
    out, residuals = primitive.forward(be, *[be.raw(x) for x in arrays], **static)
    out = be.raw(out)
    tracked = None
    for tape in _active.tapes[::-1]:
        places = [tape.place(x) for x in arrays]
        if None in places:
            for x, place in zip(arrays, places, strict=True):
                if place is None and (origin := be.broken(x, tape)) is not None:
                    raise _broken(primitive, x, origin)
            if places.count(None) == len(places):
                continue
        if tracked is None:  # under the innermost tape that tracks it
            tracked = be.track(out, tape)
            shapes = [() if x is None else x.shape for x in arrays]
        tape.records.append(Record(primitive, static, places, shapes, residuals, tape.add(tracked)))
    return out if tracked is None else tracked


def _broken(primitive: Primitive, x: Array, origin: str) -> GradientError:
    return GradientError(
        f"the chain of gradients broke before {primitive.name}: an argument of shape {tuple(x.shape)} came from "
        f"{origin} applied to a tracked array, which backdraw.vjp does not record. {ADVICE}"
    )


def vjp(be: Any, fn: Callable[..., Any], arrays: tuple[Array, ...]) -> tuple[Any, Callable[[Any], tuple[Array, ...]]]:
    """Call `fn` under a new tape; the pullback walks the tape backwards."""
    tape = Tape()
    inputs = [be.track(be.raw(x), tape) for x in arrays]
    tapes = active_tapes()
    for x, inner in zip(arrays, inputs, strict=True):
        tape.add(inner)
        for outer in tapes:
            place = outer.place(x)
            if place is not None:
                outer.add(inner, place)
    tapes.append(tape)
    try:
        out = fn(*inputs)
    finally:
        tapes.pop()
        tape.open = False
    several = isinstance(out, (tuple, list))
    outs = tuple(out) if several else (out,)
    places = [_place_of_output(be, tape, y) for y in outs]
    _check_reached(tape, inputs, places)

    def pullback(cotangent: Any) -> tuple[Array, ...]:
        cotangents = tuple(cotangent) if several else (cotangent,)
        if len(cotangents) != len(outs):
            raise InvalidValueError(f"cotangent: expected {len(outs)}, one per output, got {len(cotangents)}")
        grads: dict[int, Array] = {}
        for place, y, c in zip(places, outs, cotangents, strict=True):
            _add(grads, place, _check_cotangent(be, y, c))
        for record in reversed(tape.records):
            if record.output in grads:
                _pull(be, record, grads)
        for i, x in enumerate(inputs):
            if i not in grads:
                raise GradientError(
                    f"no gradient came back to input {i} of fn, of shape {tuple(x.shape)}: every primitive that it enters "
                    "has None as its gradient"
                )
        result = tuple([grads[i] for i in range(len(inputs))])
        if active_tapes():  # an outer vjp must not take these for constants
            return tuple(be.taint(g, active_tapes()[-1], "the pullback of an inner backdraw.vjp") for g in result)
        return result

    shown = outs if tapes else tuple([be.raw(y) for y in outs])
    return (shown if several else shown[0]), pullback


def _pull(be: Any, record: Record, grads: dict[int, Array]) -> None:
    cotangent = grads.pop(record.output)  # complete: what consumed it was recorded later
    found = record.primitive.backward(be, record.residuals, cotangent, **record.static)
    for place, shape, g in zip(record.inputs, record.shapes, found, strict=True):
        if place is not None and g is not None:
            if g.shape != shape:
                raise GradientError(
                    f"{record.primitive.name}: its rule returned a gradient of shape {tuple(g.shape)} for an input of "
                    f"shape {tuple(shape)}"
                )
            _add(grads, place, g)


def _add(grads: dict[int, Array], place: int, g: Array) -> None:
    grads[place] = grads[place] + g if place in grads else g


def _place_of_output(be: Any, tape: Tape, y: Any) -> int:
    place = tape.place(y)
    if place is not None:
        return place
    if not be.owns(y):
        raise InvalidTypeError(f"fn: expected a function that returns {be.name} arrays, got {type(y).__name__}")
    origin = be.broken(y, tape)
    if origin is not None:
        why = f"it came from {origin} applied to a tracked array, which backdraw.vjp does not record. {ADVICE}"
    else:
        names = ", ".join(r.primitive.name for r in tape.records) or "none"
        why = f"no recorded primitive returned it (recorded: {names}). {ADVICE}"
    raise GradientError(f"the output of fn, of shape {tuple(y.shape)}, cannot be reached from its inputs: {why}")


def _check_reached(tape: Tape, inputs: list[Array], places: list[int]) -> None:
    reached: set[int | None] = set(places)
    for record in reversed(tape.records):
        if record.output in reached:
            reached.update(record.inputs)
    for i, x in enumerate(inputs):
        if i not in reached:
            names = ", ".join(r.primitive.name for r in tape.records) or "none"
            raise GradientError(
                f"input {i} of fn, of shape {tuple(x.shape)}, does not lead to its output through recorded primitives "
                f"(recorded: {names}): the gradient would be zero, or the chain broke in array arithmetic between the "
                f"input and a primitive. {ADVICE}"
            )


def _check_cotangent(be: Backend, y: Array, c: Any) -> Array:
    if not be.owns(c):
        raise InvalidTypeError(f"cotangent: expected a {be.name} array, got {type(c).__name__}")
    if tuple(c.shape) != tuple(y.shape):
        raise InvalidValueError(f"cotangent: expected the output's shape {tuple(y.shape)}, got {tuple(c.shape)}")
    return be.cast(c, y.dtype)
