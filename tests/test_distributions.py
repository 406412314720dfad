"""t and F to z against 40-digit arithmetic, closed forms, scipy and the identities between them."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import MPContext
from scipy import special, stats

from gpustats import distributions
from gpustats.distributions import f_to_z, log_beta, t_to_z

Z_ERROR = 1e-9  # what the package promises for every z, in absolute terms
TABLE_ERROR = 2e-14  # relative: a few roundings of the table, of w and of the direct form
SAME_ERROR = 1e-11  # two float64 routes to one z: roundings times the largest df, 1e6

DFS = [1, 2, 3, 4.5, 11, 30, 99, 1e3, 1e4, 1e5, 1e6]
TS = [1e-12, 1e-3, 0.1, 0.7, 1.0, 1.7, 1.8, 2.5, 4.0, 10.0, 37.0, 39.0, 150.0, 1e3, 1e4, 1e9, 1e200]
FS = [1e-200, 1e-9, 1e-3, 0.1, 0.4, 0.8, 0.99, 1.01, 1.6, 3.0, 9.0, 60.0, 1e3, 1e5, 1e8]
BETWEEN_1_AND_1E6 = st.floats(0.0, 6.0).map(lambda exponent: 10.0**exponent)
T_WHOSE_SQUARE_IS_NORMAL = st.floats(-1e6, 1e6).map(lambda t: t if abs(t) > 1e-150 else 0.0)

mp = MPContext()
mp.dps = 40


def normal_quantile(log_tail):
    """Solve log Q(z) = log_tail for z >= 0 by Newton's method from above, in 40 digits."""
    z, step = mp.sqrt(max(-2 * (log_tail + mp.log(2)), 0)), 1
    while abs(step) > mp.mpf(10) ** -30 * (1 + z):
        tail = mp.erfc(z / mp.sqrt(2)) / 2
        step = (mp.log(tail) - log_tail) * tail / mp.npdf(z)
        z += step
    return z


def signed_quantile(log_upper, log_lower):
    """Give z of the smaller of two tails, negative if that is the lower one."""
    return normal_quantile(log_upper) if log_upper < log_lower else -normal_quantile(log_lower)


def log_incomplete_beta(a, b, x):
    """Compute log I_x(a, b) by the textbook continued fraction, bottom up (DLMF 8.17.22)."""
    fraction = mp.mpf(1)
    for m in range(300, 0, -1):
        odd = -(a + m - 1) * (a + b + m - 1) * x / ((a + 2 * m - 2) * (a + 2 * m - 1))
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        fraction = 1 + odd / (1 + even / fraction)
    log_constant = mp.loggamma(a + b) - mp.loggamma(a + 1) - mp.loggamma(b)
    return log_constant + a * mp.log(x) + b * mp.log(1 - x) - mp.log(fraction)


def log_tails_of_f(f, dimension, df):
    """Compute the logarithms of the upper and the lower tail of F(dimension, df)."""
    a, b, ratio = mp.mpf(df) / 2, mp.mpf(dimension) / 2, mp.mpf(f) * dimension / mp.mpf(df)
    x = 1 / (1 + ratio)
    if x < (a + 1) / (a + b + 2):
        upper = log_incomplete_beta(a, b, x)
        return upper, mp.log(-mp.expm1(upper))
    lower = log_incomplete_beta(b, a, ratio * x)
    return mp.log(-mp.expm1(lower)), lower


def exact_z_of_t(t, df):
    return mp.sign(t) * normal_quantile(log_tails_of_f(mp.mpf(t) ** 2, 1, df)[0] - mp.log(2))


def exact_z_of_f(f, dimension, df):
    return signed_quantile(*log_tails_of_f(f, dimension, df))


def largest_error(z, exact):
    """Give the largest |z - exact|; NaN if there is one."""
    pairs = zip(z.tolist(), exact, strict=True)
    return np.max([abs(float(mp.mpf(ours) - truth)) for ours, truth in pairs])


def f3_to_z(f, df, out=None):
    """Call f_to_z for three dimensions with the arguments of t_to_z."""
    return f_to_z(f, 3, df, out)


def read_only(values):
    values = values.copy()
    values.setflags(write=False)
    return values


@pytest.mark.parametrize("df", DFS)
def test_t_to_z_is_exact_in_both_tails(df):
    exact = [exact_z_of_t(t, df) for t in TS]
    assert largest_error(t_to_z(TS, df), exact) < Z_ERROR
    assert largest_error(-t_to_z(np.negative(TS), df), exact) < Z_ERROR


@pytest.mark.parametrize("df", [0.1, 0.5, 1e7, 1e9])
def test_t_to_z_holds_beyond_the_promised_df(df):
    ts = [t for t in TS if t <= 1e4]
    assert largest_error(t_to_z(ts, df), [exact_z_of_t(t, df) for t in ts]) < Z_ERROR


