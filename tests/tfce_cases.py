"""Maps on which a sweep could stumble, and the CPU's TFCE of them."""

from collections.abc import Callable

import mazes
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from gpustats.engines import cpu_grid, cpu_tfce
from gpustats.spaces import Lattice

MASKS: dict[str, Callable[[np.random.Generator], NDArray[np.bool_]]] = {
    "box": lambda _: np.ones((7, 6, 5), bool),
    "holes": lambda rng: rng.random((6, 7, 6)) < 0.7,
    "percolation 6": lambda rng: mazes.noise(rng, 6, (9, 9, 9)),
    "percolation 26": lambda rng: mazes.noise(rng, 26, (12, 12, 12)),
    "comb": lambda _: mazes.comb((9, 7, 5)),
    "spiral": lambda _: mazes.spiral(15),
    "checkerboard": lambda _: mazes.checkerboard((6, 6, 6)),
    "one voxel": lambda _: np.ones((1, 1, 1), bool),
}


def smooth(rng, shape, sigma):
    noise = gaussian_filter(rng.standard_normal(shape), sigma)
    return noise / max(noise.std(), 1e-3)


def volumes_on(mask, rng):
    """Maps that differ in all that a sweep could stumble over."""
    shape = mask.shape
    signal = np.zeros(shape)
    signal[tuple(n // 2 for n in shape)] = 1.0
    rough = smooth(rng, shape, 0.8)
    return [
        smooth(rng, shape, 0.0),
        rough,
        smooth(rng, shape, 1.5),
        np.round(2.0 * rough) / 2.0,
        np.full(shape, 1.7),
        -1.0 - rough**2,
        signal,
        rough * 2.0**-90,
        rough * 2.0**40,
        10.0 ** rng.uniform(-6, 6, shape),
        rng.standard_t(1, shape) ** 3,
    ]


def maps_on(mask, rng):
    return np.array([volume[mask] for volume in volumes_on(mask, rng)], np.float32)


def lattice_and_maps(name, connectivity):
    rng = np.random.default_rng(list(name.encode()))
    mask = MASKS[name](rng)
    return Lattice(mask, connectivity), maps_on(mask, rng)


def on_cpu(maps, lattice, extent, height, step, function=cpu_tfce.integer_scores_by_voxel):
    """Scores by the CPU's union-find over voxels."""
    geometry = cpu_grid.prepare(lattice.mask, lattice.connectivity)
    scratch, form = cpu_grid.scratch_for(geometry), cpu_tfce.Height(height, step)
    weights = cpu_tfce.extent_weights(lattice.n_voxels, extent)
    scores = np.empty(maps.shape)
    for values, out in zip(maps, scores, strict=True):
        integers, exponent = function(values, geometry, scratch, weights, form)
        out[:] = integers * np.ldexp(1.0, -exponent) / form.divisor
    return scores


def check(tfce, lattice, maps, extent=0.5, height=2.0, step=0.0):
    """Compare scores, peaks and counts with the CPU's, bit by bit."""
    import cupy

    form = lattice, extent, height, step
    expected = on_cpu(maps, *form)
    on_device = cupy.asarray(maps)
    np.testing.assert_array_equal(tfce.tfce_scores(on_device, *form).get(), expected)
    np.testing.assert_array_equal(tfce.tfce_peaks(on_device, *form).get(), expected.max(axis=1))
    limits = np.median(expected, axis=0)
    counts = cupy.asarray(np.arange(lattice.n_voxels))
    peaks = tfce.tfce_counts(on_device, *form, cupy.asarray(limits), counts)
    np.testing.assert_array_equal(peaks.get(), expected.max(axis=1))
    reached = ((expected > 0) & (expected >= limits)).sum(axis=0)
    np.testing.assert_array_equal(counts.get(), np.arange(lattice.n_voxels) + reached)


SMALL = {
    "white": lambda _: (np.ones((4, 5, 5), bool), 0.0),
    "comb": lambda _: (mazes.comb((7, 6, 3)), 0.0),
    "spiral": lambda _: (mazes.spiral(11), 0.5),
    "percolation": lambda rng: (mazes.noise(rng, 6, (6, 6, 6)), 0.0),
}


def small_maps(name, seed, n_maps=3):
    """Positive nearly everywhere, so that the corridors of the mask carry the sweep."""
    rng = np.random.default_rng([seed, *name.encode()])
    mask, sigma = SMALL[name](rng)
    volumes = [smooth(rng, mask.shape, sigma) + 1.0 for _ in range(n_maps)]
    return mask, np.array([volume[mask] for volume in volumes], np.float32)
