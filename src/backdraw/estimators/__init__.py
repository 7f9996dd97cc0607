"""Estimators: how the gradient comes back."""

from backdraw.estimators.draw import draw as draw
from backdraw.estimators.draw import gumbel_max as gumbel_max
from backdraw.estimators.gapped_straight_through import gapped_straight_through as gapped_straight_through
from backdraw.estimators.gumbel_rao import gumbel_rao as gumbel_rao
from backdraw.estimators.gumbel_softmax import gumbel_softmax as gumbel_softmax
from backdraw.estimators.intermediate_loss import intermediate_loss as intermediate_loss
from backdraw.estimators.registry import ESTIMATORS as ESTIMATORS
from backdraw.estimators.registry import Entry as Entry
from backdraw.estimators.registry import estimator as estimator
from backdraw.estimators.reinmax import reinmax as reinmax
from backdraw.estimators.straight_through import select as select
from backdraw.estimators.straight_through import straight_through as straight_through
