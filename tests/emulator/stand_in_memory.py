"""Memory of the stand-in: of devices, counted and poisoned, and pinned on the host."""

from __future__ import annotations

import ctypes
import math
import weakref
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .stand_in_devices import current_device_id, machine
from .stand_in_streams import Queue, get_current_stream, schedule

ALIGNMENT = 512
"""Blocks of CuPy's pools begin at, and are whole multiples of, so many bytes."""

Bytes = NDArray[np.uint8]


def rounded_up(n_bytes: int) -> int:
    """Return the size of the block that a pool hands out."""
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT


def aligned_bytes(n_bytes: int) -> Bytes:
    """Return memory of the host that begins where a pool's would."""
    raw = np.empty(n_bytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + n_bytes]


class Memory:
    """A block of a device's memory, given back when nothing refers to it.

    CuPy's pool hands a freed block to the next allocation on the stream on which it was
    allocated, whatever other streams still do with it. Asynchronously such a block is therefore
    overwritten in the order of that stream.
    """

    def __init__(self, n_bytes: int) -> None:
        self.size = rounded_up(n_bytes)
        self.device_id = current_device_id()
        device = machine.devices[self.device_id]
        device.take(self.size)
        self.bytes = aligned_bytes(self.size)
        self.ptr = self.bytes.ctypes.data
        queue = get_current_stream()._queue
        weakref.finalize(self, _reuse, self.bytes, queue).atexit = False
        weakref.finalize(self, device.give_back, self.size).atexit = False


def _reuse(block: Bytes, queue: Queue) -> None:
    """Overwrite a freed block, after what its stream has still to do."""
    if schedule.random:
        schedule.put_off(queue, lambda: block.fill(0xFF))


def poison(array: NDArray[np.generic]) -> None:
    """Make memory that was not written stand out: NaN, or a number that is no index."""
    array.reshape(-1, order="A").view(np.uint8)[...] = 0xFF if array.dtype.kind in "fc" else 0xA5


class MemoryPool:
    """The pool that `cupy.get_default_memory_pool` returns: one for each device."""

    def used_bytes(self) -> int:
        return machine.devices[current_device_id()].used_bytes

    def free_bytes(self) -> int:
        return machine.devices[current_device_id()].cached_bytes

    def total_bytes(self) -> int:
        return self.used_bytes() + self.free_bytes()

    def free_all_blocks(self) -> None:
        machine.devices[current_device_id()].cached_bytes = 0

    def get_limit(self) -> int:
        return machine.devices[current_device_id()].limit_bytes

    def set_limit(self, size: int) -> None:
        machine.devices[current_device_id()].limit_bytes = size


class PinnedMemory:
    """Pinned memory of the host of just this size, given back when nothing refers to it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.block = aligned_bytes(size)
        self.ptr = self.block.ctypes.data
        _pinned[self.ptr] = self
        weakref.finalize(self, _reuse_pinned, self.block).atexit = False


class PinnedMemoryPointer:
    """A place in pinned memory, which other objects see through the buffer protocol."""

    def __new__(cls, mem: PinnedMemory, offset: int) -> PinnedMemoryPointer:
        return _pointer_type(mem.size - offset).from_buffer(mem.block, offset)

    def __init__(self, mem: PinnedMemory, offset: int) -> None:
        self.mem = mem
        self.ptr = mem.ptr + offset

    def size(self) -> int:
        return self.mem.size - (self.ptr - self.mem.ptr)


@cache
def _pointer_type(n_bytes: int) -> type[Any]:
    """Return the type of pointers to so many bytes: ctypes gives it the buffer protocol."""
    return type("PinnedMemoryPointer", (PinnedMemoryPointer, ctypes.c_byte * n_bytes), {})


_pinned: weakref.WeakValueDictionary[int, PinnedMemory] = weakref.WeakValueDictionary()


def _reuse_pinned(block: Bytes) -> None:
    """Overwrite freed pinned memory at once: it is handed out again without asking a stream."""
    if schedule.random:
        block.fill(0xFF)


def pinned_view(array: NDArray[np.generic]) -> NDArray[np.generic] | None:
    """Return an array of the host once more, without keeping it, if its memory is pinned."""
    for start, memory in list(_pinned.items()):
        offset = array.ctypes.data - start
        if 0 <= offset < memory.size:
            return np.ndarray(array.shape, array.dtype, memory.block, offset, array.strides)
    return None


def alloc_pinned_memory(size: int) -> PinnedMemoryPointer:
    """Return pinned memory of CuPy's pool: a power of two of bytes, so that views need a count."""
    n_bytes = 1 << (rounded_up(size) - 1).bit_length() if size else 0
    return PinnedMemoryPointer(PinnedMemory(n_bytes), 0)


def empty_pinned(
    shape: int | tuple[int, ...], dtype: DTypeLike = float, order: str = "C"
) -> NDArray[np.generic]:
    """Return an array of the host in pinned memory."""
    lengths = (shape,) if isinstance(shape, int) else tuple(shape)
    memory = alloc_pinned_memory(math.prod(lengths) * np.dtype(dtype).itemsize)
    array = np.ndarray(lengths, dtype, memory, order=order)
    poison(array)
    return array


def zeros_pinned(
    shape: int | tuple[int, ...], dtype: DTypeLike = float, order: str = "C"
) -> NDArray[np.generic]:
    """Return an array of zeros of the host in pinned memory."""
    array = empty_pinned(shape, dtype, order)
    array[...] = 0
    return array
