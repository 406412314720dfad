import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from gpustats.tail_laws import GeneralisedPareto
from gpustats.tails import counts_to_p, empirical_p, fit_tail, threshold_for

FITTED_METHODS = ["gpd", "gamma"]
N_FITS = 20
SMALL_P = [1e-2, 1e-3, 1e-4]


class MaximumOf:
    """The law of the largest of `n` independent draws, which is what a null of maxima holds."""

    def __init__(self, law, n):
        self.law, self.n = law, n

    def isf(self, p):
        return self.law.isf(-np.expm1(np.log1p(-np.asarray(p)) / self.n))

    def sf(self, x):
        return -np.expm1(self.n * np.log1p(-self.law.sf(x)))

    def rvs(self, size, random_state):
        return self.isf(random_state.random(size))


LAWS = {
    "exponential": stats.expon(),
    "Pareto of heavy tail": stats.genpareto(0.2),
    "Gumbel": stats.gumbel_r(),
    "largest of 1000 normal": MaximumOf(stats.norm(), 1000),
    "largest of 10000 t(20)": MaximumOf(stats.t(20), 10_000),
    "chi-square": stats.chi2(3),
}
EXTENTS = {"geometric": stats.geom(0.05), "negative binomial": stats.nbinom(2, 0.03)}
BOUNDED = {
    "uniform": stats.uniform(),
    "beta": stats.beta(2, 3),
    "Pareto with an end": stats.genpareto(-0.4),
    "largest of 10 uniform": stats.beta(10, 1),
}


def p_by_definition(observed, null, tolerance):
    p = np.empty(observed.shape)
    for place in np.ndindex(observed.shape):
        count = 1  # the identity
        for value in null[1:]:
            count += value >= observed[place] - tolerance[place]
        p[place] = count / len(null)
    return p


def guarded_pareto(y, shape, scale, n):
    """P(Y >= y): the law while ten of n are expected beyond, then an exponential tail."""
    law = stats.genpareto(-shape, scale=scale)
    joint = law.isf(10 / n) if shape > 0 else np.inf
    hazard = law.pdf(joint) / (10 / n)
    return np.where(y < joint, law.sf(y), 10 / n * np.exp(-hazard * (y - joint)))


def anderson_darling_by_definition(cumulative):
    n = len(cumulative)
    total = 0.0
    for i in range(n):
        total += (2 * i + 1) * np.log(cumulative[i] * (1 - cumulative[n - 1 - i]))
    return -n - total / n


def fitted_tails(law, method, n_shuffles, rng):
    tails = [fit_tail(law.rvs(n_shuffles, random_state=rng), method) for _ in range(N_FITS)]
    return [tail for tail in tails if tail.fit is not None]


def log_ratios(law, tails, p):
    """Log of fitted over true p at values that are reached with the given probabilities."""
    x = law.isf(p)
    true = np.array([law.sf(np.nextafter(value, -np.inf)) for value in x])
    return np.array([np.log(tail.p(x)[0] / true) for tail in tails])


# --- the rule


whole = st.integers(-4, 4).map(float)


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


# --- accuracy of the fitted tails


@pytest.mark.parametrize(("n_shuffles", "share"), [(1000, 0.5), (5000, 0.75)])
@pytest.mark.parametrize("law", [*LAWS.values(), *EXTENTS.values()], ids=[*LAWS, *EXTENTS])
def test_pareto_tails_are_near_the_true_tail(rng, law, n_shuffles, share):
    tails = fitted_tails(law, "gpd", n_shuffles, rng)
    errors = log_ratios(law, tails, SMALL_P)
    within_factor_2 = (np.abs(errors) < np.log(2)).mean(axis=0)
    assert len(tails) >= 0.9 * N_FITS
    assert np.abs(np.median(errors, axis=0)).max() < np.log(2)
    assert within_factor_2[0] >= 0.9
    assert within_factor_2[1] >= share


@pytest.mark.parametrize("n_shuffles", [1000, 5000])
@pytest.mark.parametrize("law", [stats.chi2(3), stats.gamma(4), LAWS["largest of 1000 normal"]])
def test_gamma_tails_are_near_the_true_tail(rng, law, n_shuffles):
    tails = fitted_tails(law, "gamma", n_shuffles, rng)
    errors = log_ratios(law, tails, SMALL_P)
    assert len(tails) >= 0.7 * N_FITS
    assert np.abs(np.median(errors, axis=0)).max() < np.log(1.5)
    assert (np.abs(errors[:, 1]) < np.log(2)).mean() >= 0.75


def test_fitted_p_hardly_rejects_more_often_than_it_says(rng):
    law = LAWS["largest of 1000 normal"]
    tails = fitted_tails(law, "gpd", 1000, rng)
    p = np.array([tail.p(law.rvs(4000, rng))[0] for tail in tails])
    assert (p <= 0.05).mean() == pytest.approx(0.05, rel=0.2)
    assert (p <= 0.01).mean() == pytest.approx(0.01, rel=0.3)
    assert (p <= 0.001).mean() < 0.002


