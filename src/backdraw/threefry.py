"""Threefry-2x32, the cipher that makes random words of counters (Salmon et al. 2011)."""

from typing import Any

MASK = 0xFFFFFFFF
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def threefry2x32(k0: int, k1: int, x0: Any, x1: Any, *, mask: int | None = None) -> tuple[Any, Any]:
    """Encrypt counters with Threefry-2x32, 20 rounds.

    Parameters
    ----------
    k0, k1 : int
        The key.
    x0, x1 : array of uint32
        The counters; with ``mask=MASK`` ints or arrays of 64-bit ints (for frameworks without unsigned arithmetic).
        Arrays are not kept: their memory is written to.
    mask : int, optional
        2**32 - 1 where the arithmetic is wider than 32 bits.

    Returns
    -------
    tuple of array
        The two words of each counter.
    """
    ks = (k0, k1, k0 ^ k1 ^ 0x1BD11BDA)
    x0 += ks[0]
    x1 += ks[1]
    if mask is not None:
        x0 &= mask
        x1 &= mask
    for i in range(5):
        for r in _ROTATIONS[i % 2]:
            x0 += x1
            spill = x1 >> (32 - r)
            x1 <<= r
            x1 |= spill
            if mask is not None:
                x0 &= mask
                x1 &= mask
            x1 ^= x0
        x0 += ks[(i + 1) % 3]
        x1 += (ks[(i + 2) % 3] + i + 1) & MASK
        if mask is not None:
            x0 &= mask
            x1 &= mask
    return x0, x1
