import gzip
import threading

import nibabel as nib
import numpy as np
import pytest
from simulate import AFFINE, ellipsoid

from gpustats import images
from gpustats.spaces import Grid


@pytest.fixture
def volume(rng):
    return rng.normal(size=(6, 7, 5)).astype(np.float32)


def write(path, data, dtype=None, **header):
    image = nib.Nifti1Image(data, AFFINE)
    if dtype is not None:
        image.set_data_dtype(dtype)
    for name, value in header.items():
        image.header[name] = value
    nib.save(image, path)
    return path


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".img", ".hdr", ".img.gz"])
def test_reads_what_nibabel_reads(tmp_path, volume, ending):
    path = tmp_path / f"map{ending}"
    kind = nib.Nifti1Pair if "nii" not in ending else nib.Nifti1Image
    nib.save(kind(volume, AFFINE), path)
    assert np.array_equal(images.open_image(path).read(), volume)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["<i2", "u1", ">f4", "<f8", "i4"])
def test_types_scaling_and_byte_order_equal_nibabels(tmp_path, volume, ending, dtype):
    path = tmp_path / f"map{ending}"
    image = nib.Nifti1Image(volume, AFFINE, dtype=np.dtype(dtype))
    image.header.set_data_dtype(dtype)
    if dtype.startswith(">"):
        image = nib.Nifti1Image(volume, AFFINE, nib.Nifti1Header(endianness=">"))
    nib.save(image, path)
    expected = nib.load(path).get_fdata(dtype=np.float32)
    assert np.array_equal(images.open_image(path).read(), expected)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_four_dimensions_volume_by_volume(tmp_path, rng, ending):
    data = rng.normal(size=(6, 7, 5, 4)).astype(np.float32)
    volumes = images.open_image(write(tmp_path / f"maps{ending}", data))
    assert volumes.n_volumes == 4
    for index in (0, 1, 2, 3, 1):
        assert np.array_equal(volumes.read(index), data[..., index])


def test_a_single_volume_may_have_a_fourth_axis(tmp_path, volume):
    volumes = images.open_image(write(tmp_path / "map.nii.gz", volume[..., None]))
    assert volumes.n_volumes == 1
    assert np.array_equal(volumes.read(), volume)


def test_gzip_of_several_members_and_padding(tmp_path, volume):
    whole = nib.Nifti1Image(volume, AFFINE).to_bytes()
    path = tmp_path / "map.nii.gz"
    path.write_bytes(gzip.compress(whole[:300]) + gzip.compress(whole[300:]) + bytes(64))
    assert np.array_equal(images.open_image(path).read(), volume)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.nii: no such file"):
        images.open_image(tmp_path / "nowhere.nii")


@pytest.mark.parametrize("name", ["map.nii", "map.nii.gz", "map.txt"])
@pytest.mark.parametrize("content", [b"", b"not an image", b"\x1f\x8b" + b"x" * 400])
def test_files_that_are_no_images(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: not a readable NIfTI image"):
        images.open_image(path)


def test_other_formats_are_named(tmp_path, volume):
    path = tmp_path / "map.mgz"
    nib.save(nib.MGHImage(volume, AFFINE), path)
    with pytest.raises(ValueError, match="must be NIfTI-1 or NIfTI-2, got MGHImage"):
        images.open_image(path)


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95, 0.999])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_truncated_files_are_told_when_opened(tmp_path, volume, ending, kept):
    path = write(tmp_path / f"map{ending}", volume)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ValueError, match=r"map.*truncated or damaged|not a readable NIfTI"):
        images.open_image(path)


def test_a_flipped_byte_is_told_when_read(tmp_path, volume):
    path = write(tmp_path / "map.nii.gz", volume)
    content = bytearray(path.read_bytes())
    content[-200] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"map\.nii\.gz: the file is truncated or damaged"):
        images.open_image(path).read()


def test_a_flipped_byte_is_told_in_four_dimensions_too(tmp_path, rng):
    path = write(tmp_path / "maps.nii.gz", rng.normal(size=(6, 7, 5, 4)).astype(np.float32))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x01
    path.write_bytes(content)
    volumes = images.open_image(path)
    with pytest.raises(ValueError, match=r"maps\.nii\.gz: the file is truncated or damaged"):
        [volumes.read(index) for index in range(4)]
    with pytest.raises(ValueError, match=r"maps\.nii\.gz: .* one 3D map"):
        images.read_map(path)


@pytest.mark.parametrize("name", ["map.NII.GZ", "map.nii.bz2", "map.NII"])
def test_other_compressions_and_capitals(tmp_path, volume, name):
    image = nib.Nifti1Image(volume, AFFINE)
    nib.save(image, tmp_path / name)
    assert np.array_equal(images.open_image(tmp_path / name).read(), volume)


