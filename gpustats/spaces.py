"""Where voxels are: the mask, its affine, and which voxels touch.

A space answers two questions, "which voxels are analysed" and "which of them are neighbours",
in NumPy arrays only, so that engines need to know nothing of image files.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONNECTIVITIES = {6: 1, 18: 2, 26: 3}
"""Neighbours of a voxel, and the largest number of axes along which one of them may differ."""


def check_connectivity(connectivity: int) -> None:
    """Refuse a number of neighbours that no voxel has."""
    if connectivity not in CONNECTIVITIES:
        raise ValueError(f"connectivity must be 6, 18 or 26, got {connectivity!r}")


@dataclass(frozen=True, eq=False)
class Grid:
    """Say which voxels of a volume are analysed.

    Voxels are numbered in C order of the volume: voxel ``v`` is the ``v``-th ``True`` of
    ``mask``, so that ``volume[grid.mask]`` are the values in the order of every voxel array.

    Parameters
    ----------
    mask
        ``(nx, ny, nz)`` bool.
    affine
        ``(4, 4)``, from voxel indices to millimetres.

    Examples
    --------
    >>> grid = Grid(np.ones((2, 3, 4), bool), np.diag([2.0, 2.0, 2.0, 1.0]))
    >>> grid.n_voxels, grid.voxel_volume_mm3
    (24, 8.0)
    """

    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask", np.ascontiguousarray(self.mask, dtype=bool))
        object.__setattr__(self, "affine", np.asarray(self.affine, dtype=np.float64))
        if self.mask.ndim != 3:
            raise ValueError(f"a mask must have 3 dimensions, got shape {self.mask.shape}")

    @cached_property
    def n_voxels(self) -> int:
        """Number of voxels in the mask."""
        return int(np.count_nonzero(self.mask))

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel in mm³: ``|det|`` of the affine, right for sheared grids too."""
        x, y, z = self.affine[:3, :3].T
        return abs(float(x @ np.cross(y, z)))

    @property
    def voxel_sizes_mm(self) -> NDArray[np.float64]:
        """Length of a voxel along each of the three array axes, in mm."""
        lengths: NDArray[np.float64] = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return lengths

    def subset(self, keep: NDArray[np.bool_]) -> Grid:
        """Return the grid of the voxels for which ``keep``, ``(n_voxels,)``, is true."""
        mask = self.mask.copy()
        mask[self.mask] = keep
        return Grid(mask, self.affine)

    def unmask(self, values: ArrayLike, fill: float = 0.0) -> NDArray[np.float64]:
        """Put voxel values ``(..., n_voxels)`` into volumes ``(nx, ny, nz, ...)``."""
        values = np.asarray(values)
        leading = values.shape[:-1]
        volume = np.full((*self.mask.shape, *leading), fill, dtype=values.dtype, order="F")
        volume[self.mask] = np.moveaxis(values, -1, 0)
        return volume

    def to_mm(self, indices: ArrayLike) -> NDArray[np.float64]:
        """Turn voxel indices ``(..., 3)`` into coordinates in mm, of the same shape."""
        moved: NDArray[np.float64] = np.asarray(indices) @ self.affine[:3, :3].T
        return moved + self.affine[:3, 3]

    def lattice(self, connectivity: int) -> Lattice:
        """Return the adjacency of this grid's voxels under 6, 18 or 26 neighbours.

        Raises
        ------
        ValueError
            If ``connectivity`` is none of these.
        """
        return Lattice(self.mask, connectivity)


@dataclass(frozen=True, eq=False)
class Lattice:
    """Say which voxels of a mask touch.

    Parameters
    ----------
    mask
        ``(nx, ny, nz)`` bool, C-contiguous.
    connectivity
        6 (faces), 18 (faces and edges) or 26 (faces, edges and corners).
    """

    mask: NDArray[np.bool_]
    connectivity: int

    def __post_init__(self) -> None:
        check_connectivity(self.connectivity)

    @cached_property
    def n_voxels(self) -> int:
        """Number of voxels in the mask."""
        return int(np.count_nonzero(self.mask))

    @cached_property
    def box(self) -> tuple[int, int, int]:
        """Shape of the mask's bounding box with one empty voxel around it."""
        lengths = [int(np.ptp(axis)) + 3 if axis.size else 2 for axis in self._indices]
        return lengths[0], lengths[1], lengths[2]

    @cached_property
    def cells(self) -> NDArray[np.int64]:
        """Cell of each voxel in the flattened box, ``(n_voxels,)``, ascending."""
        shifted = [axis - axis.min() + 1 if axis.size else axis for axis in self._indices]
        return np.ravel_multi_index(shifted, self.box).astype(np.int64)

    @cached_property
    def backward_steps(self) -> NDArray[np.int64]:
        """Distances in the box to the neighbours that come earlier, 3, 9 or 13 positive numbers."""
        _, ny, nz = self.box
        reach = CONNECTIVITIES[self.connectivity]
        steps = (
            (dx * ny + dy) * nz + dz
            for dx, dy, dz in product((-1, 0, 1), repeat=3)
            if (dx, dy, dz) > (0, 0, 0) and abs(dx) + abs(dy) + abs(dz) <= reach
        )
        return np.array(sorted(steps), dtype=np.int64)

    @cached_property
    def _indices(self) -> tuple[NDArray[np.intp], ...]:
        """Indices of the mask's voxels along the three axes."""
        return np.nonzero(self.mask)
