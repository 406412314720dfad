"""The CUDA engine as a whole: which GPU, how much memory, when the host waits."""

import re
from functools import partial

import numpy as np
import pandas as pd
import pytest
from kernel_builds import BUILDS
from permuting import EVERYTHING, same
from simulate import make_maps

from gpustats import Design, permutation_test
from gpustats.engines import DeviceError, ScoreCounts, resolve
from gpustats.selftest import SelfTest
from gpustats.spaces import Grid

SHAPE = (9, 10, 8)


@pytest.fixture
def gpu(cuda):
    """The engine of the first GPU."""
    del cuda  # it comes first
    return resolve("cuda")


def smooth_maps(rng, n_maps):
    grid = Grid(np.ones(SHAPE, bool), np.eye(4))
    maps = rng.normal(0, 1, (n_maps, grid.n_voxels)).astype(np.float32)
    return maps, grid


def enhanced(engine, maps, lattice):
    """Everything that spatial statistics ask of maps."""
    on_device = engine.to_device(maps)
    limits = engine.to_device(np.full(maps.shape[1], 2.0))
    counts = [engine.to_device(np.zeros(maps.shape[1], np.int64)) for _ in range(2)]
    found = [
        *engine.cluster_peaks(on_device, np.float32(1.5), lattice, above=False),
        engine.tfce_peaks(on_device, lattice, 0.5, 2.0, 0.0),
        engine.tfce_counts(on_device, lattice, 0.5, 2.0, 0.0, ScoreCounts(limits, counts[0])),
    ]
    reaching = ScoreCounts(limits, counts[1])
    engine.cluster_counts(on_device, np.float32(1.5), lattice, reaching, above=True, of_mass=True)
    return [engine.to_host(each) for each in (*found, *counts)]


def test_little_memory_changes_no_bit(cuda, gpu, rng):
    maps, grid = smooth_maps(rng, 40)
    lattice = grid.lattice(6)
    expected = enhanced(resolve("cpu"), maps, lattice)
    for n_bytes in (2**31, 3 * 2**20, 2**20):
        with cuda.limited(n_bytes):
            for found, wanted in zip(enhanced(gpu, maps, lattice), expected, strict=True):
                assert np.array_equal(found, wanted)


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("refusals", [1, 3])
def test_refused_memory_halves_the_batch_in_one_line_each(log, refusals):
    from gpustats.engines import gpu_batches

    sizes, left = [], refusals

    def work(part):
        nonlocal left
        sizes.append(part.stop - part.start)
        if left:
            left -= 1
            raise MemoryError
        return part

    parts = gpu_batches.in_parts(16, 1, work)
    assert [index for part in parts for index in range(16)[part]] == list(range(16))
    assert sizes[: refusals + 1] == [16 >> halved for halved in range(refusals + 1)]
    assert re.findall(r"going on with (\d+) maps", log.text) == [
        str(16 >> halved) for halved in range(1, refusals + 1)
    ]


@pytest.mark.usefixtures("cuda")
def test_no_room_for_one_map_says_so():
    from gpustats.engines import gpu_batches

    def refuse(_):
        raise MemoryError

    with pytest.raises(MemoryError, match="no room for one map: .* MiB are free"):
        gpu_batches.in_parts(4, 1, refuse)
    with pytest.raises(MemoryError, match="device='cpu'"):
        gpu_batches.halved_until_it_fits(5, refuse)


def test_room_for_maps_follows_the_memory_that_is_free(cuda, gpu):
    assert gpu.empty_maps(7, 1000).shape == (7, 1000)
    assert gpu.empty_maps(10**6, 1000).shape == (1152, 1000)
    with cuda.limited(2**20):
        assert gpu.empty_maps(10**6, 1000).shape == (65, 1000)
        assert gpu.empty_maps(10**6, 200_000).shape == (1, 200_000)


def covariate(rng):
    maps = make_maps(rng, n_subjects=12)
    design = Design(pd.DataFrame({"x": rng.normal(size=12), "one": np.ones(12)}))
    return partial(
        permutation_test,
        maps,
        design,
        "x",
        statistics=EVERYTHING,
        n_permutations=210,
        uncorrected=True,
    )


@pytest.mark.usefixtures("cuda")
def test_a_stack_larger_than_the_device_gives_the_same_bits(rng, monkeypatch):
    from gpustats.engines import gpu_memory

    run_test = covariate(rng)
    whole = run_test(device="cuda")
    monkeypatch.setattr(gpu_memory, "RESIDENT_SHARE", 0.0)
    assert same(run_test(device="cuda"), whole)


