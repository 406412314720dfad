"""Sweeps of the CUDA engine against the CPU's, in any batches and wherever the data are."""

from itertools import pairwise

import numpy as np
import pytest
from forms import FORMS

from gpustats.engines import SHUFFLE_TILE, Exceedances, Form, cpu, cpu_sweep

N = 18

pytestmark = pytest.mark.usefixtures("cuda")


@pytest.fixture
def gpu(monkeypatch):
    """The modules of the engine with tiles of 256 voxels, so that few voxels make several."""
    from gpustats.engines import gpu_glm, gpu_memory, gpu_sweep

    for module in (gpu_glm, gpu_sweep):
        monkeypatch.setattr(module, "VOXEL_TILE", 256)
    monkeypatch.setattr(gpu_memory, "STAGING_BYTES", 4 * N * 128)
    return gpu_sweep


def stack(rng, n_voxels):
    return np.asfortranarray(rng.normal(0.5, 1, (n_voxels, N)), dtype=np.float32)


def rows_and_removed(rng, form, n=N):
    """Shuffles of one orthonormal set of rows, and the space to take out of the data."""
    n_rows = form.n_tested + form.n_nuisance
    directions = np.linalg.qr(rng.normal(size=(n, n_rows)))[0]
    orders = np.stack([np.arange(n), *(rng.permutation(n) for _ in range(SHUFFLE_TILE - 1))])
    rows = directions.T[:, orders].transpose(1, 0, 2)
    return np.ascontiguousarray(rows, dtype=np.float32), directions[:, form.n_tested :]


def units_of(values, removed):
    from gpustats.engines import gpu_glm

    return gpu_glm.unit_tiles(values, removed)


def swept(gpu, rows, units, form, observed, shuffles=range(SHUFFLE_TILE), two_sided=True):
    """Maps, counts, upper and lower peaks of some shuffles, on the host."""
    import cupy

    maps = cupy.empty((len(shuffles), units.n_voxels), np.float32)
    exceeding = gpu.exceedances(observed, form, two_sided=two_sided)
    peaks = gpu.sweep(
        cupy.asarray(rows), units, form, shuffles=shuffles, exceeding=exceeding, maps=maps
    )
    return [array.get() for array in (maps, exceeding.counts, *peaks)]


def observed_of(gpu, rows, units, form):
    import cupy

    return gpu.values_of(cupy.asarray(rows[0]), units, form)


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_a_sweep_is_that_of_the_cpu(gpu, rng, form, two_sided):
    values, (rows, removed) = stack(rng, 601), rows_and_removed(rng, form)
    units, cpu_units = units_of(values, removed), cpu.unit_tiles(values, removed)
    observed = observed_of(gpu, rows, units, form)
    expected_values = cpu_sweep.values_of(rows[0], cpu_units, form)
    np.testing.assert_allclose(observed, expected_values, rtol=1e-5, atol=1e-6)

    maps = np.empty((SHUFFLE_TILE, 601), np.float32)
    exceeding = cpu_sweep.exceedances(observed, form, two_sided=two_sided)
    peaks = cpu_sweep.sweep(rows, cpu_units, form, exceeding=exceeding, maps=maps)
    found = swept(gpu, rows, units, form, observed, two_sided=two_sided)
    np.testing.assert_allclose(found[0], maps, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[2], peaks.upper, rtol=1e-5)
    if not form.is_f:
        np.testing.assert_allclose(found[3], peaks.lower, rtol=1e-5)
    # one value may lie so close to its limit that rounding decides
    assert abs(found[1] - exceeding.counts).sum() <= 1


@pytest.mark.parametrize("form", FORMS)
def test_peaks_and_observed_values_are_those_of_the_maps(gpu, rng, form):
    values, (rows, removed) = stack(rng, 300), rows_and_removed(rng, form)
    units = units_of(values, removed)
    observed = observed_of(gpu, rows, units, form)
    maps, _, upper, lower = swept(gpu, rows, units, form, observed)
    assert np.array_equal(gpu.statistic_of(observed, form), maps[0])
    assert np.array_equal(gpu.statistic_of(upper, form), maps.max(axis=1))
    if not form.is_f:
        assert np.array_equal(gpu.statistic_of(lower, form), -maps.min(axis=1))


