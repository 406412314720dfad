"""Clusters and TFCE of z instead of t, on every engine."""

import numpy as np
import pandas as pd
import pytest
from palming import palm
from randomising import arrangements
from simulate import make_maps

from gpustats import ClusterExtent, Design, Tfce, Voxelwise, compat, permutation_test


@pytest.mark.parametrize("two_sided", [False, True])
def test_scores_of_z(device, rng, two_sided):
    maps = make_maps(rng, 5, (6, 6, 5), mean=0.3)
    found = permutation_test(
        maps,
        Design(pd.DataFrame({"mean": np.ones(5)})),
        "mean",
        statistics=compat("palm", 0.9),
        n_permutations=32,
        two_sided=two_sided,
        uncorrected=True,
        device=device,
    )
    designs = list(arrangements(np.ones((5, 1)), np.ones(5), flips=True))
    expected = palm(maps, designs, [1.0], 0.9, two_tailed=two_sided)
    pairs = {"tfce": "tfce", "cluster_extent": "clustere", "cluster_mass": "clusterm"}
    for statistic, stem in pairs.items():
        corrected, uncorrected, null = expected[stem]
        outcome = found[statistic]
        np.testing.assert_allclose(outcome.scores, null[0], rtol=0.04, atol=1e-3)
        largest = np.sort(null.max(axis=1))
        np.testing.assert_allclose(np.sort(outcome.null_maxima), largest, rtol=0.02, atol=1e-3)
        for p, wanted in ((outcome.p_corrected, corrected), (outcome.p_uncorrected, uncorrected)):
            assert np.mean(np.abs(p - wanted) > 1e-6) < 0.03
            assert np.abs(p - wanted).max() <= 1 / 32 + 1e-6


def test_statistics_of_t_and_of_z_share_a_test(rng):
    maps = make_maps(rng, 8, (6, 6, 5), mean=0.3)
    of_t, of_z = ClusterExtent(connectivity=26, threshold_t=2), Tfce(of_z=True)
    settings = {"n_permutations": 40, "uncorrected": True, "device": "cpu"}
    both = permutation_test(maps, statistics=[of_z, of_t, Voxelwise()], **settings)
    for one in (of_t, of_z):
        alone = permutation_test(maps, statistics=[one], **settings)[one.name]
        assert np.array_equal(both[one.name].null_maxima, alone.null_maxima)
        assert np.array_equal(both[one.name].p_uncorrected, alone.p_uncorrected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClusterExtent(connectivity=26, threshold_t=2, of_z=True), "need threshold_z or"),
        (lambda: Tfce(times_step=True), "times_step needs step or levels"),
    ],
)
def test_what_z_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_smoothed_variances_have_no_z(rng):
    maps = make_maps(rng, 8, (6, 6, 5))
    with pytest.raises(ValueError, match="t of a smoothed variance has no z"):
        permutation_test(maps, statistics=[Tfce(of_z=True)], variance_smoothing_mm=4, device="cpu")
