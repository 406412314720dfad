"""A store gives back what was stacked, in any blocks, and refuses what was changed."""

import json
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
from hypothesis.extra import numpy as hnp
from simulate import AFFINE, make_maps, save_group, volumes_of

from gpustats import Cohort, Grid, cohort_places, load_maps, stack_maps
from gpustats.cohort import is_store
from gpustats.cohort_layout import Layout, quantised, restored, shard_height
from gpustats.maps import Maps

SHAPE = (22, 24, 20)
"""Of volumes whose mask takes three chunks of 1,024 voxels."""


@pytest.fixture
def maps(rng):
    """Ten maps with holes, and a voxel that is equal in all of them."""
    maps = make_maps(rng, n_subjects=10, shape=SHAPE)
    assert 2048 < maps.n_voxels < 3072
    maps.values[[5, 1030, 2500], [0, 3, 9]] = np.nan
    maps.values[1500, 4] = np.inf
    maps.values[77] = -2.5
    return maps


@pytest.fixture
def files(tmp_path, maps):
    return save_group(tmp_path, maps)


@pytest.fixture
def store(tmp_path, files, maps):
    """A store of three shards, of which the last is not full."""
    stack_maps(files, maps.grid, tmp_path / "cohort.zarr", subjects_per_shard=4)
    return tmp_path / "cohort.zarr"


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
    maps = make_maps(np.random.default_rng(5), n_subjects=7, shape=SHAPE)
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


# what Zarr makes of it


@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_zarr_reads_the_store(tmp_path, files, maps, dtype):
    zarr = pytest.importorskip("zarr")
    from zarr.registry import register_codec

    from gpustats.cohort_codec import Int16Codec

    register_codec("gpustats.int16", Int16Codec)
    cohort = stack_maps(
        files, maps.grid, tmp_path / "cohort.zarr", subjects_per_shard=4, dtype=dtype
    )
    group = zarr.open_group(tmp_path / "cohort.zarr", mode="r")
    assert {name for name, _ in group.members()} == {"values", "mask"}
    assert np.array_equal(group["values"][:].T, cohort.read(), equal_nan=True)
    part = group["values"][2:7, 1000:2100].T
    assert np.array_equal(part, cohort.read(1000, 2100)[:, 2:7], equal_nan=True)
    assert np.array_equal(group["mask"][:], maps.grid.mask)


@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_zarr_writes_the_same_shards(tmp_path, files, maps, dtype):
    zarr = pytest.importorskip("zarr")
    from zarr.registry import register_codec

    from gpustats.cohort_codec import Int16Codec

    register_codec("gpustats.int16", Int16Codec)
    path = tmp_path / "cohort.zarr"
    cohort = stack_maps(files, maps.grid, path, subjects_per_shard=5, dtype=dtype)
    before = [(path / f"values/c/{shard}/0").read_bytes() for shard in range(2)]
    padded = np.zeros((10, 3072), np.float32)
    padded[:, : maps.n_voxels] = cohort.read().T
    array = zarr.open_group(path, mode="r+")["values"].with_config({"write_empty_chunks": True})
    array.resize((10, 3072))
    array[:] = padded
    assert [(path / f"values/c/{shard}/0").read_bytes() for shard in range(2)] == before


# 16 bits

FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 5)), elements=FLOATS))
def test_rounding_to_16_bits(values):
    content = memoryview(quantised(values))
    rounded = restored(content, values.shape[0])
    finite = np.isfinite(values)
    assert np.array_equal(np.isnan(rounded), ~finite)
    largest = np.abs(np.where(finite, values, 0)).max(axis=0).astype(np.float64)
    bound = np.maximum(largest / 32767, 2.0**-127)
    error = np.abs(np.where(finite, rounded - values.astype(np.float64), 0))
    assert (error <= bound).all()
    assert quantised(rounded) == content or (largest < 2.0**-100).any()


