"""All-resolutions inference against closed testing by enumeration, and against nilearn."""

import warnings
from itertools import combinations

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm import cluster_level_inference as nilearn_inference
from scipy import stats
from scipy.ndimage import gaussian_filter, label
from simulate import AFFINE, ellipsoid, make_maps, save_group

from gpustats import cluster_level_inference, get_clusters_table
from gpustats.true_discoveries import hommel_number, true_discoveries


def simes_rejects(p, alpha):
    """Whether Simes' test rejects that all hypotheses with these p are true."""
    p = np.sort(p)
    return (p.size * p <= alpha * np.arange(1, p.size + 1)).any()


def not_rejected(p, alpha):
    """The sets that closed testing does not reject: a superset of theirs is not by Simes."""
    everything = range(len(p))
    subsets = [set(s) for k in range(1, len(p) + 1) for s in combinations(everything, k)]
    kept = [s for s in subsets if not simes_rejects(p[list(s)], alpha)]
    return [s for s in subsets if any(s <= larger for larger in kept)]


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("effect", [0.0, 1.5, 3.0])
def test_bounds_are_those_of_closed_testing(rng, alpha, effect):
    found = 0
    for _ in range(25):
        p = stats.norm.sf(rng.normal(effect * (rng.random(7) < 0.7), 1))
        kept = not_rejected(p, alpha)
        assert hommel_number(p, alpha) == max(map(len, kept), default=0)
        sets = rng.integers(0, 4, 7)
        bounds = true_discoveries(p, sets, alpha)
        assert bounds.names.tolist() == sorted(set(sets.tolist()) - {0})
        for name, least, size in zip(*bounds, strict=True):
            members = set(np.flatnonzero(sets == name).tolist())
            true_at_most = max((len(s) for s in kept if s <= members), default=0)
            assert (least, size) == (len(members) - true_at_most, len(members))
            found += least
    assert (found > 0) or effect == 0


@pytest.mark.parametrize("p", [[0.05], [0.050001], [0.0, 0.0], [1.0, 1.0], [0.025, 0.05], []])
def test_ties_with_the_rate_count_as_rejected(p):
    p = np.array(p)
    kept = not_rejected(p, 0.05)
    assert hommel_number(p, 0.05) == max(map(len, kept), default=0)


def test_hommel_is_the_definition_for_many_tests(rng):
    for share in (0.0, 0.1, 0.6, 1.0):
        p = np.sort(stats.norm.sf(rng.normal(3.5 * (rng.random(400) < share), 1)))
        holds = [
            i
            for i in range(1, 401)
            if all(i * p[400 - i + j - 1] > 0.05 * j for j in range(1, i + 1))
        ]
        assert hommel_number(p, 0.05) == max(holds, default=0)


def test_no_bound_is_too_large_more_often_than_said(rng):
    n_sets = 4000
    wrong = 0
    for _ in range(n_sets):
        p = rng.random(30)
        wrong += true_discoveries(p, np.ones(30, dtype=int), 0.1).least[0] > 0
    # of independent tests Simes' rejects exactly so often
    assert wrong / n_sets == pytest.approx(0.1, abs=4 * np.sqrt(0.09 / n_sets))


@pytest.fixture
def z_map(rng):
    """A smooth map with signal, and the image of its mask."""
    mask = ellipsoid((24, 26, 22))
    z = gaussian_filter(rng.normal(size=mask.shape), 1.0)
    z /= z[mask].std()
    z[8:12, 8:13, 8:12] += 4
    z[15:18, 15:18, 9:12] += 2.5
    z[5:8, 14:17, 9:12] -= 5
    return nib.Nifti1Image(np.where(mask, z, 0), AFFINE), nib.Nifti1Image(
        mask.astype(np.uint8), AFFINE
    )


@pytest.mark.parametrize("alpha", [0.05, 0.2])
@pytest.mark.parametrize("threshold", [3.0, 2.3, [2.5, 4.0, 3.5]])
def test_equals_nilearn(z_map, threshold, alpha):
    image, mask = z_map
    ours = cluster_level_inference(image, mask, threshold, alpha).get_fdata()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its future default threshold
        theirs = nilearn_inference(image, mask, threshold=threshold, alpha=alpha).get_fdata()
    assert np.unique(ours).size > 1
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    without_mask = cluster_level_inference(image, threshold=threshold, alpha=alpha)
    assert np.array_equal(without_mask.get_fdata(), ours)


def test_proportions_of_enormous_z_are_not_above_one(z_map):
    image, mask = z_map
    z = image.get_fdata().copy()
    z[z > 2.5] = 60.0
    ours = cluster_level_inference(nib.Nifti1Image(z, AFFINE), mask).get_fdata()
    labels, _ = label(z > 3)
    assert np.array_equal(ours > 0, labels > 0)
    assert set(np.unique(ours)) == {0.0, 1.0}


