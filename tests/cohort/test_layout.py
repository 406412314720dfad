"""What is in the files of a store: shards that Zarr reads, and 16 bits that are near enough."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from simulate import volumes_of

from gpustats import Cohort, stack_maps
from gpustats.cohort_layout import Layout, quantised, restored, shard_height
from gpustats.maps import Maps


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
@example(np.array([[3.40272e38, -np.finfo(np.float32).max], [1, 1]], np.float32))
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