def test_16_bits_keep_what_must_not_change():
    values = np.zeros((6, 4), np.float32)
    values[:, 1] = 3.3
    values[2:4, 2] = [1e-3, -7]
    values[:, 3] = 32767 * 2.0**-3
    rounded = restored(memoryview(quantised(values)), 6)
    assert (rounded[:, 0] == 0).all()
    assert np.ptp(rounded[:, 1]) == 0
    assert rounded[0, 2] == 0
    assert np.array_equal(rounded[:, 3], values[:, 3])


def test_an_int16_store_is_half_as_large_and_nearly_equal(tmp_path, files, maps):
    whole = stack_maps(files, maps.grid, tmp_path / "whole.zarr")
    half = stack_maps(files, maps.grid, tmp_path / "half.zarr", dtype="int16")
    assert half.stored_bytes < 0.54 * whole.stored_bytes
    sizes = [len((tmp_path / n / "values/c/0/0").read_bytes()) for n in ("whole.zarr", "half.zarr")]
    assert sizes == [whole.stored_bytes, half.stored_bytes]
    exact, rounded = whole.load(), half.load()
    assert np.array_equal(exact.grid.mask, rounded.grid.mask)
    largest = np.abs(exact.values).max(axis=1, keepdims=True)
    error = np.abs(exact.values - rounded.values) / largest
    assert 0 < error.max() <= 1 / 32767
    half.verify()


def test_appending_to_int16_at_most_doubles_the_error(tmp_path, maps):
    growth = np.float32(1.9) ** np.arange(10, dtype=np.float32)
    growing = Maps(np.asfortranarray(maps.values * growth), maps.grid)
    images = volumes_of(growing, np.nan)
    path = tmp_path / "cohort.zarr"
    stack_maps(images[:1], maps.grid, path, dtype="int16", subjects=["0"])
    for number in range(1, 10):
        stack_maps(images[number], None, path, dtype="int16", subjects=[str(number)], append=True)
    rounded = Cohort.open(path).read()
    known = np.isfinite(growing.values)
    largest = np.abs(np.where(known, growing.values, 0)).max(axis=1, keepdims=True)
    error = np.abs(rounded - growing.values) / largest
    assert np.nanmax(np.where(known, error, 0)) <= 2 / 32767
    Cohort.open(path).verify()


# layout


@pytest.mark.parametrize(
    ("n_voxels", "n_maps", "height"),
    [
        (235_375, 40_000, 128),
        (235_375, 200, 104),
        (235_375, 129, 72),
        (235_375, 20, 24),
        (235_375, 1, 8),
        (1_800_000, 500, 16),
        (20_000_000, 500, 8),
        (100, 100, 104),
    ],
)
def test_shards_fit_memory_and_small_groups(n_voxels, n_maps, height):
    assert shard_height(n_voxels, n_maps) == height
    usual = n_voxels < 2_000_000
    assert not usual or Layout(n_voxels, height).shard_bytes < 129 * 2**20


# damage


def flipped(path, position, bit=0):
    """Flip a bit of a file and return what it was before."""
    content = bytearray(path.read_bytes())
    before = bytes(content)
    content[position] ^= 1 << bit
    path.write_bytes(content)
    return before


def is_refused(store):
    """Whether opening or reading is refused, and what was read if not."""
    try:
        return False, Cohort.open(store).read()
    except ValueError as error:
        return str(store) in str(error), None


def positions(path, rng):
    """Bytes of every region of a shard: chunks, their ends, padding, the index."""
    size = path.stat().st_size
    chunk = 4 * 1024 * 4 + 4
    edges = [0, 1, chunk - 5, chunk - 4, chunk - 1, chunk, 3 * chunk - 5, 3 * chunk - 1]
    index = [3 * chunk, 3 * chunk + 9, size - 5, size - 4, size - 1]
    return [*edges, *index, *rng.integers(0, size, 12)]


@pytest.mark.parametrize("shard", [0, 2])
def test_a_flipped_bit_of_a_shard_is_refused(store, rng, shard):
    path = store / f"values/c/{shard}/0"
    for position in positions(path, rng):
        before = flipped(path, position, int(rng.integers(8)))
        assert is_refused(store)[0], position
        with pytest.raises(ValueError, match=rf"values/c/{shard}/0, subjects"):
            Cohort.open(store).verify()
        path.write_bytes(before)
    assert not is_refused(store)[0]


