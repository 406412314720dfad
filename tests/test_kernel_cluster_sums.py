import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from mazes import narrow, volumes
from planted import Bug, caught

from gpustats.engines import cpu_clusters
from gpustats.spaces import CONNECTIVITIES, Lattice

EDGES = (1, 2, 31, 32, 33, 511, 513, 8191, 8192, 8193)
"""Lengths about those of warps, blocks and tiles."""
THRESHOLD = np.float32(2.3)
front = pytest.mark.parametrize("front", ["source", "ptx"])


@pytest.fixture
def gpu(cuda):
    """The module under test, on the emulator."""
    del cuda  # it comes first: the module imports cupy
    from gpustats.engines import gpu_clusters

    return gpu_clusters


@pytest.fixture
def small(gpu, monkeypatch):
    """Two blocks of two warps, and shared memory for 40 voxels."""
    monkeypatch.setattr(gpu, "THREADS", 64)
    monkeypatch.setattr(gpu, "_residence", lambda _: (2, 40 * gpu.VOXEL_BYTES))


def expected(values, threshold, lattice, above):
    """Extents and masses of every voxel's cluster and the largest, by the CPU."""
    mass = "above" if above else "full"
    scratch = cpu_clusters.scratch_for(lattice)
    return (
        cpu_clusters.cluster_maps(values, float(threshold), lattice, scratch, mass),
        cpu_clusters.cluster_peaks(values, float(threshold), lattice, scratch, mass),
    )


def check(gpu, maps, lattice, threshold=THRESHOLD, scores=True):
    """Compare the sums of a batch with the CPU's, both kinds of mass."""
    import cupy

    arguments = cupy.asarray(maps), np.float32(threshold), lattice
    for above in (False, True):
        on_cpu = [expected(values, threshold, lattice, above) for values in maps]
        peaks = gpu.cluster_peaks(*arguments, above=above)
        assert np.array_equal(np.stack([p.get() for p in peaks]).T, [peaks for _, peaks in on_cpu])
        if scores:
            found = gpu.cluster_scores(*arguments, above=above)
            assert all(array.dtype == np.int64 for array in (*peaks, *found))
            scores_on_cpu = np.stack([its_maps for its_maps, _ in on_cpu], axis=1)
            assert np.array_equal(np.stack([s.get() for s in found]), scores_on_cpu)


def values_in(rng, volume):
    """Values that reach the threshold in a volume, some just so, and lower ones elsewhere."""
    heights = rng.choice([0.0, 1e-6, 0.1, 1.7, 40.0], volume.size) + np.float64(THRESHOLD)
    lows = rng.choice([-50.0, 0.0, np.nextafter(THRESHOLD, np.float32(0))], volume.size)
    values = np.where(volume.ravel(), heights, lows).astype(np.float32)
    assert np.array_equal(values >= THRESHOLD, volume.ravel())
    return values


def batch_of(rng, volume):
    """A sparse map, that of a volume, a full one, one with nothing, and the volume's again."""
    sparse = rng.random(volume.shape) < 0.05
    shown = (sparse, volume, np.ones_like(volume), np.zeros_like(volume), volume[::-1])
    return np.stack([values_in(rng, some) for some in shown])


def check_narrow(gpu, rng, connectivities=tuple(CONNECTIVITIES), **options):
    """Sum over a few small volumes that show lost updates."""
    several_tiles = rng.random((1, 50, 64)) < 0.03
    for connectivity in connectivities:
        for volume in (*narrow(rng, connectivity), several_tiles):
            check(
                gpu, batch_of(rng, volume), Lattice(np.ones_like(volume), connectivity), **options
            )


@front
@pytest.mark.parametrize("connectivity", CONNECTIVITIES)
def test_sums_are_the_cpus(gpu, cuda, rng, connectivity, front):
    with cuda.executed(front=front):
        for volume in volumes(rng, connectivity).values():
            check(gpu, batch_of(rng, volume), Lattice(np.ones_like(volume), connectivity))


