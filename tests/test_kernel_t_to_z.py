"""t and F to z on the GPU against the CPU engine, 40-digit arithmetic and planted bugs."""

from itertools import product

import numpy as np
import pytest
from planted import Bug, caught
from test_distributions import FS, TS, exact_z_of_f, exact_z_of_t, largest_error

from gpustats import distributions

Z_ERROR = 1e-9  # what the package promises for every z
SAME_ERROR = 1e-12  # relative above 1: erfc and log of two libraries differ in the last bits
FRONTS = ["source", "ptx"]
SIZES = [1, 31, 33, 127, 128, 129, 400]

front = pytest.mark.parametrize("front", FRONTS)


@pytest.fixture
def gpu(cuda):
    """The module under test, on the emulator."""
    del cuda  # it comes first: the module imports cupy
    from gpustats.engines import gpu_distributions

    return gpu_distributions


def many_t(df):
    """Every segment of the table and its edges, both signs, and what is special."""
    edges = distributions.SEGMENT_WIDTH * np.arange(1, 75)
    w = np.concatenate([np.geomspace(1e-6, 37.0, 150), edges, np.nextafter(edges, 0.0)])
    with np.errstate(over="ignore"):
        t = np.sqrt(df * np.expm1(w * w))
    special = [0.0, 5e-324, 1e-160, 1e160, np.finfo(np.float64).max, np.inf, np.nan]
    t = np.concatenate([t, TS, special])
    return np.concatenate([t, -t])


def many_f():
    """Both tails, and what is special."""
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, -1.0, 1e305]
    return np.concatenate(
        [np.geomspace(1e-290, 1e300, 80), np.linspace(0.01, 9.0, 80), FS, special]
    )


def assert_same(z, expected, error=SAME_ERROR):
    """Compare as the package promises: absolutely up to 1, relatively beyond."""
    assert z.dtype == np.float64
    np.testing.assert_array_equal(np.signbit(z), np.signbit(expected))
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(z[~finite], expected[~finite])
    difference = np.abs(z[finite] - expected[finite])
    assert np.max(difference / np.maximum(1.0, np.abs(expected[finite])), initial=0.0) <= error


def check_t(gpu, df=7.0):
    assert_same(gpu.t_to_z(many_t(df), df), distributions.t_to_z(many_t(df), df))


def check_f(gpu, dimension=3, df=20.0):
    expected = distributions.f_to_z(many_f(), dimension, df)
    assert_same(gpu.f_to_z(many_f(), dimension, df), expected)


@front
@pytest.mark.parametrize("df", [1, 2, 4.5, 30, 1e3, 1e6])
def test_t_to_z_is_that_of_the_cpu(cuda, gpu, front, df):
    with cuda.executed(front=front):
        check_t(gpu, df)


@front
@pytest.mark.parametrize("dimension", [1, 2, 7])
@pytest.mark.parametrize("df", [1, 11, 1e4])
def test_f_to_z_is_that_of_the_cpu(cuda, gpu, front, dimension, df):
    with cuda.executed(front=front):
        check_f(gpu, dimension, df)


@front
@pytest.mark.parametrize("df", [1, 11, 1e6])
def test_z_is_exact_in_both_tails(cuda, gpu, front, df):
    with cuda.executed(front=front):
        z = gpu.t_to_z(np.array(TS), df)
        assert largest_error(z, [exact_z_of_t(t, df) for t in TS]) < Z_ERROR
        assert largest_error(-gpu.t_to_z(-np.array(TS), df), z.tolist()) == 0
        z = gpu.f_to_z(np.array(FS), 3, df)
        assert largest_error(z, [exact_z_of_f(f, 3, df) for f in FS]) < Z_ERROR


@pytest.mark.parametrize("shape", [*[(size,) for size in SIZES], (3, 5, 9), ()], ids=str)
def test_any_shape(gpu, rng, shape):
    t = np.asarray(rng.standard_t(5, size=shape))
    for values in (t, np.asarray(t, order="F"), t[..., np.newaxis][..., 0], t.astype(np.float32)):
        z = gpu.t_to_z(values, 9.0)
        assert z.shape == values.shape
        assert_same(z, distributions.t_to_z(values, 9.0))
        assert_same(gpu.f_to_z(values**2, 2, 9.0), distributions.f_to_z(values**2, 2, 9.0))


