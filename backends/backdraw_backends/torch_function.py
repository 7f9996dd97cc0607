"""The torch.autograd.Function of every primitive."""

from collections.abc import Callable
from typing import Any

import torch
from torch._C import _are_functorch_transforms_active as transforms_active
from torch._C._functorch import is_legacy_batchedtensor as is_legacy_batched
from torch._C._functorch import unwrap_if_dead
from torch.compiler import is_dynamo_compiling

from backdraw.backend import Array, Backend
from backdraw.primitive import Primitive


def _places(arrays: tuple[Any, ...], out: Any, residuals: tuple[Any, ...]) -> tuple[list[int | None], list[Any]]:
    """Return where each residual is found again, and which must be returned beside the output for it, each once."""
    seen = [*arrays, out]  # these, in the order of the places, then what is returned beside
    places: list[int | None] = []
    for r in residuals:
        if r is None:
            places.append(None)
            continue
        place = next_place = len(seen)
        for i, a in enumerate(seen):
            if a is r:
                place = i
                break
        if place == next_place:
            seen.append(r)
        places.append(place)
    return places, seen[len(arrays) + 1 :]


class Apply(torch.autograd.Function):
    """A primitive with its own rule. Its residuals are outputs too, so that they can be differentiated in turn."""

    generate_vmap_rule = True

    @staticmethod
    def forward(be: Backend, primitive: Primitive, static: Any, *arrays: Any) -> Any:
        """Run the primitive; return its output, its own residuals, and where all residuals are."""
        out, residuals = primitive.forward(be, *arrays, **dict(static))
        places, extra = _places(arrays, out, residuals)
        if any(a is out for a in arrays):  # autograd wants an output of its own
            out = out.view_as(out)
        return (out, *extra, tuple(places))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep what the rule needs."""
        ctx.be, ctx.primitive, ctx.static, *arrays = inputs
        *outputs, ctx.places = output
        ctx.count = len(arrays)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(y for y in outputs if not y.is_floating_point()))
        ctx.save_for_backward(*arrays, *outputs)

    @staticmethod
    def backward(ctx: Any, g: Any, *g_extra: Any) -> Any:
        """Apply the rule, and the derivative of the residuals where a second derivative asks for it."""
        static, saved, n = dict(ctx.static), ctx.saved_tensors, ctx.count
        if not is_dynamo_compiling():  # a level of torch.func that has ended leaves wrappers that claim to require a gradient
            saved = tuple([a if a is None else unwrap_if_dead(a) for a in saved])
        residuals = tuple([None if i is None else saved[i] for i in ctx.places])
        grads = [None] * n if g is None else list(ctx.primitive.backward(ctx.be, residuals, g, **static))
        wanted = [j for j, x in enumerate(g_extra) if x is not None and saved[n + 1 + j].is_floating_point()]
        if wanted:  # a second derivative: that of the residuals, computed again from the inputs
            inputs, extra = _residuals_again(ctx, saved[:n], wanted)
            pullback = torch.func.vjp(extra, *(saved[i] for i in inputs))[1]
            for i, more in zip(inputs, pullback([g_extra[j] for j in wanted]), strict=True):
                grads[i] = more if grads[i] is None else grads[i] + more
        return (None, None, None, *grads)


class _Eager(torch.autograd.Function):
    """The same where nothing is traced or transformed; small arrays cost what the calls cost, and these are fewer."""

    @staticmethod
    def forward(ctx: Any, be: Backend, primitive: Primitive, static: dict[str, Any], *arrays: Any) -> Any:
        """Run the primitive, and keep what the rule needs."""
        out, residuals = primitive.forward(be, *arrays, **static)
        places, extra = _places(arrays, out, residuals)
        for i, a in enumerate(arrays):
            if a is out:  # autograd wants one of its own, that the user may write to: a copy if the rule looks at this one
                out = out.clone() if i in places else out.data
                break
        else:
            if out._is_view():  # likewise
                base = out._base
                out = (
                    out.clone() if any(a is base or a._base is base for a in (*arrays, *extra) if a is not None) else out.data
                )
        ctx.be, ctx.primitive, ctx.static, ctx.places, ctx.count = be, primitive, static, places, len(arrays)
        ctx.set_materialize_grads(False)
        # The arrays, where a residual has a derivative and may be computed again. The output is the user's to write to.
        again = any(y.is_floating_point() for y in extra)
        kept = [a if i in places or (again and i < len(arrays)) else None for i, a in enumerate((*arrays, out))]
        ctx.save_for_backward(*kept, *extra)
        return (out, *extra)

    @staticmethod
    def backward(ctx: Any, *g: Any) -> Any:
        """Apply the rule; to many cotangents (`is_grads_batched`) one by one, for torch cannot batch every operation."""
        if g[0] is None or not is_legacy_batched(g[0]) or torch.is_grad_enabled():
            return Apply.backward(ctx, *g)
        level = torch._C._vmapmode_increment_nesting() - 1
        torch._C._vmapmode_decrement_nesting()
        every = [Apply.backward(ctx, row) for row in torch._remove_batch_dim(g[0], level, 1, 0)]
        return tuple(
            [x[0] if x[0] is None else torch._add_batch_dim(torch.stack(x), 0, level) for x in zip(*every, strict=True)]
        )


# What _Eager.apply comes to. On the way it binds the arguments to a signature that it has `inspect` make anew on every
# call, which costs more than all else.
apply_eagerly: Callable[..., Any] = super(torch.autograd.Function, _Eager).apply


class ApplyForward(Apply):
    """The same with a forward-mode rule, which torch.compile refuses even where it is not used."""

    @staticmethod
    def forward(be: Backend, primitive: Primitive, static: Any, *arrays: Any) -> Any:
        """Run the primitive; torch wants the tangent of a view in the layout of the view: return none."""
        *outputs, places = Apply.forward(be, primitive, static, *arrays)
        if not transforms_active():
            outputs = [y.clone() if y._is_view() else y for y in outputs]
        return (*outputs, places)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep what both rules need."""
        Apply.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[3:], *output[:-1])

    @staticmethod
    def jvp(ctx: Any, _be: Any, _primitive: Any, _static: Any, *tangents: Any) -> Any:
        """Apply the forward-mode rule, and the residuals' tangents."""
        saved, n = ctx.saved_tensors, ctx.count
        known = tuple(torch.zeros_like(a) if t is None and a is not None else t for a, t in zip(saved, tangents, strict=False))
        residuals = tuple(None if i is None else saved[i] for i in ctx.places)
        if ctx.primitive.linear:
            tangent = _transposed(ctx, residuals, known, saved[n])
        else:
            tangent = ctx.primitive.pushforward(ctx.be, residuals, known, **dict(ctx.static))
        if len(saved) == n + 1:
            return tangent, None
        wanted = [j for j, y in enumerate(saved[n + 1 :]) if y.is_floating_point()]
        inputs, extra = _residuals_again(ctx, saved[:n], wanted)
        found = _pushed(extra, tuple(saved[i] for i in inputs), tuple(known[i] for i in inputs))
        more = dict(zip(wanted, found, strict=True))
        return (tangent, *(more.get(j) for j in range(len(saved) - n - 1)), None)


