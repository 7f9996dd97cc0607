"""Gradients through random draws, on NumPy, CuPy, PyTorch and JAX arrays alike."""

from backdraw import schedules as schedules
from backdraw.distributions import Bernoulli as Bernoulli
from backdraw.distributions import Categorical as Categorical
from backdraw.distributions import Distribution as Distribution
from backdraw.distributions import kl as kl
from backdraw.errors import BackdrawError as BackdrawError
from backdraw.errors import BackendError as BackendError
from backdraw.errors import GradientError as GradientError
from backdraw.estimators import draw as draw
from backdraw.estimators import exact as exact
from backdraw.estimators import gumbel_max as gumbel_max
from backdraw.estimators import gumbel_softmax as gumbel_softmax
from backdraw.estimators import intermediate_loss as intermediate_loss
from backdraw.estimators import muprop as muprop
from backdraw.estimators import reinforce as reinforce
from backdraw.estimators import rloo as rloo
from backdraw.estimators import select as select
from backdraw.estimators import straight_through as straight_through
from backdraw.estimators import sum_and_sample as sum_and_sample
from backdraw.estimators import unordered_set as unordered_set
from backdraw.estimators import vimco as vimco
from backdraw.gradient import stop_gradient as stop_gradient
from backdraw.gradient import value_and_grad as value_and_grad
from backdraw.gradient import vjp as vjp
from backdraw.primitive import Primitive as Primitive
from backdraw.primitive import primitive as primitive
from backdraw.random import Key as Key
from backdraw.random import fold_in as fold_in
from backdraw.random import key as key
from backdraw.random import split as split

__version__ = "0.1.0"
