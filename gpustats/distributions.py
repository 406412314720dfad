"""Turn t and F maps into z maps and back into p, at full precision however large the statistic.

Tail areas are kept as logarithms, so nothing underflows and no z is capped. Both families are one:
with ``x = df / (df + dimension F)`` the upper tail of F(dimension, df) is the regularised
incomplete beta function I_x(df/2, dimension/2), and t(df)² is F(1, df).
"""

import math
from functools import lru_cache

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike, NDArray

from gpustats.jit import kernel

FloatArray = NDArray[np.floating]
Float64Array = NDArray[np.float64]

# t to z is tabulated in w = sqrt(log(1 + t²/df)): polynomials on segments of equal width.
# w stays below 38 for every finite float64 t (if df > 1e-10), so one table serves every t.
SEGMENT_WIDTH = 0.5
N_SEGMENTS = 76
POLYNOMIAL_DEGREE = 10

MAX_FRACTION_TERMS = 10_000
FRACTION_TOLERANCE = 1e-15
# Halley's iteration converges cubically: after a step this small the next is below rounding.
HALLEY_TOLERANCE = 1e-6
MAX_HALLEY_STEPS = 20
# erfc is a normal float64 up to here, and five terms of its asymptotic series suffice beyond.
ASYMPTOTIC_Z = 36.0
STIRLING_MINIMUM = 15.0  # from here on five terms of Stirling's series are exact to rounding


def t_to_z(t: ArrayLike, df: float, out: Float64Array | None = None) -> Float64Array:
    """Convert t statistics to the z statistics with the same tail area.

    The value is a function of (t, df) alone, to the last bit: neither the other elements nor the
    place where an array is cut matter. The loop releases the GIL, so several threads may each be
    given a slice of ``t`` and of ``out``.

    Parameters
    ----------
    t
        Any shape, float32 or float64; other types are converted to float64.
    df
        Degrees of freedom, positive; need not be whole.
    out
        Where to write z: float64, C-contiguous, the shape of ``t``. Made if not given.

    Returns
    -------
    ndarray
        float64 z, the shape and sign of ``t``. NaN stays NaN, infinities stay infinite and every
        finite t has a finite z.

    Raises
    ------
    ValueError
        If ``df`` is not positive and finite, or ``out`` does not fit.

    Notes
    -----
    The error is a few roundings of z, below 1e-10 for df up to 1e6 and any t. z is interpolated:
    z = w r(w) with w = sqrt(log(1 + t²/df)), the variable of Wallace's approximation [1]_, in
    which r is so smooth that 76 polynomials of degree 10 cover all finite t. Their table depends
    on df alone, not on the range of t, and is computed once (in less than a millisecond).

    References
    ----------
    .. [1] Wallace (1959), Ann. Math. Stat. 30, 1121-1130.

    Examples
    --------
    >>> t_to_z([0.0, -2.0, 100.0], df=20).round(3)
    array([ 0.   , -1.886, 11.069])
    """
    df = _positive("df", df)
    values, z = _input_and_output(t, out)
    _interpolate(values.reshape(-1), df, t_to_z_table(df), z.reshape(-1))
    return z


def f_to_z(
    f: ArrayLike, dimension: float, df: float, out: Float64Array | None = None
) -> Float64Array:
    """Convert F statistics to the z statistics with the same upper tail area.

    z = Phi^-1(1 - p), where p is the probability of an F at least this large. F has no sign:
    z is negative where p > 0.5, that is for F below its median, and -inf for F = 0. For one
    dimension p is the two-sided p of t = sqrt(F), so z is not the z of that t.

    Parameters
    ----------
    f
        Any shape, float32 or float64, not negative; other types are converted to float64.
    dimension
        Numerator degrees of freedom: the rank of the contrast, positive.
    df
        Denominator degrees of freedom, positive; need not be whole.
    out
        Where to write z: float64, C-contiguous, the shape of ``f``. Made if not given.

    Returns
    -------
    ndarray
        float64 z, the shape of ``f``. NaN where F is NaN or negative.

    Raises
    ------
    ValueError
        If ``dimension`` or ``df`` is not positive and finite, or ``out`` does not fit.

    Notes
    -----
    The error is below 1e-11 for dimension 1 to 20, df 1 to 1e6 and F up to 1e8. The tail beyond F,
    seen from the mean, comes from a continued fraction [1]_ and its logarithm is turned into z by
    Halley's iteration. The loop releases the GIL, and each value depends on nothing but its F.

    References
    ----------
    .. [1] DiDonato & Morris (1992), ACM Trans. Math. Softw. 18, 360-373.

    Examples
    --------
    >>> f_to_z([0.0, 1.0, 50.0], dimension=3, df=20).round(3)
    array([ -inf, 0.219, 5.904])
    """
    dimension, df = _positive("dimension", dimension), _positive("df", df)
    values, z = _input_and_output(f, out)
    constant = log_beta(0.5 * df, 0.5 * dimension)
    _invert_each_f(values.reshape(-1), dimension, df, constant, z.reshape(-1))
    return z