def _transposed(ctx: Any, residuals: Any, tangents: Any, like: Any) -> Any:
    """Return the output's tangent by the transpose of `backward`, which is linear in the cotangent."""

    def back(g: Any) -> dict[int, Any]:
        grads = ctx.primitive.backward(ctx.be, residuals, g, **dict(ctx.static))
        return {i: x for i, x in enumerate(grads) if x is not None}

    grads, pullback = torch.func.vjp(back, torch.zeros_like(like))
    return pullback({i: tangents[i] for i in grads})[0]


def _pushed(f: Callable[..., Any], points: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
    """Return the tangents of a list of arrays that f makes."""
    if transforms_active():
        return torch.func.jvp(f, points, tangents)[1]
    out, pullback = torch.func.vjp(f, *points)  # torch nests no levels of forward mode: the transpose of the transpose
    return torch.func.vjp(pullback, [torch.zeros_like(y) for y in out])[1](tangents)[0]


def _residuals_again(ctx: Any, arrays: Any, wanted: list[int]) -> tuple[list[int], Callable[..., list[Any]]]:
    """Return the places of the inputs that can be differentiated, and the function from them to the extra outputs."""
    inputs = [i for i, a in enumerate(arrays) if a is not None and a.is_floating_point()]

    def extra(*some: Any) -> list[Any]:
        given = dict(zip(inputs, some, strict=True))
        every = [given.get(i, a) for i, a in enumerate(arrays)]
        residuals = ctx.primitive.forward(ctx.be, *every, **dict(ctx.static))[1]
        by_place = dict(zip(ctx.places, residuals, strict=True))
        return [by_place[len(arrays) + 1 + j] for j in wanted]

    return inputs, extra


def plain_vjp(fn: Callable[..., Any], arrays: tuple[Array, ...]) -> tuple[Any, Callable[[Any], tuple[Array, ...]]]:
    """Return the output of a function and its pullback, by autograd alone."""
    with torch.enable_grad():
        leaves = tuple((x.clone() if x.is_inference() else x.detach()).requires_grad_() for x in arrays)
        out = fn(*leaves)
    several = isinstance(out, (tuple, list))
    outs = tuple(out) if several else (out,)

    def pullback(cotangent: Any) -> tuple[Array, ...]:
        wanted = [(y, c) for y, c in zip(outs, cotangent if several else (cotangent,), strict=True) if y.requires_grad]
        if not wanted:
            return tuple(torch.zeros_like(x) for x in leaves)
        ys, cs = zip(*wanted, strict=True)
        return torch.autograd.grad(ys, leaves, cs, retain_graph=True, allow_unused=True, materialize_grads=True)

    detached = tuple(y.detach() for y in outs)
    return (detached if several else detached[0]), pullback
