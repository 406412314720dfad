"""Between images and arrays of voxels: what a nilearn model's ``masker_`` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpustats import images
from gpustats.spaces import Grid


@dataclass(frozen=True)
class Masker:
    """Move between images and voxel arrays, as the ``masker_`` of a nilearn model does.

    Parameters
    ----------
    grid
        The voxels of the model.
    """

    grid: Grid

    @property
    def mask_img_(self) -> Any:
        """The mask as a NIfTI image of 0 and 1."""
        return images.to_image(self.grid.mask, self.grid.affine, "mask")

    @property
    def affine_(self) -> NDArray[np.float64]:
        """The affine of the mask."""
        return self.grid.affine

    def transform(self, imgs: Any) -> NDArray[np.float32]:
        """Return the voxel values of images, ``(n_images, n_voxels)``, NaN kept."""
        many = isinstance(imgs, Sequence) and not isinstance(imgs, str)
        volumes = [images.open_image(image) for image in (imgs if many else [imgs])]
        for one in volumes:
            if not images.same_grid(one.shape, one.affine, self.grid.mask.shape, self.grid.affine):
                raise ValueError(
                    f"{one.name}: shape {one.shape} and affine {one.affine[:3].tolist()} are not "
                    "those of the mask; resample it first"
                )
        rows = [one.read(k)[self.grid.mask] for one in volumes for k in range(one.n_volumes)]
        return np.stack(rows)

    def inverse_transform(self, values: ArrayLike) -> Any:
        """Return the image of voxel values, ``(n_voxels,)`` or ``(n_images, n_voxels)``."""
        return images.unmask(values, self.grid)
