"""How a voxel-by-subject array lies on disk: a Zarr v3 array in shards of subjects.

The array is ``values``, ``(n_subjects, n_voxels)``. A shard, one file, holds all voxels of some
subjects; in it, inner chunks of 1,024 voxels follow one another. So subjects are appended by
writing files once from front to end, and a block of voxels is one stretch of every file. Inner
chunks are not compressed (Zstandard makes smooth maps of float32 smaller by 8 % and reading them
half as fast), so they all have one length and their places are known without looking; each ends in
its CRC-32C.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

DType: TypeAlias = Literal["float32", "int16"]

VALUES, MASK = "values", "mask"
VOXELS_PER_CHUNK = 1024
SUBJECTS_PER_SHARD = 128
SHARD_BYTES = 128 * 2**20
"""Of float32: what a shard takes in memory while it is filled."""
SUBJECTS_STEP = 8
"""The subjects of a shard are a multiple of it."""

INT16_CODEC = "gpustats.int16"
LARGEST = 32767
MISSING = -32768
EXPONENTS = (-126, 127)
"""Powers of two that float32 holds."""
LARGEST_STEP = 114
"""The exponent of the step where the largest value is the largest of float32."""
FLOAT32_RANGE = (np.finfo(np.float32).min, np.finfo(np.float32).max)

BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
CRC = {"name": "crc32c"}
ENCODING = {"name": "default", "configuration": {"separator": "/"}}


def checksum(content: Any) -> bytes:
    """Return the CRC-32C of bytes or of an array as Zarr writes it, 4 bytes.

    Raises
    ------
    ImportError
        If google-crc32c, which Zarr needs too, is not installed.
    """
    try:
        from google_crc32c import value
    except ImportError as error:
        raise ImportError("a cohort store needs: pip install 'gpustats[large]'") from error
    # it takes arrays, but no memoryview
    return int(value(np.frombuffer(content, np.uint8))).to_bytes(4, "little")


def checked(content: memoryview) -> memoryview:
    """Return bytes without the checksum at their end.

    Raises
    ------
    ValueError
        If it is wrong.
    """
    if checksum(content[:-4]) != content[-4:]:
        raise ValueError("wrong checksum")
    return content[:-4]


def shard_height(n_voxels: int, n_maps: int) -> int:
    """Return how many subjects share a shard: an even share, at most 128, at most 128 MiB."""
    fitting = min(SUBJECTS_PER_SHARD, SHARD_BYTES // (4 * n_voxels)) // SUBJECTS_STEP
    most = max(fitting, 1) * SUBJECTS_STEP
    even = -(-n_maps // -(-n_maps // most))
    return -(-even // SUBJECTS_STEP) * SUBJECTS_STEP


@dataclass(frozen=True)
class Layout:
    """Say where every value lies, and turn values into bytes and back.

    Parameters
    ----------
    n_voxels
        Voxels of the mask.
    height
        Subjects of a shard.
    dtype
        ``"float32"``, or ``"int16"`` with a power of two for every voxel and shard.
    """

    n_voxels: int
    height: int
    dtype: DType = "float32"

    @property
    def n_chunks(self) -> int:
        """Inner chunks of a shard."""
        return -(-self.n_voxels // VOXELS_PER_CHUNK)

    @property
    def chunk_bytes(self) -> int:
        """Bytes of an inner chunk, checksum included."""
        n_values = self.height * VOXELS_PER_CHUNK
        return 4 + (4 * n_values if self.dtype == "float32" else 2 * n_values + VOXELS_PER_CHUNK)

    @property
    def shard_bytes(self) -> int:
        """Bytes of a shard."""
        return self.n_chunks * self.chunk_bytes + len(self.index)

    @cached_property
    def index(self) -> bytes:
        """What stands at the end of a shard: offset and length of the chunks, and a checksum."""
        index = np.empty((self.n_chunks, 2), dtype="<u8")
        index[:, 0] = np.arange(self.n_chunks) * self.chunk_bytes
        index[:, 1] = self.chunk_bytes
        return index.tobytes() + checksum(index)

    def n_shards(self, n_subjects: int) -> int:
        """Return how many shards so many subjects take."""
        return -(-n_subjects // self.height)

    def key(self, shard: int) -> str:
        """Return the name of a shard's file."""
        return f"{VALUES}/c/{shard}/0"

    def empty(self) -> NDArray[np.float32]:
        """Return room for the values of a shard, ``(n_chunks, height, 1024)``."""
        return np.zeros((self.n_chunks, self.height, VOXELS_PER_CHUNK), dtype=np.float32)

    def put(self, shard: NDArray[np.float32], row: int, values: NDArray[np.float32]) -> None:
        """Put the ``(n_voxels,)`` values of a map into a row of a shard."""
        whole, rest = divmod(self.n_voxels, VOXELS_PER_CHUNK)
        shard[:whole, row] = values[: self.n_voxels - rest].reshape(whole, VOXELS_PER_CHUNK)
        if rest:
            shard[whole, row, :rest] = values[self.n_voxels - rest :]

    def parts(self, shard: NDArray[np.float32]) -> Iterator[Any]:
        """Yield what the file of a shard consists of."""
        exact = self.dtype == "float32"
        for chunk in shard:
            content = chunk.astype("<f4", copy=False) if exact else quantised(chunk)
            yield content
            yield checksum(content)
        yield self.index

    def decoded(self, content: memoryview) -> NDArray[np.float32]:
        """Return the values of an inner chunk, ``(height, 1024)``.

        Raises
        ------
        ValueError
            If the checksum is wrong.
        """
        content = checked(content)
        if self.dtype == "int16":
            return restored(content, self.height)
        return np.frombuffer(content, "<f4").reshape(self.height, VOXELS_PER_CHUNK)

    def document(self, n_subjects: int) -> dict[str, Any]:
        """Return the metadata of the array, as Zarr v3 wants them."""
        shard_shape = [self.height, self.n_chunks * VOXELS_PER_CHUNK]
        values = BYTES if self.dtype == "float32" else {"name": INT16_CODEC}
        sharding = {
            "chunk_shape": [self.height, VOXELS_PER_CHUNK],
            "codecs": [values, CRC],
            "index_codecs": [BYTES, CRC],
            "index_location": "end",
        }
        return {
            **_array([n_subjects, self.n_voxels], "float32", shard_shape, "NaN"),
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "dimension_names": ["subject", "voxel"],
        }


