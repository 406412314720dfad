"""Maps of where the shuffles have their maxima, against null maps made and scored one by one."""

from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from oracles import components, least_squares
from permuting import EVERYTHING, same
from simulate import make_incomplete, make_maps, save_group, save_mask

from gpustats import Design, Voxelwise, load_inference, merge, permutation_test
from gpustats.enhancements import ClusterExtent, ClusterMass
from gpustats.selftest import plain
from gpustats.shuffles import Shuffles
from gpustats.simes import TrueDiscoveries
from gpustats.tfce import Tfce

HEIGHT = 1.5
STATISTICS = (
    Voxelwise(),
    ClusterExtent(connectivity=6, threshold_t=HEIGHT),
    ClusterMass(connectivity=6, threshold_t=HEIGHT),
    Tfce(),
)


def scores(t, mask):
    """The four scores of the voxels of one side of a map."""
    volume = np.zeros(mask.shape, bool)
    volume[mask] = t >= HEIGHT
    extents, masses = np.zeros((2, t.size))
    labels = components(volume, 6)
    for label in np.unique(labels):
        members = np.flatnonzero(volume[mask])[labels == label]
        extents[members], masses[members] = members.size, t[members].sum()
    return np.array([t, extents, masses, plain.tfce(t, mask, 6, 0.5, 2.0, 0.0)])


@pytest.mark.parametrize("two_sided", [True, False])
def test_the_voxels_with_the_largest_scores_are_counted(device, rng, two_sided):
    maps = make_maps(rng, n_subjects=8, mean=0, shape=(7, 8, 6))
    result = permutation_test(
        maps,
        statistics=STATISTICS,
        n_permutations=60,
        two_sided=two_sided,
        null_contributions=True,
        device=device,
    )
    mask, expected = maps.grid.mask, np.zeros((4, maps.n_voxels))
    for signs in Shuffles(8, "ise", 60).draw(range(60))[1]:
        t = least_squares(maps.values * signs, np.ones((8, 1)), [1])[2].astype(np.float32)
        sides = np.array([scores(side, mask) for side in ((t, -t) if two_sided else (t,))])
        peaks = sides.max(axis=(0, 2))[:, np.newaxis]
        expected += ((sides >= peaks * (1 - 1e-6)) & ((peaks > 0) | (peaks == sides[:, :1]))).any(0)
    for outcome, counts in zip(result.outcomes, expected, strict=True):
        assert np.array_equal(outcome.null_contributions, counts), outcome.statistic
    assert expected[0].sum() == expected[3].sum() == 60
    assert expected[1].sum() > 2 * 60


@pytest.mark.parametrize("contrast", ["x", "x; y"])
@pytest.mark.parametrize("make", [make_maps, make_incomplete])
def test_the_observed_map_alone_contributes_its_own_maximum(device, rng, contrast, make):
    maps = make(rng, n_subjects=12)
    table = pd.DataFrame({"x": rng.normal(size=12), "y": rng.normal(size=12), "one": 1.0})
    statistics = (Voxelwise(), ClusterExtent(connectivity=18, threshold_z=1.0), Tfce())
    result = permutation_test(
        maps,
        Design(table),
        contrast,
        statistics=statistics,
        shuffles=range(1),
        null_contributions=True,
        device=device,
    )
    for outcome in result.outcomes:
        highest = outcome.scores >= outcome.scores.max() - 1e-5
        assert np.array_equal(outcome.null_contributions, highest), outcome.statistic


def test_the_ranked_voxels_that_make_the_largest_excess_are_counted(device, rng):
    maps = make_maps(rng, n_subjects=12, mean=0.8)
    result = permutation_test(
        maps,
        statistics=[TrueDiscoveries()],
        shuffles=range(1),
        null_contributions=True,
        device=device,
    )["true_discoveries"]
    assert (result.observed[result.null_contributions == 1] > 0).all()
    counted = result.observed[result.null_contributions == 1]
    assert counted.size == (result.observed >= counted.min()).sum() > 1
    assert np.log10(counted.size) + counted.min() == pytest.approx(result.maxima[0], rel=1e-12)


def test_counting_them_changes_nothing_else(device, rng):
    maps = make_maps(rng, n_subjects=9)
    for statistics in (EVERYTHING, (Voxelwise(),)):
        one, other = (
            permutation_test(
                maps, statistics=statistics, n_permutations=40, device=device, **options
            )
            for options in ({}, {"null_contributions": True})
        )
        assert all(outcome.null_contributions is None for outcome in one.outcomes)
        for outcome in other.outcomes:
            assert outcome.null_contributions.sum() >= 40
            object.__setattr__(outcome, "null_contributions", None)
        assert same(one, other)


def test_ranges_batches_and_threads_change_no_count(device, rng, monkeypatch):
    maps = make_maps(rng, n_subjects=9, shape=(7, 8, 6))
    options = {"statistics": EVERYTHING, "n_permutations": 40, "null_contributions": True}
    run = partial(permutation_test, maps, device=device, **options)
    whole = run()
    monkeypatch.setattr("gpustats.engines.cpu.MAP_BYTES", 4 * maps.n_voxels * 7)
    for module in ("cpu", "cpu_ranks", "cpu_spatial", "cpu_sweep"):
        monkeypatch.setattr(f"gpustats.engines.{module}.n_threads", lambda: 3)
    assert same(merge([run(shuffles=range(17, 40)), run(shuffles=range(17))]), whole)


def test_where_nothing_reaches_the_threshold_nothing_contributes(device, rng):
    statistics = [ClusterExtent(connectivity=6, threshold_t=1e6)]
    options = {"statistics": statistics, "n_permutations": 30, "null_contributions": True}
    result = permutation_test(make_maps(rng), device=device, **options)
    assert not result["cluster_extent"].null_contributions.any()


def test_the_command_line_writes_them_as_maps(run, rng):
    maps = make_maps(rng)
    paths, mask = save_group(Path(), maps), save_mask(Path(), maps)
    words = [*paths, "--mask", mask, "--n-permutations", 50, "--device", "cpu"]
    assert run("permute", *words, "--null-contributions")[0] == 0
    found = load_inference("gpustats-results/inference.npz")
    for outcome in found.outcomes:
        name = f"contrast-intercept_desc-{outcome.statistic}nullcontributions_statmap.nii.gz"
        image = nib.load(Path("gpustats-results", name))
        assert image.get_data_dtype() == np.int32
        volume = np.asarray(image.dataobj)
        assert np.array_equal(volume[maps.grid.mask], outcome.null_contributions)
        assert volume.sum() >= 50
    assert run("permute", *words, "--output-dir", "without")[0] == 0
    assert not list(Path("without").glob("*nullcontributions*"))
