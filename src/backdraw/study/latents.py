"""What the code of a variational autoencoder is made of: the distribution, its prior, and how many numbers each takes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import backdraw
from backdraw.backend import Array, Backend, backend_of
from backdraw.estimators.registry import ESTIMATORS, Entry


@dataclass(frozen=True)
class Latent:
    """A kind of latent variable; `categories` is the number of values, bits or coordinates that one of them has.

    Attributes
    ----------
    posterior : callable
        The distribution of the draws, of the encoder's output of shape (n, latents, parameters).
    prior : callable
        The prior, of an array of zeros of that shape.
    parameters : callable
        From `categories`, how many numbers the encoder gives for a latent.
    draws : callable
        From `categories`, how many numbers a draw of one latent is.
    estimator : str
        The default.
    """

    posterior: Callable[[Array], backdraw.Distribution]
    prior: Callable[[Array], backdraw.Distribution]
    parameters: Callable[[int], int]
    draws: Callable[[int], int]
    estimator: str

    def kl(self, codes: Array) -> Array:
        """Divergence of the posterior from the prior, in nats, one number for each latent or part of it."""
        zeros = backend_of(codes).xp.zeros_like(backdraw.stop_gradient(codes))
        return backdraw.kl(self.posterior(codes), self.prior(zeros))


@backdraw.primitive(native=True)
def column(be: Backend, codes: Array, *, index: int) -> Array:  # noqa: ARG001
    """One of the numbers of each latent."""
    return codes[..., index]


def _column_vjp(be: Backend, residuals: Any, g: Array, *, index: int) -> tuple[Array]:
    (codes,) = residuals
    n = codes.shape[-1]
    place = be.xp.astype(be.xp.arange(n, device=be.device(codes)) == index, codes.dtype)
    return (be.xp.expand_dims(g, axis=-1) * place,)


column.defvjp(lambda be, codes, *, index: (column.function(be, codes, index=index), (codes,)), _column_vjp)


@backdraw.primitive(native=True)
def exp(be: Backend, x: Array) -> Array:
    """Exponential."""
    return be.xp.exp(x)


def _exp_fwd(be: Backend, x: Array) -> tuple[Array, Any]:
    y = be.xp.exp(x)
    return y, (y,)


exp.defvjp(_exp_fwd, lambda be, residuals, g: (g * residuals[0],))  # noqa: ARG005


def _normal(codes: Array) -> backdraw.Distribution:
    return backdraw.Normal(column(codes, index=0), exp(column(codes, index=1)))


LATENTS = {
    "categorical": Latent(backdraw.Categorical, backdraw.Categorical, lambda n: n, lambda n: n, "gumbel_softmax"),
    "bernoulli": Latent(backdraw.Bernoulli, backdraw.Bernoulli, lambda n: n, lambda n: n, "gumbel_softmax"),
    "normal": Latent(_normal, _normal, lambda _: 2, lambda _: 1, "reparameterize"),
}


def trainable(latent: str) -> dict[str, Entry]:
    """Return the estimators that can train a model of these latents: draws that carry a gradient, by name."""
    example: Any = LATENTS[latent].posterior(np.zeros((1, 1, 2)))
    kind = "discrete" if example.discrete else "continuous"
    return {
        name: e
        for name, e in sorted(ESTIMATORS.items())
        if e.kind == "draw"
        and e.gradient != "none"
        and e.domain in ("both", kind)
        and all(hasattr(example, need) for need in e.needs)
    }


def latent_for(estimator: str) -> str:
    """Return the first kind of latents that an estimator can train, or the first of all."""
    return next((name for name in LATENTS if estimator in trainable(name)), next(iter(LATENTS)))
