import tracemalloc

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nilearn.image import smooth_img
from scipy.ndimage import gaussian_filter
from simulate import AFFINE, make_maps, save_group, save_mask, volumes_of

from gpustats.maps import Maps, load_maps, smooth
from gpustats.stacking import prefetch


@pytest.mark.parametrize("with_mask", [True, False])
def test_the_stack_holds_each_map_in_voxel_order(tmp_path, rng, with_mask):
    maps = make_maps(rng)
    paths = save_group(tmp_path, maps)
    loaded = load_maps(paths, save_mask(tmp_path, maps) if with_mask else None)
    assert np.array_equal(loaded.values, maps.values)
    assert np.array_equal(loaded.grid.mask, maps.grid.mask)
    assert np.array_equal(loaded.grid.affine, AFFINE)
    assert loaded.values.flags.f_contiguous
    assert loaded.values.dtype == np.float32


def test_all_kinds_of_input_give_the_same_stack(tmp_path, rng):
    maps = make_maps(rng)
    images = volumes_of(maps)
    whole = nib.Nifti1Image(np.stack([i.get_fdata(dtype=np.float32) for i in images], -1), AFFINE)
    nib.save(whole, tmp_path / "all.nii.gz")
    nib.save(whole, tmp_path / "all.nii")
    inputs = [images, whole, [whole], tmp_path / "all.nii.gz", str(tmp_path / "all.nii")]
    inputs += [save_group(tmp_path, maps, ending=".nii"), iter(images)]
    for source in inputs:
        assert np.array_equal(load_maps(source).values, maps.values)


def test_labels_come_from_bids_names(tmp_path, rng):
    maps = make_maps(rng, n_subjects=3)
    paths = save_group(tmp_path, maps)
    assert load_maps(paths).subjects == ("sub-01", "sub-02", "sub-03")
    assert load_maps(paths, subjects=["c", "b", "a"]).subjects == ("c", "b", "a")
    assert load_maps([*paths, paths[0]]).subjects is None
    assert load_maps(volumes_of(maps)).subjects is None


@pytest.mark.parametrize("fill", [0.0, np.nan])
@pytest.mark.parametrize("with_mask", [True, False])
def test_voxels_missing_in_one_map_leave_the_mask_and_are_counted(
    tmp_path, rng, log, fill, with_mask
):
    maps = make_maps(rng)
    maps.values[[3, 10], [0, 5]] = np.nan
    maps.values[7, 1] = np.inf
    mask = save_mask(tmp_path, maps) if with_mask else None
    loaded = load_maps(volumes_of(maps, fill), mask)
    keep = np.isfinite(maps.values).all(axis=1)
    assert np.array_equal(loaded.values, maps.values[keep])
    assert np.array_equal(loaded.grid.mask, maps.grid.subset(keep).mask)
    assert loaded.dropped["missing in some map"] == 3
    assert "3 voxels left the mask: missing in some map" in log.text


def test_missing_raise_refuses_with_the_count(rng):
    maps = make_maps(rng)
    maps.values[[3, 10], [0, 5]] = np.nan
    with pytest.raises(ValueError, match="2 of .* voxels are missing in some map"):
        load_maps(volumes_of(maps), maps.grid, missing="raise")
    with pytest.raises(ValueError, match="2 of .* voxels are missing in some map"):
        load_maps(volumes_of(maps, np.nan), missing="raise")


def test_background_of_nan_is_not_missing_where_no_map_has_data(rng):
    maps = make_maps(rng)
    assert load_maps(volumes_of(maps, np.nan), missing="raise").n_voxels == maps.n_voxels


def test_zeros_are_data_unless_said_otherwise(rng):
    maps = make_maps(rng)
    maps.values[4, 2] = 0
    assert load_maps(volumes_of(maps), maps.grid).n_voxels == maps.n_voxels
    loaded = load_maps(volumes_of(maps), maps.grid, zero_is_missing=True)
    assert loaded.n_voxels == maps.n_voxels - 1


