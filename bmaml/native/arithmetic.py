"""Elementary functions without branches, which the compiler turns into vector instructions inside a loop.

Relative errors are below 1e-11, that of `tail` below 1e-9; those of `sine` and `ndtr` are absolute. NaN stays
NaN.
"""

import math

import numpy as np
from numpy.typing import NDArray

from bmaml.native.compiling import bits_of_float, float_of_bits, inlined, kernel, rounded

Numbers = NDArray[np.float64]

LOG2_E, LN_2, SHIFT = 1 / math.log(2), math.log(2), 1.5 * 2.0**52
"""A whole number plus `SHIFT` has the number in its lowest bits."""
MAX_EXPONENT = 700.0
ROOT_HALF, ROOT_2PI, LOG_ROOT_2PI = math.sqrt(0.5), math.sqrt(2 * math.pi), 0.5 * math.log(2 * math.pi)
MAX_ANGLE = 1e5
"""Larger angles are left to the system's sine."""
SCALED_ERFC_WIDTH = 3.0


@inlined
def exp(x: float) -> float:
    """e^x for |x| ≤ `MAX_EXPONENT`; beyond, the value there."""
    x = -MAX_EXPONENT if x < -MAX_EXPONENT else x
    x = MAX_EXPONENT if x > MAX_EXPONENT else x
    whole = rounded(x * LOG2_E)
    rest = x - whole * LN_2
    series = 1.0 / 362880
    series = series * rest + 1.0 / 40320
    series = series * rest + 1.0 / 5040
    series = series * rest + 1.0 / 720
    series = series * rest + 1.0 / 120
    series = series * rest + 1.0 / 24
    series = series * rest + 1.0 / 6
    series = series * rest + 0.5
    series = series * rest + 1.0
    series = series * rest + 1.0
    return series * float_of_bits((bits_of_float(whole + SHIFT) + 1023) << 52)


@inlined
def sine(angle: float) -> float:
    """sin(angle) for |angle| ≤ `MAX_ANGLE`: a Taylor series within half a turn."""
    turns = rounded(angle * (1 / math.pi))
    rest = angle - turns * math.pi
    square = rest * rest
    series = 1.0 / 355687428096000
    series = series * square - 1.0 / 1307674368000
    series = series * square + 1.0 / 6227020800
    series = series * square - 1.0 / 39916800
    series = series * square + 1.0 / 362880
    series = series * square - 1.0 / 5040
    series = series * square + 1.0 / 120
    series = series * square - 1.0 / 6
    series = series * square + 1.0
    return float_of_bits(bits_of_float(series * rest) ^ (bits_of_float(turns + SHIFT) << 63))


@kernel
def sines(angles: Numbers, count: int, result: Numbers) -> None:
    """The sines of the first numbers `[number]`."""
    large = 0.0
    for i in range(count):
        result[i] = sine(angles[i])
        large += 0.0 if abs(angles[i]) <= MAX_ANGLE else 1.0
    if large > 0:
        for i in range(count):
            result[i] = math.sin(angles[i])


@inlined
def logistic(x: float) -> float:
    """1 / (1 + e^−x)."""
    small = exp(-abs(x))
    share = 1 / (1 + small)
    return share if x >= 0 else small * share


@inlined
def hyperbolic_tangent(x: float) -> float:
    """tanh x, with an absolute error of rounding."""
    small = exp(-2 * abs(x))
    value = (1 - small) / (1 + small)
    return value if x >= 0 else -value


@inlined
def scaled_erfc(x: float) -> float:
    """e^(x²) erfc(x) for x ≥ 0: t times a polynomial in 2t − 1, where t = 1 / (1 + x/3) (a Chebyshev fit)."""
    t = 1 / (1 + x * (1 / SCALED_ERFC_WIDTH))
    u = 2 * t - 1
    series = -8.711352123912803e-08
    series = series * u - 1.358920224619214e-07
    series = series * u + 8.596940641502001e-07
    series = series * u + 1.307136212675591e-06
    series = series * u - 5.789748260840994e-06
    series = series * u - 9.908372630943424e-06
    series = series * u + 3.585185644315246e-05
    series = series * u + 9.215173223324179e-05
    series = series * u - 0.0001827759466724844
    series = series * u - 0.001011324367785541
    series = series * u - 0.0004041362539507902
    series = series * u + 0.008942407204002691
    series = series * u + 0.03984258668334983
    series = series * u + 0.1034890875834671
    series = series * u + 0.196742785723429
    series = series * u + 0.2944648177179749
    series = series * u + 0.3580023023625987
    return series * t


