"""Pseudo-t: variances are smoothed in every shuffle, as its definition says."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from oracles import least_squares
from permuting import EVERYTHING, finished_by_steps, same
from scipy.ndimage import gaussian_filter
from simulate import make_incomplete, make_maps

from gpustats import Design, load_inference, memory, merge, permutation_test, save_inference
from gpustats.engines import resolve
from gpustats.enhancements import MapKind, Voxelwise
from gpustats.maps import Maps
from gpustats.memory import Load, streamed
from gpustats.shuffles import Shuffles
from gpustats.smoothing import Blur
from gpustats.spaces import Grid
from gpustats.tfce import Tfce

SIGMA_MM = 4.5
N = 9
TABLE = pd.DataFrame(
    {
        "patient": [1.0, 1, 1, 1, 0, 0, 0, 0, 0],
        "control": [0.0, 0, 0, 0, 1, 1, 1, 1, 1],
        "age": [31.0, 54, 42, 25, 67, 38, 49, 58, 33],
    }
)
MEAN = pd.DataFrame({"mean": np.ones(N)})
TESTS = {
    "one-sample": (MEAN, [1]),
    "two-sample": (TABLE[["patient", "control"]], [1, -1]),
    "adjusted": (TABLE, [1, -1, 0]),
    "slope": (TABLE, [0, 0, 1]),
}


def smoothed(values, grid, sigma_mm=SIGMA_MM):
    """Smooth values inside a mask by SciPy's filter with FSL's radii, zeros outside."""
    sigmas = sigma_mm / grid.voxel_sizes_mm
    radii = [2 * int(sigma - 0.001) + 3 for sigma in sigmas]
    blur = partial(gaussian_filter, sigma=sigmas, radius=radii, mode="constant")
    return blur(grid.unmask(values))[grid.mask] / blur(1.0 * grid.mask)[grid.mask]


def pseudo_t(values, design, contrast, grid):
    """Fit, smooth the variance, divide."""
    effect, variance, *_ = least_squares(values, design, contrast)
    return effect / np.sqrt(smoothed(variance, grid))


def refitted(maps, table, weights, shuffles, scheme):
    """Pseudo-t of every shuffle, each fitted from the start; ``(n_shuffles, n_voxels)``."""
    y, x, c = maps.values.astype(float), table.to_numpy(), np.atleast_2d(weights)
    null = x @ np.linalg.svd(c)[2][1:].T
    without_null = np.eye(N) - null @ np.linalg.pinv(null)
    tested = without_null @ np.linalg.pinv(x).T @ c.T
    found = []
    for permutation, signs in zip(*shuffles.draw(range(shuffles.n_shuffles)), strict=True):
        matrix = np.zeros((N, N))
        matrix[permutation, np.arange(N)] = signs
        if scheme == "dekker":
            design = np.column_stack([matrix.T @ tested, null])
            found.append(pseudo_t(y, design, [1] + [0] * null.shape[1], maps.grid))
        else:
            data = y @ without_null if scheme == "freedman-lane" else y
            found.append(pseudo_t(data @ matrix.T, x, weights, maps.grid))
    return np.array(found)


@pytest.mark.parametrize("scheme", ["freedman-lane", "dekker", "manly"])
@pytest.mark.parametrize("question", TESTS)
def test_every_shuffle_is_a_fit_with_a_smoothed_variance(device, rng, question, scheme):
    table, weights = TESTS[question]
    maps = make_maps(rng, N)
    # some voxels vary a hundred times as much as others
    maps.values[::5] *= 100
    statistics = (*EVERYTHING[:2], Tfce())
    result = permutation_test(
        maps,
        Design(table),
        weights,
        statistics=statistics,
        n_permutations=60,
        scheme=scheme,
        variance_smoothing_mm=SIGMA_MM,
        device=device,
    )
    errors = "ise" if question == "one-sample" else "ee"
    shuffles = Shuffles(N, errors, 60, Design(table).matrix)
    expected = refitted(maps, table, weights, shuffles, scheme)
    voxelwise = result["voxelwise"]
    assert voxelwise.scale == "pseudo-t"
    assert np.allclose(voxelwise.observed, expected[0], rtol=1e-9)
    assert np.allclose(voxelwise.null_maxima, np.abs(expected).max(axis=1), rtol=3e-6)
    sizes = np.abs(expected)
    reach = sizes[0] - 1e-5 * np.maximum(sizes[0], 1)
    assert np.array_equal(voxelwise.counts, (sizes >= reach).sum(axis=0))
    kind = MapKind("t", result.maps[voxelwise.contrast.name].df, True, 0.0)
    both = np.array([expected, -expected], np.float32)
    for statistic in statistics[1:]:
        enhancer = statistic.enhancer(resolve("cpu"), maps.grid, kind)
        peaks = np.max([enhancer.peaks(tail, None) for tail in both], axis=0)
        assert np.allclose(result[statistic.name].null_maxima, peaks, rtol=1e-5)
    tails = [enhancer.scores(tail[0]) for tail in both]
    assert np.allclose(result["tfce"].observed, tails[0] - tails[1], rtol=1e-5)


def test_what_is_reported_of_the_fit_is_not_smoothed(rng):
    maps = make_maps(rng, N)
    run = partial(permutation_test, maps, n_permutations=20, device="cpu")
    plain, other = run(), run(variance_smoothing_mm=SIGMA_MM)
    for kind in ("effect", "variance", "statistic", "z"):
        one, two = (getattr(result.maps["intercept"], kind) for result in (plain, other))
        assert np.array_equal(one, two)
    assert not np.allclose(other["voxelwise"].observed, plain["voxelwise"].observed, rtol=0.01)


@pytest.mark.parametrize("weights", [[1, -1, 0], [0, 0, 1]])
def test_a_gaussian_of_no_width_leaves_t(device, rng, weights):
    run = partial(permutation_test, make_maps(rng, N), Design(TABLE), weights, device=device)
    run = partial(run, n_permutations=60)
    plain, narrow = run()["voxelwise"], run(variance_smoothing_mm=1e-200)["voxelwise"]
    assert np.allclose(narrow.observed, plain.observed, rtol=1e-12)
    assert np.allclose(narrow.null_maxima, plain.null_maxima, rtol=1e-6)
    assert np.array_equal(narrow.p_corrected, plain.p_corrected)


def test_the_scale_of_the_data_does_not_matter(device, rng):
    maps = make_maps(rng, N)
    run = partial(permutation_test, n_permutations=30, variance_smoothing_mm=4, device=device)
    one = run(maps)["voxelwise"]
    for factor in (2.0**-60, 2.0**60):
        scaled = Maps(np.asfortranarray(maps.values * np.float32(factor)), maps.grid)
        assert np.allclose(run(scaled)["voxelwise"].null_maxima, one.null_maxima, rtol=1e-6)


def test_voxels_without_variance_lend_none(rng):
    maps = make_maps(rng, N)
    maps.values[::7] = 3
    found = permutation_test(maps, n_permutations=20, variance_smoothing_mm=SIGMA_MM, device="cpu")
    varying = np.ptp(maps.values, axis=1) > 0
    expected = pseudo_t(maps.values[varying], MEAN, [1], maps.grid.subset(varying))
    assert np.allclose(found["voxelwise"].observed, expected, rtol=1e-9)


@pytest.fixture
def adjusted(device, rng):
    """A test of every statistic, with a nuisance that every shuffle fits again."""
    options = {"statistics": EVERYTHING[:3], "n_permutations": 210, "uncorrected": True}
    maps = make_maps(rng, N)
    run = partial(permutation_test, maps, Design(TABLE), "age", device=device, **options)
    return partial(run, variance_smoothing_mm=SIGMA_MM)


def test_ranges_merge_to_the_whole(adjusted):
    parts = [adjusted(shuffles=some) for some in (range(50, 200), range(50), range(200, 210))]
    assert same(merge(parts), adjusted())


@pytest.mark.parametrize("device", ["cpu"], indirect=True)
def test_threads_and_batches_change_no_bit(adjusted, monkeypatch):
    whole = adjusted()
    for threads, map_bytes in ((1, 4 * 164 * 7), (2, 4 * 164), (3, 2**28)):
        monkeypatch.setattr("gpustats.engines.cpu.MAP_BYTES", map_bytes)
        for module in ("cpu", "cpu_sweep", "cpu_smoothing", "cpu_spatial"):
            monkeypatch.setattr(f"gpustats.engines.{module}.n_threads", lambda n=threads: n)
        assert same(adjusted(), whole)


def test_a_test_that_stops_after_every_step_ends_as_one_that_does_not(
    tmp_path, adjusted, monkeypatch
):
    maps_at_a_time = {"cpu": ("cpu.MAP_BYTES", 4 * 164 * 30), "cuda": ("gpu.MOST_MAPS", 30)}
    name, most = maps_at_a_time[adjusted.keywords["device"]]
    monkeypatch.setattr(f"gpustats.engines.{name}", most)
    run = partial(adjusted, n_permutations=90)
    result, n_runs = finished_by_steps(run, tmp_path / "kept", monkeypatch)
    assert n_runs > 2
    assert same(result, run())


def test_results_of_other_smoothing_are_other_results(tmp_path, rng):
    run = partial(permutation_test, make_maps(rng, N), n_permutations=50, device="cpu")
    first = run(shuffles=range(20), variance_smoothing_mm=4.0)
    save_inference(first, tmp_path / "part.npz")
    first = load_inference(tmp_path / "part.npz")
    assert first["voxelwise"].scale == "pseudo-t"
    assert first.settings["variance_smoothing_mm"] == 4
    for other in (None, 5.0):
        with pytest.raises(ValueError, match="differ in settings"):
            merge([first, run(shuffles=range(20, 50), variance_smoothing_mm=other)])
    run(variance_smoothing_mm=4.0, checkpoint=tmp_path / "kept")
    with pytest.raises(ValueError, match="variance_smoothing_mm"):
        run(variance_smoothing_mm=5.0, checkpoint=tmp_path / "kept")


@pytest.mark.parametrize("sigma_mm", [0, -1.0, np.inf, np.nan])
def test_what_is_no_gaussian_is_refused(rng, sigma_mm):
    with pytest.raises(ValueError, match=r"standard deviation of a Gaussian, > 0 mm, got .*leave"):
        permutation_test(make_maps(rng, N), variance_smoothing_mm=sigma_mm, device="cpu")


def test_f_and_missing_data_are_refused_by_name(rng):
    run = partial(permutation_test, variance_smoothing_mm=4, device="cpu")
    both = {"age": "age", "group": ["patient", "control"]}
    with pytest.raises(ValueError, match="contrast 'group' is an F contrast .*by itself, without"):
        run(make_maps(rng, N), Design(TABLE), both)
    with pytest.raises(ValueError, match="voxels that lack subjects; load the maps without"):
        run(make_incomplete(rng, N))


@pytest.mark.parametrize("sigma_mm", [0.4, 4.5, 30.0, 1e9])
def test_a_blur_is_that_of_its_definition(rng, sigma_mm):
    grid = make_maps(rng, 1).grid
    values = rng.exponential(size=grid.n_voxels)
    assert np.allclose(Blur(grid, sigma_mm)(np.ones(grid.n_voxels)), 1, rtol=1e-12)
    expected = values.mean() if sigma_mm == 1e9 else smoothed(values, grid, sigma_mm)
    assert np.allclose(Blur(grid, sigma_mm)(values), expected, rtol=1e-10)


def test_a_blur_reaches_as_far_as_that_of_fsl():
    """Up to radius 2 int(sigma - 0.001) + 3, sigma in voxels: 7 voxels for 5 mm in 2 mm."""
    grid = Grid(np.ones((31, 1, 1), bool), np.diag([2.0, 2.0, 2.0, 1.0]))
    point = np.zeros(31)
    point[15] = 1
    for sigma_mm, radius in ((5.0, 7), (2.0, 3), (2.01, 5), (0.5, 3)):
        reached = np.flatnonzero(Blur(grid, sigma_mm)(point) > 1e-300)
        assert list(reached) == list(range(15 - radius, 16 + radius))


@pytest.mark.parametrize("size", [2**28, 2**30])
def test_plans_count_what_smoothing_takes(monkeypatch, size):
    monkeypatch.setattr(memory, "n_cores", lambda: 2)
    one = Load(100_000, 2000, 1, spatial=True, n_rows=3, shuffles=range(1000))
    plan = streamed(resolve("cpu"), one, size)
    both = replace(one, maps_per_shuffle=2, smoothing_bytes=2**23)
    smoothing = streamed(resolve("cpu"), both, size)
    assert both.fixed_bytes - one.fixed_bytes == 2 * 2**23
    assert smoothing.peak_bytes <= size
    assert smoothing.maps <= plan.maps
    assert smoothing.passes == 2 * (1 + -(-1000 // smoothing.maps))


def test_voxels_alone_give_what_they_give_beside_others(rng):
    run = partial(permutation_test, make_maps(rng, N), n_permutations=50, device="cpu")
    run = partial(run, variance_smoothing_mm=4)
    alone, beside = run()["voxelwise"], run(statistics=(Voxelwise(), Tfce()))["voxelwise"]
    for name in ("limits", "null_maxima", "counts"):
        assert np.array_equal(getattr(alone, name), getattr(beside, name))
