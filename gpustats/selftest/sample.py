"""The data of the self-test: small, seeded, and of awkward sizes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpustats.design import Design
from gpustats.simulation import Blob, effect_map, simulate_maps
from gpustats.spaces import Grid

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
"""Voxels of 2 mm."""
FWHM_MM = 6.0
"""Smoothness of the maps."""
N_SUBJECTS = 23
"""Subjects of the smooth maps: no multiple of what a processor computes at a time."""
SIZES = np.repeat(np.array([1, 2, 3], dtype=np.float32), [5, 8, 3])
"""Sizes of the values of 16 subjects, whose squares add up to 8²."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Hold what the functions of an engine are tried on.

    Parameters
    ----------
    grid
        A ragged ellipsoid, which touches the edges of its volume.
    seed
        Seed of all that is drawn.
    """

    grid: Grid
    seed: int

    @cached_property
    def design(self) -> Design:
        """Two groups and two covariates."""
        rng = self.rng(1)
        columns = {
            "patients": np.arange(N_SUBJECTS) < 11.0,
            "controls": np.arange(N_SUBJECTS) >= 11.0,
            "age": rng.normal(40, 9, N_SUBJECTS),
            "score": rng.normal(0, 1, N_SUBJECTS),
        }
        return Design(pd.DataFrame(columns).astype(np.float64))

    @cached_property
    def values(self) -> NDArray[np.float32]:
        """Smooth maps about ten standard deviations from zero, ``(n_voxels, 23)``."""
        active = effect_map(self.grid, [Blob(self._centre_mm, 9.0, 1.5)]) + np.float32(10)
        return self._maps(N_SUBJECTS, active)

    @cached_property
    def effects(self) -> NDArray[np.float32]:
        """The same maps about zero, but for a ball that is active."""
        return np.asfortranarray(self.values - np.float32(10))

    @cached_property
    def wholes(self) -> NDArray[np.float32]:
        """Maps of whole numbers, ``(n_voxels, 16)``, that are of length 8 at every voxel.

        Products of their unit residuals with rows of 1/4 and -1/4 are exact in any order of the
        sums, so that ties are ties on every device; and no shuffle makes a voxel constant.
        """
        nothing = np.zeros(self.grid.n_voxels, dtype=np.float32)
        return np.where(self._maps(SIZES.size, nothing) < 0, -SIZES, SIZES)

    @cached_property
    def maps(self) -> NDArray[np.float32]:
        """Maps to find clusters in, ``(7, n_voxels)``.

        Smooth; smooth with ties; noise with ties; a checkerboard; all equal; one voxel; none.
        """
        n_voxels = self.grid.n_voxels
        active = effect_map(self.grid, [Blob(self._centre_mm, 9.0, 2.0)])
        smooth = 1.5 * self._maps(1, active)[:, 0] - 1
        noise = self.rng(2).standard_normal(n_voxels, dtype=np.float32)
        parity = np.argwhere(self.grid.mask).sum(axis=1) % 2
        alone = np.full(n_voxels, -1, dtype=np.float32)
        alone[n_voxels // 2] = 6
        rows = [
            smooth,
            np.round(8 * smooth) / 8,
            np.round(8 * noise) / 8,
            4 - 5 * parity,
            np.full(n_voxels, 3),
            alone,
            -1 - np.abs(noise),
        ]
        return np.array(rows, dtype=np.float32)

    def rng(self, stream: int) -> np.random.Generator:
        """Return the numbers of one purpose: no draw changes another's."""
        return np.random.default_rng([self.seed, stream])

    @property
    def _centre_mm(self) -> tuple[float, float, float]:
        """Return the centre of the volume."""
        x, y, z = self.grid.to_mm(np.array(self.grid.mask.shape) / 2)
        return float(x), float(y), float(z)

    def _maps(self, n_maps: int, effect: NDArray[np.float32]) -> NDArray[np.float32]:
        """Simulate maps, ``(n_voxels, n_maps)`` in Fortran order."""
        maps = simulate_maps(self.grid, effect, n_maps, fwhm_mm=FWHM_MM, seed=self.seed)
        return np.array(list(maps)).T


def sample(seed: int, *, quick: bool) -> Sample:
    """Return the data of a seed: about 2,000 voxels, or fewer."""
    mask = ellipsoid((13, 15, 11) if quick else (17, 21, 15), 1.1)
    holes = np.random.default_rng([seed, 0]).random(mask.shape) < 0.05
    return Sample(Grid(mask & ~holes, AFFINE), seed)


def ellipsoid(shape: tuple[int, int, int], fill: float) -> NDArray[np.bool_]:
    """Return the voxels of a volume that lie in an ellipsoid; 1 fills the volume."""
    axes = np.ogrid[tuple(slice(-1, 1, length * 1j) for length in shape)]
    return np.asarray(sum(axis**2 for axis in axes) <= fill**2)
