"""Pseudo-t: what t becomes where its variance is smoothed, in array algebra for every engine.

With S² a voxel's sum of squares and R² the share that a shuffle's rows explain, S² (1 - R²) is the
residual sum of squares v, and the effect over the root of the smoothed variance is
t sqrt(v / blurred v) [1]_. The blur along an axis is a product with a symmetric matrix, of one
shape whatever the batch, so that a map's bits depend on nothing but that map.

References
----------
.. [1] Nichols & Holmes (2002), Human Brain Mapping 15, 1-25.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpustats.smoothing import Blur


class Smoothing(NamedTuple):
    """Hold what smoothing the variances of a test takes, on the device.

    Parameters
    ----------
    sum_of_squares
        ``(n_voxels,)`` float32, of what is shuffled, relative to the largest.
    cells
        ``(n_voxels,)`` int64: place of each voxel in a box.
    weights
        ``(n, n)`` float32 for each axis of the box.
    inside
        ``(n_voxels,)`` float32: the blurred mask.
    df
        Degrees of freedom of the residuals.
    """

    sum_of_squares: Any
    cells: Any
    weights: tuple[Any, ...]
    inside: Any
    df: float

    @classmethod
    def prepared(
        cls,
        blur: Blur,
        sum_of_squares: NDArray[np.float64],
        df: float,
        to_device: Callable[[NDArray[Any]], Any],
    ) -> Smoothing:
        """Lay out a blur for an engine, given each voxel's sum of squares ``(n_voxels,)``."""
        relative = sum_of_squares / sum_of_squares.max()
        return cls(
            to_device(relative.astype(np.float32)),
            to_device(blur.cells),
            tuple(to_device(one.astype(np.float32)) for one in blur.weights),
            to_device(blur.inside.astype(np.float32)),
            df,
        )


class Rooms(NamedTuple):
    """Hold the boxes in which a map is blurred, flat float32; that of the values starts as 0."""

    values: Any
    one: Any
    other: Any

    @classmethod
    def of(cls, smoothing: Smoothing, xp: ModuleType) -> Rooms:
        """Make room on the device."""
        n_cells = int(np.prod([len(weights) for weights in smoothing.weights]))
        return cls(*(xp.zeros(n_cells, dtype=np.float32) for _ in cls._fields))


def smooth_variance(
    t: Any,
    odds: Any | None,
    smoothing: Smoothing,
    rooms: Rooms,
    multiply: Callable[[Any, Any, Any], object],
    xp: ModuleType,
) -> None:
    """Turn a map of t into pseudo-t, in place.

    Parameters
    ----------
    t
        ``(n_voxels,)`` float32.
    odds
        R² / (1 - R²) at each voxel; None where that is t² / df.
    smoothing
        How.
    rooms
        Where; cells outside the mask stay 0.
    multiply
        ``multiply(a, b, out)`` writes the product of ``(n, n)`` a and transposed ``(m, n)`` b.
    xp
        The array library.
    """
    explained = t * t / smoothing.df if odds is None else odds
    variance = smoothing.sum_of_squares / (1 + explained)
    rooms.values[smoothing.cells] = variance
    # the last axis is blurred and becomes the first: after three times all are in place
    box = rooms.values
    for weights, out in zip(
        reversed(smoothing.weights), (rooms.one, rooms.other, rooms.one), strict=True
    ):
        multiply(weights, box.reshape(-1, len(weights)), out.reshape(len(weights), -1))
        box = out
    t *= xp.sqrt(variance * smoothing.inside / box.take(smoothing.cells))
