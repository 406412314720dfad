import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from gpustats.tails import counts_to_p, empirical_p, fit_tail, threshold_for

FITTED_METHODS = ["gpd", "gamma"]


def p_by_definition(observed, null, tolerance):
    p = np.empty(observed.shape)
    for place in np.ndindex(observed.shape):
        count = 1  # the identity
        for value in null[1:]:
            count += value >= observed[place] - tolerance[place]
        p[place] = count / len(null)
    return p


# --- the rule


whole = st.integers(-4, 4).map(float)


@settings(deadline=None)
@given(
    observed=hnp.arrays(
        float, hnp.array_shapes(min_dims=0, max_dims=3, max_side=4), elements=whole
    ),
    null=hnp.arrays(float, st.integers(1, 12), elements=whole),
    data=st.data(),
)
def test_p_is_the_definition(observed, null, data):
    tolerance = data.draw(
        hnp.arrays(float, observed.shape, elements=st.sampled_from([0.0, 0.5, 1.0, 2.0]))
    )
    p = empirical_p(observed, null, tolerance=tolerance)
    assert p.shape == observed.shape
    assert np.array_equal(p, p_by_definition(observed, null, tolerance))


@pytest.mark.parametrize("first", [-np.inf, 0.0, 3.0, np.inf])
def test_the_identity_counts_whatever_its_value(first):
    assert np.array_equal(empirical_p([2, 3, 4], [first, 1, 2, 3]), [0.75, 0.5, 0.25])


@pytest.mark.parametrize("n_shuffles", [1, 2, 5, 1000])
def test_p_is_never_zero(rng, n_shuffles):
    null = rng.normal(size=n_shuffles)
    assert empirical_p(np.inf, null) == 1 / n_shuffles
    assert empirical_p(1e300, null) == 1 / n_shuffles
    assert empirical_p(-np.inf, null) == 1


def test_equal_numbers_tie_in_single_precision(rng):
    null = rng.normal(size=200).astype(np.float32)
    ranks = stats.rankdata(-null[1:], method="max")
    assert np.array_equal(empirical_p(null[1:], null), (1 + ranks) / 200)


def test_whole_numbers_too_large_for_float64_tie_rather_than_pass():
    null = np.array([2**60, 2**60 - 1, 2**60 - 2], np.int64)
    assert empirical_p(2**60, null) == 1


def test_nan_is_not_significant():
    assert np.array_equal(empirical_p([np.nan, 5.0], [5.0, 1.0]), [np.nan, 0.5], equal_nan=True)


@pytest.mark.parametrize("tied", [False, True], ids=["continuous", "extents"])
def test_the_error_rate_is_the_nominal_one(rng, tied):
    nulls = rng.exponential(3, size=(8000, 40))
    nulls = np.floor(nulls) if tied else nulls
    rate = np.mean([empirical_p(null[0], null) <= 0.05 for null in nulls])
    noise = 3 * np.sqrt(0.05 * 0.95 / len(nulls))
    assert rate < 0.05 + noise
    assert tied or rate > 0.05 - noise


def test_counts_are_the_same_rule(rng):
    null, observed = rng.integers(0, 9, 50), rng.integers(0, 9, (4, 5))
    counts = 1 + (null[1:] >= observed[..., None]).sum(axis=-1)
    assert np.array_equal(counts_to_p(counts, 50), empirical_p(observed, null))
    assert counts_to_p(np.empty(0, int), 50).shape == (0,)


@pytest.mark.parametrize("counts", [0, [1, 0], [11], np.nan])
def test_counts_include_the_identity(counts):
    with pytest.raises(ValueError, match="from 1 .* to 10 shuffles"):
        counts_to_p(counts, 10)


@pytest.mark.parametrize("null", [[], [[1.0, 2.0]], [1.0, np.nan], 3.0])
@pytest.mark.parametrize(
    "function",
    [
        lambda null: empirical_p(1, null),
        lambda null: threshold_for(null, 0.05),
        lambda null: fit_tail(null, "gpd"),
    ],
)
def test_null_maxima_are_numbers_in_a_row(function, null):
    with pytest.raises(ValueError, match="null must be the maxima"):
        function(null)


@pytest.mark.parametrize("tolerance", [-1e-9, np.inf, np.nan, [0.0, -1.0]])
def test_tolerances_are_distances(tolerance):
    null = np.arange(300.0)
    with pytest.raises(ValueError, match="finite and not negative"):
        empirical_p([1, 2], null, tolerance=tolerance)
    with pytest.raises(ValueError, match="finite and not negative"):
        fit_tail(null, "gpd").p([1, 2], tolerance=tolerance)


# --- the threshold


