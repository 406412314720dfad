"""Which voxels touch, on the GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import NamedTuple

import cupy
import numpy as np
from numpy.typing import NDArray

from gpustats.engines import Array
from gpustats.spaces import Lattice


class DeviceLattice(NamedTuple):
    """Hold a lattice on the device, in int32.

    That is wide enough: boxes have fewer than 2**31 cells, 1,290 along each axis.
    Products of maps and voxels may be larger, and kernels form them in 64 bits.
    """

    cells: Array
    """Cell of each voxel in the box, ``(n_voxels,)``, ascending."""
    voxel_at: Array
    """1 + the voxel number of each cell, ``(n_cells,)``; 0 outside the mask."""
    backward_steps: Array
    """Distances to the earlier neighbours of a cell, ``(n_steps,)``."""
    runs: Array
    """The same as runs of consecutive cells, ``(n_runs, 2)``: largest and smallest distance."""


def on_device(lattice: Lattice) -> DeviceLattice:
    """Return a lattice on the current device; the last two of each device are kept."""
    return _kept_on(cupy.cuda.Device().id)(lattice)


@cache
def _kept_on(_device: int) -> Callable[[Lattice], DeviceLattice]:
    """Return what copies lattices to a device and keeps the last two."""
    return lru_cache(maxsize=2)(_copy)


def _copy(lattice: Lattice) -> DeviceLattice:
    """Copy a lattice to the current device, for any of its streams."""
    cells = lattice.cells.astype(np.int32)
    voxel_at = np.zeros(int(np.prod(lattice.box)), dtype=np.int32)
    voxel_at[cells] = np.arange(1, cells.size + 1)
    steps = lattice.backward_steps.astype(np.int32)
    copied = DeviceLattice(*(cupy.asarray(a) for a in (cells, voxel_at, steps, _runs(steps))))
    # once a lattice: a copy is complete in its own stream only
    cupy.cuda.Device().synchronize()
    return copied


def _runs(steps: NDArray[np.int32]) -> NDArray[np.int32]:
    """Join ascending steps to consecutive cells: the largest and smallest step of each run."""
    ends = np.flatnonzero(np.diff(steps) != 1)
    largest = steps[np.append(ends, -1)]
    smallest = steps[np.insert(ends + 1, 0, 0)]
    return np.ascontiguousarray(np.stack([largest, smallest], axis=1))
