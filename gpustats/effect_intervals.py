"""Between which limits an effect size lies, at single voxels: intervals of g, partial r and R²."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq
from scipy.special import gammaincinv, ndtri
from scipy.stats import ncf, nct

from gpustats.effect_sizes import bias_correction, check_level

LEAST_DF_OF_R = 2
"""Below, the standard error of Fisher's z does not exist."""

LARGEST_RATIO = 1e5
"""How many times the variance of t may be that of its numerator.

Beyond, the numerator adds to the limits less than 1e-4 of them, and the noncentral distributions
are lost.
"""

Limits = tuple[float, float]


def standardised_difference_interval(
    t: float, df: int, unscaled_variance: float, level: float = 0.95
) -> Limits:
    """Return the limits between which an effect in standard deviations lies.

    Parameters
    ----------
    t
        The statistic of a mean or of a difference of means.
    df
        Degrees of freedom of the residuals, 2 or more.
    unscaled_variance
        c'(X'X)⁻c, as in `gpustats.effect_sizes.cohen_d`.
    level
        How often intervals cover the effect.

    Returns
    -------
    lower, upper : float
        The δ for which t is the quantile (1 + level) / 2, and (1 - level) / 2, of the noncentral
        t distribution with noncentrality δ / sqrt(c'(X'X)⁻c) [1]_: exact for normal residuals.

    Raises
    ------
    ValueError
        If the level is not between 0 and 1.

    References
    ----------
    .. [1] Steiger & Fouladi (1997), Noncentrality interval estimation and the evaluation of
       statistical models, in What If There Were No Significance Tests?

    Examples
    --------
    >>> lower, upper = standardised_difference_interval(2.0, 18, 0.2)
    >>> round(lower, 3), round(upper, 3)
    (-0.04, 1.807)
    """
    check_level(level)

    def noncentrality(p: float) -> float:
        if t**2 > 2 * df * LARGEST_RATIO:
            return t * float(np.sqrt(_variance_quantile(1 - p if t > 0 else p, df)))
        # the distribution function falls from 1 to 0 as the noncentrality grows
        return _root(lambda shift: float(nct.cdf(t, df, shift)) - p, t - 1, t + 1)

    scale = float(np.sqrt(unscaled_variance))
    return noncentrality((1 + level) / 2) * scale, noncentrality((1 - level) / 2) * scale


def hedges_g_interval(
    t: float, df: int, unscaled_variance: float, level: float = 0.95
) -> Limits | None:
    """Return the limits that belong to Hedges' g: those of the effect that g estimates.

    Parameters
    ----------
    t, df, unscaled_variance, level
        As in `standardised_difference_interval`.

    Returns
    -------
    tuple of float, or None
        The limits; None where df is too small for g.
    """
    if np.isnan(bias_correction(df)):
        return None
    return standardised_difference_interval(t, df, unscaled_variance, level)


def partial_r_interval(r: float, df: int, level: float = 0.95) -> Limits | None:
    """Return the limits between which a partial correlation lies.

    Parameters
    ----------
    r
        The partial correlation.
    df
        Degrees of freedom of the residuals.
    level
        How often intervals cover the correlation.

    Returns
    -------
    tuple of float, or None
        tanh(arctanh(r) ± q / sqrt(df - 1)), by Fisher's transformation [1]_, with q the quantile
        (1 + level) / 2 of the normal distribution; None where df is less than 2.

    Raises
    ------
    ValueError
        If the level is not between 0 and 1.

    References
    ----------
    .. [1] Fisher (1924), Metron 3, 329-332: n - 3 becomes n - 3 less the other regressors.

    Examples
    --------
    >>> lower, upper = partial_r_interval(0.5, 28)
    >>> round(lower, 3), round(upper, 3)
    (0.17, 0.729)
    """
    check_level(level)
    if df < LEAST_DF_OF_R:
        return None
    half = float(ndtri((1 + level) / 2)) / np.sqrt(df - 1)
    with np.errstate(divide="ignore"):  # r is 1 to the last digit where t is beyond 1e8
        centre = np.arctanh(r)
    return float(np.tanh(centre - half)), float(np.tanh(centre + half))


def partial_r_square_interval(f: float, dimension: int, df: int, level: float = 0.95) -> Limits:
    """Return the limits between which a share of explained variance lies.

    Parameters
    ----------
    f
        The statistic.
    dimension
        Rank of the contrast.
    df
        Degrees of freedom of the residuals.
    level
        How often intervals cover the share.

    Returns
    -------
    lower, upper : float
        λ / (λ + dimension + df + 1) of the noncentralities λ for which F is the quantile
        (1 + level) / 2, and (1 - level) / 2, of the noncentral F distribution [1]_; 0 where
        even λ = 0 is too large.

    Raises
    ------
    ValueError
        If the level is not between 0 and 1.

    References
    ----------
    .. [1] Smithson (2003), Confidence Intervals, chapter 4.

    Examples
    --------
    >>> lower, upper = partial_r_square_interval(5.0, 2, 27)
    >>> round(lower, 3), round(upper, 3)
    (0.013, 0.469)
    """
    check_level(level)

    def share(p: float) -> float:
        def excess(noncentrality: float) -> float:
            return float(ncf.cdf(f, dimension, df, noncentrality)) - p

        if excess(0.0) <= 0:
            return 0.0
        if f * dimension > 2 * df * LARGEST_RATIO:
            noncentrality = f * dimension * _variance_quantile(1 - p, df)
        else:
            noncentrality = _root(excess, 0.0, f * dimension + 1)
        return noncentrality / (noncentrality + dimension + df + 1)

    return share((1 + level) / 2), share((1 - level) / 2)


def _variance_quantile(p: float, df: int) -> float:
    """Return the quantile of the variance of residuals whose true variance is 1."""
    return float(gammaincinv(df / 2, p)) / (df / 2)


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    """Return where a falling function is 0, in or beyond an interval."""
    width = high - low
    while falling(high) > 0:
        high, width = high + width, 2 * width
    width = high - low
    while falling(low) < 0:
        low, width = low - width, 2 * width
    return float(brentq(falling, low, high, xtol=1e-10))
