"""A variational autoencoder of handwritten digits: the model that ``backdraw train digits`` trains.

An image is encoded as 20 draws of one of 10 categories, or of 10 bits or a normal each, and decoded from these draws
alone. The model, its gradient rules and its training are written once; NumPy, CuPy, PyTorch and JAX run them, and one seed
gives one loss curve on all.
"""

import inspect
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

import backdraw
from backdraw.backend import Array, Backend, adapter
from backdraw.study.adam import Adam, Arrays
from backdraw.study.digits_config import TRAIN
from backdraw.study.digits_config import Config as Config
from backdraw.study.latents import trainable
from backdraw.study.layers import reshape, two_layers

PIXELS = 64


def load() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's digits, 1500 to train on and 297 held out, as float64 pixels from 0 to 1 in rows of 64."""
    from sklearn.datasets import load_digits

    images = load_digits().data / 16.0
    order = np.random.default_rng(0).permutation(len(images))
    return images[order[:TRAIN]], images[order[TRAIN:]]


# ------------------------------------------------------------------------------------------------------------ loss
@backdraw.primitive(native=True)
def negative_elbo(be: Backend, pixels: Array, kl: Array, images: Array) -> Array:
    """Return ``-log Bernoulli(images | pixels)``, pixels logits, plus the divergences `kl`, as a mean over images."""
    xp = be.xp
    log_likelihood = images * pixels + be.log_sigmoid(-pixels)
    return (xp.sum(kl) - xp.sum(log_likelihood)) / images.shape[0]


def _negative_elbo_vjp(be: Backend, saved: Any, g: Array) -> tuple[Array, Array, None]:
    pixels, kl, images = saved
    g = g / images.shape[0]
    return g * (be.sigmoid(pixels) - images), be.xp.broadcast_to(g, kl.shape), None


negative_elbo.defvjp(lambda be, *arrays: (negative_elbo.function(be, *arrays), arrays), _negative_elbo_vjp)


# ----------------------------------------------------------------------------------------------------------- model
def initial(config: Config) -> tuple[np.ndarray, ...]:
    """Return weights and biases of the encoder's two layers and the decoder's, uniform within 1 / sqrt(inputs)."""
    code, draw = (config.latents * n(config.categories) for n in (config.kind.parameters, config.kind.draws))
    sizes = ((PIXELS, config.width), (config.width, code), (draw, config.width), (config.width, PIXELS))
    rng = np.random.default_rng([config.seed, 0])
    return tuple(rng.uniform(-(n**-0.5), n**-0.5, shape) for n, m in sizes for shape in ((n, m), (m,)))


def encode(config: Config, parameters: Arrays, images: Array) -> Array:
    """Return the parameters of the codes, shape (n, latents, parameters), of images of shape (n, 64)."""
    return reshape(two_layers(images, *parameters[:4]), shape=(-1, config.latents, config.kind.parameters(config.categories)))


def decode(config: Config, parameters: Arrays, draws: Array) -> Array:
    """Return the logits of the pixels, shape (n, 64), of drawn or relaxed codes."""
    return two_layers(reshape(draws, shape=(-1, config.latents * config.kind.draws(config.categories))), *parameters[4:])


def sampler(config: Config) -> Callable[[Array, Any, backdraw.Key], Array]:
    """Return the estimator as a function of codes, temperature and key, whichever of the two it takes."""
    entry = trainable(config.latent)[config.estimator]
    taken = inspect.signature(entry.function).parameters

    def draw(codes: Array, temperature: Any, key: backdraw.Key) -> Array:
        options = {"temperature": temperature, "rng": key}
        return entry(config.kind.posterior(codes), **{k: v for k, v in options.items() if k in taken})

    return draw


def evaluate(config: Config, parameters: Arrays, images: Array, key: backdraw.Key, samples: int = 1) -> float:
    """Return the negative ELBO in nats per image, estimated without bias by exact draws."""
    codes = encode(config, parameters, images)
    q, kl = config.kind.posterior(codes), config.kind.kl(codes)
    draws = (backdraw.draw(q, rng=k) for k in backdraw.split(key, samples))
    return sum(float(negative_elbo(decode(config, parameters, x), kl, images)) for x in draws) / samples


# -------------------------------------------------------------------------------------------------------- training
@dataclass(frozen=True)
class Epoch:
    """The state after one epoch: negative ELBO in nats per image, training losses per step, seconds since the start."""

    number: int
    train: float
    held_out: float
    losses: np.ndarray
    seconds: float


