"""Distributions: what is drawn."""

from backdraw.distributions.base import Distribution as Distribution
from backdraw.distributions.bernoulli import Bernoulli as Bernoulli
from backdraw.distributions.categorical import Categorical as Categorical
from backdraw.distributions.concrete import Concrete as Concrete
from backdraw.distributions.concrete import ExpConcrete as ExpConcrete
from backdraw.distributions.divergence import kl as kl
