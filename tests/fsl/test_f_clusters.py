"""Clusters formed on F itself: their extent is that on z, their mass is a sum of F."""

import numpy as np
import pandas as pd
import pytest
from oracles import components, least_squares, statistic_to_z
from simulate import make_incomplete, make_maps

from gpustats import ClusterExtent, ClusterMass, Design, Tfce, Voxelwise, permutation_test
from gpustats.shuffles import Shuffles


@pytest.fixture
def design():
    groups = pd.get_dummies(pd.Series([0, 1, 2] * 3)).astype(float).add_prefix("g")
    return Design(groups)


CONTRAST = "g0 - g1; g1 - g2"


def largest_clusters(f, threshold, maps):
    """Extent and mass of the cluster of every voxel."""
    above = maps.grid.unmask(f) >= threshold
    labels = components(above, 26)
    extents, masses = np.zeros(f.size), np.zeros(f.size)
    inside = above[maps.grid.mask]
    extents[inside] = np.bincount(labels)[labels]
    masses[inside] = np.bincount(labels, f[inside])[labels]
    return extents, masses


def test_mass_is_a_sum_of_f_in_every_shuffle(rng, device, design):
    maps = make_maps(rng, 9, (5, 6, 5), mean=0)
    maps.values[:20, ::3] += 1.5
    statistics = [
        Tfce(),
        ClusterExtent(connectivity=26, threshold_f=2.5),
        ClusterMass(connectivity=26, threshold_f=2.5),
        Voxelwise(),
    ]
    found = permutation_test(
        maps,
        design,
        CONTRAST,
        statistics=statistics,
        n_permutations=40,
        uncorrected=True,
        device=device,
    )
    shuffles = Shuffles(9, "ee", 40, design.matrix)
    weights = design.contrast(CONTRAST).weights
    permutation, _ = shuffles.draw(range(40))
    of_each = []
    for source in permutation:
        f = least_squares(maps.values, design.matrix[source], weights)[2]
        of_each.append(largest_clusters(f, 2.5, maps))
    for number, name in enumerate(["cluster_extent", "cluster_mass"]):
        scores = np.array([each[number] for each in of_each])
        outcome = found[name]
        np.testing.assert_allclose(outcome.observed, scores[0], rtol=1e-5)
        np.testing.assert_allclose(outcome.null_maxima, scores.max(axis=1), rtol=1e-5)
        reached = (scores >= scores[0] * (1 - 1e-5)).sum(axis=0)
        assert np.array_equal(outcome.counts, reached)
    # what looks at z still sees it
    alone = permutation_test(
        maps, design, CONTRAST, statistics=[Tfce()], n_permutations=40, device=device
    )
    assert np.array_equal(alone["tfce"].null_maxima, found["tfce"].null_maxima)
    z = float(statistic_to_z(2.5, 6, 2))
    on_z = permutation_test(
        maps,
        design,
        CONTRAST,
        statistics=[ClusterExtent(connectivity=26, threshold_z=z)],
        n_permutations=40,
        device=device,
    )
    assert np.array_equal(on_z["cluster_extent"].null_maxima, found["cluster_extent"].null_maxima)


def test_a_threshold_in_f_is_for_f_alone(rng, design):
    maps, of_f = make_maps(rng, 9, (4, 4, 4)), ClusterExtent(connectivity=6, threshold_f=3)
    with pytest.raises(ValueError, match="threshold_f=3 is for F contrasts"):
        permutation_test(maps, design, "g0 - g1", statistics=[of_f], device="cpu")
    incomplete = make_incomplete(rng, 9, shape=(5, 5, 5), least=7)
    with pytest.raises(ValueError, match="not threshold_f, where voxels lack subjects"):
        permutation_test(incomplete, design, CONTRAST, statistics=[of_f], device="cpu")
    of_t = ClusterExtent(connectivity=6, threshold_t=3)
    with pytest.raises(ValueError, match="clusters of F are formed on its z; .* or threshold_f"):
        permutation_test(maps, design, CONTRAST, statistics=[of_t], device="cpu")
