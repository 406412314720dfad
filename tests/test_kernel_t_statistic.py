"""The kernels of observed maps and of permutation products against their twins on the CPU."""

import numpy as np
import pytest
from forms import FORMS
from planted import Bug, caught

from gpustats.engines import SHUFFLE_TILE, Exceedances, cpu, cpu_sweep

SIZES = [1, 3, 4, 127, 129, 514]

pytestmark = pytest.mark.usefixtures("cuda")


@pytest.fixture
def glm():
    from gpustats.engines import gpu_glm

    return gpu_glm


@pytest.fixture
def products_on_device():
    from gpustats.engines import gpu_sweep

    return gpu_sweep


def stack(rng, n_voxels, n, mean=0.0):
    return np.asfortranarray(rng.normal(mean, 1, (n_voxels, n)), dtype=np.float32)


def basis_of(rng, n, rank):
    return np.linalg.qr(rng.normal(size=(n, rank)))[0]


# ---- observed maps


def check_fit(glm, values, basis, rtol=1e-12):
    """Compare a fit, a contrast and the residuals of unit length with the CPU's."""
    found, expected = glm.regress(values, basis), cpu.regress(values, basis)
    size = np.linalg.norm(values, axis=1)
    assert (abs(found.coordinates.get() - expected.coordinates) <= rtol * size).all()
    np.testing.assert_allclose(found.residual_ss.get(), expected.residual_ss, rtol=rtol)
    estimator, df = np.arange(1.0, basis.shape[1] + 1), float(max(len(basis) - basis.shape[1], 1))
    effect, variance, t = glm.contrast(found, estimator, df)
    coordinates, residual_ss = (array.get() for array in found)
    np.testing.assert_allclose(effect, estimator @ coordinates, rtol=1e-12, atol=1e-12 * size.max())
    np.testing.assert_allclose(variance, estimator @ estimator * residual_ss / df, rtol=1e-15)
    assert np.array_equal(t, effect / np.sqrt(variance))
    check_units(glm, values, basis)


def check_units(glm, values, removed):
    found = glm.unit_tiles(values, removed)
    n_voxels, n = values.shape
    expected = cpu.unit_tiles(values, removed).tiles.transpose(1, 0, 2).reshape(n, -1)
    tiles = found.tiles.get().transpose(1, 0, 2).reshape(n, -1)
    assert found.n_voxels == n_voxels
    np.testing.assert_allclose(tiles[:, :n_voxels], expected[:, :n_voxels], rtol=1e-6, atol=1e-7)
    assert not tiles[:, n_voxels:].any()


@pytest.mark.parametrize("n_voxels", SIZES)
@pytest.mark.parametrize(("n", "rank"), [(2, 1), (5, 2), (64, 3), (65, 8), (19, 11)])
def test_a_fit_is_that_of_the_cpu(glm, rng, n_voxels, n, rank):
    check_fit(glm, stack(rng, n_voxels, n), basis_of(rng, n, rank))


def test_a_mean_far_from_zero_costs_no_digits(glm, rng):
    values = stack(rng, 200, 30, mean=1e4)
    basis = np.hstack([np.full((30, 1), 30**-0.5), np.linalg.qr(rng.normal(size=(30, 2)))[0]])
    check_fit(glm, values, np.linalg.qr(basis)[0], rtol=1e-11)


def test_one_subject_and_nothing_removed(glm, rng):
    values = stack(rng, 130, 1)
    regression = glm.regress(values, np.ones((1, 1)))
    assert np.array_equal(regression.coordinates.get(), values.T)
    assert not regression.residual_ss.get().any()
    check_units(glm, values, np.empty((1, 0)))


