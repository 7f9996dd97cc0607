"""Studies of the estimators: the problems that they are measured on, and the measurement."""

from backdraw.study.measure import measure as measure
from backdraw.study.report import Report as Report