@pytest.mark.parametrize("form", [FORMS[0], FORMS[3]])
@pytest.mark.parametrize("cuts", [[0, 96, 192], [0, 1, 37, 38, 100, 192]])
def test_a_shuffle_has_the_same_bits_in_any_batch(gpu, rng, monkeypatch, form, cuts):
    monkeypatch.setattr(gpu, "PRODUCT_ROWS", 192)  # so that a tile takes several products
    values, (rows, removed) = stack(rng, 300), rows_and_removed(rng, form)
    units = units_of(values, removed)
    observed = observed_of(gpu, rows, units, form)
    whole = swept(gpu, rows, units, form, observed)
    parts = [range(*cut) for cut in pairwise(cuts)]
    found = [swept(gpu, only(rows, part), units, form, observed, part) for part in parts]
    maps, counts, upper, lower = zip(*found, strict=True)
    assert np.array_equal(np.concatenate(maps), whole[0])
    assert np.array_equal(sum(counts), whole[1])
    assert np.array_equal(np.concatenate(upper), whole[2])
    assert np.array_equal(np.concatenate(lower), whole[3])


def only(rows, part):
    """Zero the rows of all other shuffles."""
    kept = np.zeros_like(rows)
    kept[part.start : part.stop] = rows[part.start : part.stop]
    return kept


@pytest.mark.parametrize("n_voxels", [1, 255, 256, 257, 600])
def test_units_that_stay_on_the_host_give_the_same_bits(gpu, rng, monkeypatch, n_voxels):
    import cupy

    from gpustats.engines import gpu_memory

    form = FORMS[2]
    values, (rows, removed) = stack(rng, n_voxels), rows_and_removed(rng, form)
    units = units_of(values, removed)
    monkeypatch.setattr(gpu_memory, "free_bytes", lambda: 1000)
    streamed = units_of(values, removed)
    assert isinstance(streamed.tiles, np.ndarray)
    assert not isinstance(streamed.tiles, cupy.ndarray)
    assert np.array_equal(streamed.tiles, units.tiles.get())
    observed = observed_of(gpu, rows, units, form)
    assert np.array_equal(observed, observed_of(gpu, rows, streamed, form))
    whole = swept(gpu, rows, units, form, observed)
    for found, expected in zip(swept(gpu, rows, streamed, form, observed), whole, strict=True):
        assert np.array_equal(found, expected)


@pytest.mark.usefixtures("cuda", "gpu")
def test_memory_in_pieces_sends_units_to_the_host(rng, monkeypatch):
    import cupy

    def refused(*_, **__):
        raise MemoryError

    values, (_, removed) = stack(rng, 300), rows_and_removed(rng, FORMS[2])
    expected = units_of(values, removed).tiles.get()
    monkeypatch.setattr(cupy, "zeros", refused, raising=False)
    assert np.array_equal(units_of(values, removed).tiles, expected)


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize(("n_tested", "is_f"), [(1, False), (1, True), (2, True)])
def test_counts_of_exact_products(gpu, rng, n_tested, is_f, two_sided):
    # sums of few small multiples of 1/32 are exact in any order, so that ties abound
    import cupy

    from gpustats.engines import Units

    maps = rng.integers(-2, 3, (300, 6)).astype(np.float32) / 8
    rows = rng.integers(-2, 3, (SHUFFLE_TILE, n_tested, 6)).astype(np.float32) / 4
    tiles = np.zeros((2 * 256, 6), np.float32)
    tiles[:300] = maps
    tiles = np.ascontiguousarray(tiles.reshape(2, 256, 6).transpose(0, 2, 1))
    form, units = Form(n_tested, 0, 5, is_f), Units(cupy.asarray(tiles), 300)
    exact = np.einsum("pkn,vn->kpv", rows, maps)
    values = (exact**2).sum(axis=0) if is_f else exact[0]
    observed = observed_of(gpu, rows, units, form)
    assert np.array_equal(observed, values[0])
    _, counts, upper, lower = swept(
        gpu, rows, units, form, observed, range(5, 150), two_sided=two_sided
    )
    compared = np.abs(values) if two_sided else values
    assert np.array_equal(counts, (compared >= compared[0])[5:150].sum(axis=0))
    assert np.array_equal(upper, values[5:150].max(axis=1))
    assert np.array_equal(lower, -values[5:150].min(axis=1))


