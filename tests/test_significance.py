"""q and -log10 p against SciPy, statsmodels and arithmetic of any precision."""

import mpmath
import numpy as np
import pytest
from oracles import benjamini_hochberg
from scipy import stats
from statsmodels.stats.multitest import multipletests

from gpustats.significance import fdr_q, log10_p, upper_tail_p


@pytest.mark.parametrize("two_sided", [False, True])
def test_q_is_that_of_scipy_and_statsmodels(rng, two_sided):
    z = np.concatenate([rng.normal(size=300), rng.normal(4, 1, 60), [2.5, 2.5, -np.inf, 0.0]])
    p = 2 * stats.norm.sf(np.abs(z)) if two_sided else stats.norm.sf(z)
    q = fdr_q(z, two_sided=two_sided)
    np.testing.assert_allclose(q, stats.false_discovery_control(p), rtol=1e-12)
    np.testing.assert_allclose(q, multipletests(p, method="fdr_bh")[1], rtol=1e-12)


def test_q_at_a_rate_names_what_the_procedure_rejects(rng):
    z = np.concatenate([rng.normal(size=400), rng.normal(3, 1, 100)])
    q = fdr_q(z)
    for rate in (0.001, 0.02, 0.3):
        assert np.array_equal(q <= rate, benjamini_hochberg(stats.norm.sf(z), rate))
        assert (q <= rate).any()


def test_the_rate_is_controlled_and_no_lower_than_needed(rng):
    n_null, n_sets = 80, 2000
    false = []
    for _ in range(n_sets):
        rejected = fdr_q(np.concatenate([rng.normal(size=n_null), rng.normal(3, 1, 20)])) <= 0.2
        false.append(rejected[:n_null].sum() / max(rejected.sum(), 1))
    # for independent tests the rate is exactly this
    expected = 0.2 * n_null / 100
    assert np.mean(false) == pytest.approx(expected, abs=4 * np.std(false) / np.sqrt(n_sets))


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("z", [-40.0, -3.0, 0.0, 1e-9, 2.0, 8.0, 37.0, 39.0, 500.0, 1e6])
def test_log10_p_keeps_its_digits_at_any_height(z, two_sided):
    with mpmath.workdps(60):
        p = mpmath.erfc(mpmath.mpf(abs(z) if two_sided else z) / mpmath.sqrt(2))
        exact = float(-mpmath.log10(p if two_sided else p / 2))
    assert log10_p(z, two_sided=two_sided).item() == pytest.approx(exact, rel=1e-12, abs=1e-15)


def test_the_ends_are_not_negative_zero_or_nan():
    assert str(log10_p(-np.inf).item()) == "0.0"
    assert log10_p(np.inf).item() == np.inf
    assert fdr_q([np.inf, 40.0, -np.inf]).tolist() == [0.0, 0.0, 1.0]
    assert upper_tail_p(0.0, two_sided=True).item() == 1


@pytest.mark.parametrize("z", [[[1.0]], [np.nan, 1.0]])
def test_what_is_no_list_of_tests_is_refused(z):
    with pytest.raises(ValueError, match="values of the tested voxels"):
        fdr_q(z)