@lru_cache(maxsize=64)
def t_to_z_table(df: float) -> Float64Array:
    """Tabulate r(w) = z / w for `t_to_z`, here and on other devices.

    Parameters
    ----------
    df
        Degrees of freedom, positive and finite.

    Returns
    -------
    ndarray
        ``(N_SEGMENTS, POLYNOMIAL_DEGREE + 1)``: of the polynomial in u, which goes from -1 to 1
        along a segment, the coefficient of every power. It is kept: do not write to it.
    """
    constant = log_beta(0.5 * df, 0.5)
    u = chebyshev.chebpts1(POLYNOMIAL_DEGREE + 1)
    w = SEGMENT_WIDTH * (np.arange(N_SEGMENTS) + 0.5 * (u[:, None] + 1.0))
    z = [_z_of_t_exponent(exponent, df, constant) for exponent in (w * w).flat]
    coefficients = np.linalg.solve(np.vander(u, increasing=True), np.reshape(z, w.shape) / w)
    return np.ascontiguousarray(coefficients.T)


def log_beta(a: float, b: float) -> float:
    """Compute log B(a, b) without the cancellation of log-gamma differences.

    Parameters
    ----------
    a, b
        Positive and finite.

    Returns
    -------
    float
        Natural logarithm of the beta function, to about 1e-14, absolute or relative.

    Raises
    ------
    ValueError
        If ``a`` or ``b`` is not positive and finite.

    Notes
    -----
    For a large argument the leading terms of Stirling's series are subtracted by hand, with
    ``log1p`` (DiDonato & Morris 1992, ACM Trans. Math. Softw. 18, 360-373).

    Examples
    --------
    >>> round(log_beta(1.0, 1e6), 6)  # B(1, b) = 1 / b
    -13.815511
    """
    small, large = sorted((_positive("a", a), _positive("b", b)))
    if large < STIRLING_MINIMUM:
        return math.lgamma(small) + math.lgamma(large) - math.lgamma(small + large)
    if small < STIRLING_MINIMUM:
        head = math.lgamma(small) - small * math.log(large)
    else:
        head = small * math.log(small / large) + 0.5 * math.log(math.tau / small)
        head += _stirling_remainder(small) - small
    shift = small - (large + small - 0.5) * math.log1p(small / large)
    return head + shift + _stirling_remainder(large) - _stirling_remainder(large + small)


def _stirling_remainder(a: float) -> float:
    """Compute log Gamma(a) - [(a - 1/2) log a - a + log(2 pi)/2] for a >= STIRLING_MINIMUM."""
    r = 1.0 / (a * a)
    return (1 / 12 - r * (1 / 360 - r * (1 / 1260 - r * (1 / 1680 - r / 1188)))) / a


def _positive(name: str, value: float) -> float:
    """Return the parameter as a float, or say that it must be positive and finite."""
    if not 0.0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}")
    return float(value)


def _input_and_output(
    statistic: ArrayLike, out: Float64Array | None
) -> tuple[FloatArray, Float64Array]:
    """Return the statistic as C-contiguous float32 or float64, and the array for its z."""
    values = np.asarray(statistic, order="C")
    if values.dtype != np.float32:
        values = values.astype(np.float64, copy=False)
    if out is None:
        return values, np.empty(values.shape)
    if out.shape != values.shape or out.dtype != np.float64 or not out.flags.c_contiguous:
        raise ValueError(
            f"out must be C-contiguous float64 of shape {values.shape}, "
            f"got {out.dtype} of shape {out.shape}, strides {out.strides}"
        )
    return values, out


@kernel
def _interpolate(t: FloatArray, df: float, table: Float64Array, out: Float64Array) -> None:
    """Fill ``out`` with z = w r(w), r from the polynomials in `table`."""
    n_segments, n_powers = table.shape
    for i in range(t.size):
        value = np.float64(t[i])
        if not math.isfinite(value):
            out[i] = value
            continue
        w = math.sqrt(_log1p_quotient(abs(value), abs(value), df))
        position = w / SEGMENT_WIDTH
        segment = min(int(position), n_segments - 1)
        u = 2.0 * (position - segment) - 1.0
        ratio = table[segment, n_powers - 1]
        for power in range(n_powers - 2, -1, -1):
            ratio = ratio * u + table[segment, power]
        out[i] = math.copysign(w * ratio, value)


@kernel
def _invert_each_f(
    f: FloatArray, dimension: float, df: float, constant: float, out: Float64Array
) -> None:
    """Fill ``out`` with the z of each F; `constant` is log B(df/2, dimension/2)."""
    for i in range(f.size):
        value = np.float64(f[i])
        if not 0.0 <= value < np.inf:
            out[i] = value if value > 0.0 else np.nan
            continue
        exponent = _log1p_quotient(value, dimension, df)
        z = _z_of_f_exponent(exponent, dimension, df, constant)
        out[i] = z if exponent > 0.0 else -np.inf