@pytest.mark.parametrize("shape", [-0.15, 0.0, 0.2])
def test_the_parameters_of_a_pareto_law_are_recovered(rng, shape):
    null = 3 + stats.genpareto(-shape, scale=2).rvs(200_000, random_state=rng)
    law = fit_tail(null, "gpd").fit.law
    assert law.shape == pytest.approx(shape, abs=0.02)
    # above a threshold the law is Pareto again, of the same shape and a smaller or larger scale
    assert law.scale == pytest.approx(2 - shape * (law.threshold - 3), rel=0.02)


# --- the test of the fit


def test_a_true_law_is_rejected_at_the_level_of_the_test(rng):
    shapes = rng.uniform(-0.1, 0.3, 200)
    tails = [fit_tail(stats.genpareto(-k).rvs(1001, random_state=rng), "gpd") for k in shapes]
    at_once = [tail.fit is not None and tail.fit.law.n_exceedances == 250 for tail in tails]
    assert 0.90 < np.mean(at_once) < 0.99


def test_the_threshold_rises_until_the_tail_is_smooth(rng):
    lump = [rng.normal(size=1600), rng.uniform(6, 6.1, 200), 8 + rng.exponential(size=200)]
    tail = fit_tail(rng.permutation(np.concatenate(lump)), "gpd")
    assert tail.fit.law.n_exceedances <= 200
    assert tail.p(8 + np.log(5))[0] == pytest.approx(0.1 / 5, rel=0.25)
    # the law begins where counting ends, with the share that is counted there
    ends = np.nextafter(tail.fit.law.threshold, [-np.inf, np.inf])
    p, fitted = tail.p(ends)
    assert fitted.tolist() == [False, True]
    assert (p < 0.10).all()
    np.testing.assert_allclose(p, empirical_p(ends, tail.null), rtol=1e-12)


@pytest.mark.parametrize("method", FITTED_METHODS)
def test_the_goodness_is_that_of_the_law(rng, method):
    null = rng.gumbel(size=800)
    fit = fit_tail(null, method).fit
    above = np.sort(null[1:][null[1:] > fit.law.threshold])
    assert len(above) == fit.law.n_exceedances == 200
    if method == "gpd":
        y = above - fit.law.threshold
        ratio = y.mean() ** 2 / y.var(ddof=1)
        assert fit.law.shape == pytest.approx((ratio - 1) / 2)
        assert fit.law.scale == pytest.approx(y.mean() * (ratio + 1) / 2)
        cumulative = 1 - guarded_pareto(y, fit.law.shape, fit.law.scale, 200)
    else:
        moments = stats.skew(null[1:]), null[1:].mean(), null[1:].std()
        assert (fit.law.skew, fit.law.mean, fit.law.sd) == pytest.approx(moments)
        survival = stats.pearson3(*moments).sf
        cumulative = 1 - survival(above) / survival(fit.law.threshold)
    assert fit.anderson_darling == pytest.approx(anderson_darling_by_definition(cumulative))
    assert 0.05 < fit.anderson_darling_p <= 1


@pytest.mark.parametrize("df", [0.6, 0.8, 1.2])
def test_gamma_laws_that_hug_zero_can_be_tested(rng, df):
    tails = fitted_tails(stats.chi2(df), "gamma", 400, rng)
    assert len(tails) >= 0.5 * N_FITS
    assert all(0 < tail.fit.anderson_darling < 10 for tail in tails)


def test_gamma_is_refused_where_its_tail_is_too_light(rng):
    tail = fit_tail(stats.genpareto(0.3).rvs(5000, random_state=rng), "gamma")
    assert tail.fit is None
    assert "laws of 25" in tail.reason


# --- what p does between and beyond the null values


@pytest.mark.parametrize("law", BOUNDED.values(), ids=BOUNDED)
@pytest.mark.parametrize("method", FITTED_METHODS)
def test_beyond_an_upper_end_p_is_small_but_not_zero(rng, law, method):
    for n_shuffles in (200, 500, 2000):
        null = law.rvs(n_shuffles, random_state=rng)
        tail = fit_tail(null, method)
        end = law.support()[1]
        p, fitted = tail.p(np.linspace(null.max(), 3 * end, 400))
        assert (p >= n_shuffles**-2.0).all()
        assert (p <= 0.03).all()
        assert (np.diff(p) <= 0).all()
        assert fitted.all() == (tail.fit is not None)


