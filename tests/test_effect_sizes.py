"""Effect sizes against statsmodels, SciPy, closed forms and repeated sampling."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import integrate, stats
from simulate import make_incomplete, make_maps

from gpustats import Design, DesignError, effect_sizes, fit

N = 18


@pytest.fixture
def table(rng):
    """Two groups of unequal size, and a covariate in large units."""
    patients = (np.arange(N) < 7) * 1.0
    age = rng.normal(40, 9, N)
    return pd.DataFrame({"patients": patients, "controls": 1 - patients, "age": age})


def models(maps, table):
    """statsmodels' fit of every seventh voxel, to the subjects with data there."""
    for voxel in range(0, maps.n_voxels, 7):
        here = np.isfinite(maps.values[voxel])
        y = maps.values[voxel, here].astype(float)
        yield voxel, sm.OLS(y, table[here].to_numpy()).fit()


def test_d_and_g_of_two_groups_are_those_of_the_textbook(rng, device):
    maps = make_maps(rng, N)
    first = np.arange(N) < 7
    table = pd.DataFrame({"a": first * 1.0, "b": ~first * 1.0})
    result = fit(maps, Design(table), device=device).contrast("a - b")
    a, b = maps.values[:, first].astype(float), maps.values[:, ~first].astype(float)
    pooled = (6 * a.var(axis=1, ddof=1) + 10 * b.var(axis=1, ddof=1)) / 16
    d = (a.mean(axis=1) - b.mean(axis=1)) / np.sqrt(pooled)
    np.testing.assert_allclose(result.cohen_d, d, rtol=1e-6, atol=1e-9)
    approximate = d * (1 - 3 / (4 * 16 - 1))
    np.testing.assert_allclose(result.hedges_g, approximate, rtol=1e-3)
    assert not np.allclose(result.hedges_g, d, rtol=1e-2)


def test_d_of_a_mean_is_the_mean_in_standard_deviations(rng):
    maps = make_maps(rng, N)
    result = fit(maps, device="cpu").contrast()
    values = maps.values.astype(float)
    d = values.mean(axis=1) / values.std(axis=1, ddof=1)
    np.testing.assert_allclose(result.cohen_d, d, rtol=1e-6)