def test_touching_at_an_edge_is_a_matter_of_connectivity(rng):
    z = np.full((9, 9, 9), 0.1) * rng.random((9, 9, 9))
    z[2:4, 2:4, 4], z[4, 4, 4] = 9.0, 3.2
    apart = cluster_level_inference(nib.Nifti1Image(z, AFFINE)).get_fdata()
    joined = cluster_level_inference(nib.Nifti1Image(z, AFFINE), connectivity=18).get_fdata()
    assert (apart[4, 4, 4], apart[2, 2, 4]) == (0, 1)
    assert joined[4, 4, 4] == joined[2, 2, 4] == 0.8


def test_nothing_above_the_threshold_is_a_result(z_map):
    assert not cluster_level_inference(*z_map, threshold=50).get_fdata().any()


def test_a_thresholded_map_is_warned_of(z_map, log):
    image, mask = z_map
    cluster_level_inference(image, mask)
    assert "before it was thresholded" not in log.text
    z = image.get_fdata()
    cluster_level_inference(nib.Nifti1Image(np.where(np.abs(z) > 3, z, 0), AFFINE))
    assert "give the map before it was thresholded" in log.text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"threshold": -1}, "threshold must be z values >= 0, got -1"),
        ({"threshold": []}, "threshold must be z values"),
        ({"threshold": [3, np.nan]}, "threshold must be z values"),
        ({"alpha": 0}, "alpha must be an error rate"),
        ({"alpha": 1.5}, "got 1.5"),
        ({"connectivity": 8}, "6, 18 or 26"),
    ],
)
def test_wrong_numbers_are_refused(z_map, options, says):
    with pytest.raises(ValueError, match=says):
        cluster_level_inference(*z_map, **options)


def test_sets_and_p_belong_together():
    with pytest.raises(ValueError, match="for each test"):
        true_discoveries([0.1, 0.2], [1], 0.05)
    with pytest.raises(ValueError, match="1 NaN"):
        true_discoveries([0.1, np.nan], [1, 1], 0.05)


def test_the_table_tells_what_the_map_does(z_map):
    image, mask = z_map
    plain = get_clusters_table(image, 3.0)
    table, labels = get_clusters_table(
        image, 3.0, return_label_maps=True, true_discovery_alpha=0.05
    )
    assert list(table.columns) == [*plain.columns, "True Discovery Proportion"]
    assert table[plain.columns].equals(plain)
    proportions = cluster_level_inference(image, mask, 3.0, 0.05).get_fdata()
    main = table[table["Cluster ID"].map(lambda name: isinstance(name, int))]
    assert main["True Discovery Proportion"].max() > 0
    for name, proportion in zip(main["Cluster ID"], main.iloc[:, -1], strict=True):
        assert set(proportions[labels[0].get_fdata() == name]) == {proportion}
    assert set(table.drop(main.index)["True Discovery Proportion"]) <= {""}


def test_the_tables_of_both_signs_take_p_of_both_tails(z_map):
    image, mask = z_map
    z = image.get_fdata()[mask.get_fdata() > 0]
    table, labels = get_clusters_table(
        image, 3.0, two_sided=True, return_label_maps=True, true_discovery_alpha=0.1
    )
    inside = sum(part.get_fdata() for part in labels)[mask.get_fdata() > 0].astype(int)
    bounds = true_discoveries(2 * stats.norm.sf(np.abs(z)), inside, 0.1)
    expected = dict(zip(bounds.names.tolist(), bounds.proportions, strict=True))
    main = table[table["Cluster ID"].map(lambda name: isinstance(name, int))]
    given = dict(zip(main["Cluster ID"], main["True Discovery Proportion"], strict=True))
    assert given == pytest.approx(expected)
    assert min(given) < 0 < max(given)
    turned = nib.Nifti1Image(-image.get_fdata(), AFFINE)
    below = get_clusters_table(turned, -3.0, true_discovery_alpha=0.05)
    above = get_clusters_table(image, 3.0, true_discovery_alpha=0.05)
    assert below.iloc[:, -1].tolist() == above.iloc[:, -1].tolist()


def test_the_command_line_adds_the_column(run, tmp_path, rng):
    maps = make_maps(rng, mean=0)
    maps.values[:40] += 3
    files = save_group(tmp_path, maps)
    assert run("fit", *files, "--true-discoveries", "0.1", "--one-sided")[0] == 0
    table = pd.read_csv("gpustats-results/contrast-intercept_clusters.tsv", sep="\t")
    z = nib.load("gpustats-results/contrast-intercept_stat-z_statmap.nii.gz").get_fdata()
    labels = nib.load("gpustats-results/contrast-intercept_desc-clusters_dseg.nii.gz").get_fdata()
    inside = maps.grid.mask
    bounds = true_discoveries(stats.norm.sf(z[inside]), labels[inside].astype(int), 0.1)
    given = table["True Discovery Proportion"].dropna()
    assert sorted(given) == pytest.approx(sorted(bounds.proportions))
    assert given.max() > 0.5
