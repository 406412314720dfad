"""Memory of the GPU: what fits into it, and how arrays of the host pass through it in blocks.

While kernels on the current stream read one block, the next is copied on a stream of its own.
There are two buffers of each kind. A device buffer is overwritten when its kernels are done, a
pinned buffer when its copy is; events tell, so that only refilling pinned memory makes the host
wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import cupy
import numpy as np
from numpy.typing import NDArray

from gpustats.engines.cpu_threads import n_threads, share_out
from gpustats.engines.gpu_batches import free_bytes

__all__ = ["on_device", "pinned", "resident", "voxel_blocks"]

RESIDENT_SHARE = 0.6
"""Share of the free memory that data may take for good: products, maps and scores need room."""
STAGING_BYTES = 2**26
"""Size of a pinned buffer: large enough for the copy to reach the rate of the bus."""
PIECE_BYTES = 2**22
"""What one thread copies into pinned memory at a time."""
FEWEST_VOXELS = 128
"""Least voxels of a block, whatever the number of subjects: those of a block of threads."""


def resident(shape: tuple[int, ...]) -> cupy.ndarray | None:
    """Return float32 zeros on the device, or nothing where they leave too little room."""
    if 4 * int(np.prod(shape)) > RESIDENT_SHARE * free_bytes():
        return None
    try:
        return cupy.zeros(shape, dtype=np.float32)
    except MemoryError:  # free memory may lie in pieces
        return None


def pinned(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return an uninitialised array in memory that the device copies from and to by itself."""
    size = int(np.prod(shape))
    # CuPy's pool of pinned memory would round up to a power of two
    memory = cupy.cuda.PinnedMemoryPointer(cupy.cuda.PinnedMemory(4 * size), 0)
    return np.frombuffer(memory, np.float32, size).reshape(shape)


def voxel_blocks(
    values: NDArray[np.float32], most: int | None = None
) -> Iterator[tuple[range, cupy.ndarray]]:
    """Bring a stack to the device in blocks of voxels, the next one while one is worked on.

    Parameters
    ----------
    values
        ``(n_voxels, n_subjects)`` float32, each subject's map contiguous.
    most
        The most voxels of a block, a power of two; what the buffers hold by default. No block
        crosses a multiple of it.

    Yields
    ------
    range, cupy.ndarray
        Voxels of the block and its ``(n_subjects, width)`` values, on the current stream; the
        width is a multiple of 4, columns beyond the last voxel are zero.
    """
    n_voxels, n_subjects = values.shape
    width = _block_width(n_subjects, n_voxels if most is None else min(most, n_voxels))
    blocks = [range(v, min(v + width, n_voxels)) for v in range(0, n_voxels, width)]
    copying = cupy.cuda.Stream(non_blocking=True)
    staged = _staged(values.T, blocks, copying)
    yield from zip(blocks, on_device(staged, copying), strict=True)


def _block_width(n_subjects: int, most: int) -> int:
    """Return the power of two of voxels that a buffer holds, if ``most`` are of use."""
    held = max(STAGING_BYTES // (4 * n_subjects), FEWEST_VOXELS)
    return int(1 << min(held.bit_length() - 1, (most - 1).bit_length()))


def _staged(
    maps: NDArray[np.float32], blocks: list[range], copying: cupy.cuda.Stream
) -> Iterator[NDArray[np.float32]]:
    """Gather blocks of voxels in pinned memory by turns; ``copying`` takes them from there."""
    size = len(maps) * _padded(len(blocks[0]))
    buffers = pinned((min(2, len(blocks)), size))
    copied = [cupy.cuda.Event(disable_timing=True) for _ in buffers]
    try:
        for number, block in enumerate(blocks):
            turn = number % 2
            copied[turn].synchronize()
            width = _padded(len(block))
            staged = buffers[turn, : len(maps) * width].reshape(len(maps), width)
            _gather(maps[:, block.start : block.stop], staged)
            yield staged
            copied[turn].record(copying)
    finally:
        copying.synchronize()  # before the pinned memory is given back


def _padded(n_voxels: int) -> int:
    """Return the next multiple of 4: rows of so many floats are read 16 bytes at a time."""
    return -(-n_voxels // 4) * 4


def _gather(maps: NDArray[np.float32], staged: NDArray[np.float32]) -> None:
    """Copy a block of voxels of every map, on several threads where it is large."""
    n_voxels = maps.shape[1]
    n_rows = max(PIECE_BYTES // (4 * n_voxels), 1)

    def copy(pieces: Iterator[int]) -> None:
        for piece in pieces:
            rows = slice(piece * n_rows, (piece + 1) * n_rows)
            staged[rows, :n_voxels] = maps[rows]
            staged[rows, n_voxels:] = 0

    share_out(copy, -(-len(maps) // n_rows), n_threads())


def on_device(
    blocks: Iterable[NDArray[np.float32]], copying: cupy.cuda.Stream | None = None
) -> Iterator[cupy.ndarray]:
    """Bring pinned arrays to the device, each while the one before is worked on.

    Parameters
    ----------
    blocks
        Arrays in pinned memory, none larger than the first. The next one is asked for when the
        copy of the last has been put on the stream.
    copying
        The stream to copy on; a new one by default.

    Yields
    ------
    cupy.ndarray
        The array, ready on the current stream until the next is asked for.
    """
    copying = copying or cupy.cuda.Stream(non_blocking=True)
    computing = cupy.cuda.get_current_stream()
    slots: list[_Slot] = []
    for number, block in enumerate(blocks):
        if number < 2:
            slots.append(_Slot(block.size, computing))
        slot = slots[number % 2]
        copying.wait_event(slot.used)
        array = slot.memory[: block.size].reshape(block.shape)
        _copy(block, array, copying)
        slot.copied.record(copying)
        computing.wait_event(slot.copied)
        yield array
        slot.used.record(computing)


class _Slot:
    """A buffer on the device, and when it was filled and read last."""

    def __init__(self, size: int, computing: cupy.cuda.Stream) -> None:
        self.memory = cupy.empty(size, dtype=np.float32)
        self.copied = cupy.cuda.Event(disable_timing=True)
        self.used = cupy.cuda.Event(disable_timing=True)
        # the pool may hand out memory that kernels on the stream still read
        self.used.record(computing)


def _copy(block: NDArray[np.float32], array: cupy.ndarray, stream: cupy.cuda.Stream) -> None:
    """Copy to the device when the stream comes to it; the host goes on."""
    array.set(block, stream=stream)
