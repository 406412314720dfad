"""Labels and clusters of many maps on the GPU: `kernels/label.cu` and `kernels/cluster_sums.cu`.

Equal to the CPU's in every bit: labels are canonical, extents and masses are sums of integers.
"""

from __future__ import annotations

from functools import cache

import cupy
import numpy as np
from numpy.typing import NDArray

from gpustats import cuda
from gpustats.engines import Array
from gpustats.engines.gpu_batches import halved_until_it_fits
from gpustats.engines.gpu_lattice import on_device
from gpustats.spaces import Lattice

THREADS = 512
"""Threads of a block."""
PEAK_BLOCKS = 2
"""Blocks of `cluster_peaks` per multiprocessor: while one unites voxels, another reads its map."""
VOXEL_BYTES = 16
"""Memory of a voxel that reaches the threshold: cell or extent, parent, two words of mass."""
RESERVED_SHARED_BYTES = 2048
"""What the driver and the counters of `cluster_peaks` take of a block's shared memory."""
MAX_GRID_ROWS = 65535
"""The largest gridDim.y."""


def label(above: NDArray[np.bool_], lattice: Lattice) -> NDArray[np.int32]:
    """Label connected voxels of ``(n_maps, n_voxels)`` by 1 + their smallest voxel number.

    Parameters
    ----------
    above
        On the host, as the labels are.
    lattice
        Which voxels touch.
    """
    labels = cupy.empty(above.shape, dtype=np.int32)
    cuda.kernels("label", THREADS=THREADS).launch(
        "label_init", _grid(above.shape), THREADS, cupy.asarray(above), *above.shape, labels
    )
    _connect(labels, lattice)
    host: NDArray[np.int32] = labels.get()
    return host


def cluster_peaks(
    maps: Array, threshold: np.float32, lattice: Lattice, *, above: bool
) -> tuple[Array, Array]:
    """Return the largest extent and mass (in 2**-24) of the clusters of each map.

    Parameters
    ----------
    maps
        ``(n_maps, n_voxels)`` float32.
    threshold
        Positive. A voxel is in a cluster if its value is at least this.
    lattice
        Which voxels touch.
    above
        Whether masses are of what lies above the threshold, or of whole values. Values of a
        cluster may sum to 5e11: masses are int64.

    Returns
    -------
    extents, masses
        ``(n_maps,)`` int64 each, 0 without a cluster.
    """
    n_maps, n_voxels = maps.shape
    n_blocks, shared_bytes = _residence(cupy.cuda.Device().id)
    neighbours = on_device(lattice)
    scratch = halved_until_it_fits(
        min(n_blocks, n_maps),
        lambda n: cupy.empty((n, VOXEL_BYTES // 4, n_voxels), dtype=np.int32),
    )
    extents = cupy.zeros(n_maps, dtype=np.int64)
    masses = cupy.zeros(n_maps, dtype=np.int64)
    cuda.kernels("cluster_sums", THREADS=THREADS).launch(
        "cluster_peaks",
        len(scratch),
        THREADS,
        maps,
        threshold,
        _base(threshold, above),
        neighbours.cells,
        neighbours.runs,
        len(neighbours.runs),
        n_maps,
        n_voxels,
        shared_bytes // VOXEL_BYTES,
        scratch,
        extents,
        masses,
        shared_bytes=shared_bytes,
    )
    return extents, masses


def cluster_scores(
    maps: Array, threshold: np.float32, lattice: Lattice, *, above: bool
) -> tuple[Array, Array]:
    """Return the extent and mass (in 2**-24) of each voxel's cluster; see `cluster_peaks`.

    Returns
    -------
    extents, masses
        ``(n_maps, n_voxels)`` int64 each, 0 below the threshold.
    """
    grid = _grid(maps.shape)
    kernels = cuda.kernels("cluster_sums", THREADS=THREADS)
    labels = cupy.empty(maps.shape, dtype=np.int32)
    extents = cupy.empty(maps.shape, dtype=np.int64)
    masses = cupy.empty(maps.shape, dtype=np.int64)
    base = _base(threshold, above)
    sums = (*maps.shape, labels, extents, masses)
    kernels.launch("cluster_init", grid, THREADS, maps, threshold, base, *sums)
    _connect(labels, lattice)
    kernels.launch("cluster_add", grid, THREADS, *sums)
    kernels.launch("cluster_spread", grid, THREADS, *sums)
    return extents, masses


def scratch_bytes(lattice: Lattice) -> int:
    """Return the working memory of `cluster_peaks`, however many maps it is given, at most."""
    n_blocks, _ = _residence(cupy.cuda.Device().id)
    return n_blocks * VOXEL_BYTES * lattice.n_voxels


def scratch_bytes_per_map(lattice: Lattice) -> int:
    """Return the memory that `cluster_scores` takes for a map: labels, extents and masses."""
    return (4 + 8 + 8) * lattice.n_voxels


def _connect(labels: Array, lattice: Lattice) -> None:
    """Turn labels of voxels that are all their own components into labels of components."""
    neighbours = on_device(lattice)
    kernels, grid = cuda.kernels("label", THREADS=THREADS), _grid(labels.shape)
    kernels.launch(
        "label_merge",
        grid,
        THREADS,
        neighbours.cells,
        neighbours.voxel_at,
        neighbours.backward_steps,
        len(neighbours.backward_steps),
        *labels.shape,
        labels,
    )
    kernels.launch("label_flatten", grid, THREADS, *labels.shape, labels)


def _grid(shape: tuple[int, int]) -> tuple[int, int]:
    """Return the blocks of one thread per voxel of ``(n_maps, n_voxels)``."""
    n_maps, n_voxels = shape
    return -(-n_voxels // THREADS), min(n_maps, MAX_GRID_ROWS)


def _base(threshold: np.float32, above: bool) -> np.float32:
    """Return the height from which masses count."""
    return threshold if above else np.float32(0)


@cache
def _residence(device: int) -> tuple[int, int]:
    """Return how many blocks of `cluster_peaks` a device runs at once, and their shared memory.

    That is 111 KiB on an H100 (7136 voxels), 79 on an A100 (5088), 47 on an RTX 4090 (3040).
    """
    attributes = cupy.cuda.Device(device).attributes
    shared_bytes = attributes["MaxSharedMemoryPerBlockOptin"] // PEAK_BLOCKS
    return PEAK_BLOCKS * attributes["MultiProcessorCount"], shared_bytes - RESERVED_SHARED_BYTES