def test_constant_voxels_leave_the_mask(rng):
    maps = make_maps(rng)
    maps.values[5] = 3.25
    loaded = load_maps(volumes_of(maps), maps.grid)
    assert loaded.dropped == {"missing in some map": 0, "equal in all maps": 1}
    assert np.array_equal(loaded.values, np.delete(maps.values, 5, axis=0))


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_voxel_joins_the_stack_whenever_it_first_varies(seed, with_mask):
    rng = np.random.default_rng(seed)
    maps = make_maps(rng, n_subjects=6, shape=(6, 7, 5))
    joins = rng.integers(0, 8, maps.n_voxels)
    for voxel, first in enumerate(joins):
        maps.values[voxel, :first] = maps.values[voxel, 0]
    maps.values[rng.random(maps.values.shape) < 0.01] = np.nan
    keep = np.isfinite(maps.values).all(1) & (np.ptp(maps.values, axis=1) > 0)
    loaded = load_maps(volumes_of(maps), maps.grid if with_mask else None)
    assert np.array_equal(loaded.values, maps.values[keep])


def test_memory_is_that_of_the_stack(tmp_path, rng):
    maps = make_maps(rng, n_subjects=60, shape=(40, 40, 40))
    paths = save_group(tmp_path, maps)
    volume_bytes = 4 * 40**3
    for mask in (maps.grid, None):
        tracemalloc.start()
        load_maps(paths, mask)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1.1 * maps.values.nbytes + 40 * volume_bytes


def test_grids_must_agree_before_anything_is_read(tmp_path, rng):
    maps = make_maps(rng, n_subjects=3)
    paths = save_group(tmp_path, maps)
    data = np.ones((9, 10, 8), np.float32)
    shifted = AFFINE.copy()
    shifted[0, 3] += 1
    nib.save(nib.Nifti1Image(data, shifted), tmp_path / "shifted.nii")
    nib.save(nib.Nifti1Image(data[:-1], AFFINE), tmp_path / "smaller.nii")
    with pytest.raises(ValueError, match=r"shifted\.nii: affine .*13\.0.* of .*sub-01.*resample"):
        load_maps([*paths, tmp_path / "shifted.nii"])
    with pytest.raises(ValueError, match=r"smaller\.nii: shape \(8, 10, 8\) differs"):
        load_maps([*paths, tmp_path / "smaller.nii"])
    with pytest.raises(ValueError, match="differs from shape .* of the mask"):
        load_maps(paths, tmp_path / "smaller.nii")


def test_resampling_aligns_other_grids_on_request(rng):
    maps = make_maps(rng, n_subjects=3)
    flipped = [
        nib.Nifti1Image(image.get_fdata()[::-1], AFFINE @ np.diag([-1, 1, 1, 1.0]) + _shift())
        for image in volumes_of(maps, np.nan)
    ]
    loaded = load_maps(flipped, maps.grid, resample=True)
    np.testing.assert_allclose(loaded.values, maps.values, rtol=1e-5, atol=1e-5)


def _shift():
    """The change of the origin when the first axis of a 9 x 10 x 8 volume is reversed."""
    shift = np.zeros((4, 4))
    shift[:3, 3] = AFFINE[:3, 0] * 8
    return shift


def test_smoothing_equals_a_gaussian_filter(rng):
    volume = rng.normal(size=(9, 10, 8)).astype(np.float32)
    sigma = 2 / np.sqrt(8 * np.log(2))
    expected = gaussian_filter(volume, sigma)
    np.testing.assert_allclose(smooth(volume, np.full(3, 2.0)), expected, rtol=1e-4, atol=1e-6)


