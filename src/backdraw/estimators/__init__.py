"""Estimators: how the gradient comes back."""

from backdraw.estimators.draw import draw as draw
from backdraw.estimators.draw import gumbel_max as gumbel_max
from backdraw.estimators.gumbel_softmax import gumbel_softmax as gumbel_softmax
from backdraw.estimators.hard_concrete import hard_concrete as hard_concrete
from backdraw.estimators.hard_concrete import hard_concrete_nonzero as hard_concrete_nonzero
from backdraw.estimators.intermediate_loss import intermediate_loss as intermediate_loss
from backdraw.estimators.registry import ESTIMATORS as ESTIMATORS
from backdraw.estimators.registry import Entry as Entry
from backdraw.estimators.registry import estimator as estimator
from backdraw.estimators.straight_through import select as select
from backdraw.estimators.straight_through import straight_through as straight_through