@pytest.mark.parametrize("shape", [-0.3, -1e-4, -1e-12, 0.0, 1e-12, 1e-4, 0.3])
def test_the_pareto_law_is_scipys(shape):
    x = 5 + np.array([0.0, 1e-6, 0.1, 1.0, 4.0])
    law = GeneralisedPareto(threshold=5.0, n_exceedances=2500, shape=shape, scale=2.0)
    expected = stats.genpareto(-shape, 5, 2).logsf(x)
    np.testing.assert_allclose(law.log_survival(x), expected, rtol=1e-8)


def test_the_guarded_end_joins_smoothly_and_falls_exponentially(rng):
    null = stats.genpareto(-0.4).rvs(5000, random_state=rng)
    law = fit_tail(null, "gpd").fit.law
    assert law.shape > 0.2
    plain = stats.genpareto(-law.shape, law.threshold, law.scale)
    x = plain.isf(np.array([0.9, 0.1, 1.001 * 10 / law.n_exceedances]))
    np.testing.assert_allclose(law.log_survival(x), plain.logsf(x), rtol=1e-10)
    joint = plain.isf(10 / law.n_exceedances)
    step = 1e-4
    slopes = np.diff(law.log_survival(joint + step * np.array([-1, 0, 1, 1000, 1001]))) / step
    assert slopes[1] == pytest.approx(slopes[0], rel=1e-2)
    assert slopes[3] == pytest.approx(slopes[1], rel=1e-6)


@given(
    law=st.sampled_from([*LAWS.values(), *EXTENTS.values(), *BOUNDED.values()]),
    n_shuffles=st.integers(1, 400),
    seed=st.integers(0, 2**32 - 1),
    method=st.sampled_from([*FITTED_METHODS, "none"]),
)
def test_p_never_rises_and_the_mask_says_what_was_fitted(law, n_shuffles, seed, method):
    generator = np.random.default_rng(seed)
    null = np.asarray(law.rvs(n_shuffles, random_state=generator), float)
    spread = np.ptp(null) + 1
    x = np.linspace(null.min() - spread, null.max() + 5 * spread, 300)
    x = np.sort(np.concatenate([x, null]))
    tail = fit_tail(null, method)
    p, fitted = tail.p(x)
    empirical = empirical_p(x, null)
    assert (np.diff(p) <= 1e-12 * p[:-1]).all()
    assert (p >= tail.smallest_p).all()
    assert np.array_equal(p[~fitted], empirical[~fitted])
    threshold = np.inf if tail.fit is None else tail.fit.law.threshold
    assert np.array_equal(fitted, (empirical < 0.10) & (x > threshold))
    assert (tail.fit is None) == bool(tail.reason)


@pytest.mark.parametrize("method", FITTED_METHODS)
def test_fitted_and_counted_p_meet(rng, method):
    null = LAWS["largest of 1000 normal"].rvs(5000, rng)
    junction = np.sort(null[1:])[-499:][[0, 1]]  # 500 and 499 of 5000 shuffles reach them
    p, fitted = fit_tail(null, method).p(junction)
    assert fitted.tolist() == [False, True]
    assert p[0] == 500 / 5000
    assert 0.09 < p[1] <= 0.10


@pytest.mark.parametrize("method", FITTED_METHODS)
@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.2])
def test_rare_values_end_at_the_floor(rng, shape, method):
    tail = fit_tail(stats.gumbel_r().rvs(500, random_state=rng), method)
    if method == "gpd":
        tail = fit_tail(stats.genpareto(-shape).rvs(500, random_state=rng), method)
    p, fitted = tail.p([1e3, 1e300, np.inf, np.nan])
    assert np.array_equal(p, [500**-2.0] * 3 + [np.nan], equal_nan=True)
    assert fitted.tolist() == [True, True, True, False]


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


def test_few_distinct_extents_are_counted_rather_than_fitted_badly(rng):
    null = rng.binomial(3, 0.3, size=5000)
    tail = fit_tail(null, "gpd")
    assert tail.fit is None
    assert tail.p(3)[0] == empirical_p(3, null)


@pytest.mark.parametrize("method", FITTED_METHODS)
def test_an_outlier_among_the_shuffles_is_survived(rng, method):
    null = np.r_[rng.gumbel(size=2000), 1e6]
    p, _ = fit_tail(null, method).p([0.0, 5.0, 1e7])
    assert (np.diff(p) <= 0).all()
    assert p[-1] > 0


def test_negative_skew_is_taken_as_none(rng):
    null = stats.pearson3(-0.2).rvs(1000, random_state=rng)
    tail = fit_tail(null, "gamma")
    x = np.array([2.0, 3.0, 4.0])
    normal = stats.norm(null[1:].mean(), null[1:].std())
    share = 0.25 / normal.sf(tail.fit.law.threshold)
    assert stats.skew(null[1:]) < -0.1
    np.testing.assert_allclose(tail.p(x)[0], share * normal.sf(x), rtol=0.03)


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
