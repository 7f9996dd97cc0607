"""Special functions that the Array API lacks."""

from backdraw.backend import Array, Backend

# Stirling's series: the coefficients of x**-1, x**-3, ..., exact to 1e-15 from 10 on, where the recurrence leads.
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)
_SHIFT = 9


def _shifted(be: Backend, x: Array) -> tuple[Array, Array, list[Array]]:
    small = x < 1.0 + _SHIFT
    near = be.xp.where(small, x, 1.0)
    return small, be.xp.where(small, x + _SHIFT, x), [near + k for k in range(_SHIFT)]


def log_gamma(be: Backend, x: Array) -> Array:
    """Logarithm of the gamma function, for x >= 1."""
    xp = be.xp
    small, y, factors = _shifted(be, x)
    product = factors[0]
    for factor in factors[1:]:
        product = product * factor
    series = sum(c * y ** (-2.0 * k - 1.0) for k, c in enumerate(_STIRLING))
    value = (y - 0.5) * xp.log(y) - y + 0.9189385332046727 + series  # log(2 pi) / 2
    return value - xp.where(small, xp.log(product), 0.0)


def digamma(be: Backend, x: Array) -> Array:
    """Logarithmic derivative of the gamma function, for x >= 1."""
    xp = be.xp
    small, y, factors = _shifted(be, x)
    series = sum((2.0 * k + 1.0) * c * y ** (-2.0 * k - 2.0) for k, c in enumerate(_STIRLING))
    value = xp.log(y) - 0.5 / y - series
    return value - xp.where(small, sum(1.0 / factor for factor in factors), 0.0)
