import nibabel as nib
import numpy as np
import pytest
from pages import AFFINE, group, pixels, unpacked
from simulate import ellipsoid
from test_findings import found

from gpustats import viewer
from gpustats.pictures import View
from gpustats.spaces import Grid
from gpustats.thresholding import ThresholdRule


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_are_packed_to_four_digits(rng, dtype):
    values = (rng.standard_normal(1000) * 10.0 ** rng.integers(-30, 30, 1000)).astype(dtype)
    values[0] = 0
    np.testing.assert_allclose(unpacked(viewer.packed(values)), values, rtol=2.0**-14)


def test_labels_are_packed_as_they_are():
    labels = np.arange(-70000, 70000, 7)
    np.testing.assert_array_equal(unpacked(viewer.packed(labels, 23)), labels)


def test_packed_noise_takes_half_of_its_bytes(rng):
    """What keeps pages small: 235,000 voxels of a map in less than 0.75 MB."""
    values = rng.standard_normal(50_000)
    assert len(viewer.packed(values)) / 50_000 < 0.75e6 / 235_000


def test_sprite_has_all_sagittal_slices(rng):
    """Slice x lies in column x % n and row x // n; in it y goes right and z goes up."""
    grey = rng.integers(0, 256, (5, 3, 4)).astype(np.uint8)
    backdrop = viewer.Backdrop(grey, 2.0, np.zeros(3))
    picture = np.round(255 * pixels(backdrop.sprite())[..., 0]).astype(int)
    for x, y, z in np.ndindex(5, 3, 4):
        row, column = divmod(x, backdrop.n_columns)
        assert picture[4 * row + 3 - z, 3 * column + y] == grey[x, y, z]


def at(backdrop, mm):
    """The grey of a background at places in mm."""
    index = np.round((np.asarray(mm) - backdrop.origin_mm) / backdrop.step_mm).astype(int)
    return backdrop.grey[tuple(index.T)]


def test_mask_is_the_background_of_maps_without_another():
    grid = Grid(ellipsoid((12, 13, 11)), AFFINE[[1, 2, 0, 3]])
    backdrop = viewer.backdrop(grid, View(None))
    inside = grid.to_mm(np.argwhere(grid.mask))
    assert (at(backdrop, inside) == viewer.OF_THE_MASK).mean() > 0.95
    assert (backdrop.grey[[0, -1]] == viewer.NOTHING).all()


def test_an_image_is_the_background_where_it_is():
    volume = np.zeros((8, 9, 7))
    volume[2:6, 2:7, 2:5] = 90
    volume[4:6, 2:7, 2:5] = 50
    grid = Grid(ellipsoid((8, 9, 7)), AFFINE)
    backdrop = viewer.backdrop(grid, View(nib.Nifti1Image(volume, AFFINE)))
    bright, dark = (at(backdrop, [grid.to_mm([i, 4, 3])])[0] for i in (3, 5))
    assert dark < bright < viewer.NOTHING


def test_script_is_told_what_the_run_found(rng):
    maps = group(rng, []).contrast()
    finding = found(maps, ThresholdRule())
    told = viewer.explored(finding)
    named = {one["name"]: one for one in told["maps"]}
    assert list(named) == ["t", "z", "effect"]
    close = {"rtol": 2.0**-14}
    np.testing.assert_allclose(unpacked(named["t"]["values"]), maps.statistic, **close)
    np.testing.assert_allclose(unpacked(named["effect"]["values"]), maps.effect, **close)
    table = told["uncorrected"]
    heights = unpacked(table["values"])
    steps = (table["first"] + np.arange(heights.size)) / table["steps"]
    assert steps[0] <= maps.z.min() <= maps.z.max() <= steps[-1]
    read = 10.0 ** -np.interp(unpacked(named["z"]["values"]), steps, heights)
    np.testing.assert_allclose(read, maps.p, rtol=1e-3)
    np.testing.assert_array_equal(unpacked(told["labels"]), finding.labels)
    assert np.abs(maps.z).max() <= told["limit"] <= np.abs(maps.z).max() + 0.01
    assert told["threshold"] <= np.abs(maps.z[finding.labels != 0]).min()
    np.testing.assert_allclose(np.array(told["inverse"]) @ told["affine"], np.eye(4), atol=1e-12)
