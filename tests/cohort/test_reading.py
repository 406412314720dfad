"""A store gives back what was stacked, in any blocks and of any subjects."""

import shutil
import sys
import threading
import uuid
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st
from simulate import AFFINE, make_maps, volumes_of
from stores import THREE_CHUNKS

from gpustats import Cohort, cohort_places, load_maps, stack_maps
from gpustats.cohort import is_store


@pytest.fixture
def url():
    """A name in fsspec's memory."""
    name = f"/{uuid.uuid4().hex}"
    yield f"memory:/{name}/cohort.zarr"
    if MemoryFileSystem().exists(name):
        MemoryFileSystem().rm(name, recursive=True)


def test_a_store_is_what_was_stacked(store, maps, files):
    cohort = Cohort.open(store)
    assert np.array_equal(cohort.grid.mask, maps.grid.mask)
    assert np.array_equal(cohort.grid.affine, AFFINE)
    assert (cohort.n_subjects, cohort.n_voxels) == (10, maps.n_voxels)
    assert cohort.subjects == tuple(f"sub-{n:02d}" for n in range(1, 11))
    assert np.array_equal(cohort.n_finite, np.isfinite(maps.values).sum(axis=0))
    assert cohort.skipped == ()
    values = cohort.read()
    assert np.array_equal(values, maps.values, equal_nan=True)
    assert values.dtype == np.float32
    assert values.flags.f_contiguous
    entry = cohort.header.entries[3]
    assert (entry.file, entry.n_bytes) == (str(files[3]), files[3].stat().st_size)
    assert entry.modified_ns == files[3].stat().st_mtime_ns
    cohort.verify()


def test_loading_equals_loading_the_files(store, files, maps, log):
    expected = load_maps(files, maps.grid)
    said = log.messages
    log.clear()
    loaded = Cohort.open(store).load()
    assert log.messages == said
    assert np.array_equal(loaded.values, expected.values)
    assert np.array_equal(loaded.grid.mask, expected.grid.mask)
    assert loaded.subjects == expected.subjects
    assert loaded.dropped == expected.dropped == {"missing in some map": 4, "equal in all maps": 1}
    with pytest.raises(ValueError, match="4 of .* voxels are missing in some map"):
        Cohort.open(store).load(missing="raise")


@pytest.mark.parametrize(
    "options",
    [
        {"zero_is_missing": True},
        {"smoothing_fwhm": 6.0},
        {"resample": True},
        {"subjects": [f"p{n}" for n in range(10)]},
    ],
)
def test_maps_are_read_as_load_maps_reads_them(tmp_path, maps, options):
    maps.values[40, 6] = 0
    images = volumes_of(maps)
    if "resample" in options:
        images[2] = nib.Nifti1Image(images[2].get_fdata(), AFFINE + np.eye(4, k=3) * 0.4)
    paths = [tmp_path / f"{number}.nii" for number in range(10)]
    for image, path in zip(images, paths, strict=True):
        nib.save(image, path)
    expected = load_maps(paths, maps.grid, **options)
    loaded = stack_maps(paths, maps.grid, tmp_path / "cohort.zarr", **options).load()
    assert np.array_equal(loaded.values, expected.values)
    assert np.array_equal(loaded.grid.mask, expected.grid.mask)
    assert loaded.subjects == expected.subjects


def test_images_in_memory_and_in_four_dimensions(tmp_path, maps):
    images = volumes_of(maps, np.nan)
    data = np.stack([image.get_fdata(dtype=np.float32) for image in images], axis=-1)
    whole = nib.Nifti1Image(data, AFFINE)
    nib.save(whole, tmp_path / "all.nii.gz")
    for number, source in enumerate([images, whole, [whole], tmp_path / "all.nii.gz"]):
        cohort = stack_maps(source, maps.grid, tmp_path / f"{number}.zarr", subjects_per_shard=3)
        assert np.array_equal(cohort.read(), maps.values, equal_nan=True)
        assert cohort.subjects is None
    assert cohort.header.entries[7].volume == 7


def test_a_url_is_as_good_as_a_path(url, files, maps):
    stack_maps(files[:5], maps.grid, url, subjects_per_shard=4)
    cohort = stack_maps(files[5:], None, url, append=True)
    assert np.array_equal(cohort.read(), maps.values, equal_nan=True)
    cohort.verify()
    assert is_store(url)
    assert cohort.name == url
    # a path object swallows one slash
    assert np.array_equal(Cohort.open(Path(url)).read(), cohort.read(), equal_nan=True)


def test_file_urls_are_paths(store):
    assert Cohort.open(store.as_uri()).place == Cohort.open(store).place


