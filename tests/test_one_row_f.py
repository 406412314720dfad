"""F of one row is the square of t, and its test that of both tails of t."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
from oracles import least_squares
from scipy import ndimage, stats
from simulate import make_maps

from gpustats import Design
from gpustats.enhancements import ClusterExtent, Voxelwise
from gpustats.inference import permutation_test
from gpustats.shuffles import Shuffles
from gpustats.tfce import Tfce


@pytest.fixture
def run_test(device):
    """Run a permutation test of 99 shuffles on a device."""
    return partial(permutation_test, n_permutations=99, device=device)


def slope_and_mean(rng, n=14):
    return Design(pd.DataFrame({"x": rng.normal(size=n), "one": 1.0}))


@pytest.mark.parametrize("scheme", ["freedman-lane", "dekker", "manly"])
@pytest.mark.parametrize("name", ["x", "one"])
def test_p_is_that_of_both_tails_of_t(run_test, rng, name, scheme):
    maps, design = make_maps(rng, n_subjects=14), slope_and_mean(rng)
    f = run_test(maps, design, design.contrast(name, statistic="F"), scheme=scheme)["voxelwise"]
    t = run_test(maps, design, design.contrast(name), scheme=scheme, two_sided=True)["voxelwise"]
    assert np.array_equal(f.p_corrected, t.p_corrected)
    # what ties with r² ties with a wider range of r where r is small
    small = t.p_uncorrected < 0.5
    assert np.array_equal(f.p_uncorrected[small], t.p_uncorrected[small])
    np.testing.assert_allclose(f.p_uncorrected, t.p_uncorrected, atol=1.5 / 99)
    np.testing.assert_allclose(f.observed, t.observed**2, rtol=1e-12)
    np.testing.assert_allclose(f.null_maxima, t.null_maxima**2, rtol=1e-5)
    assert len(np.unique(f.p_uncorrected)) > 20


def test_null_maps_are_z_of_the_square_of_those_of_t(run_test, rng):
    maps, design = make_maps(rng, n_subjects=14), slope_and_mean(rng)
    statistics = (Voxelwise(), ClusterExtent(connectivity=6, threshold_z=0.8))
    result = run_test(
        maps, design, design.contrast("x", statistic="F"), statistics=statistics, uncorrected=True
    )
    # P(F > f) = P(|t| > sqrt(f)): z of F is that of half the p of a tail
    limit = stats.t.isf(stats.norm.sf(0.8) / 2, 12)
    extents = largest_extents_of_size_of_t(maps, design, limit, result["voxelwise"].n_shuffles)
    assert np.array_equal(result["cluster_extent"].null_maxima, extents)
    assert len(np.unique(extents)) > 5


def largest_extents_of_size_of_t(maps, design, limit, n_shuffles):
    """Label, shuffle by shuffle, where t of explicit refits exceeds a limit in size."""
    y = maps.values.astype(float)
    residuals = y - y.mean(axis=1, keepdims=True)
    orders, _ = Shuffles(14, "ee", 99, design.matrix).draw(range(n_shuffles))
    extents = []
    for order in orders:
        shuffled = np.empty_like(residuals)
        shuffled[:, order] = residuals
        t = least_squares(shuffled, design.matrix, [1, 0])[2]
        labels, n = ndimage.label(maps.grid.unmask(np.abs(t) > limit))
        extents.append(np.bincount(labels.ravel())[1:].max() if n else 0)
    return np.array(extents)


def test_tfce_of_it_enhances_both_tails_together(run_test, rng):
    maps, design = make_maps(rng, n_subjects=14), slope_and_mean(rng)
    contrast = design.contrast("x", statistic="F")
    result = run_test(maps, design, contrast, statistics=(Tfce(),))["tfce"]
    assert (result.observed >= 0).all()
    # shuffle 0 is the observed order
    assert result.null_maxima[0] == pytest.approx(result.observed.max(), rel=1e-4)
