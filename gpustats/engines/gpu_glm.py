"""The general linear model on the GPU: fits, contrasts, and residuals in tiles.

The stack stays on the host and passes through the device in blocks of voxels, whatever its size:
both passes of a fit find their block on the device. Sums over subjects are in float64 and in an
order that depends on nothing but the number of subjects.
"""

from __future__ import annotations

from typing import NamedTuple

import cupy
import numpy as np
from numpy.typing import NDArray

from gpustats import cuda
from gpustats.engines import Regression, Units
from gpustats.engines.gpu_memory import pinned, resident, voxel_blocks
from gpustats.engines.gpu_sweep import NARROW_TILE, THREADS, VOXEL_SPAN, VOXEL_TILE, kernels

__all__ = ["contrast", "regress", "unit_tiles"]

COLUMNS = (1, 2, 4, 8)
"""Columns of a basis whose sums a thread keeps in registers, as compiled; more go in turns."""
FEW_VOXELS = 16 * NARROW_TILE
"""As many go into narrow tiles, if that is asked for; more fill wide ones well enough."""
SUBJECTS = 4
"""Subjects whose residuals a thread forms at a time."""


class _Basis(NamedTuple):
    """An orthonormal basis on the device, filled up with zeros, and what is compiled for it."""

    columns: cupy.ndarray
    rank: int
    compiled: cuda.Kernels
    n_groups: int


def regress(values: NDArray[np.float32], basis: NDArray[np.float64]) -> Regression:
    """Fit every voxel of ``(n_voxels, n_subjects)`` values, in float64 and two passes.

    The regression is on the device.
    """
    n_voxels = values.shape[0]
    regression = _empty_regression(basis.shape[1], n_voxels)
    space = _on_device(basis)
    for block, data in voxel_blocks(values):
        _regress_block(data, space, block.start, regression)
    return regression


def contrast(
    regression: Regression, estimator: NDArray[np.float64], df: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return effect, variance and t of a contrast at every voxel.

    Parameters
    ----------
    regression
        From `regress`.
    estimator
        ``(rank,)``, the estimate as a linear form of the coordinates, from `Design.estimator`.
    df
        Degrees of freedom of the residuals.
    """
    n_voxels = regression.residual_ss.size
    maps = cupy.empty((3, n_voxels))
    kernels(COLUMNS[0]).launch(
        "t_statistic_contrast",
        -(-n_voxels // 256),
        256,
        regression.coordinates,
        regression.residual_ss,
        cupy.asarray(estimator),
        estimator.size,
        float(estimator @ estimator),
        float(df),
        n_voxels,
        *maps,
    )
    effect, variance, t = maps.get()
    return effect, variance, t


def unit_tiles(
    values: NDArray[np.float32], removed: NDArray[np.float64], *, narrow: bool = False
) -> Units:
    """Take a space out of every voxel of ``(n_voxels, n)`` values and scale to unit length.

    In float64; the tiles for `sweep` hold float32. They stay on the device if that leaves room,
    else they wait in pinned memory of the host. ``removed`` is an orthonormal basis, (n, k).
    """
    n_voxels, n = values.shape
    width = NARROW_TILE if narrow and n_voxels <= FEW_VOXELS else VOXEL_TILE
    shape = (-(-n_voxels // width), n, width)
    space = _on_device(removed, width)
    tiles = resident(shape)
    if tiles is None:
        return Units(_tiles_on_host(values, space, shape), n_voxels)
    for block, data in voxel_blocks(values):
        _write_units(data, space, block, tiles, block.start)
    return Units(tiles, n_voxels)


def _tiles_on_host(
    values: NDArray[np.float32], space: _Basis, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Form one tile at a time on the device and copy it to pinned memory."""
    tiles = pinned(shape)
    tile = cupy.empty(shape[1:], dtype=np.float32)
    width = shape[2]
    for block, data in voxel_blocks(values, most=width):
        place = block.start % width
        if place == 0:
            tile.fill(0)
        _write_units(data, space, block, tile, place)
        if block.stop == len(values) or place + len(block) == width:
            tile.get(out=tiles[block.start // width], blocking=False)
    cupy.cuda.get_current_stream().synchronize()
    return tiles


def _empty_regression(rank: int, n_voxels: int) -> Regression:
    """Return arrays on the device to be filled."""
    return Regression(cupy.empty((rank, n_voxels)), cupy.empty(n_voxels))


def _on_device(basis: NDArray[np.float64], width: int | None = None) -> _Basis:
    """Bring a basis to the device, filled up to whole groups of columns and of subjects."""
    n, rank = basis.shape
    n_columns = next((c for c in COLUMNS if c >= rank), COLUMNS[-1])
    n_groups = -(-rank // n_columns)
    padded = np.zeros((-(-n // SUBJECTS) * SUBJECTS, n_groups * n_columns))
    padded[:n, :rank] = basis
    return _Basis(cupy.asarray(padded), rank, kernels(n_columns, width), n_groups)


def _regress_block(data: cupy.ndarray, space: _Basis, start: int, regression: Regression) -> None:
    """Fit the voxels of a block, which are ``start``, ``start`` + 1, ... of the regression."""
    n, width = data.shape
    coordinates, residual_ss = regression
    n_voxels = residual_ss.size
    n_blocks = -(-width // VOXEL_SPAN)
    if space.rank:
        space.compiled.launch(
            "t_statistic_project",
            (n_blocks, space.n_groups),
            THREADS,
            data,
            n,
            width // 4,
            space.columns,
            space.rank,
            start,
            n_voxels,
            coordinates,
        )
    space.compiled.launch(
        "t_statistic_residual_ss",
        n_blocks,
        THREADS,
        data,
        n,
        width // 4,
        space.columns,
        space.columns.shape[1],
        space.rank,
        coordinates,
        start,
        n_voxels,
        residual_ss,
    )


def _write_units(
    data: cupy.ndarray, space: _Basis, block: range, tiles: cupy.ndarray, place: int
) -> None:
    """Write the residuals of a block at ``place`` and after, counted in columns of the tiles."""
    n, width = data.shape
    regression = _empty_regression(space.rank, len(block))
    _regress_block(data, space, 0, regression)
    space.compiled.launch(
        "t_statistic_unit",
        -(-width // VOXEL_SPAN),
        THREADS,
        data,
        n,
        width // 4,
        space.columns,
        space.columns.shape[1],
        space.rank,
        *regression,
        len(block),
        place,
        tiles,
    )