def test_damage_is_told_with_the_voxels_and_the_subjects(store):
    flipped(store / "values/c/1/0", 4 * 1024 * 4 + 100)
    message = r"damaged \(values/c/1/0, subjects 5 to 8: wrong checksum of voxels 1024 to 2047\)"
    with pytest.raises(ValueError, match=message):
        Cohort.open(store).read()
    # what is whole can still be read
    assert Cohort.open(store).read(0, 1024).shape == (1024, 10)
    assert Cohort.open(store).subset([0, 9]).read().shape[1] == 2


@pytest.mark.parametrize("name", ["zarr.json", "values/zarr.json", "mask/zarr.json"])
def test_a_flipped_bit_of_the_metadata_is_refused_or_changes_nothing(store, rng, maps, name):
    path = store / name
    entries = Cohort.open(store).header.entries
    n_refused = 0
    size = path.stat().st_size
    for position in rng.choice(size, min(size, 250), replace=False):
        before = flipped(path, int(position), int(rng.integers(8)))
        refused, values = is_refused(store)
        n_refused += refused
        if not refused:
            assert np.array_equal(values, maps.values, equal_nan=True)
            assert Cohort.open(store).header.entries == entries
        path.write_bytes(before)
    assert n_refused > 0.97 * min(size, 250)


def test_a_flipped_bit_of_the_mask_is_refused(store, rng):
    path = store / "mask/c/0/0/0"
    for position in [0, path.stat().st_size - 1, *rng.integers(0, path.stat().st_size, 20)]:
        before = flipped(path, int(position))
        assert is_refused(store)[0]
        path.write_bytes(before)


NAMES = ["zarr.json", "values/zarr.json", "mask/zarr.json", "mask/c/0/0/0", "values/c/0/0"]


@pytest.mark.parametrize("name", NAMES)
def test_files_that_are_cut_extended_or_gone_are_refused(store, name):
    path = store / name
    whole = path.read_bytes()
    for content in (b"", whole[:1], whole[: len(whole) // 2], whole[:-1], whole + b"x"):
        path.write_bytes(content)
        assert is_refused(store)[0], len(content)
    path.unlink()
    if name == "zarr.json":
        with pytest.raises(FileNotFoundError, match="no cohort store"):
            Cohort.open(store)
    else:
        assert is_refused(store)[0]


def test_verify_finds_shards_of_other_subjects(store):
    shutil.copy(store / "values/c/0/0", store / "values/c/1/0")
    with pytest.raises(ValueError, match="sub-05: not the map that was stacked; sub-06"):
        Cohort.open(store).verify()


def test_metadata_of_other_stores_are_refused(store, tmp_path, files, maps):
    stack_maps(files[:5], maps.grid, tmp_path / "b.zarr", subjects_per_shard=4)
    shutil.copy(tmp_path / "b.zarr/values/zarr.json", store / "values/zarr.json")
    with pytest.raises(ValueError, match="metadata of mask or values are not as they were written"):
        Cohort.open(store)


def test_the_mask_of_another_store_is_refused(store, tmp_path, files, maps):
    mirrored = Grid(maps.grid.mask[::-1], AFFINE)
    stack_maps(files, mirrored, tmp_path / "b.zarr")
    shutil.copy(tmp_path / "b.zarr/mask/c/0/0/0", store / "mask/c/0/0/0")
    with pytest.raises(ValueError, match="mask/c/0/0/0: not the mask of this store"):
        Cohort.open(store)


def test_later_formats_are_told(store):
    from gpustats import cohort_header

    path = store / "zarr.json"
    document = json.loads(path.read_text())
    content = document["attributes"]["gpustats_cohort"]
    content["format"] = 2
    del content["digest"]
    content["digest"] = cohort_header._digest(content)
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="its format is 2, this version reads 1"):
        Cohort.open(store)


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