@dataclass(frozen=True)
class Trained:
    """A trained model: its parameters, the path to them, and the held-out negative ELBO from many draws."""

    config: Config
    parameters: Arrays
    epochs: list[Epoch]
    held_out: float


def train(config: Config, images: np.ndarray, held_out: np.ndarray, report: Callable[[Epoch], None] | None = None) -> Trained:
    """Train a model.

    Parameters
    ----------
    config : Config
        What to train, and how.
    images, held_out : numpy.ndarray, shape (n, 64)
        Pixels from 0 to 1, to train on and to measure with; see `load`.
    report : callable, optional
        Called with each `Epoch` when it is over.

    Returns
    -------
    Trained
        The model after the last epoch.

    Raises
    ------
    BackendError
        If the backend does not exist or is not installed.
    """
    be: Backend = adapter(config.backend).backend
    with _precision(be, config):
        return _train(be, config, images, held_out, report)


def _precision(be: Backend, config: Config) -> AbstractContextManager[Any]:
    return be.double() if config.dtype == "float64" else nullcontext()


def _train(be: Backend, config: Config, images: Any, held_out: Any, report: Callable[[Epoch], None] | None) -> Trained:
    images, held_out, *parameters = (on(be, config, x) for x in (images, held_out, *initial(config)))
    adam, draw = Adam(config.learning_rate), sampler(config)
    training_key, key = backdraw.split(backdraw.key(config.seed))
    steps = images.shape[0] // config.batch
    temperature = config.schedule(config.epochs * steps)

    def step(carry: Any, batch: Array) -> tuple[Any, Array]:
        parameters, state = carry
        x = be.xp.take(images, batch, axis=0)

        def loss(*parameters: Array) -> Array:
            codes = encode(config, parameters, x)
            z = draw(codes, temperature(state.count), backdraw.fold_in(training_key, state.count))
            return negative_elbo(decode(config, parameters, z), config.kind.kl(codes), x)

        value, gradients = backdraw.value_and_grad(loss)(*parameters)
        return adam.update(parameters, gradients, state), value

    order, start = np.random.default_rng([config.seed, 1]), time.perf_counter()
    carry: Any = (tuple(parameters), adam.init(tuple(parameters)))
    epochs = []
    for number in range(1, config.epochs + 1):
        batches = order.permutation(images.shape[0])[: steps * config.batch].reshape(steps, config.batch)
        # A loop in Python, or, where the backend compiles, one program for all steps of an epoch.
        carry, losses = be.scan(step, carry, be.xp.asarray(batches.astype(np.int32)))
        on_train, on_held_out = (evaluate(config, carry[0], x, key, n) for x, n in ((images, 1), (held_out, 4)))
        epochs.append(Epoch(number, on_train, on_held_out, to_numpy(losses), time.perf_counter() - start))
        if report is not None:
            report(epochs[-1])
    return Trained(config, carry[0], epochs, evaluate(config, carry[0], held_out, key, samples=20))


def on(be: Backend, config: Config, x: np.ndarray) -> Array:
    """Return a NumPy array's values as an array of the backend, in the dtype of the training."""
    return be.xp.asarray(x.astype(config.dtype))


def to_numpy(x: Array) -> np.ndarray:
    """Return the values as a NumPy array: of every framework and device, so not by numpy.asarray."""
    return np.asarray(x.tolist())


def reconstruct(trained: Trained, images: np.ndarray, key: backdraw.Key) -> np.ndarray:
    """Return the pixel probabilities, shape (n, 64), that are decoded from one draw of each image's codes."""
    be, config = adapter(trained.config.backend).backend, trained.config
    with _precision(be, config):
        z = backdraw.draw(config.kind.posterior(encode(config, trained.parameters, on(be, config, images))), rng=key)
        return to_numpy(be.sigmoid(decode(config, trained.parameters, z)))


def generate(trained: Trained, count: int, key: backdraw.Key) -> np.ndarray:
    """Return the pixel probabilities, shape (count, 64), that are decoded from draws of the prior."""
    be, config = adapter(trained.config.backend).backend, trained.config
    zeros = np.zeros((count, config.latents, config.kind.parameters(config.categories)))
    with _precision(be, config):
        z = backdraw.draw(config.kind.prior(on(be, config, zeros)), rng=key)
        return to_numpy(be.sigmoid(decode(config, trained.parameters, z)))
