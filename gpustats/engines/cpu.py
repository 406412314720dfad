"""The CPU engine: NumPy arrays, Numba for the hot loops, a thread per core.

Assumes what `gpustats.engines.Engine` lists: contiguous arrays of the stated types, finite, not
empty. Every function gives the same bits for any number of threads: work is cut into fixed
blocks of voxels and no sum crosses a block.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from gpustats import distributions
from gpustats.engines import SHUFFLE_TILE, Regression, Units
from gpustats.engines.cpu_memory import free_bytes
from gpustats.engines.cpu_ranks import rank_peaks
from gpustats.engines.cpu_shuffles import shuffled_rows
from gpustats.engines.cpu_smoothing import pseudo_t
from gpustats.engines.cpu_spatial import (
    cluster_counts,
    cluster_peaks,
    cluster_scores,
    tfce_counts,
    tfce_peaks,
    tfce_scores,
)
from gpustats.engines.cpu_sweep import (
    VOXEL_TILE,
    exceedances,
    statistic_of,
    sweep,
    sweep_groups,
    values_of,
)
from gpustats.engines.cpu_threads import blas_libraries, n_threads, share_out
from gpustats.jit import kernel
from gpustats.spaces import Lattice

__all__ = [
    "cluster_counts",
    "cluster_peaks",
    "cluster_scores",
    "contrast",
    "describe",
    "elapsed",
    "empty_maps",
    "exceedances",
    "f_maps_to_z",
    "f_to_z",
    "fingerprint",
    "free_bytes",
    "label",
    "n_threads",
    "negate",
    "pseudo_t",
    "put",
    "rank_peaks",
    "regress",
    "shuffled_rows",
    "statistic_of",
    "sweep",
    "sweep_groups",
    "t_maps_to_z",
    "t_to_z",
    "tfce_counts",
    "tfce_peaks",
    "tfce_scores",
    "to_device",
    "to_host",
    "unit_tiles",
    "values_of",
    "voxel_tile",
]

VOXEL_BLOCK = 1024
"""Voxels that are worked on at a time: their running sums stay in the first-level cache."""
VOXEL_STEP = 32
"""The width of narrow tiles is a multiple of it: two cache lines of a row."""
VOXEL_SPAN = 16 * VOXEL_BLOCK
"""Voxels that a thread is given at a time: enough to make the call worth it."""
MAP_BYTES = 2**28
"""What the maps of a batch of shuffles may take."""


def describe() -> str:
    """Return one line that names libraries, versions and the device."""
    return (
        f"NumPy {np.__version__}, Numba {numba.__version__}, {n_threads()} threads, "
        f"{platform.machine()}"
    )


def voxel_tile() -> int:
    """Return how many voxels share a product: blocks of whole tiles change no bit."""
    return VOXEL_TILE


def elapsed(work: Callable[[], object]) -> float:
    """Run work, and return the seconds that it took."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def to_host(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array: it is on the host."""
    return array


