import warnings

import nibabel as nib
import numpy as np
import pytest
from nilearn.glm import threshold_stats_img as nilearn_threshold
from oracles import benjamini_hochberg, components
from scipy import stats
from scipy.ndimage import gaussian_filter
from simulate import AFFINE, ellipsoid

from gpustats import get_clusters_table, map_threshold, threshold_stats_img


@pytest.fixture
def z_map(rng):
    """A smooth map with signal of both signs, 0 outside the mask."""
    mask = ellipsoid((20, 22, 18))
    z = gaussian_filter(rng.normal(size=mask.shape), 1.2)
    z /= z[mask].std()
    z[8:12, 8:12, 8:12] += 4
    z[5:7, 12:15, 9:12] -= 4
    return nib.Nifti1Image(np.where(mask, z, 0), AFFINE)


def data(image):
    return image.get_fdata()


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("cluster_threshold", [0, 5, 40])
@pytest.mark.parametrize("height_control", ["fpr", "fdr", "bonferroni", None])
def test_equals_nilearn(z_map, two_sided, cluster_threshold, height_control):
    mask = nib.Nifti1Image((data(z_map) != 0).astype(np.uint8), AFFINE)
    options = {"alpha": 0.01, "height_control": height_control, "two_sided": two_sided}
    ours, height = map_threshold(
        z_map, mask, threshold=2.5, cluster_threshold=cluster_threshold, **options
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about arguments that nilearn does not use
        theirs, their_height = nilearn_threshold(
            z_map, mask, threshold=2.5, cluster_threshold=cluster_threshold, **options
        )
    assert height == pytest.approx(their_height, abs=1e-9)
    np.testing.assert_allclose(data(ours), data(theirs))


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.4])
def test_fdr_is_the_definition(z_map, alpha, two_sided):
    kept, _ = map_threshold(z_map, alpha=alpha, height_control="fdr", two_sided=two_sided)
    z = data(z_map)[data(z_map) != 0]
    p = 2 * stats.norm.sf(np.abs(z)) if two_sided else stats.norm.sf(z)
    assert np.array_equal(data(kept)[data(z_map) != 0] != 0, benjamini_hochberg(p, alpha))


def test_the_table_lists_what_the_map_keeps(z_map):
    kept, height = map_threshold(z_map, alpha=0.05, height_control="fdr")
    _, labels = get_clusters_table(z_map, height, two_sided=True, return_label_maps=True)
    assert np.array_equal(sum(map(data, labels)) != 0, data(kept) != 0)


def test_a_threshold_that_is_not_used_is_said(z_map, log):
    map_threshold(z_map, threshold=1.96)
    assert "threshold=1.96 is not used with height_control='fpr'" in log.text


@pytest.mark.parametrize("height_control", ["fdr", "bonferroni", "fpr", None])
def test_nothing_surviving_is_a_result(rng, height_control):
    image = nib.Nifti1Image(rng.uniform(-1, 1, (6, 6, 6)), AFFINE)
    kept, height = map_threshold(image, height_control=height_control, alpha=0.001)
    assert np.isfinite(height)
    assert height > 1
    assert not data(kept).any()


def test_one_voxel_at_the_height_told_by_an_empty_fdr_would_have_survived(rng):
    volume = rng.uniform(-1, 1, (6, 6, 6))
    _, height = map_threshold(nib.Nifti1Image(volume, AFFINE), height_control="fdr", alpha=0.01)
    volume[2, 2, 2] = height * (1 + 1e-12)
    kept, _ = map_threshold(nib.Nifti1Image(volume, AFFINE), height_control="fdr", alpha=0.01)
    assert np.count_nonzero(data(kept)) == 1


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_clusters_have_a_least_size_under_their_connectivity(z_map, connectivity):
    kept, _ = map_threshold(
        z_map, threshold=1.5, height_control=None, cluster_threshold=9, connectivity=connectivity
    )
    expected = np.zeros_like(data(z_map))
    for sign in (1, -1):
        above = sign * data(z_map) >= 1.5
        labels = components(above, connectivity)
        sizes = np.bincount(labels)[labels]
        expected[tuple(np.argwhere(above)[sizes >= 9].T)] = data(z_map)[above][sizes >= 9]
    assert np.array_equal(data(kept), expected)