@pytest.mark.parametrize("seed", range(4))
def test_streams_in_any_order_give_the_same_bits(cuda, rng, seed):
    run_test = covariate(rng)
    whole = run_test(device="cuda")
    with cuda.asynchronous(seed):
        assert same(run_test(device="cuda"), whole)


@pytest.mark.usefixtures("cuda")
def test_each_gpu_has_an_engine_whichever_is_current(rng):
    import cupy

    run_test = covariate(rng)
    first = run_test(device="cuda:0")
    with cupy.cuda.Device(0):
        second = run_test(device="cuda:1")
    assert same(first, second)
    with cupy.cuda.Device(1):
        assert same(run_test(device="cuda"), first)


@pytest.mark.usefixtures("cuda")
def test_a_gpu_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(DeviceError, match=r"'cuda:2': .* has numbers 0 to 1; or use device='cpu'"):
        resolve("cuda:2")


@pytest.mark.usefixtures("cuda")
def test_auto_takes_the_gpu(log):
    assert resolve("auto").describe() == resolve("cuda").describe()
    assert "device 'auto' took" in log.text
    assert resolve("cuda").fingerprint() != resolve("cpu").fingerprint()


@pytest.mark.usefixtures("cuda")
def test_libraries_that_are_missing_are_told(monkeypatch):
    import cupy

    class Missing:
        def __getattr__(self, name):
            raise ImportError("libcublas.so is not there\nand more")

    monkeypatch.setattr(cupy.cuda, "cublas", Missing())
    with pytest.raises(DeviceError, match=r"lacks libraries of CUDA \(libcublas.so is not there\)"):
        resolve("cuda")


def test_other_powers_of_heights_are_close_and_it_is_said(gpu, rng, log):
    from gpustats.engines import gpu_spatial

    gpu_spatial._say_if_powers_differ.cache_clear()
    maps, grid = smooth_maps(rng, 3)
    lattice = grid.lattice(6)
    peaks = gpu.to_host(gpu.tfce_peaks(gpu.to_device(maps), lattice, 0.5, 2.0, 0.0))
    assert np.array_equal(peaks, resolve("cpu").tfce_peaks(maps, lattice, 0.5, 2.0, 0.0))
    assert "H =" not in log.text
    peaks = gpu.to_host(gpu.tfce_peaks(gpu.to_device(maps), lattice, 0.5, 2.5, 0.0))
    expected = resolve("cpu").tfce_peaks(maps, lattice, 0.5, 2.5, 0.0)
    np.testing.assert_allclose(peaks, expected, rtol=1e-6)
    assert "TFCE with H = 2.5 on a GPU: scores equal the CPU's to 1e-6 only" in log.text


@pytest.mark.usefixtures("emulated")
def test_the_host_waits_for_nothing_inside_a_batch(cuda, gpu, rng):
    maps, grid = smooth_maps(rng, 9)
    lattice = grid.lattice(26)
    enhanced(gpu, maps, lattice)  # tables that are kept
    on_device, limits = gpu.to_device(maps), gpu.to_device(np.full(maps.shape[1], 2.0))
    counts = gpu.to_device(np.zeros(maps.shape[1], np.int64))
    reaching = ScoreCounts(limits, counts)
    cuda.synchronizations.clear()
    gpu.negate(on_device)
    gpu.cluster_peaks(on_device, np.float32(1.5), lattice, above=False)
    gpu.tfce_peaks(on_device, lattice, 0.5, 2.0, 0.0)
    gpu.tfce_counts(on_device, lattice, 0.5, 2.0, 0.0, reaching)
    gpu.cluster_counts(on_device, np.float32(1), lattice, reaching, above=False, of_mass=False)
    assert cuda.synchronizations == []


@pytest.mark.usefixtures("emulated", "cuda")
def test_every_build_is_in_the_list_that_is_compiled_for_all_architectures(monkeypatch):
    from gpustats import cuda as loader

    asked = set()
    kernels = loader.kernels

    def recorded(name, **constants):
        asked.add((name, tuple(sorted(constants.items()))))
        return kernels(name, **constants)

    monkeypatch.setattr(loader, "kernels", recorded)
    assert all(finding.passed for finding in SelfTest("cuda", quick=True).findings())
    assert asked <= {(build.source, build.constants) for build in BUILDS}
    assert {source for source, _ in asked} == {build.source for build in BUILDS}