def to_device(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array: the host is the device."""
    return array


def regress(values: NDArray[np.float32], basis: NDArray[np.float64]) -> Regression:
    """Fit every voxel by least squares, in float64 and two passes over each block of voxels.

    The residuals are formed before they are squared: ||y||² - ||Q'y||² would lose every digit
    where the mean is much larger than the spread.
    """
    n_voxels = values.shape[0]
    rank = basis.shape[1]
    regression = Regression(np.empty((rank, n_voxels)), np.empty(n_voxels))
    columns = np.ascontiguousarray(basis.T)
    _in_blocks(
        lambda a, b: _regress_span(values.T, columns, a, b, *regression), n_voxels, VOXEL_SPAN
    )
    return regression


def contrast(
    regression: Regression, estimator: NDArray[np.float64], df: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return effect, variance and t of the linear form ``estimator`` (rank,) of coordinates."""
    effect = estimator @ regression.coordinates
    variance = estimator @ estimator * (regression.residual_ss / df)
    return effect, variance, effect / np.sqrt(variance)


def t_to_z(t: NDArray[np.floating[Any]], df: float) -> NDArray[np.float64]:
    """Turn t values, any shape, into z values of the same upper tail."""
    flat, z = np.ravel(t), np.empty(t.size)
    _in_blocks(lambda a, b: distributions.t_to_z(flat[a:b], df, out=z[a:b]), t.size, VOXEL_SPAN)
    return z.reshape(t.shape)


def f_to_z(f: NDArray[np.float64], dimension: int, df: float) -> NDArray[np.float64]:
    """Turn F values, any shape, into z values of the same upper tail."""
    flat, z = np.ravel(f), np.empty(f.size)
    _in_blocks(
        lambda a, b: distributions.f_to_z(flat[a:b], dimension, df, out=z[a:b]), f.size, VOXEL_SPAN
    )
    return z.reshape(f.shape)


def t_maps_to_z(maps: NDArray[np.float32], df: float) -> None:
    """Turn maps of t into z, in place: what `t_to_z` gives, as float32."""
    maps[:] = t_to_z(maps, df)


def f_maps_to_z(maps: NDArray[np.float32], dimension: int, df: float) -> None:
    """Turn maps of F into z, in place: what `f_to_z` gives, as float32."""
    for one in maps:
        one[:] = f_to_z(one, dimension, df)


def empty_maps(most: int, n_voxels: int) -> NDArray[np.float32]:
    """Return room for as many float32 maps as pay off at a time, ``most`` at most."""
    fitting = int(np.clip(MAP_BYTES // (4 * n_voxels), 1, SHUFFLE_TILE))
    return np.empty((min(most, fitting), n_voxels), dtype=np.float32)


def put(block: NDArray[np.float32], maps: NDArray[np.float32], start: int) -> None:
    """Write ``(b, width)`` values of voxels ``start``, ... into ``(b, n_voxels)`` maps."""
    maps[:, start : start + block.shape[1]] = block


def negate(maps: NDArray[np.float32]) -> None:
    """Turn maps over, in place."""
    np.negative(maps, out=maps)


def label(above: NDArray[np.bool_], lattice: Lattice) -> NDArray[np.int32]:
    """Label connected voxels of ``(n_maps, n_voxels)`` by 1 + their smallest voxel number."""
    labels = np.zeros(above.shape, dtype=np.int32)
    scratch = np.zeros(int(np.prod(lattice.box)), dtype=np.int32)
    for one_map, its_labels in zip(above, labels, strict=True):
        _label_map(one_map, lattice.cells, lattice.backward_steps, scratch, its_labels)
    return labels


def unit_tiles(
    values: NDArray[np.float32], removed: NDArray[np.float64], *, narrow: bool = False
) -> Units:
    """Take a space out of every voxel of ``(n_voxels, n)`` values and scale to unit length.

    In float64; the tiles for `sweep` hold float32. ``removed`` is an orthonormal basis, (n, k).
    Narrow tiles share the voxels equally, so that few are filled up with zeros.
    """
    n_voxels, n = values.shape
    n_tiles = -(-n_voxels // VOXEL_TILE)
    width = -(-n_voxels // (n_tiles * VOXEL_STEP)) * VOXEL_STEP if narrow else VOXEL_TILE
    tiles = np.empty((n_tiles, n, width), dtype=np.float32)
    columns = np.ascontiguousarray(removed.T)
    _in_blocks(
        lambda a, b: _write_units(values.T, columns, a, b, tiles[a // width]), n_voxels, width
    )
    return Units(tiles, n_voxels)


def fingerprint() -> str:
    """Name what the last bits of a result depend on: the processor's kernels and the BLAS build."""
    blas = [
        f"{library['internal_api']} {library['version']} {library.get('architecture', '')}"
        for library in blas_libraries()
    ]
    return f"cpu {platform.machine()}, {'; '.join(sorted(set(blas)))}"


def _in_blocks(work: Callable[[int, int], object], n_voxels: int, block: int) -> None:
    """Run ``work(start, stop)`` over all blocks of voxels on all cores."""
    starts = range(0, n_voxels, block)

    def work_off(queue: Iterator[int]) -> None:
        for number in queue:
            work(starts[number], min(starts[number] + block, n_voxels))

    share_out(work_off, len(starts), n_threads())


@kernel
def _regress_span(maps, columns, start, stop, coordinates, residual_ss):  # type: ignore[no-untyped-def]
    """Project voxels ``start`` to ``stop`` on the columns, then sum their squared residuals.

    Blocks of voxels keep the running sums in cache; subjects go four at a time, so that a sum is
    read and written once for four of them.
    """
    for a in range(start, stop, VOXEL_BLOCK):
        b = min(a + VOXEL_BLOCK, stop)
        sums, squares = _regress_block(maps[:, a:b], columns)
        coordinates[:, a:b] = sums
        residual_ss[a:b] = squares


@kernel
def _write_units(maps, columns, start, stop, tile):  # type: ignore[no-untyped-def]
    """Write the residuals of voxels ``start`` to ``stop`` at unit length, zeros after them."""
    block = maps[:, start:stop]
    sums, squares = _regress_block(block, columns)
    scale = 1 / np.sqrt(squares)
    residual = np.empty(stop - start)
    for s in range(maps.shape[0]):
        _residual(block, columns, sums, s, residual)
        for v in range(residual.size):
            tile[s, v] = residual[v] * scale[v]
        tile[s, residual.size :] = 0


@kernel
def _regress_block(maps, columns):  # type: ignore[no-untyped-def]
    """Return the coordinates and the residual sums of squares of a block of voxels."""
    n_subjects, n_voxels = maps.shape
    rank = columns.shape[0]
    fours = n_subjects - n_subjects % 4
    sums = np.zeros((rank, n_voxels))
    for s in range(0, fours, 4):
        for k in range(rank):
            _add_four(sums[k], columns[k, s : s + 4], maps[s : s + 4])
    for s in range(fours, n_subjects):
        for k in range(rank):
            _add_one(sums[k], columns[k, s], maps[s])
    squares = np.zeros(n_voxels)
    residual = np.empty(n_voxels)
    for s in range(n_subjects):
        _residual(maps, columns, sums, s, residual)
        for v in range(n_voxels):
            squares[v] += residual[v] * residual[v]
    return sums, squares


@kernel
def _residual(maps, columns, sums, subject, residual):  # type: ignore[no-untyped-def]
    """Write what the columns leave of one subject's map."""
    for v in range(residual.size):
        residual[v] = maps[subject, v]
    for k in range(columns.shape[0]):
        _add_one(residual, -columns[k, subject], sums[k])


@kernel
def _add_four(total, weights, rows):  # type: ignore[no-untyped-def]
    """Add the weighted sum of four rows."""
    w0, w1, w2, w3 = weights
    for v in range(total.size):
        total[v] += w0 * rows[0, v] + w1 * rows[1, v] + w2 * rows[2, v] + w3 * rows[3, v]


@kernel
def _add_one(total, weight, row):  # type: ignore[no-untyped-def]
    """Add a weighted row."""
    for v in range(total.size):
        total[v] += weight * row[v]


@kernel
def _label_map(above, cells, backward_steps, scratch, labels):  # type: ignore[no-untyped-def]
    """Unite each voxel with its earlier neighbours; the smallest voxel number is the root.

    ``labels`` holds 1 + the parent while it is built. ``scratch``, a box of zeros, holds
    1 + the voxel number of each cell above threshold, and is cleared again.
    """
    for v in range(above.size):
        if not above[v]:
            continue
        cell = cells[v]
        scratch[cell] = v + 1
        labels[v] = v + 1
        root = v + 1
        for step in backward_steps:
            other = scratch[cell - step]
            if other == 0:
                continue
            while labels[other - 1] != other:
                labels[other - 1] = labels[labels[other - 1] - 1]
                other = labels[other - 1]
            if other < root:
                labels[root - 1] = other
                root = other
            elif other > root:
                labels[other - 1] = root
    for v in range(above.size):
        if above[v]:
            # parents come first and are final already
            labels[v] = labels[labels[v] - 1]
            scratch[cells[v]] = 0
