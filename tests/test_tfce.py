"""TFCE of the CPU engine against its definition, its rule of integers and other programs."""

import math
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracles_tfce import integrate_exactly, sum_integers, sum_levels
from scipy.ndimage import gaussian_filter

from gpustats.engines.cpu_grid import MOST_BASINS, Geometry, Scratch, prepare, scratch_for
from gpustats.engines.cpu_tfce import (
    Height,
    extent_weights,
    integer_scores,
    integer_scores_by_voxel,
    tfce_map,
    tfce_peak,
)

CUBES = Height(2.0)
Scorer = Callable[..., tuple[NDArray[np.int64], int]]
CONNECTIVITIES = (6, 18, 26)
SMALLEST = float(np.finfo(np.float32).smallest_normal)

# Largest error, as a part of the largest score of the map.
DEFINITION = 1e-12  # a few thousand roundings of float64 on either side
SPIKE = 1e-9  # the fixed point of a map follows its maximum: 61 bits hold 20**3 * sqrt(n)
FLOAT32_SUM = 1e-5  # niimath adds a hundred levels in float32

# Largest error, as a part of each score.
FLOAT32_RESULT = 1e-6  # tfce returns float32
FLOAT64 = 1e-14


@dataclass
class Map:
    """A volume, the voxels of it that count, and how to enhance them."""

    volume: NDArray[np.float32]
    mask: NDArray[np.bool_]
    connectivity: int = 6
    extent: float = 0.5
    height: Height = CUBES

    @cached_property
    def geometry(self) -> Geometry:
        return prepare(self.mask, self.connectivity)

    @cached_property
    def scratch(self) -> Scratch:
        return scratch_for(self.geometry)

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        return extent_weights(int(self.mask.sum()), self.extent)

    @property
    def values(self) -> NDArray[np.float32]:
        return self.volume[self.mask]

    def enhance(self) -> NDArray[np.float64]:
        scores = np.full(self.values.size, np.nan)
        tfce_map(self.values, self.geometry, self.scratch, self.weights, self.height, scores)
        return self._unmask(scores)

    def peak(self) -> float:
        return tfce_peak(self.values, self.geometry, self.scratch, self.weights, self.height)

    def integers(self, function: Scorer = integer_scores) -> tuple[NDArray[np.int64], int]:
        scores, exponent = function(
            self.values, self.geometry, self.scratch, self.weights, self.height
        )
        return self._unmask(scores), exponent

    def _unmask(self, scores: NDArray) -> NDArray:
        volume = np.zeros(self.volume.shape, scores.dtype)
        volume[self.mask] = scores
        return volume


def smooth_noise(
    rng: np.random.Generator, shape: tuple[int, ...], sigma: float = 1.0
) -> NDArray[np.float32]:
    noise = gaussian_filter(rng.standard_normal(shape), sigma)
    return (2.0 * noise / noise.std()).astype(np.float32)