@pytest.mark.parametrize(
    ("df", "upper_tail"),
    [
        (1, lambda t: mp.atan(1 / t) / mp.pi),
        (2, lambda t: 1 / (mp.sqrt(2 + t * t) * (mp.sqrt(2 + t * t) + t))),
        (4, lambda t: mp.mpf(1) / 2 - t * (t * t + 6) / (2 * (t * t + 4) ** mp.mpf(1.5))),
    ],
)
def test_t_to_z_agrees_with_the_closed_forms_for_few_df(df, upper_tail):
    ts = [1e-3, 0.5, 1.75, 6.0, 300.0, 1e8]
    exact = [normal_quantile(mp.log(upper_tail(mp.mpf(t)))) for t in ts]
    assert largest_error(t_to_z(ts, df), exact) < Z_ERROR


@pytest.mark.parametrize("df", [1, 3, 20, 500, 1e5])
def test_t_to_z_agrees_with_scipy_where_scipy_does_not_underflow(df):
    t = np.linspace(-36.0, 36.0, 1001)
    z = t_to_z(t, df)
    np.testing.assert_allclose(z, np.sign(t) * stats.norm.isf(stats.t.sf(abs(t), df)), atol=Z_ERROR)
    assert abs(z).max() < 37.0


def test_t_to_z_approaches_the_identity_for_many_df():
    t = np.linspace(-8.0, 8.0, 101)
    np.testing.assert_allclose(t_to_z(t, 1e14), t, rtol=1e-12)


@pytest.mark.parametrize("df", [0.1, *DFS])
def test_table_agrees_with_the_direct_form_everywhere(df):
    rng = np.random.default_rng(0)
    edges = distributions.SEGMENT_WIDTH * np.arange(1, 75)
    w = np.concatenate([np.geomspace(1e-6, 0.5, 200), rng.uniform(0.0, 37.0, 800)])
    w = np.concatenate([w, edges, np.nextafter(edges, 0.0)])
    with np.errstate(over="ignore"):
        t = np.sqrt(df * np.expm1(w * w))
    t = t[np.isfinite(t * t)]
    constant = log_beta(df / 2, 0.5)
    direct = [distributions._z_of_t_exponent(np.log1p(x * x / df), df, constant) for x in t]
    np.testing.assert_allclose(t_to_z(t, df), direct, rtol=TABLE_ERROR)


@pytest.mark.parametrize("df", DFS)
def test_every_finite_t_has_a_finite_growing_z(df):
    t = np.append(np.geomspace(1e-150, 1e308, 5000), np.finfo(np.float64).max)
    z = t_to_z(t, df)
    assert np.isfinite(z).all()
    assert (np.diff(z) > 0.0).all()


@settings(deadline=None)  # the first example may compile
@given(
    t=st.lists(T_WHOSE_SQUARE_IS_NORMAL, min_size=2, max_size=20),
    df=BETWEEN_1_AND_1E6,
)
def test_t_to_z_is_odd_monotone_and_shrinks(t, df):
    t = np.sort(t)
    z = t_to_z(t, df)
    np.testing.assert_array_equal(t_to_z(-t, df), -z)
    assert (abs(z) <= abs(t)).all()
    for (low_t, high_t), (low_z, high_z) in zip(pairwise(t), pairwise(z), strict=True):
        assert low_z <= high_z or high_t - low_t <= 1e-12 * abs(high_t)


@pytest.mark.parametrize("convert", [t_to_z, f3_to_z])
def test_special_values_need_no_warning(convert):
    z = convert([np.nan, np.inf, 3.0], 7)
    assert np.isnan(z[0])
    assert z[1] == np.inf
    assert np.isfinite(z[2])


