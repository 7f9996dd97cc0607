"""Estimators: how the gradient comes back."""

from backdraw.estimators.draw import draw as draw
from backdraw.estimators.draw import gumbel_max as gumbel_max
from backdraw.estimators.exact import exact as exact
from backdraw.estimators.gumbel_softmax import gumbel_softmax as gumbel_softmax
from backdraw.estimators.intermediate_loss import intermediate_loss as intermediate_loss
from backdraw.estimators.muprop import muprop as muprop
from backdraw.estimators.registry import ESTIMATORS as ESTIMATORS
from backdraw.estimators.registry import Entry as Entry
from backdraw.estimators.registry import estimator as estimator
from backdraw.estimators.score_function import reinforce as reinforce
from backdraw.estimators.score_function import rloo as rloo
from backdraw.estimators.straight_through import select as select
from backdraw.estimators.straight_through import straight_through as straight_through
from backdraw.estimators.vimco import vimco as vimco
from backdraw.estimators.without_replacement import sum_and_sample as sum_and_sample
from backdraw.estimators.without_replacement import unordered_set as unordered_set
