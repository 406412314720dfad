"""The codec of int16 stores for Zarr itself, which finds it as an entry point of this package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer

from gpustats.cohort_layout import INT16_CODEC, quantised, restored


@dataclass(frozen=True)
class Int16Codec(ArrayBytesCodec):
    """Round the columns of float32 chunks to 16 bits, each with a power of two of its own."""

    is_fixed_size = True

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Int16Codec:
        """Return the codec that metadata name."""
        del data
        return cls()

    def to_dict(self) -> dict[str, Any]:
        """Return what metadata say."""
        return {"name": INT16_CODEC}

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        """Turn bytes into a chunk."""
        values = restored(memoryview(chunk_bytes.to_bytes()), chunk_spec.shape[0])
        return chunk_spec.prototype.nd_buffer.from_numpy_array(values)

    async def _encode_single(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        """Turn a chunk into bytes."""
        return chunk_spec.prototype.buffer.from_bytes(quantised(chunk_array.as_numpy_array()))

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Return the bytes of a chunk: two per value and one per column."""
        return input_byte_length // 2 + chunk_spec.shape[-1]
