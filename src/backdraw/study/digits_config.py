"""What ``backdraw train digits`` trains, and how: the settings, each checked."""

from dataclasses import dataclass

import backdraw
from backdraw import schedules
from backdraw.distributions.checks import positive
from backdraw.errors import InvalidTypeError, InvalidValueError
from backdraw.study.latents import LATENTS, Latent, latent_for, trainable

TRAIN = 1500  # of the 1797 images; the others are held out


@dataclass(frozen=True)
class Config:
    """What is trained, and how; checked when it is made, but for the backend, which `train` looks for.

    Parameters
    ----------
    backend : str
        The framework that computes.
    latent : {"categorical", "bernoulli", "normal"}, optional
        What the code is made of. By default the first of these that the estimator can train.
    estimator : str, optional
        One of those that can train such latents: how the gradient comes back through the draw. By default
        "gumbel_softmax", for normal latents "reparameterize".
    epochs : int
        Passes over the training images, at least 1.
    seed : int
        From 0 to 2**64 - 1. Seeds the parameters, the order of the images and the draws, but not the split of the data.
    dtype : {"float32", "float64"}
        What is computed in.
    latents, categories, width, batch : int
        The draws per image, the values (or bits) of each, the hidden units of encoder and decoder, the images of a step.
    learning_rate : float
        Adam's.
    temperature : tuple of float, optional
        Annealed from the first to the second over the whole training, along a cosine. By default from 0.5 to 0.2 for a
        relaxed draw, which has to end near the hard draws that the model is measured with, and else 1 throughout.

    Raises
    ------
    TypeError, ValueError
        If an entry is not as said; the message begins with its name.
    """

    backend: str = "numpy"
    latent: str = ""
    estimator: str = ""
    epochs: int = 200
    seed: int = 0
    dtype: str = "float32"
    latents: int = 20
    categories: int = 10
    width: int = 256
    batch: int = 100
    learning_rate: float = 2e-3
    temperature: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not self.latent:
            object.__setattr__(self, "latent", latent_for(self.estimator))
        if self.latent not in LATENTS:
            raise InvalidValueError(f"latent: expected one of {', '.join(LATENTS)}, got {self.latent!r}")
        if not self.estimator:
            object.__setattr__(self, "estimator", self.kind.estimator)
        known = trainable(self.latent)
        if self.estimator not in known:
            raise InvalidValueError(f"estimator: expected one of {', '.join(known)}, got {self.estimator!r}")
        if self.dtype not in ("float32", "float64"):
            raise InvalidValueError(f"dtype: expected float32 or float64, got {self.dtype!r}")
        for name in ("epochs", "seed", "latents", "categories", "width", "batch"):
            value, least = getattr(self, name), 0 if name == "seed" else 1
            if isinstance(value, bool) or not isinstance(value, int):
                raise InvalidTypeError(f"{name}: expected an int, got {type(value).__name__}")
            if value < least:
                raise InvalidValueError(f"{name}: expected {least} or more, got {value}")
        if self.batch > TRAIN:
            raise InvalidValueError(f"batch: expected at most {TRAIN}, the training images, got {self.batch}")
        backdraw.key(self.seed)
        object.__setattr__(self, "learning_rate", positive("learning_rate", self.learning_rate))
        if self.temperature is None:
            relaxed = known[self.estimator].forward == "relaxed"
            object.__setattr__(self, "temperature", (0.5, 0.2) if relaxed else (1.0, 1.0))
        if not isinstance(self.temperature, tuple) or len(self.temperature) != 2:
            raise InvalidTypeError(f"temperature: expected two numbers, the first and the last, got {self.temperature!r}")
        for value in self.temperature:
            positive("temperature", value)

    @property
    def kind(self) -> Latent:
        """What the code is made of."""
        return LATENTS[self.latent]

    def schedule(self, steps: int) -> schedules.Schedule:
        """Return the temperature as a function of the step."""
        assert self.temperature is not None
        return schedules.cosine(*self.temperature, steps)
