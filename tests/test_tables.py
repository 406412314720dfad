import warnings

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.reporting import get_clusters_table as nilearn_table
from oracles import components
from scipy.ndimage import gaussian_filter
from simulate import AFFINE, ellipsoid

from gpustats import get_clusters_table


def smooth_map(rng, shape=(20, 22, 18), sigma=1.2):
    mask = ellipsoid(shape)
    z = gaussian_filter(rng.normal(size=shape), sigma)
    return nib.Nifti1Image(np.where(mask, z / z[mask].std(), 0), AFFINE)


def sizes(table):
    return pd.to_numeric(table["Cluster Size (mm3)"]).dropna().to_numpy()


@pytest.mark.parametrize("cluster_threshold", [None, 0, 1, 6])
@pytest.mark.parametrize("threshold", [1.0, 1.7, 2.5])
@pytest.mark.parametrize("min_distance", [1e-3, 40.0])
def test_equals_nilearn_on_one_side(rng, threshold, cluster_threshold, min_distance):
    # at these distances no sub-peak is removed, or all: in between, nilearn lets a lower peak
    # undo the removal of one near a higher peak
    image = smooth_map(rng)
    ours = get_clusters_table(image, threshold, cluster_threshold, min_distance=min_distance)
    theirs = nilearn_table(image, threshold, cluster_threshold or 0, min_distance=min_distance)
    assert list(ours.columns) == list(theirs.columns)
    assert ours["Cluster ID"].tolist() == theirs["Cluster ID"].tolist()
    place = ["X", "Y", "Z", "Peak Stat"]
    np.testing.assert_allclose(ours[place].astype(float), theirs[place].astype(float))
    np.testing.assert_allclose(sizes(ours), sizes(theirs), atol=1)  # nilearn cuts to integers


def test_negative_clusters_are_those_of_the_negated_map(rng):
    image = smooth_map(rng)
    negated = nib.Nifti1Image(-image.get_fdata(), AFFINE)
    both = get_clusters_table(image, 1.7, two_sided=True)
    mirrored = get_clusters_table(negated, 1.7, two_sided=True)
    below = both[[str(name).startswith("-") for name in both["Cluster ID"]]]
    above = mirrored[[not str(name).startswith("-") for name in mirrored["Cluster ID"]]]
    assert ["-" + str(name) for name in above["Cluster ID"]] == [*map(str, below["Cluster ID"])]
    np.testing.assert_array_equal(below["Peak Stat"], -above["Peak Stat"].to_numpy())
    np.testing.assert_array_equal(below[["X", "Y", "Z"]], above[["X", "Y", "Z"]])
    one_sided = get_clusters_table(image, -1.7)
    pd.testing.assert_frame_equal(one_sided, below.reset_index(drop=True), check_dtype=False)


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_ids_are_the_values_of_the_label_map(rng, connectivity):
    image = smooth_map(rng)
    table, label_maps = get_clusters_table(
        image, 1.5, 3, two_sided=True, return_label_maps=True, connectivity=connectivity
    )
    labels = sum(label_map.get_fdata() for label_map in label_maps).astype(int)
    main = table[[isinstance(name, int) for name in table["Cluster ID"]]]
    assert sorted(main["Cluster ID"]) == sorted(set(np.unique(labels)) - {0})
    for row in main.to_dict("records"):
        inside = labels == row["Cluster ID"]
        voxel = np.linalg.solve(AFFINE, [row["X"], row["Y"], row["Z"], 1])[:3].round().astype(int)
        assert labels[tuple(voxel)] == row["Cluster ID"]
        values = image.get_fdata()[inside]
        assert row["Peak Stat"] == (values.max() if row["Cluster ID"] > 0 else values.min())
        assert row["Cluster Size (mm3)"] == inside.sum() * 42.0
    for sign in (1, -1):
        expected = components(sign * image.get_fdata() > 1.5, connectivity)
        counts = np.bincount(expected)
        assert (sign * labels > 0).sum() == counts[1:][counts[1:] >= 3].sum()


def test_clusters_are_sorted_by_peak(rng):
    table = get_clusters_table(smooth_map(rng), 1.2, two_sided=True)
    for sign in (1, -1):
        ids = [name for name in table["Cluster ID"] if isinstance(name, int) and name * sign > 0]
        peaks = table.set_index("Cluster ID").loc[ids, "Peak Stat"].to_numpy(float)
        assert ids == [sign * k for k in range(1, len(ids) + 1)]
        assert (np.diff(np.abs(peaks)) <= 0).all()


def test_subpeaks_follow_their_cluster_apart_from_each_other(rng):
    table = get_clusters_table(smooth_map(rng, (30, 30, 30)), 0.3, min_distance=12.0)
    names = table["Cluster ID"].astype(str)
    assert names.str.fullmatch(r"\d+[abc]?").all()
    for number in names.str.extract(r"(\d+)")[0].unique():
        rows = table[names.str.fullmatch(rf"{number}[abc]?")]
        assert rows["Cluster Size (mm3)"].tolist()[1:] == [""] * (len(rows) - 1)
        places = rows[["X", "Y", "Z"]].to_numpy(float)
        gaps = np.linalg.norm(places[:, None] - places, axis=2)
        assert (gaps[np.triu_indices(len(rows), 1)] > 12.0).all()
        assert (np.diff(rows["Peak Stat"].astype(float)) <= 0).all()


@pytest.mark.parametrize("value", [1.0, 5.0])
def test_a_flat_cluster_has_one_peak_inside_it(value):
    volume = np.zeros((12, 12, 12))
    volume[2:9, 2:9, 3] = value
    volume[4:7, 4:7, 3] = 0
    image = nib.Nifti1Image(volume, AFFINE)
    table = get_clusters_table(image, 0.5)
    assert len(table) == 1
    voxel = np.linalg.solve(AFFINE, [*table.loc[0, ["X", "Y", "Z"]], 1])[:3].round().astype(int)
    assert volume[tuple(voxel)] == value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nilearn warns about the hole
        theirs = nilearn_table(image, 0.5, 0)
    np.testing.assert_allclose(table[["X", "Y", "Z"]].astype(float), theirs[["X", "Y", "Z"]])


def test_no_cluster_is_an_empty_table(rng):
    table, label_maps = get_clusters_table(
        smooth_map(rng), 99, two_sided=True, return_label_maps=True
    )
    assert table.empty
    assert list(table.columns)[-1] == "Cluster Size (mm3)"
    assert [label_map.get_fdata().any() for label_map in label_maps] == [False, False]


def test_nan_is_in_no_cluster(rng):
    image = smooth_map(rng)
    volume = image.get_fdata().copy()
    volume[volume > 2.2] = np.nan
    table = get_clusters_table(nib.Nifti1Image(volume, AFFINE), 1.5)
    assert table["Peak Stat"].max() <= 2.2


def test_the_image_is_left_alone(rng):
    image = smooth_map(rng)
    before = image.get_fdata().copy()
    get_clusters_table(image, 1.0, 10, two_sided=True)
    assert np.array_equal(image.get_fdata(), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stat_threshold": -2.0, "two_sided": True}, "not negative with two_sided=True; got -2.0"),
        ({"stat_threshold": np.nan}, "stat_threshold must be a number"),
        ({"stat_threshold": 2.0, "min_distance": 0}, "min_distance must be a distance in mm > 0"),
        ({"stat_threshold": 2.0, "connectivity": 7}, "connectivity must be 6, 18 or 26"),
    ],
)
def test_wrong_options(rng, options, message):
    with pytest.raises(ValueError, match=message):
        get_clusters_table(smooth_map(rng), **options)
