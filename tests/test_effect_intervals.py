"""Intervals of effect sizes, against integrals and simulations written plainly."""

import numpy as np
import pytest
from scipy import integrate, stats

from gpustats.effect_intervals import (
    hedges_g_interval,
    partial_r_interval,
    partial_r_square_interval,
    standardised_difference_interval,
)

LEVEL = 0.9


def t_below(t, df, shift):
    """P(T <= t) of the noncentral t distribution: (Z + shift) / sqrt(chi2 / df), integrated."""

    def inner(chi2):
        return stats.norm.cdf(t * np.sqrt(chi2 / df) - shift) * stats.chi2.pdf(chi2, df)

    reach = stats.chi2.isf(1e-14, df)
    return integrate.quad(inner, 0, reach, limit=300)[0]


def f_below(f, dimension, df, noncentrality):
    """P(F <= f) of the noncentral F distribution: a Poisson mixture of beta distributions."""
    terms = np.arange(2000)
    share = dimension * f / (dimension * f + df)
    weights = stats.poisson.pmf(terms, noncentrality / 2)
    return float(weights @ stats.beta.cdf(share, dimension / 2 + terms, df / 2))


@pytest.mark.parametrize("t", [-5.0, 0.0, 2.0, 9.5])
@pytest.mark.parametrize("df", [2, 7, 60])
def test_limits_are_those_for_which_t_is_a_quantile(t, df):
    scale = 0.3
    lower, upper = standardised_difference_interval(t, df, scale, LEVEL)
    assert t_below(t, df, lower / np.sqrt(scale)) == pytest.approx(0.95, abs=1e-7)
    assert t_below(t, df, upper / np.sqrt(scale)) == pytest.approx(0.05, abs=1e-7)
    assert hedges_g_interval(t, df, scale, LEVEL) == (lower, upper)


@pytest.mark.parametrize(("f", "dimension", "df"), [(5.0, 2, 27), (30.0, 4, 9), (2.5, 1, 100)])
def test_limits_are_those_for_which_f_is_a_quantile(f, dimension, df):
    for share, p in zip(
        partial_r_square_interval(f, dimension, df, LEVEL), (0.95, 0.05), strict=True
    ):
        noncentrality = share * (dimension + df + 1) / (1 - share)
        if share > 0:
            assert f_below(f, dimension, df, noncentrality) == pytest.approx(p, abs=1e-7)
        else:
            assert f_below(f, dimension, df, 0.0) <= p


def test_nothing_is_explained_where_f_is_small():
    lower, upper = partial_r_square_interval(0.5, 3, 20)
    assert lower == 0
    assert 0 < upper < 0.25
    assert partial_r_square_interval(0.01, 3, 20) == (0, 0)


@pytest.mark.parametrize("df", [2, 9, 400])
@pytest.mark.parametrize("share", [0.9, 1.1, 1e9])
def test_limits_of_very_large_statistics_scale_with_them(df, share):
    """Beyond a bound the noise of the numerator no longer counts, and nothing jumps there."""
    t = np.sqrt(2 * df * 1e5 * share)
    variances = stats.chi2.ppf([0.05, 0.95], df) / df
    limits = standardised_difference_interval(t, df, 0.3, LEVEL)
    assert limits == pytest.approx(t * np.sqrt(0.3 * variances), rel=1e-4)
    negative = standardised_difference_interval(-t, df, 0.3, LEVEL)
    assert negative == pytest.approx((-limits[1], -limits[0]))
    shares = np.array(partial_r_square_interval(t**2 / 3, 3, df, LEVEL))
    # the share that is left is (3 + df + 1) / (noncentrality + 3 + df + 1)
    expected = (4 + df) / (t**2 * variances + 4 + df)
    assert 1 - shares == pytest.approx(expected, rel=1e-3, abs=1e-15)


def test_intervals_of_r_cover_it(rng):
    rho, n, covered = 0.5, 24, 0
    for _ in range(2000):
        x, nuisance = rng.normal(size=(2, n))
        y = rho * x + np.sqrt(1 - rho**2) * rng.normal(size=n) + nuisance
        design = np.column_stack([np.ones(n), nuisance])
        x, y = (v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in (x, y))
        lower, upper = partial_r_interval(np.corrcoef(x, y)[0, 1], n - 3, LEVEL)
        covered += lower <= rho <= upper
    low, high = stats.binom.interval(0.999, 2000, LEVEL)
    assert low <= covered <= high


def test_too_few_subjects_have_no_interval():
    assert hedges_g_interval(2.0, 1, 0.5) is None
    assert partial_r_interval(0.5, 1) is None
    with pytest.raises(ValueError, match="level of confidence"):
        partial_r_interval(0.5, 10, 95)