@settings(deadline=None)
@given(
    null=hnp.arrays(float, st.integers(1, 30), elements=whole),
    alpha=st.one_of(
        st.floats(0.001, 0.999),
        st.tuples(st.integers(1, 29), st.integers(2, 30)).map(lambda t: min(t) / (max(t) + 1)),
    ),
)
def test_values_pass_the_threshold_where_p_is_at_most_alpha(null, alpha):
    threshold = threshold_for(null, alpha)
    heights = np.arange(-5.0, 5.5, 0.5)
    heights = np.concatenate([heights, np.nextafter(heights, -np.inf), np.nextafter(heights, 9)])
    passes = empirical_p(heights, null) <= alpha
    if threshold is None:
        assert alpha < 1 / null.size
        assert not passes.any()
    else:
        assert np.array_equal(heights >= threshold, passes)
        assert empirical_p(threshold, null) <= alpha
        assert empirical_p(np.nextafter(threshold, -np.inf), null) > alpha


def test_a_share_of_shuffles_is_not_lost_to_rounding():
    null = np.arange(100.0)  # the identity's is 0
    assert 0.29 * 100 < 29
    assert threshold_for(null, 0.29) == np.nextafter(71.0, np.inf)


def test_no_value_passes_if_infinite_ones_do_not():
    assert threshold_for([0.0, np.inf, np.inf, 1.0], 0.5) is None


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 5, np.nan])
def test_alpha_is_an_error_rate(alpha):
    with pytest.raises(ValueError, match="alpha must be an error rate"):
        threshold_for(np.arange(10.0), alpha)


# --- what a fit depends on


@pytest.mark.parametrize("method", FITTED_METHODS)
def test_the_identity_takes_no_part_in_the_fit(rng, method):
    null = rng.gumbel(size=1000)
    with_effect = np.r_[40.0, null[1:]]
    assert fit_tail(with_effect, method).fit == fit_tail(null, method).fit


@pytest.mark.parametrize("method", FITTED_METHODS)
def test_neither_the_unit_nor_the_order_of_the_null_matters(rng, method):
    null = rng.gumbel(size=1000)
    x = np.linspace(0, 12, 50)
    p, fitted = fit_tail(null, method).p(x)
    shuffled = np.r_[null[0], rng.permutation(null[1:])]
    assert np.array_equal(fit_tail(shuffled, method).p(x)[0], p)
    other_p, other_fitted = fit_tail(3e4 * null - 7e4, method).p(3e4 * x - 7e4)
    assert np.array_equal(other_fitted, fitted)
    np.testing.assert_allclose(other_p, p, rtol=1e-9)


@pytest.mark.parametrize("method", [*FITTED_METHODS, "none"])
def test_a_tolerance_lowers_what_has_to_be_reached(rng, method):
    tail = fit_tail(rng.gumbel(size=1000), method)
    x, tolerance = rng.uniform(-1, 12, (2, 3)), rng.uniform(0, 1, (2, 3))
    for got, expected in zip(tail.p(x, tolerance=tolerance), tail.p(x - tolerance), strict=True):
        assert got.shape == (2, 3)
        assert np.array_equal(got, expected)


# --- nulls that cannot be fitted


@pytest.mark.parametrize("method", FITTED_METHODS)
@pytest.mark.parametrize(
    ("null", "words"),
    [
        (np.arange(1.0), "0 laws"),
        (np.arange(5.0), "0 laws"),
        (np.arange(97.0), "0 laws"),
        (np.full(2000, 7.0), "0 laws"),
        (np.r_[np.zeros(1980), np.arange(20)], "0 laws"),
        (np.r_[np.zeros(1500), np.ones(500)], "laws of 25"),
        (np.r_[np.arange(1999), np.inf], "infinite"),
        (np.r_[np.arange(1999), -np.inf], "infinite"),
    ],
    ids=["one", "five", "few", "constant", "rare", "two values", "infinite", "minus infinite"],
)
def test_without_a_fit_p_is_counted_and_the_reason_told(null, words, method):
    tail = fit_tail(null, method)
    x = np.array([-1.0, 0.0, 0.5, 7.0, 7.5, 1e9])
    p, fitted = tail.p(x)
    assert tail.fit is None
    assert words in tail.reason
    assert np.array_equal(p, empirical_p(x, null))
    assert not fitted.any()


@pytest.mark.parametrize("method", [*FITTED_METHODS, "none"])
@pytest.mark.parametrize("n_shuffles", [5, 1000])
def test_the_description_is_json(rng, method, n_shuffles):
    tail = fit_tail(rng.gumbel(size=n_shuffles), method)
    told = json.loads(json.dumps(tail.describe(), allow_nan=False))
    assert told["method"] == method
    assert told["n_shuffles"] == n_shuffles
    assert told["smallest_p"] == tail.smallest_p
    assert (told["fit"] is None) == (tail.fit is None)
    if tail.fit is not None:
        assert told["fit"]["law"]["threshold"] == tail.fit.law.threshold
        assert told["fit"]["anderson_darling_p"] == tail.fit.anderson_darling_p


def test_methods_have_names():
    with pytest.raises(ValueError, match="one of gpd, gamma, none, got 'weibull'"):
        fit_tail(np.arange(10.0), "weibull")
