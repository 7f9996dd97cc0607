"""PyTorch: one autograd.Function for every primitive, and noise that heeds torch's generators."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch._C import _are_functorch_transforms_active as transforms_active
from torch._C import _is_any_autocast_enabled as autocasting
from torch._C import _is_tracing as is_tracing
from torch.compiler import is_dynamo_compiling

from backdraw.backend import Array, Backend
from backdraw.distributions import simplex
from backdraw.errors import InvalidTypeError
from backdraw.primitive import Primitive
from backdraw_backends import torch_host, torch_noise
from backdraw_backends.torch_by_numpy import (
    LARGE,
    NUMPY,
    WORDS,
    ByNumPy,
    in_dual_level,
    many,
    on_host,
    present,
    recorded,
    watched,
)
from backdraw_backends.torch_function import Apply, ApplyForward, apply_eagerly, plain_vjp
from backdraw_backends.torch_operations import TorchOperations, kernel_softmax


class TorchBackend(TorchOperations, Backend):
    """PyTorch tensors, on any device, in eager mode, under torch.func and under torch.compile."""

    __slots__ = ()

    name = "torch"
    native_rng = "torch.Generator"
    noise = torch_noise.noise
    words = torch_noise.words

    def array_types(self) -> tuple[type, ...]:
        """Return the array types known beforehand."""
        return (torch.Tensor, torch.nn.Parameter)

    def owns(self, x: object) -> bool:
        """Whether `x` is a tensor."""
        return isinstance(x, torch.Tensor)

    def apply(self, primitive: Primitive, arrays: tuple[Array, ...], static: dict[str, Any]) -> Array:
        """Leave true derivatives to torch, unless the rule is faster; give other rules by the autograd.Function."""
        if autocasting() and torch.is_autocast_enabled(arrays[0].device.type):
            with torch.autocast(arrays[0].device.type, enabled=False):  # products of matrices lose no digits here
                return self.apply(primitive, arrays, static)
        if not watched():
            if primitive.native and not (many(arrays[0], rows=primitive.rows) and on_host(arrays)):
                return primitive.forward(self, *arrays, **static)[0]
            if primitive.loops and on_host(present(arrays)) and static.get("dtype", torch.float64) in NUMPY:
                primitive = ByNumPy(primitive)
            return apply_eagerly(self, primitive, static, *arrays)[0]
        compiling = torch.compiler.is_compiling()
        if primitive.native and not (compiling and primitive.rows):  # the rule has fewer passes over rows to compile
            return primitive.forward(self, *arrays, **static)[0]
        if compiling:
            if not recorded(arrays):  # dynamo's own way there fails on a setup_context
                return primitive.forward(self, *arrays, **static)[0]
            return Apply.apply(self, primitive, tuple(static.items()), *arrays)[0]
        if transforms_active() or in_dual_level():
            # vmap over forward mode counts the leaves of the arguments: a mapping of this type is one
            return ApplyForward.apply(self, primitive, MappingProxyType(static), *arrays)[0]
        return apply_eagerly(self, primitive, static, *arrays)[0]

    def surrogate(self, primitive: Primitive, hard: Array, soft: Array) -> Array:
        """Take a copy of `soft` and set its data: a quarter of what an autograd.Function costs, where that is the cost."""
        if watched() or soft.numel() >= LARGE:
            return self.apply(primitive, (hard, soft), {})
        out = soft.clone()
        out.data = hard
        return out

    def relaxed(self, primitive: Primitive, logits: Array, rng: Any, static: dict[str, Any]) -> Array:
        """By torch's own operations, where there are few elements and what the calls cost counts."""
        if is_dynamo_compiling() and rng is None:
            return _in_graph(logits, not primitive.native, static["axis"], static["temperature"], static["dtype"])
        if static["axis"] != -1 or static["dtype"] not in NUMPY or not on_host((logits,)) or many(logits) or autocasting():
            return super().relaxed(primitive, logits, rng, static)
        if rng is None and logits.numel() < WORDS:  # straight there: `noise` would ask again what `on_host` has
            noise = torch_noise.few("exponential", None, tuple(logits.shape), logits.dtype)
        else:
            noise = torch_noise.noise(self, "exponential", rng, tuple(logits.shape), logits.dtype, logits.device)
        u = logits - noise.log_()
        fast = kernel_softmax(u, static["temperature"])
        soft = super().softmax(u, static["temperature"]) if fast is None else fast
        if primitive.native:
            return soft
        out, u = soft.clone(), u.detach()
        # Of rows whose softmax is no NaN, the largest entry is finite.
        out.data = super().hardmax(u) if fast is None else torch.zeros_like(u).scatter_(-1, u.argmax(-1, True), 1.0)
        return out

    def stop_gradient(self, x: Array) -> Array:
        """Detach."""
        try:
            return x.detach()
        except RuntimeError:  # batched gradients have no rule for it
            with torch.no_grad():
                return x.clone()

    def vjp(self, fn: Callable[..., Any], arrays: tuple[Array, ...]) -> tuple[Any, Callable[[Any], tuple[Array, ...]]]:
        """Differentiate by torch.func; by autograd, which costs less, where nothing outside is recorded."""
        if not (watched() or torch.is_grad_enabled() or torch.is_inference_mode_enabled()):
            return plain_vjp(fn, arrays)
        out, pullback = torch.func.vjp(fn, *arrays)
        return out, lambda cotangent: pullback(cotangent)

    def detached(self) -> AbstractContextManager[Any]:
        """Record no graph for what the function closes over."""
        return torch.no_grad()

    @contextmanager
    def double_by_default(self) -> Iterator[None]:
        """Change torch's default, which is that of all threads, and put it back."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(before)

    def host(self, f: Callable[..., Any], *arrays: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        """Run ``f`` on NumPy arrays of the same values."""
        if not is_dynamo_compiling() and is_tracing():
            raise InvalidTypeError("torch.jit.trace would keep what a solver answers once; take torch.export or torch.compile")
        return torch_host.host(f, [x.detach() for x in arrays], list(shape), dtype)

    def refuses_second_derivatives(self) -> bool:
        """Say yes under torch.compile, whose backward graphs cannot be differentiated, and where nothing is recorded."""
        return is_dynamo_compiling() or not (torch.is_grad_enabled() or transforms_active() or in_dual_level())

    def constant(self, x: np.ndarray, like: Array) -> Array:
        """Ask the tensor for its dtype: torch.compile, which traces NumPy too, refuses to ask the array."""
        found = torch.as_tensor(x, device=like.device)
        return found.to(like.dtype if found.is_floating_point() else torch.int64)

    def streams(self, rng: Any, num: int, device: Any) -> tuple[Any, ...]:
        """One torch generator, or None for torch's default."""
        return (torch_noise.generator(self, rng, device),) * num

    def scalars(self, x: Array) -> tuple[Any, ...]:
        """Return ints where nothing is traced."""
        traced = torch.compiler.is_compiling() or transforms_active()
        return tuple(x.unbind()) if traced else tuple(x.tolist())

    def number(self, x: Array) -> float | None:
        """Ask tensors on the host, where nothing is traced."""
        return float(x.item()) if x.is_cpu and not watched() else None


@torch.compiler.allow_in_graph
def _in_graph(logits: Array, hard: bool, axis: int, temperature: float, dtype: Any) -> Array:
    """One operation to torch.compile, which checks at every call whether anything that it traced into has changed."""
    primitive = simplex.vertex if hard else simplex.relaxed
    static = {"axis": axis, "temperature": temperature, "dtype": dtype}
    if transforms_active():
        return Backend.relaxed(backend, primitive, logits, None, static)
    noise = backend.noise("exponential", None, tuple(logits.shape), backend.wide(logits.dtype), logits.device)
    return apply_eagerly(backend, primitive, static, logits, noise)[0]


backend = TorchBackend()
