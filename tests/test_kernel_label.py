import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from mazes import narrow, volumes
from planted import Bug, caught

from gpustats.engines import cpu
from gpustats.spaces import CONNECTIVITIES, Lattice

EDGES = (1, 2, 31, 32, 33, 511, 512, 513)
"""Lengths about those of warps and blocks."""
front = pytest.mark.parametrize("front", ["source", "ptx"])


@pytest.fixture
def gpu(cuda):
    """The module under test, on the emulator."""
    del cuda  # it comes first: the module imports cupy
    from gpustats.engines import gpu_clusters

    return gpu_clusters


@pytest.fixture
def small(gpu, monkeypatch):
    """Blocks of two warps, so that every map has several."""
    monkeypatch.setattr(gpu, "THREADS", 64)


def check(gpu, above, lattice):
    """Compare labels with the CPU's."""
    labels = gpu.label(above, lattice)
    assert labels.dtype == np.int32
    assert np.array_equal(labels, cpu.label(above, lattice))


def check_narrow(gpu, rng, connectivities=tuple(CONNECTIVITIES)):
    """Label a few small volumes that show lost updates."""
    for connectivity in connectivities:
        for volume in narrow(rng, connectivity):
            lattice = Lattice(np.ones_like(volume), connectivity)
            check(gpu, np.stack([volume.ravel(), np.roll(volume, 3).ravel()]), lattice)


@front
@pytest.mark.parametrize("connectivity", CONNECTIVITIES)
def test_labels_are_the_cpus(gpu, cuda, rng, connectivity, front):
    with cuda.executed(front=front):
        for volume in volumes(rng, connectivity).values():
            lattice = Lattice(np.ones_like(volume), connectivity)
            check(gpu, np.stack([volume.ravel(), ~volume.ravel(), volume[::-1].ravel()]), lattice)


@pytest.mark.parametrize("n_voxels", EDGES)
def test_edges_of_warps_and_blocks(gpu, cuda, rng, n_voxels):
    lattice = Lattice(np.ones((1, 1, n_voxels), bool), 6)
    all_of_them, last = np.ones(n_voxels, bool), np.arange(n_voxels) == n_voxels - 1
    with cuda.executed():
        check(
            gpu,
            np.stack([all_of_them, ~all_of_them, last, ~last, rng.random(n_voxels) < 0.8]),
            lattice,
        )
        check(gpu, all_of_them[None], lattice)


def test_more_maps_than_rows_of_a_grid(gpu, cuda, rng, monkeypatch):
    monkeypatch.setattr(gpu, "MAX_GRID_ROWS", 2)
    with cuda.executed():
        check(gpu, rng.random((7, 120)) < 0.5, Lattice(np.ones((4, 5, 6), bool), 18))


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), connectivity=st.sampled_from(sorted(CONNECTIVITIES)))
def test_any_mask(gpu, data, connectivity):
    mask = data.draw(arrays(bool, array_shapes(min_dims=3, max_dims=3, max_side=6)))
    mask.flat[data.draw(st.integers(0, mask.size - 1))] = True
    lattice = Lattice(mask, connectivity)
    check(gpu, data.draw(arrays(bool, (2, lattice.n_voxels))), lattice)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("connectivity", CONNECTIVITIES)
def test_random_schedules(gpu, cuda, rng, connectivity):
    for seed in range(20):
        with cuda.executed(seed=seed):
            check_narrow(gpu, rng, [connectivity])


@pytest.mark.usefixtures("small")
@front
def test_no_race_and_no_access_out_of_bounds(gpu, cuda, rng, front):
    for seed in (None, 0, 1, 2, 3):
        with cuda.executed(front=front, mode="check", seed=seed):
            check_narrow(gpu, rng)


def test_two_lattices_are_kept(cuda):
    from gpustats.engines.gpu_lattice import on_device

    with cuda.executed():
        lattices = [Lattice(np.ones((2, 2, n), bool), 6) for n in (2, 3, 4)]
        first, second = on_device(lattices[0]), on_device(lattices[1])
        assert on_device(lattices[0]) is first
        on_device(lattices[2])
        assert on_device(lattices[0]) is first
        assert on_device(lattices[1]) is not second


@pytest.mark.parametrize("connectivity", CONNECTIVITIES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 5), (3, 1, 2), (4, 5, 6)])
def test_runs_are_the_steps(cuda, shape, connectivity):
    from gpustats.engines.gpu_lattice import on_device

    with cuda.executed():
        lattice = Lattice(np.ones(shape, bool), connectivity)
        runs = on_device(lattice).runs.get()
        steps = [step for largest, smallest in runs for step in range(smallest, largest + 1)]
        assert steps == lattice.backward_steps.tolist()


BUGS = [
    Bug("label", "if (linked == high) return;", "return;", "a link that was overwritten is lost"),
    Bug(
        "label",
        "return atomicMin(of_voxel + node - 1, to);",
        "const int was = of_voxel[node - 1]; of_voxel[node - 1] = min(was, to); return was;",
        "no atomic",
    ),
    Bug("label", "__ldcg(of_voxel + node - 1)", "of_voxel[node - 1]", "a plain load of a link"),
    Bug("label", " && links.read(neighbour) != 0", "", "the background is united"),
    Bug(
        "label",
        "if (links.read(v + 1) != 0) links.lower(v + 1, find(links, v + 1));",
        "if (links.read(v + 1) != 0) links.of_voxel[v] = find(links, v + 1);",
        "a plain store beside reads of other threads",
    ),
    Bug(
        "label",
        "if (v >= n_voxels) return;\n    for (int map = blockIdx.y; map < n_maps; "
        "map += gridDim.y) {\n        const long long at",
        "if (v > n_voxels) return;\n    for (int map = blockIdx.y; map < n_maps; "
        "map += gridDim.y) {\n        const long long at",
        "one thread too many",
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
