"""What is measured of the estimators of expectations: one step each, ours and as a user writes it.

A step is value and gradient, in the logits and in the weights of f, a network with one hidden layer: 128 batch elements, 20
latents of 10 categories (200 bits or normals for the estimators of those), 4 samples, float32.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from timing import Pair

import backdraw
from backdraw.estimators import ESTIMATORS

BATCH, LATENTS, CATEGORIES, SAMPLES, WIDTH = 128, 20, 10, 4, 64
FEW = 3  # latents, for what goes over the joint values
TEMPERATURE, SCALE = 0.5, 1.0


class Torch:
    """Logits, f and the two steps of f alone and of an estimator."""

    def __init__(self, latents: int = LATENTS, categories: int = CATEGORIES) -> None:
        import torch

        torch.manual_seed(0)
        self.torch = torch
        shape = (BATCH, latents, categories) if categories > 1 else (BATCH, latents)
        self.logits = torch.randn(shape, requires_grad=True)
        size = latents * categories
        make = lambda: torch.nn.Sequential(torch.nn.Linear(size, WIDTH), torch.nn.ReLU(), torch.nn.Linear(WIDTH, 1))  # noqa: E731
        self.net, self.other = make(), make()
        self.x = torch.rand((SAMPLES, *shape)).round()
        self.calls: list[int] = []

    def value(self, net: Any, x: Any) -> Any:
        """Call a network on the latents of each batch element."""
        return net(x.reshape(*x.shape[:2], -1)).squeeze(-1)

    def f(self, x: Any) -> Any:
        """Count the samples, and call the network."""
        self.calls.append(x.shape[0])
        return self.value(self.net, x)

    def step(self, value: Callable[[], Any]) -> Callable[[], None]:
        """Return what a training step does up to the optimiser."""

        def run() -> None:
            self.logits.grad = None
            self.net.zero_grad()
            value().sum().backward()

        return run

    def alone(self) -> Callable[[], None]:
        """Return the step of f itself, at given samples."""
        return self.step(lambda: self.f(self.x).mean(0))

    def estimator(self, name: str, make: Callable[[Any], Any], **options: Any) -> Callable[[], None]:
        """Return the step with an estimator."""
        if name == "relax":
            options["surrogate"] = lambda x: self.value(self.other, x)
        return self.step(lambda: ESTIMATORS[name](self.f, make(self.logits), **options))


def torch_rloo() -> Pair:
    """Torch, eager: against torch.distributions.OneHotCategorical with leave-one-out baselines."""
    t = Torch()

    def peer() -> Any:
        d = t.torch.distributions.OneHotCategorical(logits=t.logits)
        x = d.sample((SAMPLES,))
        v, logp = t.f(x), d.log_prob(x).sum(-1)
        baseline = (v.sum(0, keepdim=True) - v) / (SAMPLES - 1)
        return (v + (v - baseline).detach() * logp).mean(0)

    return t.estimator("rloo", backdraw.Categorical, samples=SAMPLES), t.step(peer)


def torch_rebar() -> Pair:
    """Torch, eager: against REBAR written by hand, whose control variates f is called with three times."""
    t = Torch()
    functional, torch = t.torch.nn.functional, t.torch

    def peer() -> Any:
        logp = functional.log_softmax(t.logits.expand(SAMPLES, *t.logits.shape), -1)
        u, v = (torch.rand_like(logp).clamp(1e-6, 1 - 1e-6) for _ in range(2))
        z = logp - torch.log(-torch.log(u))
        b = functional.one_hot(z.argmax(-1), CATEGORIES).float()
        of_top = (v * b).sum(-1, keepdim=True)
        top = -torch.log(-torch.log(of_top))
        tilde = torch.where(b.bool(), top, -torch.log(-torch.log(v) / logp.exp() - torch.log(of_top)))
        fb, fz, ft = t.f(b), t.f(torch.softmax(z / TEMPERATURE, -1)), t.f(torch.softmax(tilde / TEMPERATURE, -1))
        return (fb + (fb - SCALE * ft).detach() * (b * logp).sum((-1, -2)) + SCALE * (fz - ft)).mean(0)

    ours = t.estimator("rebar", backdraw.Categorical, samples=SAMPLES, temperature=TEMPERATURE, scale=SCALE)
    return ours, t.step(peer)


def _jax(ours: Callable[..., Any], peer: Callable[..., Any]) -> Pair:
    import jax
    import jax.numpy as jnp

    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.standard_normal((BATCH, LATENTS, CATEGORIES), dtype=np.float32))
    sizes = ((LATENTS * CATEGORIES, WIDTH), (WIDTH, 1))
    weights = [jnp.asarray(rng.standard_normal(s, dtype=np.float32) / s[0] ** 0.5) for s in sizes]

    def f(weights: Any, x: Any) -> Any:
        return (jax.nn.relu(x.reshape(*x.shape[:2], -1) @ weights[0]) @ weights[1])[..., 0]

    def step(estimate: Callable[..., Any]) -> Callable[[], object]:
        total = lambda l, w, key: estimate(lambda x: f(w, x), l, key).sum()  # noqa: E731
        run = jax.jit(jax.value_and_grad(total, (0, 1)))
        return lambda: jax.block_until_ready(run(logits, weights, jax.random.key(0)))

    return step(ours), step(peer)


def jax_rloo() -> Pair:
    """JAX, jitted: against jax.random.categorical with leave-one-out baselines."""
    import jax

    def peer(f: Any, logits: Any, key: Any) -> Any:
        index = jax.random.categorical(key, logits, shape=(SAMPLES, *logits.shape[:-1]))
        x = jax.nn.one_hot(index, CATEGORIES)
        v, logp = f(x), (x * jax.nn.log_softmax(logits)).sum((-1, -2))
        baseline = (v.sum(0, keepdims=True) - v) / (SAMPLES - 1)
        return (v + jax.lax.stop_gradient(v - baseline) * logp).mean(0)

    return _jax(lambda f, logits, key: backdraw.rloo(f, logits, samples=SAMPLES, rng=key), peer)


def jax_rebar() -> Pair:
    """JAX, jitted: against REBAR written by hand."""
    import jax
    import jax.numpy as jnp

    def peer(f: Any, logits: Any, key: Any) -> Any:
        logp = jax.nn.log_softmax(jnp.broadcast_to(logits, (SAMPLES, *logits.shape)))
        first, second = jax.random.split(key)
        z = logp + jax.random.gumbel(first, logp.shape)
        b = jax.nn.one_hot(z.argmax(-1), CATEGORIES)
        v = jax.random.uniform(second, logp.shape, minval=1e-6, maxval=1 - 1e-6)
        of_top = (v * b).sum(-1, keepdims=True)
        top = -jnp.log(-jnp.log(of_top))
        tilde = jnp.where(b > 0, top, -jnp.log(-jnp.log(v) / jnp.exp(logp) - jnp.log(of_top)))
        fb, fz, ft = f(b), f(jax.nn.softmax(z / TEMPERATURE)), f(jax.nn.softmax(tilde / TEMPERATURE))
        score = (b * logp).sum((-1, -2))
        return (fb + jax.lax.stop_gradient(fb - SCALE * ft) * score + SCALE * (fz - ft)).mean(0)

    options: dict[str, Any] = {"samples": SAMPLES, "temperature": TEMPERATURE, "scale": SCALE}
    return _jax(lambda f, logits, key: backdraw.rebar(f, logits, rng=key, **options), peer)


PEERS = {torch_rloo: 0.7, torch_rebar: 0.6, jax_rloo: 0.7, jax_rebar: 0.7}  # ours over the peer's: at most


def normals(loc: Any) -> Any:
    """Normals of this location."""
    return backdraw.Normal(loc, 1.0)


# The law, how many latents of how many categories, and the options where they are not ``samples=SAMPLES``.
MANY, JOINT, BITS = (LATENTS, CATEGORIES), (FEW, CATEGORIES), (LATENTS * CATEGORIES, 1)
CASES: dict[str, tuple[Callable[[Any], Any], tuple[int, int], dict[str, Any]]] = {
    "reinforce": (backdraw.Categorical, MANY, {}),
    "rloo": (backdraw.Categorical, MANY, {}),
    "vimco": (backdraw.Categorical, MANY, {}),
    "muprop": (backdraw.Categorical, MANY, {}),
    "rebar": (backdraw.Categorical, MANY, {}),
    "relax": (backdraw.Categorical, MANY, {}),
    "arsm": (backdraw.Categorical, MANY, {}),
    "indecater": (backdraw.Categorical, MANY, {}),
    "measure_valued": (backdraw.Categorical, MANY, {}),
    "exact": (backdraw.Categorical, JOINT, {"samples": None}),
    "unordered_set": (backdraw.Categorical, JOINT, {}),
    "sum_and_sample": (backdraw.Categorical, JOINT, {}),
    "arm": (backdraw.Bernoulli, BITS, {"samples": SAMPLES // 2}),  # pairs
    "disarm": (backdraw.Bernoulli, BITS, {"samples": SAMPLES // 2}),
    "pathwise": (normals, BITS, {}),
}