@inlined
def tail(x: float, peak: float) -> float:
    """½ erfc(x) for x ≥ 0, given e^(−x²); a shorter polynomial than that of `scaled_erfc`."""
    t = 1 / (1 + x * (1 / SCALED_ERFC_WIDTH))
    u = 2 * t - 1
    series = -3.733985159767974e-06
    series = series * u - 6.627967990532975e-06
    series = series * u + 3.379696357071595e-05
    series = series * u + 8.853445971769238e-05
    series = series * u - 0.0001818488494124687
    series = series * u - 0.001009345241802639
    series = series * u - 0.0004042878058226599
    series = series * u + 0.0089418775746666
    series = series * u + 0.03984257995972279
    series = series * u + 0.103489147846922
    series = series * u + 0.1967427884289312
    series = series * u + 0.2944648157996725
    series = series * u + 0.3580023023080495
    return 0.5 * series * t * peak


@inlined
def ndtr(standard: float) -> float:
    """Φ, the standard normal distribution function."""
    x = abs(standard) * ROOT_HALF
    below = tail(x, exp(-x * x))
    return below if standard < 0 else 1 - below


@inlined
def density(standard: float) -> float:
    """The standard normal density."""
    return exp(-0.5 * standard * standard) * (1 / ROOT_2PI)


@inlined
def log_ndtr(standard: float) -> float:
    """log Φ."""
    x = abs(standard) * ROOT_HALF
    if standard < 0:
        return math.log(0.5 * scaled_erfc(x)) - x * x if x < math.inf else -math.inf
    return math.log1p(-0.5 * scaled_erfc(x) * exp(-x * x))


@kernel
def ndtri(level: float) -> float:
    """Φ⁻¹, the standard normal quantile function (Wichura 1988, algorithm AS 241)."""
    offset = level - 0.5
    if abs(offset) <= 0.425:
        r = 0.180625 - offset * offset
        above = 2509.0809287301226727
        for each in (
            33430.575583588128105,
            67265.770927008700853,
            45921.953931549871457,
            13731.693765509461125,
            1971.5909503065514427,
            133.14166789178437745,
            3.387132872796366608,
        ):
            above = above * r + each
        below = 5226.495278852545925
        for each in (
            28729.085735721942674,
            39307.89580009271061,
            21213.794301586595867,
            5394.1960214247511077,
            687.1870074920579083,
            42.313330701600911252,
            1.0,
        ):
            below = below * r + each
        return offset * above / below
    tail = level if offset < 0 else 1 - level
    if not tail > 0:
        return math.copysign(math.inf, offset) if tail == 0 else math.nan
    r = math.sqrt(-math.log(tail))
    if r <= 5:
        r -= 1.6
        above = 7.7454501427834140764e-4
        for each in (
            0.0227238449892691845833,
            0.24178072517745061177,
            1.27045825245236838258,
            3.64784832476320460504,
            5.7694972214606914055,
            4.6303378461565452959,
            1.42343711074968357734,
        ):
            above = above * r + each
        below = 1.05075007164441684324e-9
        for each in (
            5.475938084995344946e-4,
            0.0151986665636164571966,
            0.14810397642748007459,
            0.68976733498510000455,
            1.6763848301838038494,
            2.05319162663775882187,
            1.0,
        ):
            below = below * r + each
    else:
        r -= 5
        above = 2.01033439929228813265e-7
        for each in (
            2.71155556874348757815e-5,
            0.0012426609473880784386,
            0.026532189526576123093,
            0.29656057182850489123,
            1.7848265399172913358,
            5.4637849111641143699,
            6.6579046435011037772,
        ):
            above = above * r + each
        below = 2.04426310338993978564e-15
        for each in (
            1.4215117583164458887e-7,
            1.8463183175100546818e-5,
            7.868691311456132591e-4,
            0.0148753612908506148525,
            0.13692988092273580531,
            0.59983220655588793769,
            1.0,
        ):
            below = below * r + each
    return math.copysign(above / below, offset)
