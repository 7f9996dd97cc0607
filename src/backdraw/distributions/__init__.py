"""Distributions: what is drawn."""

from backdraw.distributions.arborescence import Arborescence as Arborescence
from backdraw.distributions.base import Distribution as Distribution
from backdraw.distributions.bernoulli import Bernoulli as Bernoulli
from backdraw.distributions.categorical import Categorical as Categorical
from backdraw.distributions.chain import Chain as Chain
from backdraw.distributions.concrete import Concrete as Concrete
from backdraw.distributions.concrete import ExpConcrete as ExpConcrete
from backdraw.distributions.divergence import kl as kl
from backdraw.distributions.exponential import Exponential as Exponential
from backdraw.distributions.location_scale import Gumbel as Gumbel
from backdraw.distributions.location_scale import Laplace as Laplace
from backdraw.distributions.location_scale import Logistic as Logistic
from backdraw.distributions.multivariate_normal import MultivariateNormal as MultivariateNormal
from backdraw.distributions.normal import LogNormal as LogNormal
from backdraw.distributions.normal import Normal as Normal
from backdraw.distributions.oracle import Oracle as Oracle
from backdraw.distributions.permutation import Permutation as Permutation
from backdraw.distributions.plackett_luce import PlackettLuce as PlackettLuce
from backdraw.distributions.spanning_tree import SpanningTree as SpanningTree
from backdraw.distributions.subset import Subset as Subset
from backdraw.distributions.uniform import Uniform as Uniform
