from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from gpustats.engines.cpu_clusters import cluster_maps, cluster_peaks, scratch_for
from gpustats.spaces import CONNECTIVITIES, Lattice


def clusters(values, threshold, lattice, mass):
    """Extent and mass of each voxel's cluster, by labels of a volume and sums of fractions."""
    reach = CONNECTIVITIES[lattice.connectivity]
    volume = np.zeros(lattice.mask.shape, bool)
    volume[lattice.mask] = values >= threshold
    labels = ndimage.label(volume, ndimage.generate_binary_structure(3, reach))[0][lattice.mask]
    base = Fraction(float(threshold)) if mass == "above" else 0
    # round() of a fraction is exact, and to even, as rint is
    terms = np.array([round((Fraction(float(x)) - base) * 2**24) for x in values], np.int64)
    extents, masses = np.zeros(labels.max() + 1, np.int64), np.zeros(labels.max() + 1, np.int64)
    np.add.at(extents, labels, 1)
    np.add.at(masses, labels, terms)
    extents[0] = masses[0] = 0
    return extents[labels], masses[labels]


def check(values, threshold, lattice, scratch):
    """Compare maps and peaks with the definition, for both masses."""
    for mass in ("full", "above"):
        extents, masses = clusters(values, np.float32(threshold), lattice, mass)
        maps = cluster_maps(values, threshold, lattice, scratch, mass)
        assert np.array_equal(maps.extents, extents)
        assert np.array_equal(maps.masses, masses)
        peaks = cluster_peaks(values, threshold, lattice, scratch, mass)
        assert peaks == (extents.max(), masses.max())
        assert not scratch.box.any()


@pytest.mark.parametrize("connectivity", CONNECTIVITIES)
@pytest.mark.parametrize("smoothness", [0, 1])
def test_clusters_of_noise(rng, connectivity, smoothness):
    shape = (17, 19, 23)
    lattice = Lattice(ndimage.gaussian_filter(rng.normal(size=shape), 2) > -0.05, connectivity)
    scratch = scratch_for(lattice)
    noise = ndimage.gaussian_filter(rng.normal(size=shape), smoothness)
    values = (2 * noise / noise.std()).astype(np.float32)[lattice.mask]
    for threshold in (9.0, 4.0, 2.3, 1.0, 1e-6):
        check(values, threshold, lattice, scratch)
    check(np.abs(values), 0.0, lattice, scratch)
    check(-np.abs(values), 2.3, lattice, scratch)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), connectivity=st.sampled_from(sorted(CONNECTIVITIES)))
def test_clusters_in_any_mask_with_ties(data, connectivity):
    mask = data.draw(arrays(bool, array_shapes(min_dims=3, max_dims=3, max_side=6)))
    mask.flat[data.draw(st.integers(0, mask.size - 1))] = True
    lattice = Lattice(mask, connectivity)
    levels = st.sampled_from([-1.0, 0.0, 0.1, 0.7, 0.70000005, 3.0, 1e4])
    values = data.draw(arrays(np.float32, lattice.n_voxels, elements=levels.map(np.float32)))
    check(values, data.draw(st.sampled_from([0.1, 0.7, 3.0])), lattice, scratch_for(lattice))


@pytest.mark.parametrize("n_voxels", [1, 2, 63, 64, 65, 128, 200])
def test_blocks_of_any_length(rng, n_voxels):
    lattice = Lattice(np.ones((1, 1, n_voxels), bool), 6)
    scratch = scratch_for(lattice)
    check(rng.normal(0, 3, n_voxels).astype(np.float32), 1.0, lattice, scratch)
    for last_only in (np.eye(1, n_voxels, n_voxels - 1)[0], np.ones(n_voxels)):
        check(last_only.astype(np.float32), 0.5, lattice, scratch)
        check(last_only.astype(np.float32), 1.0, lattice, scratch)
        check(last_only.astype(np.float32), 1.5, lattice, scratch)


def test_extent_and_mass_may_come_from_different_clusters():
    lattice = Lattice(np.ones((1, 1, 6), bool), 6)
    values = np.array([2, 2, 2, 0, 9, 0], np.float32)
    assert cluster_peaks(values, 2.0, lattice, scratch_for(lattice)) == (3, 9 * 2**24)
    assert cluster_peaks(values, 2.0, lattice, scratch_for(lattice), "above") == (3, 7 * 2**24)


def test_masses_round_half_to_even():
    lattice = Lattice(np.ones((1, 1, 5), bool), 6)
    halves = np.array([0.5, 0, 1.5, 0, 2.5], np.float32) * np.float32(2**-24)
    masses = cluster_maps(halves, 2**-26, lattice, scratch_for(lattice)).masses
    assert masses.tolist() == [0, 0, 2, 0, 2]


def test_threads_with_their_own_scratch_do_not_disturb_each_other(rng):
    lattice = Lattice(np.ones((20, 20, 20), bool), 26)
    maps = rng.normal(size=(40, 8000)).astype(np.float32)

    def peaks(some_maps):
        scratch = scratch_for(lattice)
        return [cluster_peaks(values, 1.0, lattice, scratch) for values in some_maps]

    with ThreadPoolExecutor(2) as pool:
        halves = pool.map(peaks, [maps[:20], maps[20:]])
        assert list(chain(*halves)) == peaks(maps)
