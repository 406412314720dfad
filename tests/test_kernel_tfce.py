"""TFCE of the CUDA engine, executed by the emulator, against the CPU's: equal to the last bit."""

import numpy as np
import pytest
from scipy.ndimage import maximum_filter
from tfce_cases import MASKS, SMALL, check, lattice_and_maps, on_cpu, small_maps

from gpustats.engines import cpu_tfce
from gpustats.spaces import Lattice

CONNECTIVITIES = (6, 18, 26)
SMALLEST = np.finfo(np.float32).smallest_normal
POWER = 1e-12  # of the peak, where the device has to raise to a power; 3e-16 was seen
MIDPOINTS = 1e-9  # of the float64 sum of two million levels; the midpoint rule itself is at 1e-12

every_connectivity = pytest.mark.parametrize("connectivity", CONNECTIVITIES)


@pytest.fixture
def tfce(cuda):
    """The module under test; kernels run as g++ compiles them, unless a test says otherwise."""
    from gpustats.engines import gpu_tfce

    with cuda.executed():
        yield gpu_tfce


@every_connectivity
@pytest.mark.parametrize("name", MASKS)
def test_scores_equal_the_cpu(tfce, name, connectivity):
    check(tfce, *lattice_and_maps(name, connectivity))


@pytest.mark.parametrize("name", ["holes", "percolation 26", "checkerboard"])
@every_connectivity
def test_maps_that_overflow_are_done_again_beside_others(tfce, monkeypatch, name, connectivity):
    lattice, maps = lattice_and_maps(name, connectivity)
    monkeypatch.setattr(tfce, "CAPACITY", 5)
    began = [components_of(lattice, values) for values in maps]
    assert min(began) <= 5 < max(began)
    check(tfce, lattice, maps)


def components_of(lattice, values):
    """Local maxima, if no two values are equal: the components that a sweep begins."""
    volume = np.zeros(lattice.mask.shape, np.float32)
    volume[lattice.mask] = np.maximum(values, 0)
    reach = {6: 1, 18: 2, 26: 3}[lattice.connectivity]
    footprint = np.abs(np.indices((3, 3, 3)) - 1).sum(axis=0) <= reach
    highest = maximum_filter(volume, footprint=footprint, mode="constant")
    return int(((volume == highest) & (volume > 0)).sum())


@every_connectivity
@pytest.mark.parametrize("name", MASKS)
def test_no_map_has_more_components_than_the_bound(tfce, name, connectivity):
    lattice, _ = lattice_and_maps(name, connectivity)
    rng = np.random.default_rng(3)
    began = [components_of(lattice, rng.random(lattice.n_voxels)) for _ in range(50)]
    assert max(began) <= tfce._most_components(lattice) <= lattice.n_voxels


@pytest.mark.parametrize("n", [1, 2, 31, 32, 33, 63, 64, 65, 96, 97, 512, 513])
def test_columns_at_the_edges_of_warps(tfce, n):
    rng = np.random.default_rng(n)
    maps = np.abs(rng.standard_normal((3, n))).astype(np.float32)
    maps[1] = np.sort(maps[1])
    check(tfce, Lattice(np.ones((1, n, 1), bool), 6), maps)


