import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from oracles import least_squares
from scipy import stats
from simulate import make_maps

from gpustats import Design, DesignError, fit
from gpustats.maps import Maps
from gpustats.spaces import Grid

N = 24


def tables(rng):
    """Designs of every kind, each with contrasts to try."""
    group = np.repeat([1.0, 0.0], N // 2)
    age, iq = rng.normal(40, 9, N), rng.normal(100, 15, N)
    return {
        "mean": (pd.DataFrame({"mean": np.ones(N)}), ["mean"]),
        "two groups": (
            pd.DataFrame({"a": group, "b": 1 - group, "age": age}),
            ["a - b", "a", "age", "a; b", "a - b; age"],
        ),
        "slopes": (
            pd.DataFrame({"age": age, "iq": iq, "intercept": 1.0}),
            ["age - iq", "age + 2*iq - intercept", "age; iq"],
        ),
        "no constant": (pd.DataFrame({"age": age - age.mean(), "iq": iq}), ["age", "iq - 3*age"]),
        "rank deficient": (
            pd.DataFrame({"a": group, "b": 1 - group, "age": age, "intercept": 1.0}),
            ["a - b", "a + intercept", "age", "a - b; age"],
        ),
    }


CASES = [
    (name, contrast)
    for name, (_, contrasts) in tables(np.random.default_rng(0)).items()
    for contrast in contrasts
]


@pytest.mark.parametrize(("name", "expression"), CASES)
def test_every_contrast_equals_ordinary_least_squares(rng, name, expression):
    maps = make_maps(rng, N)
    table = tables(rng)[name][0]
    design = Design(table)
    result = fit(maps, design, device="cpu").contrast(expression)
    weights = design.contrast(expression).weights
    effect, variance, statistic, df = least_squares(maps.values, table, weights)
    assert result.df == df
    np.testing.assert_allclose(result.statistic, statistic, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(result.variance, variance, rtol=1e-9)
    if len(weights) == 1:
        np.testing.assert_allclose(result.effect, effect, rtol=1e-7, atol=1e-10)
        np.testing.assert_allclose(result.p, stats.t.sf(statistic, df), rtol=1e-8)
    else:
        np.testing.assert_allclose(result.p, stats.f.sf(statistic, result.dimension, df), rtol=1e-8)
        sums = (result.effect**2).sum(0) / result.dimension / result.variance
        np.testing.assert_allclose(sums, statistic, rtol=1e-9)


@pytest.mark.parametrize("expression", ["age - iq", "age; iq"])
def test_against_statsmodels(rng, expression):
    maps = make_maps(rng, N)
    table = tables(rng)["slopes"][0]
    design = Design(table)
    result = fit(maps, design, device="cpu").contrast(expression)
    weights = design.contrast(expression).weights
    for voxel in range(0, maps.n_voxels, 17):
        model = sm.OLS(maps.values[voxel].astype(float), table).fit()
        if len(weights) == 1:
            theirs = model.t_test(weights).tvalue.item()
        else:
            theirs = np.asarray(model.f_test(weights).fvalue).item()
        np.testing.assert_allclose(result.statistic[voxel], theirs, rtol=1e-6, atol=1e-9)


def test_redundant_rows_count_once(rng):
    maps = make_maps(rng, N)
    fitted = fit(maps, Design(tables(rng)["two groups"][0]), device="cpu")
    plain = fitted.contrast("a - b; age")
    redundant = fitted.contrast("a - b; age; 2*b - 2*a")
    assert redundant.dimension == plain.dimension == 2
    np.testing.assert_allclose(redundant.statistic, plain.statistic, rtol=1e-10)


def test_f_of_one_row_is_t_squared(rng):
    fitted = fit(make_maps(rng, N), Design(tables(rng)["slopes"][0]), device="cpu")
    t, f = fitted.contrast("age"), fitted.contrast("age", statistic="F")
    np.testing.assert_allclose(f.statistic, t.statistic**2, rtol=1e-10)
    np.testing.assert_allclose(f.p, 2 * stats.t.sf(np.abs(t.statistic), t.df), rtol=1e-8)


def test_data_times_minus_one_swaps_the_tails_exactly(rng):
    maps = make_maps(rng)
    negated = Maps(-maps.values, maps.grid)
    one, other = fit(maps, device="cpu").contrast(), fit(negated, device="cpu").contrast()
    assert np.array_equal(one.statistic, -other.statistic)
    assert np.array_equal(one.z, -other.z)


@pytest.mark.parametrize("mean_over_sd", [10, 100, 1000])
def test_a_mean_much_larger_than_the_spread_costs_no_digits(rng, mean_over_sd):
    n = 1000
    grid = Grid(np.ones((5, 5, 5), bool), np.eye(4))
    values = rng.normal(mean_over_sd, 1, (grid.n_voxels, n)).astype(np.float32)
    group = np.repeat([1.0, 0.0], n // 2)
    values += 0.2 * group
    design = pd.DataFrame({"a": group, "b": 1 - group})
    result = fit(Maps(np.asfortranarray(values), grid), Design(design), device="cpu")
    *_, expected, _ = least_squares(values.astype(float) - mean_over_sd, design, [1, -1])
    np.testing.assert_allclose(result.contrast("a - b").statistic, expected, rtol=1e-5)


def test_voxels_without_residual_variance_leave_the_mask(rng, log):
    maps = make_maps(rng)
    group = np.repeat([1.0, 0.0], 6)
    maps.values[8] = 3 * group + 1
    maps.values[20] = np.float32(0.1)
    design = Design(pd.DataFrame({"a": group, "b": 1 - group}))
    fitted = fit(maps, design, device="cpu")
    assert fitted.maps.n_voxels == maps.n_voxels - 2
    assert fitted.maps.dropped["no residual variance"] == 2
    assert "2 voxels left the mask: no residual variance" in log.text
    assert np.isfinite(fitted.contrast("a - b").z).all()
    assert np.array_equal(fitted.maps.values, np.delete(maps.values, [8, 20], axis=0))


def test_a_design_that_explains_everything_is_refused(rng):
    maps = make_maps(rng, n_subjects=4)
    maps.values[:] = [1, 1, 2, 2]
    design = Design(pd.DataFrame({"a": [1.0, 1, 0, 0], "b": [0.0, 0, 1, 1]}))
    with pytest.raises(ValueError, match="explains every voxel entirely"):
        fit(maps, design, device="cpu")


def test_rows_follow_the_labels(rng):
    labels = tuple(f"sub-{n:02d}" for n in range(12))
    maps = make_maps(rng, subjects=labels)
    table = pd.DataFrame({"subject_label": labels, "age": rng.normal(size=12), "one": 1.0})
    shuffled = table.sample(frac=1, random_state=3)
    ordered = fit(maps, Design(table), device="cpu").contrast("age")
    assert np.array_equal(
        fit(maps, Design(shuffled), device="cpu").contrast("age").statistic, ordered.statistic
    )


def test_numbers_of_maps_and_rows_must_agree(rng):
    design = Design(pd.DataFrame({"mean": np.ones(11)}))
    with pytest.raises(DesignError, match="design has 11 rows but 12 maps were given"):
        fit(make_maps(rng), design, device="cpu")


@pytest.mark.parametrize("name", ["two groups", "no constant"])
def test_predicted_residuals_and_r_square(rng, name):
    maps = make_maps(rng, N)
    table = tables(rng)[name][0]
    fitted = fit(maps, Design(table), device="cpu")
    y = maps.values.T.astype(float)
    model = sm.OLS(y[:, 5], table).fit()
    np.testing.assert_allclose(fitted.predicted()[5], model.fittedvalues, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fitted.residuals()[5], model.resid, rtol=1e-4, atol=1e-6)
    if name == "two groups":
        centred = 1 - model.ssr / ((y[:, 5] - y[:, 5].mean()) ** 2).sum()
        np.testing.assert_allclose(fitted.r_square()[5], centred, rtol=1e-9)
    else:
        np.testing.assert_allclose(fitted.r_square()[5], model.rsquared, rtol=1e-9)


def test_z_reaches_beyond_any_float_p(rng):
    maps = make_maps(rng, n_subjects=400, shape=(5, 5, 5), mean=40)
    result = fit(maps, device="cpu").contrast()
    assert (result.z > 38).all()
    assert np.isfinite(result.z).all()