@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 5, 2, 2)])
def test_images_have_three_or_four_dimensions(shape):
    with pytest.raises(ValueError, match="must be 3D or 4D, got shape"):
        images.open_image(nib.Nifti1Image(np.zeros(shape), np.eye(4)))


def test_voxels_are_real_numbers():
    with pytest.raises(ValueError, match="voxels must be real numbers, got complex64"):
        images.open_image(nib.Nifti1Image(np.zeros((2, 2, 2), np.complex64), np.eye(4)))


@pytest.mark.parametrize("source", [None, 3, np.zeros((2, 2, 2))])
def test_an_image_is_a_path_or_an_image(source):
    with pytest.raises(TypeError, match="an image must be a path or a NIfTI image"):
        images.open_image(source)


def test_numbers_too_large_for_float32_become_infinite_without_a_warning():
    image = nib.Nifti1Image(np.full((2, 2, 2), 1e300), np.eye(4))
    assert np.isinf(images.open_image(image).read()).all()


def test_mask_is_what_is_finite_and_not_zero(tmp_path, volume):
    volume[0] = np.nan
    volume[1] = 0
    grid = images.read_mask(write(tmp_path / "mask.nii", volume))
    assert np.array_equal(grid.mask, np.isfinite(volume) & (volume != 0))


def test_empty_and_four_dimensional_masks_are_refused():
    with pytest.raises(ValueError, match="the mask is empty"):
        images.read_mask(nib.Nifti1Image(np.zeros((2, 2, 2)), np.eye(4)))
    with pytest.raises(ValueError, match="a mask must be 3D, got shape"):
        images.read_mask(nib.Nifti1Image(np.ones((2, 2, 2, 2)), np.eye(4)))


def test_maskers_and_grids_are_masks_too():
    grid = Grid(ellipsoid(), AFFINE)
    masker = type("Masker", (), {"mask_img_": images.to_image(grid.mask, AFFINE)})()
    assert np.array_equal(images.read_mask(masker).mask, grid.mask)
    assert images.read_mask(grid) is grid
    unfitted = type("Masker", (), {"mask_img": None})()
    with pytest.raises(ValueError, match="a Masker that was not fitted; fit it first"):
        images.read_mask(unfitted)


def test_read_map_leaves_the_image_alone(volume):
    image = nib.Nifti1Image(volume.astype(np.float64), AFFINE)
    read, _ = images.read_map(image)
    read[:] = 0
    assert np.array_equal(image.get_fdata(), volume.astype(np.float64))


@pytest.mark.parametrize(
    ("change", "same"),
    [(0.0, True), (5e-5, True), (0.01, False)],
)
def test_same_grid_has_a_tolerance(change, same):
    other = AFFINE.copy()
    other[0, 3] += change
    assert images.same_grid((2, 2, 2), AFFINE, (2, 2, 2), other) is same
    assert not images.same_grid((2, 2, 2), AFFINE, (2, 2, 3), other)


def test_resampling_a_linear_ramp_is_exact_and_nan_outside():
    x = np.arange(6, dtype=np.float32)[:, None, None] * np.ones((6, 6, 6), np.float32)
    target = np.eye(4)
    target[0, 3] = 0.5
    moved = images.resample(x, np.eye(4), Grid(np.ones((6, 6, 6), bool), target))
    np.testing.assert_allclose(moved[:5], x[:5] + 0.5, rtol=1e-6)
    assert np.isnan(moved[5]).all()


def test_saving_keeps_affine_type_and_description(tmp_path, volume):
    path = tmp_path / "out.nii.gz"
    images.save_image(images.to_image(volume, AFFINE, "t of age, é"), path, np.float64)
    saved = nib.load(path)
    assert saved.get_data_dtype() == np.float64
    assert np.array_equal(saved.affine, AFFINE)
    assert saved.header["descrip"].item().startswith(b"t of age")
    assert np.array_equal(saved.get_fdata(), volume)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "out.nii"
    path.write_text("old")

    def fail():
        with images.whole_file(path) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.nii"]


def test_writers_at_once_do_not_mix(tmp_path):
    path = tmp_path / "out.txt"

    def write_all(letter):
        with images.whole_file(path) as partial:
            partial.write_text(letter * 100_000)

    threads = [threading.Thread(target=write_all, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(path.read_text())) == 1
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("package", ["zlib", "isal.isal_zlib"])
@pytest.mark.parametrize("step", [1, 7, 1 << 16])
def test_inflate_checks_the_checksum(monkeypatch, package, step):
    monkeypatch.setattr(images, "INFLATER", pytest.importorskip(package))
    data = bytearray(gzip.compress(b"x" * 1000))
    assert images.inflate(bytes(data), 1000, step) == b"x" * 1000
    data[-5] ^= 1
    with pytest.raises(images.DAMAGE):
        images.inflate(bytes(data), 1000, step)