def mask_document(shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the metadata of the mask, an array of one chunk."""
    return {
        **_array(list(shape), "bool", list(shape), fill=False),
        "codecs": [{"name": "bytes"}, CRC],
        "dimension_names": ["x", "y", "z"],
    }


def _array(shape: list[int], dtype: str, chunk_shape: list[int], fill: Any) -> dict[str, Any]:
    """Return the metadata that arrays have in common."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk_shape}},
        "chunk_key_encoding": ENCODING,
        "fill_value": fill,
        "attributes": {},
    }


def json_bytes(document: Mapping[str, Any]) -> bytes:
    """Write JSON: the same bytes for the same content."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode()


def quantised(values: NDArray[np.float32]) -> bytes:
    """Round ``(height, n)`` values to 16 bits, with one power of two per column.

    The step 2**e of a column is the least for which its largest value fits; the error is half a
    step: at most 1/32767 of the largest value. A step that does not change gives back the same
    bits when rounded values are rounded again. Values that are not finite become missing.

    Returns
    -------
    bytes
        e of every column, int8, then the integers, int16 little-endian, row by row.
    """
    finite = np.isfinite(values)
    known = values if finite.all() else np.where(finite, values, np.float32(0))
    fraction, exponents = np.frexp(np.abs(known).max(axis=0) / np.float64(LARGEST))
    # 0.5 * 2**e is itself a power of two
    exponents = np.clip(exponents - (fraction == 0.5), *EXPONENTS).astype(np.int8)
    integers = np.rint(known * np.ldexp(np.float32(1), -exponents.astype(np.int32)))
    integers = np.where(finite, integers, np.float32(MISSING)).astype("<i2")
    content: bytes = exponents.tobytes() + integers.tobytes()
    return content


def restored(content: memoryview, height: int) -> NDArray[np.float32]:
    """Return the ``(height, n)`` values of what `quantised` wrote, NaN where they are missing."""
    n_columns = len(content) // (2 * height + 1)
    exponents = np.frombuffer(content[:n_columns], np.int8)
    integers = np.frombuffer(content[n_columns:], "<i2").reshape(height, n_columns)
    steps = np.ldexp(np.float32(1), exponents.astype(np.int32))
    with np.errstate(over="ignore"):
        values: NDArray[np.float32] = integers * steps
    if exponents.max(initial=0) == LARGEST_STEP:
        # float32 ends just below 16384 of the largest steps
        np.clip(values, *FLOAT32_RANGE, out=values)
    missing = integers == MISSING
    if missing.any():
        values[missing] = np.nan
    return values