def test_zero_and_infinite_t_keep_their_sign():
    z = t_to_z([-np.inf, -0.0, 0.0, 5e-324], 5)
    np.testing.assert_array_equal(z, [-np.inf, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(np.signbit(z), [True, True, False, False])


@pytest.mark.parametrize("dimension", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("df", [1, 3, 11, 99, 1e4, 1e6])
def test_f_to_z_is_exact_in_both_tails(dimension, df):
    exact = [exact_z_of_f(f, dimension, df) for f in FS]
    assert min(exact) < -1.0
    assert largest_error(f_to_z(FS, dimension, df), exact) < Z_ERROR


@pytest.mark.parametrize("df", [1, 8, 300, 1e6])
def test_f_of_two_dimensions_agrees_with_its_closed_form(df):
    fs = [1e-4, 0.2, 0.6, 1.0, 5.0, 1e3, 1e8]
    log_upper = [-mp.mpf(df) / 2 * mp.log1p(2 * mp.mpf(f) / mp.mpf(df)) for f in fs]
    exact = [signed_quantile(upper, mp.log(-mp.expm1(upper))) for upper in log_upper]
    assert largest_error(f_to_z(fs, 2, df), exact) < Z_ERROR


@pytest.mark.parametrize(("dimension", "df"), [(1, 5), (4, 30), (12, 400)])
def test_f_to_z_agrees_with_scipy_on_both_sides_of_the_median(dimension, df):
    f = stats.f.ppf(np.linspace(0.001, 0.999, 199), dimension, df)
    np.testing.assert_allclose(
        f_to_z(f, dimension, df), stats.norm.ppf(np.linspace(0.001, 0.999, 199)), atol=Z_ERROR
    )


@settings(deadline=None)
@given(t=st.floats(1e-3, 30.0), df=BETWEEN_1_AND_1E6)
def test_f_of_one_dimension_has_the_two_sided_p_of_t(t, df):
    two_sided = -special.ndtri(2.0 * special.ndtr(-t_to_z(t, df)))
    np.testing.assert_allclose(f_to_z(t * t, 1, df), two_sided, atol=SAME_ERROR)


@settings(deadline=None)
@given(f=st.floats(1e-6, 1e6), dimension=st.integers(1, 200), df=st.integers(1, 5000))
def test_exchanging_numerator_and_denominator_flips_f_to_z(f, dimension, df):
    flipped = f_to_z(1.0 / f, df, dimension)
    np.testing.assert_allclose(f_to_z(f, dimension, df), -flipped, rtol=SAME_ERROR, atol=SAME_ERROR)


@pytest.mark.parametrize("dimension", [1, 2, 9, 20])
@pytest.mark.parametrize("df", [1, 30, 1e6])
def test_f_to_z_grows_with_f(dimension, df):
    z = f_to_z(np.geomspace(1e-290, 1e305, 3000), dimension, df)
    assert (np.diff(z) > 0.0).all()


def test_f_of_zero_and_negative_f():
    np.testing.assert_array_equal(
        f_to_z([0.0, -0.0, -1.0, -np.inf], 3, 9), [-np.inf] * 2 + [np.nan] * 2
    )


@pytest.mark.parametrize("convert", [t_to_z, f3_to_z])
class TestArrays:
    """Shapes, types and slices, the same for t and F."""

    values = np.random.default_rng(3).gamma(2.0, size=(30, 7, 5))

    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
    def test_result_is_float64_of_the_same_shape(self, convert, dtype):
        values = self.values.astype(dtype)
        z = convert(values, 12)
        assert z.dtype == np.float64
        assert z.shape == values.shape
        np.testing.assert_array_equal(z, convert(values.astype(np.float64), 12))

    @pytest.mark.parametrize(
        "view",
        [
            lambda values: values.T,
            lambda values: values[::-2, :, 1:4],
            lambda values: np.asfortranarray(values),
            lambda values: np.broadcast_to(values[:1], (4, 7, 5)),
            read_only,
            lambda values: values[:0],
            lambda values: values[3, 2, 1],
        ],
        ids=["transposed", "strided", "fortran", "broadcast", "read-only", "empty", "scalar"],
    )
    def test_any_memory_layout(self, convert, view):
        np.testing.assert_array_equal(
            convert(view(self.values), 12), view(convert(self.values, 12))
        )

    def test_slices_in_threads_give_the_same_bits(self, convert):
        values = self.values.reshape(-1)
        z = np.empty(values.size)
        slices = [slice(start, start + 97) for start in range(0, values.size, 97)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda part: convert(values[part], 12, out=z[part]), slices))
        np.testing.assert_array_equal(z, convert(values, 12))

    def test_out_is_filled_and_returned(self, convert):
        out = np.empty(self.values.shape)
        assert convert(self.values, 12, out=out) is out
        np.testing.assert_array_equal(out, convert(self.values, 12))

    @pytest.mark.parametrize(
        "out",
        [np.empty(3), np.empty((30, 7, 5), np.float32), np.empty((30, 7, 5), order="F")],
        ids=["shape", "dtype", "layout"],
    )
    def test_unfit_out_is_refused(self, convert, out):
        with pytest.raises(
            ValueError, match=r"out must be C-contiguous float64 of shape \(30, 7, 5\)"
        ):
            convert(self.values, 12, out=out)

    @pytest.mark.parametrize("df", [0.0, -3.0, np.inf, np.nan])
    def test_unfit_df_is_refused(self, convert, df):
        with pytest.raises(ValueError, match="df must be positive and finite"):
            convert(self.values, df)


@pytest.mark.parametrize("dimension", [0, -1, np.inf])
def test_unfit_dimension_is_refused(dimension):
    with pytest.raises(ValueError, match="dimension must be positive and finite"):
        f_to_z([1.0], dimension, 10)


@pytest.mark.parametrize("a", [0.5, 1.0, 3.3, 14.9, 15.1, 50.0, 1e3, 5e5, 1e9])
@pytest.mark.parametrize("b", [0.5, 2.0, 10.0, 14.9, 16.0, 400.0])
def test_log_beta_keeps_its_digits(a, b):
    exact = mp.log(mp.beta(mp.mpf(a), mp.mpf(b)))
    assert abs(log_beta(a, b) - exact) < 1e-14 * max(1, abs(exact))
    assert log_beta(a, b) == log_beta(b, a)


@pytest.mark.parametrize(("a", "b"), [(0.0, 1.0), (1.0, -2.0), (np.inf, 1.0)])
def test_log_beta_refuses_what_is_not_positive(a, b):
    with pytest.raises(ValueError, match="must be positive and finite"):
        log_beta(a, b)
