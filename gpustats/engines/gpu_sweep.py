"""Permutation statistics of many shuffles at every voxel, by matrix products (GPU).

What is computed is told in `gpustats.engines.cpu_sweep`, and so is the rule that keeps every bit
where shuffles come in other batches: shuffle i is always row i mod 192 of whole tiles, voxel v
always column v mod `VOXEL_TILE`. cuBLAS keeps the order of its sums as long as shapes, places and
the stream stay the same [1]_; hence all products are on the current stream, whether tiles are on
the device or arrive on another stream.

References
----------
.. [1] cuBLAS documentation, section "Results reproducibility".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import cupy
import numpy as np
from cupy import cublas
from numpy.typing import NDArray

from gpustats import cuda
from gpustats.engines import SHUFFLE_TILE, Exceedances, Form, Group, Peaks, Units, cpu_sweep
from gpustats.engines.gpu_memory import on_device

__all__ = [
    "NARROW_TILE",
    "VOXEL_TILE",
    "exceedances",
    "statistic_of",
    "sweep",
    "sweep_groups",
    "values_of",
]

VOXEL_TILE = 16384
"""Voxels of a product: with 192 rows it is 12 MiB, which the epilogue finds in the L2 cache, and
256 squares of 128 by 128, about two for every multiprocessor of the largest GPUs."""
NARROW_TILE = 256
"""The same where many groups of few voxels have rows of their own."""
PRODUCT_ROWS = 8 * SHUFFLE_TILE
"""Most rows of a product, unless one shuffle has more: 96 MiB, so that shuffles of several rows
share launches whose time the product hides. Depends on nothing: sums keep their order."""
VOXEL_SPAN = 128
"""Voxels of a block of threads, as in the kernels."""
THREADS = 512
"""Threads of a block, as in the kernels."""
PEDANTIC_MATH = 2
"""``CUBLAS_PEDANTIC_MATH``, which CuPy does not name: float32 products as they are asked for."""

# a few numbers of shuffle 0 and the maxima: not worth a kernel, and bits that are the maps' own
statistic_of = cpu_sweep.statistic_of


def kernels(n_columns: int = 1, width: int | None = None) -> cuda.Kernels:
    """Return the kernels, compiled for so many columns of a basis and for a width of tiles."""
    return cuda.kernels(
        "t_statistic",
        COLUMNS=n_columns,
        SHUFFLE_TILE=SHUFFLE_TILE,
        VOXEL_TILE=width or VOXEL_TILE,
    )


def values_of(rows: cupy.ndarray, units: Units, form: Form) -> NDArray[np.float32]:
    """Return the values of shuffle 0 at every voxel, through the same products as `sweep`.

    Parameters
    ----------
    rows
        ``(k, n)`` float32 on the device, the rows of shuffle 0.
    units
        The data.
    form
        What the rows are.

    Returns
    -------
    ndarray
        ``(n_voxels,)`` float32 on the host, what `Form` has to compare.
    """
    n_rows, n = rows.shape
    left = cupy.zeros((_shuffles_per_product(n_rows), n_rows, n), dtype=np.float32)
    left[0] = rows
    values = cupy.empty(units.n_voxels, dtype=np.float32)
    width = units.tiles.shape[2]
    products, compiled = _empty_products(left, width), kernels(width=width)
    with float32_products():
        for start, tile in _tiles(units):
            _multiply(left, tile, products)
            _write_values(compiled, products, form, start, values)
    return np.asarray(values.get())


def exceedances(observed: NDArray[np.float32], form: Form, *, two_sided: bool) -> Exceedances:
    """Prepare to count the shuffles that reach the observed values, rounding aside.

    As on the CPU, from observed values on the host; limits and counts are on the device.
    """
    limits, _, counts = cpu_sweep.exceedances(observed, form, two_sided=two_sided)
    return Exceedances(cupy.asarray(limits), two_sided, cupy.asarray(counts))


def sweep(
    rows: cupy.ndarray,
    units: Units,
    form: Form,
    *,
    shuffles: range = range(SHUFFLE_TILE),
    exceeding: Exceedances | None = None,
    maps: cupy.ndarray | None = None,
) -> Peaks:
    """Compute a tile of shuffles at every voxel, without waiting for the device.

    Parameters
    ----------
    rows
        ``(192, k, n)`` float32, C-contiguous: the rows of every shuffle, tested ones first.
        Shuffle i of a test is at i mod 192; those outside ``shuffles`` may hold anything finite.
    units
        The data.
    form
        What the rows are.
    shuffles
        Which shuffles of the tile are wanted, without gaps.
    exceeding
        Where to count shuffles that reach the observed values, if at all.
    maps
        Where to write t or F, ``(len(shuffles), n_voxels)`` float32, if at all.

    Returns
    -------
    Peaks
        The largest values of every wanted shuffle. All arrays are on the device.
    """
    n_rows, n = rows.shape[1:]
    rows = rows.reshape(-1, _shuffles_per_product(n_rows), n_rows, n)
    per_product = rows.shape[1]
    if exceeding is None:
        exceeding = Exceedances(cupy.empty(0, np.float32), False, cupy.empty(0, np.int64))
    if maps is None:
        maps = cupy.empty((0, 0), dtype=np.float32)
    width = units.tiles.shape[2]
    products, compiled = _empty_products(rows[0], width), kernels(width=width)
    peaks = cupy.full((2, len(shuffles)), np.iinfo(np.int32).min, dtype=np.int32)
    wanted = range(shuffles.start // per_product, -(-shuffles.stop // per_product))
    with float32_products():
        for start, tile in _tiles(units):
            for number in wanted:
                _multiply(rows[number], tile, products)
                first = number * per_product - shuffles.start
                span = start, units.n_voxels
                _reduce(compiled, products, form, first, span, exceeding, peaks, maps)
    upper, lower = peaks
    return Peaks(_as_float(upper), _as_float(lower))


def sweep_groups(groups: Sequence[Group], *, shuffles: range) -> tuple[Peaks, ...]:
    """Do what `sweep` does for groups of voxels whose rows differ; the host makes their rows.

    Parameters
    ----------
    groups
        The voxels and their rows.
    shuffles
        Which shuffles of the tile are wanted, without gaps.

    Returns
    -------
    tuple of Peaks
        The largest values of every wanted shuffle, group by group, on the device.
    """
    return tuple(
        sweep(
            cupy.asarray(group.rows()),
            group.units,
            group.form,
            shuffles=shuffles,
            exceeding=group.exceeding,
            maps=group.maps,
        )
        for group in groups
    )


def _shuffles_per_product(n_rows: int) -> int:
    """Return how many shuffles of a tile share a product: a divisor of 192."""
    most = max(PRODUCT_ROWS, n_rows)
    divisors = (s for s in range(1, SHUFFLE_TILE + 1) if SHUFFLE_TILE % s == 0)
    return max(s for s in divisors if s * n_rows <= most)


def _tiles(units: Units) -> Iterator[tuple[int, cupy.ndarray]]:
    """Yield the first voxel of each tile and the tile, on the device."""
    here = isinstance(units.tiles, cupy.ndarray)
    tiles = units.tiles if here else on_device(units.tiles)
    for number, tile in enumerate(tiles):
        yield number * tile.shape[1], tile


def _empty_products(rows: cupy.ndarray, width: int) -> cupy.ndarray:
    """Return room for the products of ``(shuffles, k, n)`` rows with a tile."""
    return cupy.empty((*rows.shape[:2], width), dtype=np.float32)


@contextmanager
def float32_products() -> Iterator[None]:
    """Keep cuBLAS from TF32 and from other float32 than float32, whatever the environment says."""
    library = cupy.cuda.cublas
    handle = cupy.cuda.device.get_cublas_handle()
    mode = library.getMathMode(handle)
    library.setMathMode(handle, PEDANTIC_MATH)
    try:
        yield
    finally:
        library.setMathMode(handle, mode)


def _multiply(rows: cupy.ndarray, tile: cupy.ndarray, products: cupy.ndarray) -> None:
    """Write the products of ``(shuffles, k, n)`` rows with a tile; cuBLAS copies none of them."""
    left, out = rows.reshape(-1, rows.shape[2]), products.reshape(-1, tile.shape[1])
    cublas.gemm("N", "N", left, tile, out=out)


def _reduce(
    compiled: cuda.Kernels,
    products: cupy.ndarray,
    form: Form,
    first: int,
    span: tuple[int, int],
    exceeding: Exceedances,
    peaks: cupy.ndarray,
    maps: cupy.ndarray,
) -> None:
    """Fold the products of shuffles ``first``, ... with a tile of voxels into peaks, counts, maps.

    ``span`` is the first voxel of the tile and the number of all voxels. Shuffles beyond those
    of ``peaks`` are passed over, counts and maps without elements too.
    """
    start, n_voxels = span
    wanted = slice(max(first, 0), min(first + len(products), peaks.shape[1]))
    compiled.launch(
        "t_statistic_peaks",
        -(-min(n_voxels - start, products.shape[2]) // VOXEL_SPAN),
        THREADS,
        products[wanted.start - first : wanted.stop - first],
        wanted.stop - wanted.start,
        *_of_form(products, form),
        start,
        n_voxels,
        exceeding.limits,
        1 + exceeding.two_sided if exceeding.counts.size else 0,
        exceeding.counts,
        *peaks[:, wanted],
        maps[wanted],
        maps.size > 0,
    )


def _write_values(
    compiled: cuda.Kernels,
    products: cupy.ndarray,
    form: Form,
    start: int,
    values: cupy.ndarray,
) -> None:
    """Form what is compared of the first shuffle, at the voxels of a tile."""
    compiled.launch(
        "t_statistic_values",
        -(-products.shape[2] // (4 * 256)),
        256,
        products,
        *_of_form(products, form),
        start,
        values.size,
        values,
    )


def _of_form(products: cupy.ndarray, form: Form) -> tuple[int, int, bool, np.float32]:
    """Return the rows of a shuffle, the tested ones, whether for F, and residual df for each."""
    return products.shape[1], form.n_tested, form.is_f, np.float32(form.df / form.n_tested)


def _as_float(ordered: cupy.ndarray) -> cupy.ndarray:
    """Turn ordered integers back into the floating-point numbers that they stand for."""
    return (ordered ^ ((ordered >> 31) & np.int32(0x7FFFFFFF))).view(np.float32)
