"""Permutation statistics of many shuffles at every voxel, by matrix products (CPU).

Let e be a voxel's residuals on the nuisance regressors, scaled to unit length. A shuffle is k rows
of n numbers: orthonormal tested directions first, then nuisance directions, both shuffled instead
of the data. With s_j = u_j'e for the tested rows (m = 1 or more for F) and Q the sum of the squares
of q_j'e [1]_:

======================  =======================================  =================================
rows                    value that is compared                   statistic
======================  =======================================  =================================
t, 1 tested             the cosine r = s                         t = r sqrt(df / (1 - r²))
F, m tested             R² = sum s_j²                            F = (df / m) R² / (1 - R²)
t, 1 tested, nuisance   t = s sqrt(df / (1 - Q - s²))            t
F, m tested, nuisance   F = (df / m) R² / (1 - Q - R²)           F
======================  =======================================  =================================

Statistics rise with their values, in float32 too, so the statistic of the largest value is the
largest statistic, to the last bit.

Sums of a BLAS product depend in their last bits on the place of a row and a column in the matrix,
and on its shape. Hence the one rule of this module: shuffle i of a test is always row i mod 192 of
a tile of 192 shuffles, voxel v always column v mod 1024 of a tile of 1024 voxels, and tiles are
always whole, filled up with zeros. (Groups of voxels with rows of their own have tiles whose width
depends on the number of their voxels, and on nothing else.) Then neither threads, nor the batches
in which shuffles come, nor the company of other voxels change a bit.

References
----------
.. [1] Freedman & Lane (1983), J. Bus. Econ. Stat. 1, 292-298; Winkler et al. (2014), NeuroImage 92,
   381-397.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gpustats.engines import SHUFFLE_TILE, Exceedances, Form, Group, Peaks, Units
from gpustats.engines.cpu_threads import n_threads, one_blas_thread, share_out
from gpustats.jit import kernel

VOXEL_TILE = 1024
"""Voxels of a product: with 192 rows it is 768 kB and stays in the cache."""
TILES_AT_A_TIME = 8
"""Tiles of a group that a thread is given at a time: enough to make its rows worth it."""
COSINE_TOLERANCE = np.float32(2.0**-19)
"""Values r and R² this far below the observed one tie with it."""
RELATIVE_TOLERANCE = np.float32(1e-5)
"""Values t and F this far below the observed one tie with it, relative to it where it exceeds 1."""
SMALLEST_RESIDUAL = np.float32(2.0**-24)
"""Least residual share of a voxel's sum of squares: what float32 resolves next to 1."""

OBSERVED_ROWS = 48
"""Least rows of the products that give what was observed."""
ONE = np.float32(1)
ALL_BUT_SIGN = np.int32(0x7FFFFFFF)


