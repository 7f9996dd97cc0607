"""What the estimators' arguments may be, checked once and in one way."""

from typing import Any

from backdraw.distributions import Categorical, Distribution
from backdraw.distributions.checks import check_positive as check_positive
from backdraw.distributions.checks import require
from backdraw.errors import InvalidTypeError
from backdraw.estimators.registry import ESTIMATORS


def as_distribution(dist: Any, estimator: str, *needs: str) -> Any:
    """Return a distribution that offers what the estimator needs; an array means Categorical of it."""
    if not isinstance(dist, Distribution):
        dist = Categorical(dist)
    require(dist, estimator, *needs)
    entry = ESTIMATORS.get(estimator)  # losses and penalties of discrete distributions are no estimators, and not there
    if not dist.discrete and (entry is None or entry.domain == "discrete"):
        raise InvalidTypeError(
            f"dist: {estimator} is for discrete distributions, got {type(dist).__name__}; take backdraw.reparameterize"
        )
    return dist
