r"""Elementary symmetric polynomials of the odds of independent bits, with each bit left out in turn, and their tangents.

:math:`e_j = \sum_{|S| = j} \prod_{i \in S} r_i` is the weight of j ones among bits with the odds r. Over the bits before i
these follow from each other, :math:`e_j(i) = \sum_{l < i} r_l \, e_{j-1}(l)`, by a running sum for each count j, and likewise
over those after i; both together leave out i. Nothing is subtracted, but sizes are those of products of odds.

Arrays have rows along the last axis, that of the bits.
"""

from backdraw.backend import Array, Backend


def moderate(be: Backend, stay: Array) -> Array:
    """Say for the probabilities of 0 whether all polynomials are below the fourth root of the largest number."""
    # The product of 1 + r = 1 / stay is the sum of all of them.
    return be.xp.all(be.xp.prod(stay, axis=-1) > float(be.xp.finfo(stay.dtype).max) ** -0.25)


def left_out(be: Backend, odds: Array, few: int) -> tuple[Array, Array]:
    """Return the weights of `few` and of ``few - 1`` ones among all bits but one."""
    counts = be.xp.arange(few + 1, device=be.device(odds))
    ones, zeros = be.xp.ones_like(odds), be.xp.zeros_like(odds)
    after = be.scan(lambda e, _: (be.sums_beyond(odds * e, after=True), e), ones, counts)[1]

    def step(carry: tuple[Array, ...], after: Array) -> tuple[tuple[Array, ...], None]:
        last, e, all_of, less = carry
        return (e, be.sums_beyond(odds * e), all_of + e * after, less + last * after), None

    _, _, all_of, less = be.scan(step, (zeros, ones, zeros, zeros), after, reverse=True)[0]
    return all_of, less


def tangents(be: Backend, odds: Array, g: Array, few: int) -> tuple[Array, ...]:
    """Return the weights too, and behind them their tangents where the logarithms of the odds move by g."""
    xp = be.xp
    ones, zeros = xp.ones_like(odds), xp.zeros_like(odds)

    def moved(e: Array, de: Array, *, after: bool = False) -> tuple[Array, Array]:
        return be.sums_beyond(odds * e, after=after), be.sums_beyond(odds * (de + g * e), after=after)

    def back(carry: tuple[Array, Array], _: Array) -> tuple[tuple[Array, Array], Array]:
        return moved(*carry, after=True), xp.stack(carry)

    def step(carry: tuple[Array, ...], x: Array) -> tuple[tuple[Array, ...], None]:
        last, dlast, e, de, all_of, less, dall, dless = carry
        after, dafter = x[0, ...], x[1, ...]
        sums = (all_of + e * after, less + last * after)
        dsums = (dall + (de * after + e * dafter), dless + (dlast * after + last * dafter))
        return (e, de, *moved(e, de), *sums, *dsums), None

    found = be.scan(back, (ones, zeros), xp.arange(few + 1, device=be.device(odds)))[1]
    return be.scan(step, (zeros, zeros, ones, *(zeros,) * 5), found, reverse=True)[0][4:]
