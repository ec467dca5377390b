"""The interval of a share. Pure."""

import math

Z = 1.96  # of a two-sided 95 % interval


def wilson(p: float, n: float) -> list[float] | None:
    """Return the 95 % score interval of a share `p` of `n` (J. Am. Stat. Assoc. 22, 1927).

    None of nothing.
    """
    if n <= 0:
        return None
    middle = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    return [round(max(0.0, middle - half), 4), round(min(1.0, middle + half), 4)]