@kernel
def _log1p_quotient(u: float, v: float, df: float) -> float:
    """Compute log(1 + u v / df), also where u v overflows."""
    quotient = u * v / df
    if quotient < math.inf:
        return math.log1p(quotient)
    return math.log(u) + math.log(v) - math.log(df)


@kernel
def _z_of_t_exponent(exponent: float, df: float, constant: float) -> float:
    """Invert one |t| with log(1 + t²/df) = exponent; `constant` is log B(df/2, 1/2)."""
    log_area, upper = _log_area(exponent, 0.5 * df, 0.5, constant)
    if upper:
        return _z_of_log_tail(log_area - math.log(2.0))
    return _z_of_central_area(math.exp(log_area))


@kernel
def _z_of_f_exponent(exponent: float, dimension: float, df: float, constant: float) -> float:
    """Invert one F with log(1 + F dimension/df) = exponent; `constant` as for _invert_each_f."""
    log_area, upper = _log_area(exponent, 0.5 * df, 0.5 * dimension, constant)
    z = _z_of_log_tail(log_area)
    return z if upper else -z


@kernel
def _log_area(exponent: float, a: float, b: float, constant: float) -> tuple[float, bool]:
    """Compute log I_x(a, b) and True, or log(1 - I_x(a, b)) and False, where log x = -exponent.

    The area is the one for which the continued fraction converges fast.
    """
    x, y = math.exp(-exponent), -math.expm1(-exponent)
    log_power = b * math.log(y) - a * exponent - constant
    if x < (a + 1.0) / (a + b + 2.0):
        return log_power - math.log(_beta_fraction(a, b, x, y)), True
    return log_power - math.log(_beta_fraction(b, a, y, x)), False


@kernel
def _beta_fraction(a: float, b: float, x: float, y: float) -> float:
    """Evaluate x^a y^b / (B(a, b) I_x(a, b)), y = 1 - x, as a continued fraction (Lentz).

    It is the even part of DLMF 8.17.22. Written with y it keeps its digits where x is close to 1.
    """
    balance = a * y - b * x + 1.0
    fraction = a * balance / (a + 1.0)
    ratio, inverse = fraction, 0.0
    for m in range(1, MAX_FRACTION_TERMS):
        scaled = x / (a + 2 * m - 1.0)
        even = m * (b - m) * scaled
        numerator = even * (a + m - 1.0) * (a + b + m - 1.0) * scaled
        term = m + even + (a + m) * (balance + m * (1.0 + y)) / (a + 2 * m + 1.0)
        inverse = 1.0 / (term + numerator * inverse)
        ratio = term + numerator / ratio
        fraction *= ratio * inverse
        if abs(ratio * inverse - 1.0) <= FRACTION_TOLERANCE:
            break
    return fraction


@kernel
def _z_of_log_tail(log_tail: float) -> float:
    """Solve log Q(z) = log_tail by Halley's iteration.

    The start, Abramowitz & Stegun (1964) 26.2.23, is within 5e-4 for tails below 1/2.
    """
    s = math.sqrt(-2.0 * log_tail)
    z = s - (2.515517 + s * (0.802853 + s * 0.010328)) / (
        1.0 + s * (1.432788 + s * (0.189269 + s * 0.001308))
    )
    for _ in range(MAX_HALLEY_STEPS):
        log_q, hazard = _log_tail_and_hazard(z)
        newton = (log_q - log_tail) / hazard
        step = newton / (1.0 + 0.5 * newton * (hazard - z))
        z += step
        if abs(step) <= HALLEY_TOLERANCE * (1.0 + abs(z)):
            break
    return z


@kernel
def _log_tail_and_hazard(z: float) -> tuple[float, float]:
    """Compute log Q(z), Q the upper normal tail, and -d log Q/dz."""
    if z < ASYMPTOTIC_Z:
        twice_q = math.erfc(z * math.sqrt(0.5))
        density = math.exp(-0.5 * z * z) / math.sqrt(math.tau)
        return math.log(0.5 * twice_q), 2.0 * density / twice_q
    r = 1.0 / (z * z)
    series = 1.0 - r * (1.0 - 3.0 * r * (1.0 - 5.0 * r * (1.0 - 7.0 * r)))
    return math.log(series / (z * math.sqrt(math.tau))) - 0.5 * z * z, z / series


@kernel
def _z_of_central_area(area: float) -> float:
    """Solve Phi(z) - Phi(-z) = area by Halley's iteration, exact in relative terms near 0."""
    z = area * math.sqrt(math.pi / 2.0)
    for _ in range(MAX_HALLEY_STEPS):
        density = 2.0 * math.exp(-0.5 * z * z) / math.sqrt(math.tau)
        newton = (area - math.erf(z * math.sqrt(0.5))) / density
        step = newton / (1.0 - 0.5 * newton * z)
        z += step
        if abs(step) <= HALLEY_TOLERANCE * z:
            break
    return z
