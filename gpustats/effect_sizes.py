"""How large an effect is, free of the number of subjects: d, g, partial r, R² and intervals."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import poch, stdtrit

from gpustats.contrasts import Contrast

Float64Array = NDArray[np.float64]

LEAST_DF_OF_G = 2
"""Below, the mean of d does not exist, and nothing corrects its bias."""
LEAST_DF_OF_VARIANCE = 3
"""Below, the variance of g does not exist."""


def slopes_of(contrast: Contrast, matrix: Float64Array) -> tuple[str, ...]:
    """Name the columns of a contrast whose coefficients are slopes, not means.

    A coefficient is a mean, or a difference of means, where its column is a constant 1 or takes
    two values that differ by 1: an intercept, indicators of groups (0 and 1, also centred), -1/2
    and 1/2. The unit of any other column is arbitrary, and so is that of its coefficient.

    Parameters
    ----------
    contrast
        The hypothesis.
    matrix
        The design matrix, ``(n_subjects, n_columns)``.

    Returns
    -------
    tuple of str
        Names of the columns that have weights and are slopes; empty for a contrast of means.

    Examples
    --------
    >>> contrast = Contrast("a + age", np.array([[1.0, 1.0]]), "t", ("a", "age"))
    >>> slopes_of(contrast, np.array([[1.0, 30.0], [0.0, 41.0], [1.0, 35.0]]))
    ('age',)
    """
    weighted = (contrast.weights != 0).any(axis=0).tolist()
    columns = zip(contrast.columns, matrix.T, weighted, strict=True)
    return tuple(name for name, column, has in columns if has and not _tells_groups(column))


def _tells_groups(column: Float64Array) -> bool:
    """Tell whether a column is a constant 1, or takes two values that differ by 1."""
    low, high = column.min(), column.max()
    if low == high:
        return bool(low == 1)
    two = (np.isclose(column, low, atol=1e-9) | np.isclose(column, high, atol=1e-9)).all()
    return bool(two and np.isclose(high - low, 1))


def cohen_d(t: ArrayLike, unscaled_variance: ArrayLike) -> Float64Array:
    """Compute Cohen's d, the effect in standard deviations of the residuals.

    Parameters
    ----------
    t
        The statistic.
    unscaled_variance
        c'(X'X)⁻c, the variance of the estimate for residuals of variance 1: 1/n for a mean,
        1/n₁ + 1/n₂ for a difference of two groups.

    Returns
    -------
    ndarray
        d = t sqrt(c'(X'X)⁻c) = c'b / s [1]_. Weights count: those of a mean or of a difference
        of means sum to 1 on either side.

    References
    ----------
    .. [1] Nakagawa & Cuthill (2007), Biol. Rev. 82, 591-605, equations 10 and 11.

    Examples
    --------
    >>> cohen_d(3.0, 1 / 9).item()
    1.0
    """
    return np.asarray(np.asarray(t, dtype=np.float64) * np.sqrt(unscaled_variance))


def bias_correction(df: ArrayLike) -> Float64Array:
    """Compute J(df) = Γ(df/2) / (sqrt(df/2) Γ((df-1)/2)), by which d is too large on average.

    Parameters
    ----------
    df
        Degrees of freedom of the residuals.

    Returns
    -------
    ndarray
        J, exact [1]_ where 1 - 3 / (4 df - 1) approximates it; NaN for df below 2.

    References
    ----------
    .. [1] Hedges (1981), J. Educ. Stat. 6, 107-128, equation 6e.

    Examples
    --------
    >>> bias_correction([1, 2, 18]).round(4)
    array([   nan, 0.5642, 0.9576])
    """
    df = np.asarray(df, dtype=np.float64)
    known = np.where(df >= LEAST_DF_OF_G, df, np.nan)
    return np.asarray(poch((known - 1) / 2, 0.5) / np.sqrt(known / 2))


def hedges_g(t: ArrayLike, df: ArrayLike, unscaled_variance: ArrayLike) -> Float64Array:
    """Compute Hedges' g = J(df) d, unbiased where residuals are normal.

    Parameters
    ----------
    t, unscaled_variance
        As of `cohen_d`.
    df
        Degrees of freedom of the residuals, one or of every voxel.

    Returns
    -------
    ndarray
        g; NaN where df is below 2.

    Examples
    --------
    >>> hedges_g(3.0, 8, 1 / 9).round(4).item()
    0.9027
    """
    return bias_correction(df) * cohen_d(t, unscaled_variance)


def hedges_g_variance(g: ArrayLike, df: ArrayLike, unscaled_variance: ArrayLike) -> Float64Array:
    """Estimate the sampling variance of Hedges' g without bias.

    Parameters
    ----------
    g
        What `hedges_g` returned.
    df, unscaled_variance
        As of `hedges_g`.

    Returns
    -------
    ndarray
        v = c'(X'X)⁻c + g² (1 - (df - 2) / (df J²)); NaN where df is below 3.

    Notes
    -----
    t of an effect of δ standard deviations has a noncentral t distribution, with which
    E[g²] = J² df/(df - 2) (h + δ²), h = c'(X'X)⁻c. As Var(g) = E[g²] - δ², v is unbiased for it
    [1]_; it is what ``vtype="UB"`` gives in metafor for two groups [2]_.

    References
    ----------
    .. [1] Hedges (1983), Psychol. Bull. 93, 388-395.
    .. [2] Viechtbauer (2007), J. Educ. Behav. Stat. 32, 39-60.

    Examples
    --------
    >>> hedges_g_variance(0.5, 18, 0.2).round(4).item()
    0.2077
    """
    df = np.asarray(df, dtype=np.float64)
    known = np.where(df >= LEAST_DF_OF_VARIANCE, df, np.nan)
    share = (known - 2) / (known * bias_correction(known) ** 2)
    return np.asarray(unscaled_variance + np.square(np.asarray(g)) * (1 - share))


def partial_r(t: ArrayLike, df: ArrayLike) -> Float64Array:
    """Compute the correlation of maps and contrast, given the other regressors.

    Parameters
    ----------
    t, df
        The statistic and the degrees of freedom of the residuals.

    Returns
    -------
    ndarray
        r = t / sqrt(t² + df) [1]_, in (-1, 1) whatever the units.

    References
    ----------
    .. [1] Cohen, Cohen, West & Aiken (2003), Applied Multiple Regression, 3rd ed., section 3.4.

    Examples
    --------
    >>> partial_r(-3.0, 16).item()
    -0.6
    """
    t = np.asarray(t, dtype=np.float64)
    return np.asarray(t / np.hypot(t, np.sqrt(df)))


def partial_r_square(f: ArrayLike, dimension: int, df: ArrayLike) -> Float64Array:
    """Compute the share of variance that a contrast explains of what the rest leaves.

    Parameters
    ----------
    f
        F, or t² with ``dimension=1``.
    dimension
        Rank of the contrast.
    df
        Degrees of freedom of the residuals.

    Returns
    -------
    ndarray
        R² = k F / (k F + df), with k the dimension: partial eta squared [1]_.

    References
    ----------
    .. [1] Cohen (1973), Educ. Psychol. Meas. 33, 107-112.

    Examples
    --------
    >>> partial_r_square(9.0, 1, 16).round(2).item()
    0.36
    """
    share = np.asarray(f, dtype=np.float64) * dimension / np.asarray(df)
    return np.asarray(share / (1 + share))


def confidence_interval(
    effect: ArrayLike, variance: ArrayLike, df: ArrayLike, level: float = 0.95
) -> tuple[Float64Array, Float64Array]:
    """Compute the limits between which an effect lies, at every voxel by itself.

    Parameters
    ----------
    effect, variance
        The estimate and its variance.
    df
        Degrees of freedom of the residuals, one or of every voxel.
    level
        How often intervals cover the effect.

    Returns
    -------
    lower, upper : ndarray
        effect ± q sqrt(variance), with q the quantile (1 + level) / 2 of t.

    Raises
    ------
    ValueError
        If the level is not between 0 and 1.

    Examples
    --------
    >>> lower, upper = confidence_interval(2.0, 0.25, 10)
    >>> lower.round(3).item(), upper.round(3).item()
    (0.886, 3.114)
    """
    check_level(level)
    effect = np.asarray(effect, dtype=np.float64)
    half = stdtrit(np.asarray(df), (1 + level) / 2) * np.sqrt(variance)
    return np.asarray(effect - half), np.asarray(effect + half)


def check_level(level: float) -> None:
    """Refuse a level of confidence that is none."""
    if not 0 < level < 1:
        raise ValueError(f"the level of confidence must be between 0 and 1, got {level!r}")