def test_peaks_alone_are_those_of_a_full_sweep(gpu, rng):
    import cupy

    values, (rows, removed) = stack(rng, 300), rows_and_removed(rng, FORMS[0])
    units = units_of(values, removed)
    upper, lower = gpu.sweep(cupy.asarray(rows), units, FORMS[0])
    whole = swept(gpu, rows, units, FORMS[0], observed_of(gpu, rows, units, FORMS[0]))
    assert np.array_equal(upper.get(), whole[2])
    assert np.array_equal(lower.get(), whole[3])


def test_limits_are_those_of_the_cpu(gpu, rng):
    observed = rng.normal(0, 3, 200).astype(np.float32)
    for form in FORMS:
        for two_sided in (False, True):
            found = gpu.exceedances(observed, form, two_sided=two_sided)
            expected = cpu_sweep.exceedances(observed, form, two_sided=two_sided)
            assert isinstance(found, Exceedances)
            assert found.two_sided is two_sided
            assert np.array_equal(found.limits.get(), expected.limits)
            assert not found.counts.get().any()


def test_how_shuffles_share_products(gpu):
    for n_rows in (1, 2, 3, 5, 8):
        assert gpu._shuffles_per_product(n_rows) == SHUFFLE_TILE
    assert [gpu._shuffles_per_product(k) for k in (9, 30, 800, 5000)] == [96, 48, 1, 1]


@pytest.mark.parametrize("resident", [True, False])
def test_a_sweep_never_waits_and_every_product_has_one_shape_and_full_precision(
    gpu, rng, monkeypatch, resident
):
    import cupy

    from gpustats.engines import gpu_memory

    form, shapes, modes = FORMS[3], set(), set()
    values, (rows, removed) = stack(rng, 600), rows_and_removed(rng, form)
    if not resident:
        monkeypatch.setattr(gpu_memory, "free_bytes", lambda: 1000)
    monkeypatch.setattr(gpu, "PRODUCT_ROWS", 96 * 5)
    units, rows = units_of(values, removed), cupy.asarray(rows)
    library, handle = cupy.cuda.cublas, cupy.cuda.device.get_cublas_handle()
    multiply = gpu.cublas.gemm

    def observed_gemm(transa, transb, a, b, out):
        assert all(array.flags.c_contiguous for array in (a, b, out))
        shapes.add((transa, transb, a.shape, b.shape, out.shape))
        modes.add(library.getMathMode(handle))
        return multiply(transa, transb, a, b, out=out)

    def waited(*_, **__):
        raise AssertionError("the host waits for the device")

    tf32 = 3
    library.setMathMode(handle, tf32)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(gpu.cublas, "gemm", observed_gemm)
            patched.setattr(cupy.ndarray, "get", waited)
            patched.setattr(cupy.cuda.Stream, "synchronize", waited)
            patched.setattr(cupy.cuda.Event, "synchronize", waited)
            gpu.sweep(rows, units, form, shuffles=range(100))
        assert library.getMathMode(handle) == tf32
    finally:
        library.setMathMode(handle, 0)
    assert modes == {2}  # CUBLAS_PEDANTIC_MATH
    assert shapes == {("N", "N", (96 * 5, N), (N, 256), (96 * 5, 256))}


def test_the_math_mode_comes_back_after_an_error(gpu):
    import cupy

    library, handle = cupy.cuda.cublas, cupy.cuda.device.get_cublas_handle()
    before = library.getMathMode(handle)
    with pytest.raises(ZeroDivisionError), gpu.float32_products():
        1 / 0  # noqa: B018
    assert library.getMathMode(handle) == before


@pytest.mark.usefixtures("cuda", "gpu")
def test_a_stack_in_many_blocks_is_fitted_as_in_one(rng, monkeypatch):
    from gpustats.engines import gpu_glm, gpu_memory

    values, basis = stack(rng, 601), np.linalg.qr(rng.normal(size=(N, 3)))[0]
    blocks = [block for block, _ in gpu_memory.voxel_blocks(values)]
    assert [len(block) for block in blocks] == [128, 128, 128, 128, 89]
    in_blocks = gpu_glm.regress(values, basis)
    monkeypatch.setattr(gpu_memory, "STAGING_BYTES", 2**26)
    at_once = gpu_glm.regress(values, basis)
    for found, expected in zip(in_blocks, at_once, strict=True):
        assert np.array_equal(found.get(), expected.get())