@pytest.mark.parametrize("n_voxels", EDGES)
def test_edges_of_warps_blocks_and_tiles(gpu, cuda, rng, n_voxels):
    lattice = Lattice(np.ones((1, 1, n_voxels), bool), 6)
    last = np.arange(n_voxels) == n_voxels - 1
    shown = [last, ~last, rng.random(n_voxels) < 0.05]
    with cuda.executed():
        check(gpu, np.stack([values_in(rng, some) for some in shown]), lattice)
        check(gpu, values_in(rng, ~last)[None], lattice)


@front
def test_maps_that_overflow_shared_memory_beside_sparse_ones(gpu, cuda, rng, front):
    lattice = Lattice(np.ones((16, 17, 18), bool), 26)
    _, shared_bytes = gpu._residence(0)
    capacity = shared_bytes // gpu.VOXEL_BYTES
    assert capacity < lattice.n_voxels
    order = rng.permutation(lattice.n_voxels)
    shown = [order < n for n in (capacity, 200, capacity + 1, lattice.n_voxels, 0, 30, 4000)]
    with cuda.executed(front=front):
        check(gpu, np.stack([values_in(rng, some) for some in shown]), lattice, scores=False)


@pytest.mark.usefixtures("small")
def test_more_maps_than_blocks_or_rows_of_a_grid(gpu, cuda, rng, monkeypatch):
    monkeypatch.setattr(gpu, "MAX_GRID_ROWS", 2)
    volume = rng.random((5, 6, 7)) < 0.4
    with cuda.executed():
        check(gpu, batch_of(rng, volume), Lattice(np.ones_like(volume), 18))


def test_fewer_blocks_where_their_scratch_does_not_fit(gpu, cuda, rng):
    lattice = Lattice(np.ones((20, 20, 20), bool), 6)
    maps = np.stack([values_in(rng, rng.random(lattice.n_voxels) < 0.1 * n) for n in range(9)])
    assert gpu.scratch_bytes(lattice) > 1_000_000
    with cuda.executed(), cuda.limited(900_000):
        check(gpu, maps, lattice, scores=False)
    assert cuda.launches[-1].grid == (4, 1, 1)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), connectivity=st.sampled_from(sorted(CONNECTIVITIES)))
def test_any_mask_with_ties(gpu, data, connectivity):
    mask = data.draw(arrays(bool, array_shapes(min_dims=3, max_dims=3, max_side=6)))
    mask.flat[data.draw(st.integers(0, mask.size - 1))] = True
    lattice = Lattice(mask, connectivity)
    levels = st.sampled_from([-1.0, 0.0, 0.1, 0.7, 0.70000005, 3.0, 1e4]).map(np.float32)
    maps = data.draw(arrays(np.float32, (2, lattice.n_voxels), elements=levels))
    check(gpu, maps, lattice, data.draw(st.sampled_from([0.1, 0.7, 3.0])))


def test_masses_of_extreme_values(gpu, cuda):
    """Halves of the unit round to even; thresholds far smaller than values; sums near 2^63."""
    lattice = Lattice(np.ones((1, 1, 8), bool), 6)
    halves = np.array([0.5, 0, 1.5, 2.5, 0, 3.5, 1e3, 0], np.float32)
    halves[:6] *= np.float32(2**-24)
    large = np.array([5e11, 0, 2e11, 1e11, 1e11, 0, 3e-5, 1e-7], np.float32)
    fine = np.float32(1) + np.arange(8, dtype=np.float32) * np.float32(2**-23)
    with cuda.executed():
        check(gpu, np.stack([halves, large, fine]), lattice, 2**-26)
        check(gpu, np.stack([large, fine]), lattice, 1e-13)
        check(gpu, np.stack([large, fine]), lattice, 1.0)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("connectivity", CONNECTIVITIES)
def test_random_schedules(gpu, cuda, rng, connectivity):
    for seed in range(20):
        with cuda.executed(seed=seed):
            check_narrow(gpu, rng, [connectivity], scores=seed % 4 == 0)