def test_sums_of_small_integers_are_exact(glm, rng):
    # orthonormal columns of ±1/4, values that float64 adds without rounding
    signs = np.array([[1.0]])
    for _ in range(4):
        signs = np.block([[signs, signs], [signs, -signs]])
    values = np.asfortranarray(rng.integers(-50, 51, (700, 16)), dtype=np.float32)
    found = glm.regress(values, signs[:, :5] / 4)
    coordinates = signs[:, :5].T @ values.T / 4
    assert np.array_equal(found.coordinates.get(), coordinates)
    residuals = values.T - signs[:, :5] @ coordinates / 4
    assert np.array_equal(found.residual_ss.get(), (residuals**2).sum(axis=0))


# ---- products


def random_products(rng, form, n_voxels, n_shuffles=6):
    """Products as of unit vectors, with zeros of both signs, ties and sums of squares above 1."""
    n_rows = form.n_tested + form.n_nuisance
    products = rng.uniform(-0.7, 0.7, (n_shuffles, n_rows, 16384)).astype(np.float32)
    products[:, :, n_voxels:] = 7  # of no use, and larger than all
    products[::2, :, : n_voxels // 8] = 0
    products[1::2, :, : n_voxels // 8] = -0.0
    products[:, :, n_voxels // 2 : n_voxels // 2 + 3] = 1
    products[0] = -abs(products[0])
    return products


def check_products(module, products, form, n_voxels, *, two_sided=True, n_wanted=4, first=-1):
    """Compare values, peaks, counts and maps of given products with the CPU's, bit for bit."""
    import cupy

    observed = np.empty(n_voxels, np.float32)
    cpu_sweep._write_values(products[0], form, observed)
    values = cupy.empty(n_voxels, np.float32)
    compiled = module.kernels()
    module._write_values(compiled, cupy.asarray(products), form, 0, values)
    assert values.get().tobytes() == observed.tobytes()

    limits = cpu_sweep.exceedances(observed, form, two_sided=two_sided)
    limits.counts[:] = np.arange(n_voxels)
    ours = Exceedances(cupy.asarray(limits.limits), two_sided, cupy.asarray(limits.counts))
    peaks = np.full((2, n_wanted), np.iinfo(np.int32).min, dtype=np.int32)
    maps = np.full((n_wanted, n_voxels), 5, np.float32)
    our_peaks, our_maps = cupy.asarray(peaks), cupy.asarray(maps)
    cpu_sweep._reduce(products, form, first, (0, n_voxels), limits, peaks, maps)
    on_device = cupy.asarray(products)
    module._reduce(compiled, on_device, form, first, (0, n_voxels), ours, our_peaks, our_maps)
    assert np.array_equal(our_peaks.get(), peaks)
    assert np.array_equal(ours.counts.get(), limits.counts)
    assert our_maps.get().tobytes() == maps.tobytes()


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("n_voxels", SIZES)
@pytest.mark.parametrize("form", FORMS)
def test_given_the_products_all_bits_are_those_of_the_cpu(
    products_on_device, rng, form, n_voxels, two_sided
):
    products = random_products(rng, form, n_voxels)
    check_products(products_on_device, products, form, n_voxels, two_sided=two_sided)


@pytest.mark.parametrize("form", FORMS)
def test_whole_products_and_parts_of_them(products_on_device, rng, form):
    n_shuffles = SHUFFLE_TILE if form == FORMS[0] else 40
    products = random_products(rng, form, 300, n_shuffles)
    for first, n_wanted in [(0, n_shuffles), (-17, n_shuffles - 17), (-3, 1), (2, n_shuffles)]:
        check_products(products_on_device, products, form, 300, first=first, n_wanted=n_wanted)


@pytest.mark.parametrize("value", [0.0, -0.0, 0.25, -1.0, 1.0])
@pytest.mark.parametrize("form", FORMS)
def test_equal_values_everywhere(products_on_device, form, value):
    products = np.full((6, form.n_tested + form.n_nuisance, 16384), value, np.float32)
    check_products(products_on_device, products, form, 131)


@pytest.mark.parametrize("place", [0, 3, 31, 127, 128, 511, 513])
def test_a_spike_is_found_wherever_it_is(products_on_device, place):
    products = np.full((18, 1, 16384), 1e-3, np.float32)
    products[::2, 0, place], products[1::2, 0, place] = 0.5, -0.5
    check_products(products_on_device, products, FORMS[0], 514, n_wanted=18, first=0)


# ---- schedules, checks and both ways to compile


def check_small(glm, products_on_device):
    """Run every kernel on little data of awkward shapes."""
    rng = np.random.default_rng(7)
    check_fit(glm, stack(rng, 133, 9), basis_of(rng, 9, 3))
    check_products(products_on_device, random_products(rng, FORMS[3], 133, 20), FORMS[3], 133)
    form = FORMS[0]
    check_products(products_on_device, random_products(rng, form, 390, 20), form, 390, n_wanted=20)


def test_twenty_random_schedules(cuda, glm, products_on_device):
    for seed in range(20):
        with cuda.executed(seed=seed):
            check_small(glm, products_on_device)


@pytest.mark.parametrize("front", ["source", "ptx"])
@pytest.mark.parametrize("seed", [None, 1])
def test_no_race_and_nothing_out_of_bounds(cuda, glm, products_on_device, front, seed):
    with cuda.executed(front=front, mode="check", seed=seed):
        check_small(glm, products_on_device)


def test_what_the_cuda_compiler_makes_of_it(cuda, glm, products_on_device, rng):
    with cuda.executed(front="ptx"):
        check_small(glm, products_on_device)
        for form in FORMS:
            check_products(products_on_device, random_products(rng, form, 514), form, 514)


BUGS = [
    Bug(
        "t_statistic",
        "    __syncthreads();\n    double sum = 0;",
        "    double sum = 0;",
        "sums are read before other warps wrote theirs",
    ),
    Bug(
        "t_statistic",
        "    __syncthreads(); // the next call writes again\n",
        "",
        "the sums of the next column overwrite those that are read",
    ),
    Bug(
        "t_statistic",
        "voxel < n_voxels && first + k < rank",
        "voxel < n_voxels",
        "columns that fill up the basis are written",
    ),
    Bug(
        "t_statistic",
        "(long long)(subject + j) * fitted.n_columns + k",
        "(long long)subject * fitted.n_columns + k",
        "four subjects have the weight of the first",
    ),
    Bug(
        "t_statistic",
        "if (quad >= n_quads)\n        return;",
        "",
        "lanes beyond the block read and write",
    ),
    Bug(
        "t_statistic",
        "atomicMax(upper + shuffle, peaks[0][shuffle])",
        "upper[shuffle] = max(upper[shuffle], peaks[0][shuffle])",
        "blocks lose each other's maxima",
    ),
    Bug(
        "t_statistic",
        "        reached_of[warp][4 * lane + i] = reached[i];\n    __syncthreads();",
        "        reached_of[warp][4 * lane + i] = reached[i];",
        "maxima and counts are read before other warps wrote theirs",
    ),
    Bug(
        "t_statistic",
        "if (tails && threadIdx.x < SPAN && owned < n_voxels)",
        "if (tails && threadIdx.x < SPAN)",
        "voxels beyond the last are counted",
    ),
    Bug("t_statistic", "distance > 0", "distance > 1", "odd lanes are left out of the maximum"),
    Bug("t_statistic", "~ordered(value[i])", "-ordered(value[i])", "one bit off"),
    Bug(
        "t_statistic",
        "fmaxf(1.0f - explained, SMALLEST_RESIDUAL)",
        "(1.0f - explained)",
        "a negative residual where all is explained",
    ),
]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.why)
def test_a_planted_bug_is_caught(cuda, glm, products_on_device, monkeypatch, bug):
    def check():
        with cuda.executed(mode="check", seed=3):
            check_small(glm, products_on_device)

    assert caught(bug, check, monkeypatch)