@front
@pytest.mark.parametrize("shape", [(1, 1), (1, 129), (3, 43), (5, 128)])
def test_maps_are_turned_in_place(cuda, gpu, rng, front, shape):
    import cupy

    f = rng.gamma(1.0, 3.0, size=shape).astype(np.float32)
    f[0, 1:9] = [np.nan, 0.0, -0.0, np.inf, -2.0, 1e-37, 1e30, 3.4e38][: f.shape[1] - 1]
    expected = distributions.f_to_z(f, 4, 17.0).astype(np.float32)
    with cuda.executed(front=front):
        maps = cupy.asarray(f)
        assert gpu.f_maps_to_z(maps, 4, 17.0) is None
    # a last bit of float64 may move what lies halfway between two float32
    np.testing.assert_allclose(maps.get(), expected, rtol=np.finfo(np.float32).eps, atol=1e-12)


def test_the_smallest_f_has_a_z(cuda, gpu):
    # emulated from the source, float64 denormals are flushed as those of float32 are; no GPU does
    smallest = np.array([5e-324, 1e-310])
    with cuda.executed(front="ptx"):
        assert_same(gpu.f_to_z(smallest, 3, 20.0), distributions.f_to_z(smallest, 3, 20.0))


def test_maps_do_not_wait_for_the_device(gpu, monkeypatch):
    import cupy

    maps = cupy.ones((2, 5), dtype=np.float32)
    monkeypatch.setattr(cupy.ndarray, "get", lambda _: pytest.fail("waited"))
    gpu.f_maps_to_z(maps, 2, 9.0)


def check_all(gpu):
    """One small call of each kernel, with what a bug would get wrong."""
    import cupy

    check_t(gpu)
    check_f(gpu)
    maps = cupy.asarray(np.linspace(0.1, 9.0, 129, dtype=np.float32))
    gpu.f_maps_to_z(maps, 3, 20.0)
    expected = distributions.f_to_z(np.linspace(0.1, 9.0, 129, dtype=np.float32), 3, 20.0)
    np.testing.assert_allclose(maps.get(), expected, rtol=2e-7, atol=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_any_schedule_gives_the_same(cuda, gpu, seed):
    with cuda.executed(seed=seed):
        check_all(gpu)


@front
def test_nothing_is_read_or_written_out_of_bounds(cuda, gpu, front):
    with cuda.executed(front=front, mode="check", seed=1):
        check_all(gpu)


BUGS = [
    Bug("t_to_z", "log(u) + log(v) - log(df)", "log(u) - log(df)", "t whose square overflows"),
    Bug("t_to_z", "copysign(w * ratio, value)", "w * ratio", "sign of t"),
    Bug("t_to_z", "!(f >= 0.0)", "f < 0.0", "NaN becomes a number"),
    Bug("t_to_z", "return upper ? z : -z", "return z", "lower tail"),
    Bug("t_to_z", "if (z < ASYMPTOTIC_Z)", "if (z < 1e9)", "erfc underflows"),
    Bug("t_to_z", "FRACTION_TOLERANCE = 1e-15", "FRACTION_TOLERANCE = 1e-8", "digits"),
    Bug("t_to_z", "beta_fraction(b, a, y, x)", "beta_fraction(b, a, x, y)", "wrong area"),
]
MISBEHAVING = [
    Bug("t_to_z", "if (i >= n) return;\n    const", "const", "no guard"),
    Bug("t_to_z", "if (i >= n) return;\n    maps", "if (i > n) return;\n    maps", "one too many"),
    Bug("t_to_z", "if (!isfinite(value))", "if (isnan(value))", "segment of infinity"),
]


@pytest.mark.parametrize(
    ("bug", "mode"), [*product(BUGS, ["fast"]), *product(MISBEHAVING, ["check"])]
)
def test_planted_bugs_are_caught(cuda, gpu, bug, mode, monkeypatch):
    def check():
        with cuda.executed(mode=mode):
            check_all(gpu)

    check()
    assert caught(bug, check, monkeypatch), bug.why
