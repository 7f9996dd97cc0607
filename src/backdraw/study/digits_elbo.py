"""The digits model at a checkpoint as a problem: what an image costs given its code, and the gradient in the code's logits."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

import backdraw
from backdraw.backend import Array, Backend
from backdraw.study import digits
from backdraw.study.layers import reshape

CONFIG = digits.Config(epochs=30)
IMAGES = 64


@backdraw.primitive(native=True)
def cost(be: Backend, pixels: Array, images: Array) -> Array:
    """``-log Bernoulli(images | pixels)``, pixels logits, summed over the pixels."""
    return -be.xp.sum(images * pixels + be.log_sigmoid(-pixels), axis=-1)


cost.defvjp(
    lambda be, pixels, images: (cost.function(be, pixels, images), (pixels, images)),
    lambda be, saved, g: (be.xp.expand_dims(g, axis=-1) * (be.sigmoid(saved[0]) - saved[1]), None),
)


@cache
def checkpoint() -> tuple[digits.Trained, np.ndarray]:
    """Train the model on NumPy, and return it with a minibatch of held-out images."""
    train, held_out = digits.load()
    return digits.train(CONFIG, train, held_out), held_out[:IMAGES]


def make(xp: Any) -> tuple[Callable[[Array], Array], backdraw.Distribution]:
    """Return the cost of each image and the distribution of their codes; f keeps the images as a batch axis.

    Parameters
    ----------
    xp : module
        An Array API namespace.

    Returns
    -------
    tuple
        f and the distribution, in float64. The divergence of the code from its prior, the other part of the ELBO, is left
        out: its gradient is exact.
    """
    trained, images = checkpoint()
    codes = digits.encode(CONFIG, trained.parameters, images.astype(np.float32))
    parameters = tuple(_float64(xp, p) for p in trained.parameters)
    pixels = _float64(xp, images)

    def f(x: Array) -> Array:
        shown = digits.decode(CONFIG, parameters, x)
        return cost(reshape(shown, shape=(*x.shape[:-2], digits.PIXELS)), pixels)

    return f, CONFIG.kind.posterior(_float64(xp, codes))


def _float64(xp: Any, x: Array) -> Array:
    return xp.asarray(x.tolist(), dtype=xp.float64)
