"""Arborescences: directed spanning trees from a root."""

import operator
from dataclasses import dataclass
from numbers import Integral
from typing import ClassVar

from backdraw.backend import Array
from backdraw.distributions.checks import check_logits
from backdraw.distributions.exponential_family import ExponentialFamily
from backdraw.distributions.rooted import Rooted
from backdraw.errors import InvalidTypeError, InvalidValueError


@dataclass(frozen=True, eq=False)
class Arborescence(ExponentialFamily):
    r"""A directed spanning tree from a root, as an n x n matrix: :math:`p(x) \propto \exp(\sum_{ij} x_{ij} l_{ij})`.

    Parameters
    ----------
    logits : array, shape (..., n, n)
        Row = parent, column = child. Any real floating dtype. -inf is an edge that is in no tree. The diagonal and the column
        of the root are ignored.
    root : int
        The node that all edges lead away from: each other node has one parent.

    Raises
    ------
    TypeError
        If `logits` is not a real floating array, or `root` not an int.
    ValueError
        If `logits` is not square, or `root` out of range.

    Notes
    -----
    `sample` draws exactly from this law. `perturb` adds Gumbel noise to each edge, and the heaviest arborescence then follows
    the perturbation's law, which is another wherever cycles are possible. What takes the `argmax` of perturbed utilities
    (`backdraw.gumbel_max`) draws from that one. Of arborescences of the same weight, the argmax is one, and the same on every
    backend up to the rounding of sums.

    The partition function, the marginals and their derivative come of elimination in float64, in the log domain. Time and
    memory are of order n**3 and n**2 per batch element. Where the edges of finite logits do not reach every node there is no
    arborescence: the draws, marginals and gradients are 0, and the log-partition function is -inf.

    References
    ----------
    M. B. Paulus, D. Choi, D. Tarlow, A. Krause, C. J. Maddison, Gradient Estimation with Stochastic Softmax Tricks, arXiv
    2006.08063.

    Examples
    --------
    >>> import numpy as np
    >>> import backdraw
    >>> p = backdraw.Arborescence(np.log([[1.0, 1.0, 1.0], [1.0, 1.0, 2.0], [1.0, 1.0, 1.0]]))
    >>> p.mean()  # of the trees' weights 1 (0-1, 0-2), 2 (0-1-2) and 1 (0-2-1)
    array([[0.  , 0.75, 0.5 ],
           [0.  , 0.  , 0.5 ],
           [0.  , 0.25, 0.  ]])
    >>> backdraw.draw(p, rng=backdraw.key(0))
    array([[0., 1., 0.],
           [0., 0., 1.],
           [0., 0., 0.]])
    """

    logits: Array
    root: int = 0

    plain: ClassVar[tuple[str, ...]] = ("root",)
    event_ndim: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_logits(self.logits)
        shape = tuple(self.logits.shape)
        if len(shape) < 2 or shape[-1] != shape[-2] or not shape[-1]:
            raise InvalidValueError(f"logits: expected shape (..., n, n) with n >= 1, got {shape}")
        if isinstance(self.root, bool) or not isinstance(self.root, Integral):
            raise InvalidTypeError(f"root: expected an int, got {type(self.root).__name__}")
        if not 0 <= self.root < shape[-1]:
            raise InvalidValueError(f"root: expected 0 to {shape[-1] - 1} for logits of shape {shape}, got {self.root}")
        object.__setattr__(self, "root", int(self.root))

    @property
    def family(self) -> Rooted:
        """The arborescences from the root."""
        return Rooted(operator.index(self.logits.shape[-1]), self.root)  # under torch.compile a part of the program

    @property
    def noise_size(self) -> int:
        """The number of uniforms of a draw: n * n."""
        return self.family.n**2