@pytest.mark.parametrize("incomplete", [False, True])
def test_everything_is_what_statsmodels_gives(rng, table, device, incomplete):
    maps = make_incomplete(rng, N, share=0.2, least=9) if incomplete else make_maps(rng, N)
    fitted = fit(maps, Design(table), device=device)
    groups, slope, f = map(fitted.contrast, ["patients - controls", "age", "patients; age"])
    intervals = {0.95: slope.confidence_interval(), 0.8: slope.confidence_interval(0.8)}
    for voxel, model in models(maps, table):
        weights = np.array([1.0, -1.0, 0.0])
        d = (weights @ model.params) / np.sqrt(model.mse_resid)
        np.testing.assert_allclose(groups.cohen_d[voxel], d, rtol=1e-5, atol=1e-8)
        for level, (lower, upper) in intervals.items():
            limits = model.conf_int(1 - level)[2]
            np.testing.assert_allclose([lower[voxel], upper[voxel]], limits, rtol=1e-5, atol=1e-8)
        exog, y = model.model.exog, model.model.endog
        without_age = sm.OLS(y, exog[:, :2]).fit()
        age = sm.OLS(exog[:, 2], exog[:, :2]).fit()
        r = np.corrcoef(without_age.resid, age.resid)[0, 1]
        np.testing.assert_allclose(slope.partial_r[voxel], r, rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(slope.partial_r_square[voxel], r**2, rtol=1e-5, atol=1e-8)
        reduced = sm.OLS(y, exog[:, 1:2]).fit()
        share = (reduced.ssr - model.ssr) / reduced.ssr
        np.testing.assert_allclose(f.partial_r_square[voxel], share, rtol=1e-5, atol=1e-8)


def test_the_interval_covers_the_effect_as_often_as_it_says(rng):
    maps = make_maps(rng, 8, shape=(22, 22, 22), mean=0.5)
    lower, upper = fit(maps, device="cpu").contrast().confidence_interval(0.9)
    covered = np.mean((lower <= 0.5) & (upper >= 0.5))
    assert covered == pytest.approx(0.9, abs=4 * np.sqrt(0.09 / maps.n_voxels))


@pytest.mark.parametrize(("sizes", "delta"), [((5, 4), 0.0), ((5, 4), 1.2), ((3, 12), -0.7)])
def test_g_and_its_variance_are_unbiased(rng, sizes, delta):
    n_samples = 200_000
    df, scale = sum(sizes) - 2, 1 / sizes[0] + 1 / sizes[1]
    chi = np.sqrt(rng.chisquare(df, n_samples) / df)
    t = (rng.normal(size=n_samples) + delta / np.sqrt(scale)) / chi
    g = effect_sizes.hedges_g(t, df, scale)
    variance = effect_sizes.hedges_g_variance(g, df, scale)
    standard_error = g.std() / np.sqrt(n_samples)
    assert abs(g.mean() - delta) < 4 * standard_error
    spread = ((g - delta) ** 2).std() + variance.std()
    assert abs(variance.mean() - g.var()) < 4 * spread / np.sqrt(n_samples)
    if delta:  # d, without the correction, would be told apart
        assert abs(effect_sizes.cohen_d(t, scale).mean() - delta) > 8 * standard_error


@pytest.mark.parametrize("df", [3, 8, 40, 400])
def test_the_variance_has_the_mean_of_the_noncentral_t(df):
    scale, delta = 0.3, 0.8
    law = stats.nct(df, delta / np.sqrt(scale))
    correction = effect_sizes.bias_correction(df)
    mean, variance = (float(moment) for moment in law.stats("mv"))
    assert correction * mean * np.sqrt(scale) == pytest.approx(delta, rel=1e-9)
    mean_square = (correction**2) * scale * (variance + mean**2)
    expected = scale + mean_square * (1 - (df - 2) / (df * correction**2))
    assert expected == pytest.approx(mean_square - delta**2, rel=1e-6)
    given = effect_sizes.hedges_g_variance(np.sqrt(mean_square), df, scale)
    assert given == pytest.approx(mean_square - delta**2, rel=1e-6)


@pytest.mark.parametrize("df", [2, 5, 30, 100_000])
def test_the_correction_is_the_mean_of_one_over_chi(df):
    mean = integrate.quad(lambda s: stats.chi.pdf(s, df) * np.sqrt(df) / s, 0, np.inf)[0]
    if df < 1000:  # beyond, the quadrature misses the peak
        assert effect_sizes.bias_correction(df) == pytest.approx(1 / mean, rel=1e-7)
    assert effect_sizes.bias_correction(df) == pytest.approx(1 - 3 / (4 * df - 1), rel=0.4 / df**2)


def test_degrees_of_freedom_that_do_not_suffice_give_no_number():
    assert np.isnan(effect_sizes.hedges_g(1.0, [1, 2], 0.5)).tolist() == [True, False]
    variance = effect_sizes.hedges_g_variance(1.0, [1, 2, 3], 0.5)
    assert np.isnan(variance).tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("contrast", "slopes"),
    [
        ("one", ()),
        ("sex", ()),
        ("half", ()),
        ("one + sex", ()),
        ("age", ("age",)),
        ("plus_minus", ("plus_minus",)),
        ("one - age", ("age",)),
        ("dose", ("dose",)),
        ("age; sex", ("age",)),
    ],
)
def test_what_counts_as_a_mean(rng, contrast, slopes):
    sex = np.arange(N) % 2
    table = pd.DataFrame(
        {
            "one": 1.0,
            "sex": sex - 0.317,
            "half": np.roll(sex, N // 3 + 1) * (np.arange(N) < 9) - 0.5,
            "plus_minus": np.sign(rng.normal(size=N)),
            "age": rng.normal(40, 9, N),
            "dose": np.repeat([0.0, 1.0, 2.0], 6),
        }
    )
    design = Design(table)
    assert effect_sizes.slopes_of(design.contrast(contrast), design.matrix) == slopes


def test_what_has_no_meaning_is_refused_in_a_line(rng, table):
    fitted = fit(make_maps(rng, N), Design(table), device="cpu")
    with pytest.raises(DesignError, match=r"Cohen's d of contrast 'age' would depend on the unit"):
        _ = fitted.contrast("age").cohen_d
    with pytest.raises(DesignError, match=r"Hedges' g is defined for t contrasts"):
        _ = fitted.contrast("patients; age").hedges_g_variance
    with pytest.raises(DesignError, match=r"partial r is defined .* take partial_r_square"):
        _ = fitted.contrast("age", statistic="F").partial_r
    with pytest.raises(DesignError, match=r"a confidence interval is defined"):
        fitted.contrast("patients; age").confidence_interval()
    with pytest.raises(ValueError, match=r"between 0 and 1, got 95"):
        fitted.contrast("age").confidence_interval(95)


def test_partial_r_does_not_depend_on_units(rng, table):
    maps = make_maps(rng, N)
    years = fit(maps, Design(table), device="cpu").contrast("age")
    days = fit(maps, Design(table.assign(age=table.age * 365)), device="cpu").contrast("age")
    np.testing.assert_allclose(days.partial_r, years.partial_r, rtol=1e-8, atol=1e-12)


def test_extreme_statistics_stay_in_range():
    assert effect_sizes.partial_r([1e200, -1e200, 0.0], 5).tolist() == [1.0, -1.0, 0.0]
    assert effect_sizes.partial_r_square([0.0, 1e300], 3, 5).tolist() == [0.0, 1.0]