def values_of(
    rows: NDArray[np.float32], units: Units, form: Form, *, threads: int | None = None
) -> NDArray[np.float32]:
    """Return the values of shuffle 0 at every voxel, through products like those of `sweep`.

    They have fewer rows, of which BLAS kernels make the same bits: they take 4 to 24 at a time.

    Parameters
    ----------
    rows
        ``(k, n)`` float32, the rows of shuffle 0.
    units
        The data.
    form
        What the rows are.
    threads
        Number of threads; one per core by default.

    Returns
    -------
    ndarray
        ``(n_voxels,)`` float32, what `Form` has to compare.
    """
    n_rows, n = rows.shape
    left = np.zeros((-(-OBSERVED_ROWS // n_rows), n_rows, n), dtype=np.float32)
    left[0] = rows
    values = np.empty(units.n_voxels, dtype=np.float32)

    def work(tiles: Iterator[int]) -> None:
        width = units.tiles.shape[2]
        products = np.empty((*left.shape[:2], width), dtype=np.float32)
        for tile in tiles:
            _multiply(left, units.tiles[tile], products)
            start = tile * width
            _write_values(products[0], form, values[start : start + width])

    with one_blas_thread():
        share_out(work, len(units.tiles), threads or n_threads())
    return values


def exceedances(observed: NDArray[np.float32], form: Form, *, two_sided: bool) -> Exceedances:
    """Prepare to count the shuffles that reach the observed values, rounding aside.

    Parameters
    ----------
    observed
        ``(n_voxels,)`` float32, from `values_of`: a shuffle that equals the observed order then
        ties with it, although another row of a product has other last bits.
    form
        What the rows are.
    two_sided
        Whether to compare sizes instead of values.
    """
    limits: NDArray[np.float32] = np.abs(observed) if two_sided else observed.copy()
    if form.n_nuisance:
        limits -= RELATIVE_TOLERANCE * np.maximum(np.abs(limits), ONE)
    else:
        limits -= COSINE_TOLERANCE
    return Exceedances(limits, two_sided, np.zeros(observed.size, dtype=np.int64))


def statistic_of(values: NDArray[np.float32], form: Form) -> NDArray[np.float32]:
    """Turn values of `values_of` or `Peaks`, any shape, into t or F, as `sweep` does in maps."""
    statistic = np.empty(values.size, dtype=np.float32)
    _write_statistic(np.ravel(values), form, statistic)
    return statistic.reshape(values.shape)


def sweep(
    rows: NDArray[np.float32],
    units: Units,
    form: Form,
    *,
    shuffles: range = range(SHUFFLE_TILE),
    exceeding: Exceedances | None = None,
    maps: NDArray[np.float32] | None = None,
    threads: int | None = None,
) -> Peaks:
    """Compute a tile of shuffles at every voxel.

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
    threads
        Number of threads; one per core by default.

    Returns
    -------
    Peaks
        The largest values of every wanted shuffle.
    """
    n_rows, n = rows.shape[1:]
    rows = rows.reshape(-1, _shuffles_per_product(n_rows), n_rows, n)
    if exceeding is None:
        exceeding = Exceedances(np.empty(0, np.float32), False, np.empty(0, np.int64))
    if maps is None:
        maps = np.empty((0, 0), dtype=np.float32)
    work = partial(_sweep_tiles, rows, units, form, shuffles, exceeding, maps)
    with one_blas_thread():
        parts = share_out(work, len(units.tiles), threads or n_threads())
    upper, lower = np.maximum.reduce(parts)
    return Peaks(_as_float(upper), _as_float(lower))


def sweep_groups(
    groups: Sequence[Group], *, shuffles: range, threads: int | None = None
) -> tuple[Peaks, ...]:
    """Do what `sweep` does for groups of voxels whose rows differ.

    Threads share the tiles of all groups: most groups have only one.

    Parameters
    ----------
    groups
        The voxels and their rows.
    shuffles
        Which shuffles of the tile are wanted, without gaps.
    threads
        Number of threads; one per core by default.

    Returns
    -------
    tuple of Peaks
        The largest values of every wanted shuffle, group by group.
    """
    tasks = [
        (number, range(first, min(first + TILES_AT_A_TIME, len(group.units.tiles))))
        for number, group in enumerate(groups)
        for first in range(0, len(group.units.tiles), TILES_AT_A_TIME)
    ]
    least = np.full((len(groups), 2, len(shuffles)), np.iinfo(np.int32).min, dtype=np.int32)

    def work(queue: Iterator[int]) -> NDArray[np.int32]:
        peaks = least.copy()
        for number, tiles in (tasks[task] for task in queue):
            found = _sweep_group(groups[number], shuffles, tiles)
            np.maximum(peaks[number], found, out=peaks[number])
        return peaks

    with one_blas_thread():
        parts = share_out(work, len(tasks), threads or n_threads())
    return tuple(Peaks(*map(_as_float, peaks)) for peaks in np.maximum.reduce(parts))


def _sweep_group(group: Group, shuffles: range, tiles: range) -> NDArray[np.int32]:
    """Do some tiles of a group; return its `Peaks` as ordered integers."""
    rows = group.rows()
    n_rows, n = rows.shape[1:]
    rows = rows.reshape(-1, _shuffles_per_product(n_rows), n_rows, n)
    maps = np.empty((0, 0), dtype=np.float32) if group.maps is None else group.maps
    return _sweep_tiles(rows, group.units, group.form, shuffles, group.exceeding, maps, iter(tiles))


def _sweep_tiles(
    rows: NDArray[np.float32],
    units: Units,
    form: Form,
    shuffles: range,
    exceeding: Exceedances,
    maps: NDArray[np.float32],
    tiles: Iterator[int],
) -> NDArray[np.int32]:
    """Do the tiles of voxels that one thread draws; return its `Peaks` as ordered integers."""
    per_product, n_rows = rows.shape[1:3]
    width = units.tiles.shape[2]
    products = np.empty((per_product, n_rows, width), dtype=np.float32)
    peaks = np.full((2, len(shuffles)), np.iinfo(np.int32).min, dtype=np.int32)
    wanted = range(shuffles.start // per_product, -(-shuffles.stop // per_product))
    for tile in tiles:
        span = tile * width, min(tile * width + width, units.n_voxels)
        for number in wanted:
            _multiply(rows[number], units.tiles[tile], products)
            first = number * per_product - shuffles.start
            _reduce(products, form, first, span, exceeding, peaks, maps)
    return peaks


def _shuffles_per_product(n_rows: int) -> int:
    """Return how many shuffles of a tile share a product: a divisor of 192, of 192 rows or less."""
    fitting = (s for s in range(1, SHUFFLE_TILE + 1) if SHUFFLE_TILE % s == 0)
    return max(s for s in fitting if s == 1 or s * n_rows <= SHUFFLE_TILE)


def _multiply(
    rows: NDArray[np.float32], tile: NDArray[np.float32], products: NDArray[np.float32]
) -> None:
    """Write the products of ``(shuffles, k, n)`` rows with a tile, ``(shuffles, k, width)``."""
    np.matmul(rows.reshape(-1, rows.shape[2]), tile, out=products.reshape(-1, tile.shape[1]))


def _as_float(ordered: NDArray[np.int32]) -> NDArray[np.float32]:
    """Turn ordered integers back into the floating-point numbers that they stand for."""
    return (ordered ^ ((ordered >> 31) & ALL_BUT_SIGN)).view(np.float32)


@kernel
def _reduce(products, form, first, span, exceeding, peaks, maps):  # type: ignore[no-untyped-def]
    """Fold the products of shuffles ``first``, ... with voxels ``span`` into peaks, counts, maps.

    Shuffles beyond those of ``peaks`` are passed over, counts and maps without elements too.
    """
    start, stop = span
    values = np.empty(stop - start, dtype=np.float32)
    reached = np.zeros(stop - start, dtype=np.int32)
    for shuffle in range(max(first, 0), min(first + products.shape[0], peaks.shape[1])):
        _write_values(products[shuffle - first], form, values)
        largest, smallest = _ordered_extremes(values)
        peaks[0, shuffle] = max(peaks[0, shuffle], largest)
        # the complement of an ordered integer is that of the negated number
        peaks[1, shuffle] = max(peaks[1, shuffle], ~smallest)
        if exceeding.counts.size:
            _count(values, exceeding.limits[start:stop], exceeding.two_sided, reached)
        if maps.size:
            _write_statistic(values, form, maps[shuffle, start:stop])
    if exceeding.counts.size:
        for v in range(reached.size):  # an assignment to a slice would compile for a second longer
            exceeding.counts[start + v] += reached[v]


@kernel
def _write_values(products, form, values):  # type: ignore[no-untyped-def]
    """Form what is compared from the products ``(k, at least len(values))`` of one shuffle."""
    if form.is_f:
        _sum_of_squares(products[: form.n_tested], values)
    else:
        for v in range(values.size):
            values[v] = products[0, v]
    if form.n_nuisance == 0:
        return
    explained = np.empty_like(values)
    _sum_of_squares(products, explained)
    scale = np.float32(form.df / form.n_tested)
    for v in range(values.size):
        residual = max(ONE - explained[v], SMALLEST_RESIDUAL)
        ratio = scale / residual
        values[v] *= ratio if form.is_f else np.sqrt(ratio)


@kernel
def _sum_of_squares(products, total):  # type: ignore[no-untyped-def]
    """Sum the squares of the rows of ``products``."""
    for v in range(total.size):
        total[v] = products[0, v] * products[0, v]
    for row in range(1, products.shape[0]):
        for v in range(total.size):
            total[v] += products[row, v] * products[row, v]


@kernel
def _write_statistic(values, form, statistic):  # type: ignore[no-untyped-def]
    """Turn values into t or F; a rising function of them in float32 as well."""
    if form.n_nuisance:
        for v in range(values.size):
            statistic[v] = values[v]
        return
    scale = np.float32(form.df / form.n_tested)
    for v in range(values.size):
        value = values[v]
        explained = value if form.is_f else value * value
        ratio = scale / max(ONE - explained, SMALLEST_RESIDUAL)
        statistic[v] = value * (ratio if form.is_f else np.sqrt(ratio))


@kernel
def _ordered_extremes(values):  # type: ignore[no-untyped-def]
    """Return the largest and smallest value as integers of the same order, which vectorise."""
    bits = values.view(np.int32)
    largest, smallest = np.int32(-(2**31)), np.int32(2**31 - 1)
    for v in range(bits.size):
        ordered = np.int32(bits[v] ^ ((bits[v] >> np.int32(31)) & ALL_BUT_SIGN))
        largest = np.int32(max(largest, ordered))
        smallest = np.int32(min(smallest, ordered))
    return largest, smallest


@kernel
def _count(values, limits, two_sided, reached):  # type: ignore[no-untyped-def]
    """Add 1 where a value, or its size, reaches the limit."""
    if two_sided:
        for v in range(values.size):
            reached[v] += abs(values[v]) >= limits[v]
    else:
        for v in range(values.size):
            reached[v] += values[v] >= limits[v]
