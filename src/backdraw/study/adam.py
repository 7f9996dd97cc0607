"""SGD and Adam, in Array API operations that write to none of their inputs."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from backdraw.backend import Array, backend_of

Arrays = tuple[Array, ...]


class State(NamedTuple):
    """What Adam remembers: how many steps were taken, and the moving averages of the gradients and their squares."""

    count: Any  # an int, or traced by JAX
    means: Arrays
    squares: Arrays


@dataclass(frozen=True)
class SGD:
    """Plain gradient descent, with the interface of `Adam`."""

    learning_rate: float = 1e-2

    def init(self, parameters: Arrays) -> tuple[()]:  # noqa: ARG002
        """Return the state before the first step: there is none."""
        return ()

    def update(self, parameters: Arrays, gradients: Arrays, state: Any) -> tuple[Arrays, Any]:
        """Return the parameters and the state after one step along the gradients."""
        return tuple(p - self.learning_rate * g for p, g in zip(parameters, gradients, strict=True)), state


@dataclass(frozen=True)
class Adam:
    r"""Adam: :math:`\theta \leftarrow \theta - \eta\, \hat m / (\sqrt{\hat v} + \epsilon)` with bias-corrected averages.

    Parameters
    ----------
    learning_rate : float
        The step :math:`\eta`.
    decay : tuple of float
        What the averages of the gradients and of their squares keep at each step.
    epsilon : float
        Added to the root.

    References
    ----------
    D. P. Kingma, J. Ba, Adam: A Method for Stochastic Optimization, arXiv 1412.6980.

    Examples
    --------
    >>> import numpy as np
    >>> from backdraw.study.adam import Adam
    >>> adam, parameters = Adam(learning_rate=0.1), (np.array([1.0, -1.0]),)
    >>> parameters, state = adam.update(parameters, (np.array([3.0, -0.2]),), adam.init(parameters))
    >>> parameters[0].round(6)
    array([ 0.9, -0.9])
    """

    learning_rate: float = 1e-3
    decay: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8

    def init(self, parameters: Arrays) -> State:
        """Return the state before the first step."""
        zeros = tuple(backend_of(p).xp.zeros_like(p) for p in parameters)
        return State(0, zeros, zeros)

    def update(self, parameters: Arrays, gradients: Arrays, state: State) -> tuple[Arrays, State]:
        """Return the parameters and the state after one step along the gradients."""
        keep, keep_square = self.decay
        count = state.count + 1
        means = tuple(keep * m + (1.0 - keep) * g for m, g in zip(state.means, gradients, strict=True))
        squares = tuple(keep_square * v + (1.0 - keep_square) * (g * g) for v, g in zip(state.squares, gradients, strict=True))
        # The bias corrections belong to whole averages: as factors of scalars they cost no pass over the arrays.
        root = (1.0 - keep_square**count) ** 0.5
        rate, epsilon = self.learning_rate * root / (1.0 - keep**count), self.epsilon * root
        moved = tuple(
            p - rate * (m / (backend_of(v).xp.sqrt(v) + epsilon)) for p, m, v in zip(parameters, means, squares, strict=True)
        )
        return moved, State(count, means, squares)
