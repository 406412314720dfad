import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gpustats.tail_laws import GeneralisedPareto
from gpustats.tails import empirical_p, fit_tail

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


@settings(deadline=None)
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


@pytest.mark.parametrize(
    ("method", "law"),
    [("gpd", stats.genpareto(0.3)), ("gpd", stats.genpareto(-0.2)), ("gamma", stats.gumbel_r())],
    ids=["gpd without end", "gpd with an end", "gamma"],
)
def test_rare_values_end_at_the_floor(rng, method, law):
    tail = fit_tail(law.rvs(500, random_state=rng), method)
    p, fitted = tail.p([1e3, 1e300, np.inf, np.nan])
    assert np.array_equal(p, [500**-2.0] * 3 + [np.nan], equal_nan=True)
    assert fitted.tolist() == [True, True, True, False]


# --- awkward nulls


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
