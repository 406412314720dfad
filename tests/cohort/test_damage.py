"""Stores that were changed are refused with the file, and what is whole can still be read."""

import json
import shutil

import numpy as np
import pytest
from simulate import AFFINE

from gpustats import Cohort, Grid, stack_maps


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