def test_smoothing_keeps_missing_voxels_apart():
    volume = np.ones((20, 20, 20), np.float32)
    volume[10, 10, 10] = np.nan
    smoothed = smooth(volume, np.full(3, 2.0))
    assert np.isnan(smoothed[10, 10, 10])
    np.testing.assert_allclose(smoothed[8:13, 8:13, 8:10], 1, rtol=1e-5)


def test_smoothing_is_in_millimetres(rng):
    maps = make_maps(rng, n_subjects=3, shape=(12, 13, 11))
    loaded = load_maps(volumes_of(maps), maps.grid, smoothing_fwhm=6.0)
    sigma = 6.0 / np.sqrt(8 * np.log(2)) / np.array([3.0, 3.5, 4.0])
    volume = volumes_of(maps)[1].get_fdata(dtype=np.float32)
    expected = gaussian_filter(volume, sigma)[maps.grid.mask]
    np.testing.assert_allclose(loaded.values[:, 1], expected, rtol=1e-4, atol=1e-5)
    theirs = smooth_img(volumes_of(maps)[1], 6.0).get_fdata()[maps.grid.mask]
    np.testing.assert_allclose(loaded.values[:, 1], theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"missing": "listwise"}, "missing must be one of .*, got 'listwise'"),
        ({"smoothing_fwhm": -1}, "smoothing_fwhm must be a width in mm"),
        ({"smoothing_fwhm": np.inf}, "smoothing_fwhm must be a width in mm"),
        ({"smoothing_fwhm": "fast"}, "smoothing_fwhm must be a width in mm"),
        ({"subjects": ["sub-1", "1", "2"]}, r"must be unique; repeated: \['1'\]"),
        ({"subjects": ["a"]}, "1 subject labels for 3 maps"),
        ({"subjects": ["a", "b", "a"]}, r"must be unique; repeated: \['a'\]"),
    ],
)
def test_wrong_options(rng, options, message):
    with pytest.raises(ValueError, match=message):
        load_maps(volumes_of(make_maps(rng, n_subjects=3)), **options)


def test_maps_that_cannot_be_analysed(rng):
    maps = make_maps(rng, n_subjects=3)
    images = volumes_of(maps)
    with pytest.raises(ValueError, match="at least 2 maps, got 1"):
        load_maps(images[:1])
    with pytest.raises(ValueError, match="at least 2 maps, got 0"):
        load_maps([])
    with pytest.raises(ValueError, match="no voxel is finite in all maps and differs"):
        load_maps([images[0]] * 3)
    empty = nib.Nifti1Image(np.full((9, 10, 8), np.nan, np.float32), AFFINE)
    with pytest.raises(ValueError, match="image 2: no finite voxel in the mask"):
        load_maps([images[0], empty, images[1]])
    four = nib.Nifti1Image(np.ones((9, 10, 8, 2), np.float32), AFFINE)
    with pytest.raises(ValueError, match="image 2: images in a list must be 3D"):
        load_maps([images[0], four])


def test_a_stack_must_be_what_engines_expect(rng):
    maps = make_maps(rng)
    with pytest.raises(ValueError, match=r"\(n_voxels, n_subjects\)"):
        Maps(maps.values[1:], maps.grid)
    with pytest.raises(ValueError, match="float32 in Fortran order"):
        Maps(np.ascontiguousarray(maps.values), maps.grid)
    with pytest.raises(ValueError, match="float32 in Fortran order"):
        Maps(maps.values.astype(np.float64), maps.grid)


def test_prefetch_keeps_the_order_and_stays_a_few_items_ahead():
    started = []

    def work(item):
        started.append(item)
        return item * 2

    results = prefetch(work, iter(range(100)), 3)
    assert next(results) == 0
    assert len(started) <= 6
    assert list(results) == [2 * item for item in range(1, 100)]


def test_prefetch_hands_on_errors():
    def work(item):
        if item == 3:
            raise ValueError("item 3")
        return item

    with pytest.raises(ValueError, match="item 3"):
        list(prefetch(work, range(10), 2))