def test_opposite_signs_never_make_one_cluster():
    volume = np.zeros((4, 4, 4))
    volume[0, 0, :2], volume[0, 0, 2:] = 5, -5
    kept, _ = map_threshold(
        nib.Nifti1Image(volume, AFFINE), height_control=None, cluster_threshold=3
    )
    assert not data(kept).any()


def test_a_voxel_at_the_threshold_passes():
    volume = np.full((2, 2, 2), 3.0)
    kept, _ = map_threshold(nib.Nifti1Image(volume, AFFINE), threshold=3.0, height_control=None)
    assert data(kept).all()


def test_the_mask_is_the_number_of_tests(z_map):
    mask = data(z_map) != 0
    _, inside = map_threshold(z_map, height_control="bonferroni", alpha=0.05)
    mask[:10] = False
    _, half = map_threshold(
        z_map, nib.Nifti1Image(mask.astype(np.uint8), AFFINE), 0.05, height_control="bonferroni"
    )
    assert inside == pytest.approx(stats.norm.isf(0.025 / np.count_nonzero(data(z_map))))
    assert half == pytest.approx(stats.norm.isf(0.025 / mask.sum()))


def test_nan_is_no_voxel(z_map, log):
    volume = data(z_map).copy()
    mask = nib.Nifti1Image((volume != 0).astype(np.uint8), AFFINE)
    volume[9, 9, 9] = np.nan
    kept, _ = map_threshold(nib.Nifti1Image(volume, AFFINE), mask)
    assert np.isfinite(data(kept)).all()
    assert data(kept)[9, 9, 9] == 0
    assert "1 voxels of the mask are not finite" in log.text


def test_the_image_is_left_alone(z_map):
    before = data(z_map).copy()
    map_threshold(z_map, cluster_threshold=10)
    assert np.array_equal(data(z_map), before)


def test_no_image_is_needed_where_the_data_do_not_matter():
    assert map_threshold(alpha=0.05, two_sided=True)[1] == pytest.approx(1.959964)
    assert map_threshold(threshold=2.3, height_control=None) == (None, 2.3)
    assert map_threshold(threshold=None, height_control=None, cluster_threshold=None)[1] == 3.0
    with pytest.raises(ValueError, match="stat_img is needed for height_control='fdr'"):
        map_threshold(height_control="fdr")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 3.1}, r"alpha must be an error rate in \(0, 0.5\], got 3.1"),
        ({"alpha": 0}, "alpha must be an error rate"),
        ({"alpha": float("nan")}, "alpha must be an error rate"),
        ({"threshold": -3.0, "height_control": None}, "threshold must be a z value >= 0, got -3.0"),
        ({"threshold": float("inf")}, "threshold must be a z value"),
        ({"height_control": "fwer"}, "height_control must be 'fpr', 'fdr', 'bonferroni' or None"),
        ({"cluster_threshold": -1}, "cluster_threshold must be a number of voxels, got -1"),
        ({"connectivity": 8}, "connectivity must be 6, 18 or 26, got 8"),
    ],
)
def test_wrong_units_and_names(z_map, options, message):
    with pytest.raises(ValueError, match=message):
        map_threshold(z_map, **options)


def test_a_p_value_given_as_a_z_threshold_is_questioned(z_map):
    with pytest.warns(UserWarning, match="threshold=0.05 is taken as a z value; if it is a p"):
        map_threshold(z_map, threshold=0.05, height_control=None)


def test_masks_of_another_grid_or_without_voxels(z_map):
    with pytest.raises(ValueError, match="the mask has shape .* they must share a grid"):
        map_threshold(z_map, nib.Nifti1Image(np.ones((3, 3, 3)), AFFINE))
    with pytest.raises(ValueError, match="no voxel to threshold"):
        map_threshold(nib.Nifti1Image(np.zeros((3, 3, 3)), AFFINE))


def test_nilearns_name_is_the_same_function():
    assert threshold_stats_img is map_threshold