def checkerboard(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    parity = np.indices(shape).sum(axis=0) % 2
    return np.where(parity, rng.uniform(0.5, 4.0, shape), -1.0).astype(np.float32)


def bump(shape: tuple[int, ...]) -> NDArray[np.float32]:
    signal = np.zeros(shape, np.float32)
    signal[tuple(n // 2 for n in shape)] = 1.0
    signal = gaussian_filter(signal, 1.5)
    return 12.0 * signal / signal.max()


VOLUMES: dict[str, Callable[[np.random.Generator], NDArray]] = {
    "smooth": lambda rng: smooth_noise(rng, (9, 8, 7)),
    "white": lambda rng: smooth_noise(rng, (7, 8, 9), 0.0),
    "tied": lambda rng: np.round(2.0 * smooth_noise(rng, (8, 9, 7), 0.7)) / 2.0,
    "signal": lambda rng: smooth_noise(rng, (9, 9, 9)) + bump((9, 9, 9)),
    "signal in ties": lambda rng: np.round(smooth_noise(rng, (9, 9, 9)) + bump((9, 9, 9))),
    "one plane": lambda rng: smooth_noise(rng, (1, 13, 11)),
    "one column": lambda rng: smooth_noise(rng, (1, 40, 1)),
    "one voxel": lambda rng: rng.uniform(1.0, 5.0, (1, 1, 1)),
    "checkerboard": lambda rng: checkerboard(rng, (6, 7, 8)),
    "all equal": lambda _: np.full((4, 5, 6), 1.7),
    "all negative": lambda rng: -1.0 - np.abs(smooth_noise(rng, (4, 5, 6))),
    "spike": lambda rng: 40.0 * (rng.random((6, 6, 6)) > 0.99) + smooth_noise(rng, (6, 6, 6)),
    "many magnitudes": lambda rng: 10.0 ** rng.uniform(-6, 6, (6, 7, 5)),
}


def random_map(name: str, sparse: bool = False, **settings: object) -> Map:
    rng = np.random.default_rng(list(name.encode()))
    volume = VOLUMES[name](rng).astype(np.float32)
    mask = rng.random(volume.shape) < 0.7 if sparse else np.ones(volume.shape, bool)
    mask.flat[mask.size // 2] = True
    return Map(np.where(mask, volume, 0.0), mask, **settings)


every_volume = pytest.mark.parametrize("name", VOLUMES)
every_connectivity = pytest.mark.parametrize("connectivity", CONNECTIVITIES)
full_and_sparse = pytest.mark.parametrize("sparse", [False, True], ids=["full", "sparse"])


@every_volume
@every_connectivity
@full_and_sparse
@pytest.mark.parametrize(
    ("extent", "height"), [(0.5, 2.0), (1.0, 1.0), (1.0, 3.0), (0.7, 1.3), (0.0, 0.0)]
)
def test_scores_are_the_integral_over_every_height(name, connectivity, sparse, extent, height):
    case = random_map(name, sparse, connectivity=connectivity, extent=extent, height=Height(height))
    expected = integrate_exactly(case.volume, connectivity, extent, height)
    np.testing.assert_allclose(case.enhance(), expected, rtol=0, atol=DEFINITION * expected.max())


@every_volume
@every_connectivity
@full_and_sparse
@pytest.mark.parametrize(
    ("height", "integral"), [(1.0, lambda h: h * h), (2.0, lambda h: h * h * h)], ids=["1", "2"]
)
def test_integers_obey_the_rule(name, connectivity, sparse, height, integral):
    case = random_map(name, sparse, connectivity=connectivity, height=Height(height))
    scores, exponent = case.integers()
    expected = sum_integers(case.volume, connectivity, case.weights, integral, exponent)
    np.testing.assert_array_equal(scores, expected)
    by_voxel, same_exponent = case.integers(integer_scores_by_voxel)
    np.testing.assert_array_equal(by_voxel, expected)
    assert exponent == same_exponent


@every_volume
@pytest.mark.parametrize("extent", [0.0, 0.5, 1.0])
def test_fixed_point_fills_61_bits(name, extent):
    case = random_map(name, extent=extent)
    _, exponent = case.integers()
    bound = max(float(case.volume.max()), 0.0) ** 3 * case.mask.sum() ** extent
    assert bound == 0.0 or 2.0**60 <= bound * 2.0**exponent < 2.0**61


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    connectivity=st.sampled_from(CONNECTIVITIES),
    n_heights=st.integers(1, 200),
    coverage=st.floats(0.1, 1.0),
    seed=st.integers(0, 2**32 - 1),
)
def test_integers_obey_the_rule_for_any_mask(shape, connectivity, n_heights, coverage, seed):
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < coverage
    mask.flat[0] = True
    volume = mask * rng.integers(-n_heights, n_heights + 1, shape).astype(np.float32) / 7
    case = Map(volume, mask, connectivity)
    scores, exponent = case.integers()
    expected = sum_integers(volume, connectivity, case.weights, lambda h: h * h * h, exponent)
    np.testing.assert_array_equal(scores, expected)
    np.testing.assert_array_equal(case.integers(integer_scores_by_voxel)[0], expected)


@every_connectivity
@pytest.mark.parametrize("sigma", [0.0, 0.8, 2.0])
@pytest.mark.parametrize(
    "height", [Height(2.0), Height(1.3), Height(2.0, step=0.05)], ids=["2", "1.3", "stepped"]
)
def test_basins_and_voxels_agree_to_the_bit(connectivity, sigma, height):
    volume = smooth_noise(np.random.default_rng(11), (30, 41, 35), sigma)
    center = np.indices(volume.shape) - np.array([[[[15]]], [[[20]]], [[[17]]]])
    mask = (center**2).sum(axis=0) < 300
    case = Map(volume, mask, connectivity, height=height)
    np.testing.assert_array_equal(case.integers()[0], case.integers(integer_scores_by_voxel)[0])
    assert case.peak() == case.enhance().max()


@every_volume
@every_connectivity
@full_and_sparse
def test_peak_is_the_maximum_of_the_map_to_the_bit(name, connectivity, sparse):
    case = random_map(name, sparse, connectivity=connectivity, extent=0.6, height=Height(1.9))
    assert case.peak() == case.enhance().max()


@every_volume
@every_connectivity
def test_order_of_voxels_does_not_matter(name, connectivity):
    case = random_map(name, sparse=True, connectivity=connectivity)
    scores, _ = case.integers()
    for axes, flip in [((0, 2, 1), (0,)), ((1, 0, 2), (1,)), ((2, 1, 0), (0, 1, 2))]:
        turned, mask = (np.flip(a.transpose(axes), flip).copy() for a in (case.volume, case.mask))
        expected = np.flip(scores.transpose(axes), flip)
        np.testing.assert_array_equal(Map(turned, mask, connectivity).integers()[0], expected)


@every_connectivity
@pytest.mark.parametrize("multiply", [False, True])
@pytest.mark.parametrize("name", ["smooth", "signal", "checkerboard", "all negative", "one voxel"])
def test_a_hundred_levels_up_to_the_maximum(name, connectivity, multiply):
    case = random_map(name, connectivity=connectivity)
    maximum = max(float(case.volume.max()), 1.0)
    case.height = Height(2.0, maximum / 100, multiply)
    levels = np.linspace(0.0, maximum, 101)[1:]
    expected = sum_levels(case.volume, connectivity, 0.5, 2.0, levels)
    expected *= maximum / 100 if multiply else 1.0
    np.testing.assert_allclose(case.enhance(), expected, rtol=0, atol=DEFINITION * expected.max())


@pytest.mark.parametrize("height", [0.0, 1.0, 2.0, 2.5])
def test_a_voxel_is_in_the_level_of_its_own_height(height):
    case = random_map("tied", extent=0.8, height=Height(height, step=0.25))
    levels = np.arange(1, 40) * 0.25
    expected = sum_levels(case.volume, 6, 0.8, height, levels)
    np.testing.assert_allclose(case.enhance(), expected, rtol=0, atol=DEFINITION * expected.max())


def test_the_maximum_is_in_all_levels_it_is_divided_into():
    maxima = np.random.default_rng(5).uniform(1e-3, 1e3, 300).astype(np.float32)
    for maximum in maxima:
        one = np.full((1, 1, 1), maximum)
        case = Map(one, one > 0, height=Height(0.0, float(maximum) / 100))
        assert case.peak() == 100.0


def test_small_steps_approach_the_integral():
    case = random_map("signal")
    exact = case.enhance()
    case.height = Height(2.0, step=1e-4, multiply_by_step=True)
    np.testing.assert_allclose(case.enhance(), exact, rtol=0, atol=1e-4 * exact.max())


def test_nothing_reaches_the_first_level():
    case = random_map("smooth", height=Height(2.0, step=100.0))
    assert case.peak() == 0.0
    assert not case.enhance().any()


@every_connectivity
def test_a_distant_spike_changes_no_other_voxel(connectivity):
    volume = np.full((14, 14, 14), -1.0, np.float32)
    volume[:10, :10, :10] = smooth_noise(np.random.default_rng(2), (10, 10, 10))
    before = Map(volume.copy(), np.ones(volume.shape, bool), connectivity).enhance()
    volume[12, 12, 12] = 20.0
    after = Map(volume, np.ones(volume.shape, bool), connectivity).enhance()
    after[12, 12, 12] = 0.0
    np.testing.assert_allclose(after, before, rtol=0, atol=SPIKE * before.max())


@every_connectivity
def test_voxels_at_the_border_are_enhanced_like_any_other(connectivity):
    case = Map(np.full((5, 6, 7), 2.0, np.float32), np.ones((5, 6, 7), bool), connectivity)
    np.testing.assert_allclose(case.enhance(), math.sqrt(210) * 8.0 / 3.0, rtol=FLOAT64)


@every_connectivity
@pytest.mark.parametrize("power", [-100, -40, 30])
def test_scores_scale_with_the_map(connectivity, power):
    case = random_map("smooth", connectivity=connectivity)
    (scores, exponent), peak = case.integers(), case.peak()
    case.volume = np.ldexp(case.volume, power)
    scaled, scaled_exponent = case.integers()
    np.testing.assert_array_equal(scaled, scores)
    assert scaled_exponent == exponent - 3 * power
    assert case.peak() == math.ldexp(peak, 3 * power)


@pytest.mark.parametrize("height", [0.0, 1.0, 2.0, 3.0, 6.0])
@pytest.mark.parametrize("value", [SMALLEST, 1.0, 3e6])
def test_one_voxel_scores_its_own_integral(value, height):
    one = np.full((1, 1, 1), value, np.float32)
    expected = float(one[0, 0, 0]) ** (height + 1) / (height + 1)
    assert Map(one, one > 0, height=Height(height)).peak() == pytest.approx(expected, rel=FLOAT64)


def test_the_smallest_height_to_a_high_power_is_still_scored():
    one = np.full((1, 1, 1), SMALLEST, np.float32)
    assert Map(one, one > 0, height=Height(7.0)).peak() == pytest.approx(SMALLEST**8 / 8, rel=1e-4)


def test_subnormal_heights_are_not_positive():
    volume = np.array([[[SMALLEST, 0.99 * SMALLEST, -0.0, 1e-45]]], np.float32)
    case = Map(volume, np.ones(volume.shape, bool))
    assert (case.enhance() > 0).tolist() == [[[True, False, False, False]]]


def test_scratch_carries_nothing_over_to_the_next_map():
    case = random_map("white", sparse=True, connectivity=26)
    first, _ = case.integers()
    original = case.volume
    for other in (-original, np.zeros_like(original), np.roll(original, 3)):
        case.volume = other
        case.integers()
        case.integers(integer_scores_by_voxel)
    case.volume = original
    np.testing.assert_array_equal(case.integers()[0], first)


def test_voxels_are_numbered_in_c_order_whatever_the_layout_of_the_mask():
    case = random_map("smooth", sparse=True, connectivity=18)
    turned = Map(case.volume, np.asfortranarray(case.mask), 18)
    np.testing.assert_array_equal(turned.integers()[0], case.integers()[0])


def test_threads_share_a_geometry():
    rng = np.random.default_rng(8)
    mask = rng.random((20, 20, 20)) < 0.8
    maps = [smooth_noise(rng, mask.shape)[mask] for _ in range(12)]
    geometry, weights = prepare(mask, 18), extent_weights(int(mask.sum()), 0.5)

    def peaks(share: list[NDArray[np.float32]]) -> list[float]:
        scratch = scratch_for(geometry)
        return [tfce_peak(v, geometry, scratch, weights, Height(2.0)) for v in share]

    with ThreadPoolExecutor(2) as pool:
        halves = list(pool.map(peaks, [maps[::2], maps[1::2]]))
    assert [p for pair in zip(*halves, strict=True) for p in pair] == peaks(maps)


@pytest.mark.parametrize("n_maxima", [MOST_BASINS, MOST_BASINS + 1], ids=["labels", "voxels"])
def test_more_maxima_than_labels(n_maxima):
    rng = np.random.default_rng(n_maxima)
    volume = np.empty((1, 1, 2 * n_maxima), np.float32)
    volume[..., ::2] = rng.integers(5, 9, n_maxima)
    volume[..., 1::2] = rng.integers(1, 5, n_maxima)
    case = Map(volume, np.ones(volume.shape, bool))
    expected = integrate_exactly(volume, 6, 0.5, 2.0)
    np.testing.assert_allclose(case.enhance(), expected, rtol=0, atol=DEFINITION * expected.max())
    assert case.peak() == case.enhance().max()


def test_a_checkerboard_of_a_brain_of_maxima():
    volume = checkerboard(np.random.default_rng(6), (52, 52, 52))
    assert (volume > 0).sum() > MOST_BASINS
    scores = Map(volume, np.ones(volume.shape, bool)).enhance()
    alone = np.maximum(volume, 0.0).astype(np.float64) ** 3 / 3.0
    np.testing.assert_allclose(scores, alone, rtol=0, atol=DEFINITION * alone.max())


@every_connectivity
@pytest.mark.parametrize(("extent", "height"), [(0.5, 2.0), (1.0, 2.0)])
def test_same_as_the_tfce_package(connectivity, extent, height):
    tfce = pytest.importorskip("tfce")
    volume = smooth_noise(np.random.default_rng(4), (24, 22, 20), 1.5)
    case = Map(volume, np.ones(volume.shape, bool), connectivity, extent, Height(height))
    theirs = tfce.tfce(volume, connectivity=connectivity, E=extent, H=height, two_sided=False)
    relevant = theirs > 1e-6 * theirs.max()
    np.testing.assert_allclose(case.enhance()[relevant], theirs[relevant], rtol=FLOAT32_RESULT)


@every_connectivity
def test_same_levels_as_niimath(connectivity, tmp_path):
    niimath = pytest.importorskip("niimath")
    volume = smooth_noise(np.random.default_rng(9), (20, 22, 18), 1.2)
    padded = np.pad(volume, 1)  # as FSL, it leaves the outermost voxels out
    nibabel.save(nibabel.Nifti1Image(padded, np.eye(4)), tmp_path / "t.nii")
    arguments = ["-tfce", "2", "0.5", str(connectivity), str(tmp_path / "tfce.nii")]
    command = [niimath.bin_path, str(tmp_path / "t.nii"), *arguments, "-odt", "float"]
    subprocess.run(command, check=True)
    [result] = tmp_path.glob("tfce.nii*")
    theirs = np.asanyarray(nibabel.load(result).dataobj)[1:-1, 1:-1, 1:-1]
    step = float(volume.max()) / 100
    case = Map(volume, np.ones(volume.shape, bool), connectivity, height=Height(2.0, step))
    np.testing.assert_allclose(case.enhance(), theirs, rtol=0, atol=FLOAT32_SUM * theirs.max())