@pytest.mark.parametrize("extent", [0.0, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("height", [0.0, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("step", [0.0, 0.13])
def test_exponents(tfce, extent, height, step):
    lattice, maps = lattice_and_maps("holes", 6)
    check(tfce, lattice, maps[:6], extent, height, step)


@pytest.mark.parametrize("height", [0.5, 2.0, 2.7])
def test_every_map_may_have_levels_of_its_own(tfce, height):
    lattice, maps = lattice_and_maps("box", 18)
    for one in maps[[0, 2, 3, 8, 10]]:
        check(tfce, lattice, one[None], height=height, step=float(one.max()) / 100)


@pytest.mark.parametrize("height", [0.0, 1.0, 2.0, 3.0])
def test_levels_beyond_the_table_add_up_alike(tfce, monkeypatch, height):
    lattice, maps = lattice_and_maps("holes", 6)
    monkeypatch.setattr(tfce, "LEVELS", 3)
    check(tfce, lattice, maps[:4], height=height, step=0.037)


@pytest.mark.parametrize("height", [0.0, 2.0, 2.7])
def test_more_levels_than_anybody_would_add_up(tfce, height):
    import cupy

    lattice, one = Lattice(np.ones((1, 1, 1), bool), 6), np.ones((1, 1), np.float32)
    expected = on_cpu(one, lattice, 0.5, height, 2.0**-21)
    scores = tfce.tfce_scores(cupy.asarray(one), lattice, 0.5, height, 2.0**-21).get()
    np.testing.assert_allclose(scores, expected, rtol=MIDPOINTS)


@pytest.mark.parametrize("front", ["source", "ptx"])
def test_other_exponents_agree_as_well_as_powers_do(cuda, tfce, front):
    import cupy

    lattice, maps = lattice_and_maps("holes", 6)
    expected = on_cpu(maps, lattice, 0.5, 1.3, 0.0)
    with cuda.executed(front):
        scores = tfce.tfce_scores(cupy.asarray(maps), lattice, 0.5, 1.3, 0.0).get()
    peaks = expected.max(axis=1, keepdims=True)
    assert (np.abs(scores - expected) <= POWER * peaks).all()


def test_the_smallest_values(tfce):
    maps = np.array([[SMALLEST, SMALLEST / 2, -0.0, 1e-45, 0.0, -1.0, 2 * SMALLEST]], np.float32)
    check(tfce, Lattice(np.ones((1, 1, 7), bool), 26), maps, height=3.0)


@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_only_positive_scores_are_counted(tfce, limit):
    import cupy

    lattice, maps = lattice_and_maps("box", 6)
    maps = maps[:6]
    expected = on_cpu(maps, lattice, 0.5, 2.0, 1.5)
    assert ((expected == 0) & (maps > 0)).any()
    counts = cupy.zeros(lattice.n_voxels, dtype=np.int64)
    limits = cupy.asarray(np.full(lattice.n_voxels, limit))
    tfce.tfce_counts(cupy.asarray(maps), lattice, 0.5, 2.0, 1.5, limits, counts)
    reached = ((expected > 0) & (expected >= limit)).sum(axis=0)
    np.testing.assert_array_equal(counts.get(), reached)


RANKED = {
    "normal": lambda rng: rng.standard_normal(3000),
    "heavy tail": lambda rng: rng.standard_t(1, 3000) ** 5,
    "ties": lambda rng: np.round(2 * rng.standard_normal(3000)),
    "far below a spike": lambda rng: np.append(rng.random(999), 1e30),
    "one bucket": lambda rng: 1.5 + rng.permutation(900) * 2.0**-23,
    "all magnitudes": lambda rng: 2.0 ** rng.uniform(-126, 127, 3000),
    "none": lambda rng: -rng.random(40),
}


@pytest.mark.parametrize("name", RANKED)
def test_ranks(tfce, name):
    import cupy

    values = RANKED[name](np.random.default_rng(4)).astype(np.float32)
    lattice = Lattice(np.ones((1, 1, values.size), bool), 6)
    layout = tfce._layout(lattice)
    weights, form = tfce._weights(values.size, 0.0), cpu_tfce.Height(0.0)
    ranked = tfce._rank(cupy.asarray(values[None]), layout.cells, weights, form)
    n = int(ranked.n_positive.get()[0])
    listed = layout.voxels.get()[ranked.order.get()[0, :n]]
    assert sorted(listed) == np.flatnonzero(values >= SMALLEST).tolist()
    assert (np.diff(values[listed]) <= 0).all()
    unit = np.ldexp(1.0, -int(ranked.exponents.get()[0]))
    np.testing.assert_array_equal(ranked.integrals.get()[0, :n] * unit, values[listed])


def test_a_batch_takes_the_memory_that_it_says(tfce, monkeypatch):
    import cupy

    taken = []

    def counted(allocate):
        def allocated(shape, dtype=float):
            array = allocate(shape, dtype=dtype)
            taken.append(array.nbytes)
            return array

        return allocated

    lattice = Lattice(np.ones((9, 8, 7), bool), 6)
    maps = cupy.asarray(np.random.default_rng(1).random((64, 504)).astype(np.float32))
    monkeypatch.setattr(tfce, "CAPACITY", 100)
    for name in ("empty", "zeros"):
        monkeypatch.setattr(cupy, name, counted(getattr(cupy, name)), raising=False)
    for full in (False, True):
        taken.clear()
        tfce._sweep(maps, lattice, 0.5, cpu_tfce.Height(2.0), full=full)
        assert sum(taken) == pytest.approx(
            64 * tfce.scratch_bytes_per_map(lattice, full=full), abs=16
        )


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("capacity", [4096, 3], ids=["first", "again"])
def test_no_schedule_changes_a_bit(cuda, tfce, monkeypatch, seed, capacity):
    monkeypatch.setattr(tfce, "CAPACITY", capacity)
    name = list(SMALL)[seed % len(SMALL)]
    mask, maps = small_maps(name, seed)
    with cuda.executed(seed=seed):
        check(tfce, Lattice(mask, (6, 26)[seed % 2]), maps)


@pytest.mark.parametrize("front", ["source", "ptx"])
@pytest.mark.parametrize("name", ["white", "spiral"])
def test_no_race_and_nothing_out_of_bounds(cuda, tfce, monkeypatch, front, name):
    mask, maps = small_maps(name, seed=1, n_maps=2)
    with cuda.executed(front, mode="check", seed=5):
        for capacity in (4096, 3):
            monkeypatch.setattr(tfce, "CAPACITY", capacity)
            check(tfce, Lattice(mask, 6), maps)


def test_the_host_waits_for_no_batch(emulated, tfce):
    lattice, maps = lattice_and_maps("box", 6)
    form = lattice, 0.5, 2.0, 0.0
    maps, limits = cupy_of(maps), cupy_of(np.ones(lattice.n_voxels))
    counts = cupy_of(np.zeros(lattice.n_voxels, np.int64))
    tfce.tfce_counts(maps, *form, limits, counts)
    before = list(emulated.synchronizations)
    tfce.tfce_counts(maps, *form, limits, counts)
    tfce.tfce_peaks(maps, *form)
    assert emulated.synchronizations == before


def cupy_of(array):
    import cupy

    return cupy.asarray(array)


@every_connectivity
def test_what_the_compiler_made_gives_the_same_bits(cuda, tfce, monkeypatch, connectivity):
    lattice, maps = lattice_and_maps("holes", connectivity)
    with cuda.executed("ptx"):
        for capacity in (4096, 5):
            monkeypatch.setattr(tfce, "CAPACITY", capacity)
            check(tfce, lattice, maps)
            check(tfce, lattice, maps[:4], height=3.0, step=0.11)
