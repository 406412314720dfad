"""A Gaussian blur of voxel values that stops at the mask, as FSL smooths variances.

Values outside the mask count for nothing: the blurred values are divided by the blurred mask. The
Gaussian is cut off where that of FSL is, so that both give the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

from gpustats.spaces import Grid

LEAST_SIGMA = 1e-6
"""Voxels: below it a Gaussian is all in its centre, and its exponents would overflow."""
FLOAT32_BYTES = 4
ROOMS = 3
"""Boxes of float32 in which a map is blurred: its values, and two for the products."""
TEMPORARIES = 96
"""Bytes per voxel of what is known of a blur, and of what is formed on the way."""


@dataclass(frozen=True, eq=False)
class Blur:
    """Blur the voxels of a grid.

    Parameters
    ----------
    grid
        Where the voxels are.
    sigma_mm
        Standard deviation of the Gaussian in mm, along each axis of the grid; its full width at
        half maximum is 2.355 times that.

    Raises
    ------
    ValueError
        If ``sigma_mm`` is not positive and finite.

    References
    ----------
    .. [1] Nichols & Holmes (2002), Human Brain Mapping 15, 1-25, on smoothed variances.

    Examples
    --------
    >>> grid = Grid(np.ones((5, 1, 1), bool), np.diag([2.0, 2.0, 2.0, 1.0]))
    >>> Blur(grid, sigma_mm=2.0)(np.array([0.0, 0.0, 1.0, 0.0, 0.0])).round(3)
    array([0.077, 0.257, 0.403, 0.257, 0.077])
    """

    grid: Grid
    sigma_mm: float

    def __post_init__(self) -> None:
        check_sigma(self.sigma_mm)

    @cached_property
    def box(self) -> tuple[int, int, int]:
        """Shape of the smallest box that holds the mask."""
        x, y, z = (int(np.ptp(axis)) + 1 for axis in self._indices)
        return x, y, z

    @cached_property
    def cells(self) -> NDArray[np.int64]:
        """Cell of each voxel in the flattened box, ``(n_voxels,)``."""
        shifted = [axis - axis.min() for axis in self._indices]
        return np.asarray(np.ravel_multi_index(shifted, self.box), dtype=np.int64)

    @cached_property
    def weights(self) -> tuple[NDArray[np.float64], ...]:
        """What each cell of an axis takes from each other, ``(n, n)``, symmetric, by axis."""
        found = []
        for n_cells, gaussian in zip(self.box, self._gaussians, strict=True):
            one_sided = gaussian[n_cells : 2 * n_cells]
            cell = np.arange(n_cells)
            found.append(one_sided[np.abs(cell[:, np.newaxis] - cell)])
        return tuple(found)

    @cached_property
    def _gaussians(self) -> tuple[NDArray[np.float64], ...]:
        """The Gaussian along each axis, ``(2 n + 1,)`` for n cells of the box."""
        sigmas = (self.sigma_mm / self.grid.voxel_sizes_mm).tolist()
        return tuple(_gaussian(*pair) for pair in zip(sigmas, self.box, strict=True))

    @cached_property
    def inside(self) -> NDArray[np.float64]:
        """The blurred mask, ``(n_voxels,)``: how much of the Gaussian lies inside."""
        return self._blurred(np.ones(self.grid.n_voxels))

    @property
    def working_bytes(self) -> int:
        """What blurring one map after the other takes, in float32."""
        return ROOMS * FLOAT32_BYTES * int(np.prod(self.box)) + TEMPORARIES * self.grid.n_voxels

    def __call__(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return blurred values, ``(n_voxels,)`` both."""
        return self._blurred(values) / self.inside

    def _blurred(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Blur values that are 0 outside the mask."""
        # not by products of BLAS, whose last bits depend on the number of its threads
        box = np.zeros(self.box)
        box.reshape(-1)[self.cells] = values
        for axis, gaussian in enumerate(self._gaussians):
            box = correlate1d(box, gaussian, axis=axis, mode="constant")
        return np.asarray(box.reshape(-1)[self.cells])

    @cached_property
    def _indices(self) -> tuple[NDArray[np.intp], ...]:
        """Indices of the voxels along the three axes."""
        return np.nonzero(self.grid.mask)


def check_sigma(sigma_mm: float) -> None:
    """Refuse what is no standard deviation of a Gaussian."""
    if not 0 < sigma_mm < np.inf:
        raise ValueError(
            "variance_smoothing_mm must be the standard deviation of a Gaussian, > 0 mm, got "
            f"{sigma_mm!r}; leave it out not to smooth"
        )


def _gaussian(sigma: float, reach: int) -> NDArray[np.float64]:
    """Return a Gaussian at -reach, ..., reach, sigma in the same unit, cut off at FSL's radius."""
    distances = np.arange(-reach, reach + 1)
    heights = np.exp(-0.5 * (distances / max(sigma, LEAST_SIGMA)) ** 2)
    heights[np.abs(distances) > 2 * int(sigma - 0.001) + 3] = 0
    return np.asarray(heights / heights.sum())