@given(st.integers(0, 2999), st.integers(1, 3000), st.integers(1, 3000))
def test_blocks_are_slices(shared, start, length, size):
    cohort, values = shared
    start = min(start, cohort.n_voxels - 1)
    stop = min(start + length, cohort.n_voxels)
    assert np.array_equal(cohort.read(start, stop), values[start:stop], equal_nan=True)
    size = max(size, 300)
    blocks = list(cohort.blocks(size))
    assert [first for first, _ in blocks] == list(range(0, cohort.n_voxels, size))
    assert np.array_equal(np.concatenate([b for _, b in blocks]), values, equal_nan=True)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A store that no test changes."""
    maps = make_maps(np.random.default_rng(5), n_subjects=7, shape=THREE_CHUNKS)
    maps.values[np.random.default_rng(6).random(maps.values.shape) < 0.02] = np.nan
    path = tmp_path_factory.mktemp("shared") / "cohort.zarr"
    cohort = stack_maps(volumes_of(maps), maps.grid, path, subjects_per_shard=3)
    return cohort, maps.values


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 5), (0, 10**6), (9, 3)])
def test_voxels_that_are_not_there(shared, start, stop):
    with pytest.raises(ValueError, match="blocks must lie in 0 to"):
        shared[0].read(start, stop)
    with pytest.raises(ValueError, match="at least 1 voxel"):
        next(shared[0].blocks(0))


@pytest.mark.parametrize(
    "rows", [[3], [6, 0, 3, 4], np.array([True, False] * 3 + [True]), slice(1, 5), [2, 2]]
)
def test_a_subset_of_the_subjects(shared, rows):
    cohort, values = shared
    if isinstance(rows, slice):
        rows = np.arange(7)[rows]
    subset = cohort.subset(rows)
    assert np.array_equal(subset.read(1000, 2100), values[1000:2100][:, rows], equal_nan=True)
    assert np.array_equal(subset.n_finite, cohort.n_finite[rows])
    assert np.array_equal(subset.subset([0]).read(), values[:, rows][:, :1], equal_nan=True)
    subset.verify()


def test_a_block_is_read_while_the_one_before_is_worked_on(shared, monkeypatch):
    cohort, _ = shared
    begun = [threading.Event() for _ in range(4)]
    read = Cohort.read

    def watched(self, start=0, stop=None):
        begun[start // 1000].set()
        return read(self, start, stop)

    monkeypatch.setattr(Cohort, "read", watched)
    blocks = cohort.blocks(1000)
    assert next(blocks)[0] == 0
    assert begun[1].wait(10)
    assert not begun[2].is_set()
    assert [start for start, _ in blocks] == [1000, 2000]


def test_errors_of_the_reading_thread_arrive(store):
    cohort = Cohort.open(store)
    (store / "values/c/1/0").unlink()
    with pytest.raises(ValueError, match=r"values/c/1/0, subjects 5 to 8: missing"):
        list(cohort.blocks(1024))


def test_the_fingerprint_is_of_the_data_and_reads_nothing(tmp_path, files, maps, store):
    cohort = Cohort.open(store)
    at_once = stack_maps(files, maps.grid, tmp_path / "b.zarr", subjects_per_shard=7)
    stack_maps(files[:3], maps.grid, tmp_path / "c.zarr")
    appended = stack_maps(files, maps.grid, tmp_path / "c.zarr", append=True)
    shutil.rmtree(store / "values" / "c")
    assert cohort.fingerprint == at_once.fingerprint == appended.fingerprint
    order = [1, 0, *range(2, 10)]
    others = [cohort.subset(range(9)), cohort.subset(order)]
    others.append(stack_maps(files, maps.grid, tmp_path / "d.zarr", dtype="int16"))
    keep = np.arange(maps.n_voxels) != 9
    others.append(stack_maps(files, maps.grid.subset(keep), tmp_path / "e.zarr"))
    assert len({cohort.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_what_is_a_store(tmp_path, store, files, url):
    assert is_store(store)
    assert is_store(str(store))
    for other in (files[0], tmp_path, tmp_path / "nowhere", url, volumes_of, None, 3, [store]):
        assert not is_store(other)
    with pytest.raises(FileNotFoundError, match="no cohort store is there"):
        Cohort.open(tmp_path / "nowhere")
    (tmp_path / "zarr.json").write_text('{"zarr_format": 3, "attributes": {}}')
    with pytest.raises(ValueError, match="but not one that gpustats stack made"):
        Cohort.open(tmp_path)


def test_one_map_is_no_group(store):
    with pytest.raises(ValueError, match="at least 2 maps, got 1"):
        Cohort.open(store).subset([3]).load()


# optional packages


@pytest.mark.parametrize(
    ("package", "path"), [("google_crc32c", "cohort.zarr"), ("fsspec.core", "memory://x.zarr")]
)
def test_a_missing_package_is_named(tmp_path, maps, monkeypatch, package, path):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImportError, match=r"pip install 'gpustats\[large\]'"):
        stack_maps(volumes_of(maps), maps.grid, path)


@pytest.mark.parametrize("name", ["C:/data/cohort.zarr", "a:b", "x/y:z", "1s://b"])
def test_paths_that_look_like_urls(name):
    assert isinstance(cohort_places.find_place(name), cohort_places.Folder)