@pytest.mark.usefixtures("small")
@front
def test_no_race_and_no_access_out_of_bounds(gpu, cuda, rng, front):
    for seed in (None, 0, 1, 2, 3):
        with cuda.executed(front=front, mode="check", seed=seed):
            check_narrow(gpu, rng)


@pytest.mark.parametrize("n_voxels", [1024, 1003, 7])
@pytest.mark.parametrize("share", [0.0, 0.05])
def test_every_map_is_read_once(gpu, cuda, rng, n_voxels, share):
    import cupy

    maps = np.stack([values_in(rng, rng.random(n_voxels) < share) for _ in range(5)])
    lattice = Lattice(np.ones((1, 1, n_voxels), bool), 6)
    with cuda.executed(mode="check"):
        gpu.cluster_peaks(cupy.asarray(maps), THRESHOLD, lattice, above=False)
    traffic = cuda.launches[-1].report.arrays[0]
    assert traffic.bytes_read == maps.nbytes
    assert traffic.sectors_read == -(-maps.nbytes // 32)
    if maps[0].nbytes % 128 == 0:
        # whole lines, each by one request
        assert traffic.sectors_requested_read == traffic.sectors_read


def test_nothing_waits_for_the_device(gpu, cuda, rng):
    import cupy

    lattice = Lattice(np.ones((4, 5, 6), bool), 18)
    maps = cupy.asarray(values_in(rng, rng.random(lattice.n_voxels) < 0.3)[None])
    for enhance in (gpu.cluster_peaks, gpu.cluster_scores):
        enhance(maps, THRESHOLD, lattice, above=True)
        n_synchronizations = len(cuda.synchronizations)
        enhance(maps, THRESHOLD, lattice, above=True)
        assert len(cuda.synchronizations) == n_synchronizations


BUGS = [
    Bug(
        "cluster_sums",
        "n_hits;\n        __syncthreads();",
        "n_hits;",
        "counts are read before they are written",
    ),
    Bug("cluster_sums", "parity ^= 1", "parity ^= 0", "counts of a tile overwrite the last one's"),
    Bug(
        "cluster_sums",
        "                in_scratch.low[i] = in_shared.low[i];\n",
        "",
        "values stay behind when a list moves",
    ),
    Bug(
        "cluster_sums",
        "const unsigned carry = atomicAdd(low, by_low) + by_low < by_low;",
        "atomicAdd(low, by_low); const unsigned carry = 0;",
        "no carry between the words of a mass",
    ),
    Bug(
        "cluster_sums",
        "__ballot_sync(ALL_LANES, values[k] >= threshold)",
        "__ballot_sync(ALL_LANES, values[k] > threshold)",
        "the threshold itself is below it",
    ),
    Bug("cluster_sums", "max(place - farthest, 0)", "max(place - farthest, 1)", "a place too late"),
    Bug(
        "cluster_sums",
        "extents[i] = 1;\n    __syncthreads();",
        "extents[i] = 1;",
        "extents are added to before they are 1",
    ),
    Bug("cluster_sums", "scratch + blockIdx.x * 4LL * n_voxels", "scratch", "blocks share scratch"),
    Bug(
        "cluster_sums",
        "return atomicOr(of_place + place, 0);",
        "return of_place[place];",
        "a plain load",
    ),
    Bug(
        "cluster_sums",
        "if (linked == high) return;",
        "return;",
        "a link that was overwritten is lost",
    ),
    Bug(
        "cluster_sums",
        "atomicAdd((unsigned long long *)extents + root, 1ULL);",
        "extents[root] += 1;",
        "an extent without an atomic",
    ),
]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.why)
def test_planted_bugs_are_caught(gpu, cuda, rng, monkeypatch, bug):
    def run():
        for seed in range(4):
            with cuda.executed(mode="check", seed=seed):
                check_narrow(gpu, rng, [26])

    assert caught(bug, run, monkeypatch)
