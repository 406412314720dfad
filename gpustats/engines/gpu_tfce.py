"""Exact TFCE of batches of maps on the GPU.

`kernels/tfce_sort.cu` ranks the positive voxels of every map, `kernels/tfce.cu` lets them in from
the highest down, `kernels/tfce_scores.cu` hands the scores to the voxels. Scores and peaks equal
those of `cpu_tfce` to the last bit for H = 0, 1, 2 and 3 and any E, summed levels included if there
are no more than 2**20, and for sums of up to `LEVELS` levels with any H. Otherwise they agree to
1e-12 of the peak: ``pow`` of the device may be a unit in the last place away from the host's, and
still more levels are integrated.

A map is swept with a small table of components in fast memory first. Maps that overflow it, such
as white noise, are done again with tables for as many components as the mask can have, in the
memory that the first sweep has left. No number goes to the host in between.

Maps are ``(n_maps, n_voxels)`` float32 on the device, finite, at most 65,535 at a time; the
positive side of them is scored. Results are on the device too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache, wraps
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar

import cupy
import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpustats import cuda
from gpustats.engines import cpu_tfce
from gpustats.engines.cpu_tfce import Height
from gpustats.spaces import Lattice

CAPACITY: Final = 4096
"""Components of a map in the first sweep: twice what a brain has when it is smoothed by a
Gaussian of 3.5 voxels' width at half its height. 65,280 at most."""

LEVELS: Final = 2**14
"""Levels of a stepped sum that are tabulated; the kernel adds up higher ones as it goes."""

BRICK: Final = 4
"""Voxels along the edges of the bricks in which cells are numbered: the labels of one brick fill
a line of the cache."""

ROWS: Final = {6: 8, 18: 24, 26: 32}
"""Neighbours, and the length of a row of their table: whole sectors of 32 bytes."""

CLIQUES: Final = {6: (1, 1, 2), 18: (1, 2, 2), 26: (2, 2, 2)}
"""Neighbours, and the edges of a largest box in which all voxels touch each other."""

COMPONENT: Final = 8
"""What a component takes in the kernel's table, in words of 32 bits."""

SORT_THREADS: Final = 512
SCORE_THREADS: Final = 256

P = ParamSpec("P")
T = TypeVar("T")


class _Layout(NamedTuple):
    """A lattice as the sweep needs it: voxels numbered brick by brick, as cells."""

    cells: cupy.ndarray
    """Cell of every voxel, ``(n_voxels,)`` int32."""
    voxels: cupy.ndarray
    """Voxel of every cell, ``(n_voxels,)`` int32."""
    neighbours: cupy.ndarray
    """Cells around every cell, ``(n_voxels + 1, row)`` int32; n_voxels where there is none."""
    most_components: int
    """What no map on this lattice can exceed: of voxels that all touch, one begins a component."""


class _Ranked(NamedTuple):
    """The positive voxels of maps from the highest down; rows are filled from the front."""

    integrals: cupy.ndarray
    order: cupy.ndarray
    n_positive: cupy.ndarray
    exponents: cupy.ndarray


class _Swept(NamedTuple):
    """The largest score of every map, and of every voxel in fixed point if it was asked for."""

    peaks: cupy.ndarray
    gained: cupy.ndarray
    ranked: _Ranked


def tfce_peaks(
    maps: cupy.ndarray, lattice: Lattice, extent: float, height: float, step: float
) -> cupy.ndarray:
    """Return the largest TFCE score of each map, ``(n_maps,)`` float64.

    Parameters
    ----------
    maps
        ``(n_maps, n_voxels)`` float32.
    lattice
        Which voxels touch.
    extent, height
        Exponents E and H.
    step
        Distance of the heights that are summed; 0 for the exact integral.
    """
    form = Height(float(height), float(step))
    return _sweep(maps, lattice, extent, form, full=False).peaks


def tfce_scores(
    maps: cupy.ndarray, lattice: Lattice, extent: float, height: float, step: float
) -> cupy.ndarray:
    """Return the TFCE score of every voxel, ``(n_maps, n_voxels)`` float64.

    Parameters
    ----------
    maps, lattice, extent, height, step
        As for `tfce_peaks`.
    """
    form = Height(float(height), float(step))
    swept = _sweep(maps, lattice, extent, form, full=True)
    scores = cupy.zeros(maps.shape, dtype=np.float64)
    _hand_out("tfce_spread", swept, lattice, form, scores)
    return scores


def tfce_counts(
    maps: cupy.ndarray,
    lattice: Lattice,
    extent: float,
    height: float,
    step: float,
    limits: cupy.ndarray,
    counts: cupy.ndarray,
) -> cupy.ndarray:
    """Count the maps in which the score of a voxel reaches its limit, and return the peaks.

    Parameters
    ----------
    maps, lattice, extent, height, step
        As for `tfce_peaks`.
    limits
        ``(n_voxels,)`` float64, what a score must reach; it must be positive, too.
    counts
        ``(n_voxels,)`` int64, to which the numbers of maps are added.

    Returns
    -------
    ndarray
        As from `tfce_peaks`.
    """
    form = Height(float(height), float(step))
    swept = _sweep(maps, lattice, extent, form, full=True)
    _hand_out("tfce_count", swept, lattice, form, limits, counts)
    return swept.peaks


def scratch_bytes_per_map(lattice: Lattice, *, full: bool) -> int:
    """Return what a batch takes on the device for each of its maps, results not counted.

    A batch of a few maps takes more, the tables for the roughest map that there can be: about 40
    bytes for each of its possible components and 4 for each voxel.

    Parameters
    ----------
    lattice
        Which voxels touch.
    full
        Whether voxels get scores, as in `tfce_scores` and `tfce_counts`.
    """
    n_voxels = lattice.n_voxels
    tables = _table_bytes(n_voxels, _first_capacity(_most_components(lattice)))
    return (12 + 8 * full) * n_voxels + tables + 20


def _sweep(
    maps: cupy.ndarray, lattice: Lattice, extent: float, form: Height, *, full: bool
) -> _Swept:
    """Rank the voxels of maps and let them in."""
    n_maps, n_voxels = maps.shape
    layout, weights = _layout(lattice), _weights(n_voxels, float(extent))
    swept = _Swept(
        peaks=cupy.empty(n_maps, dtype=np.float64),
        gained=cupy.empty((n_maps, n_voxels) if full else 1, dtype=np.int64),
        ranked=_rank(maps, layout.cells, weights, form),
    )
    capacity, most = _first_capacity(layout.most_components), layout.most_components
    narrow, wide = _table_bytes(n_voxels, capacity), _table_bytes(n_voxels, most, wide=True)
    memory = cupy.empty(max(n_maps * narrow, wide), dtype=np.uint8)
    n_blocks = min(n_maps, memory.size // wide)
    first = _carve(memory, n_maps, n_voxels, capacity)
    again = _carve(memory, n_blocks, n_voxels, most, wide=True)
    queue = cupy.zeros(n_maps + 1, dtype=np.int32)
    kernels = cuda.kernels("tfce", NEIGHBOURS=lattice.connectivity, FULL=int(full))
    inputs = (*swept.ranked, layout.neighbours, weights, form.divisor, n_voxels)
    results = (queue, swept.gained, swept.peaks)
    shared_bytes = 2 * capacity
    kernels.launch(
        "tfce_sweep", n_maps, 32, *inputs, capacity, *first, *results, shared_bytes=shared_bytes
    )
    kernels.launch("tfce_redo", n_blocks, 32, *inputs, most, *again, *results)
    return swept


def _rank(maps: cupy.ndarray, cells: cupy.ndarray, weights: cupy.ndarray, form: Height) -> _Ranked:
    """List the positive voxels of maps from the highest down, with their integrated heights."""
    sums = _level_sums(form)
    integrals = cupy.empty(maps.shape, dtype=np.uint64)
    order = cupy.empty(maps.shape, dtype=np.int32)
    n_positive = cupy.empty(len(maps), dtype=np.int32)
    exponents = cupy.empty(len(maps), dtype=np.int32)
    cuda.kernels("tfce_sort").launch(
        "tfce_sort",
        len(maps),
        SORT_THREADS,
        maps,
        cells,
        weights,
        sums,
        sums.size - 1,
        form.exponent,
        form.step,
        maps.shape[1],
        integrals,
        order,
        n_positive,
        exponents,
    )
    return _Ranked(integrals.view(np.float64), order, n_positive, exponents)


def _hand_out(
    kernel: str, swept: _Swept, lattice: Lattice, form: Height, *arrays: cupy.ndarray
) -> None:
    """Do with the score of every positive voxel what a kernel does."""
    n_maps, n_voxels = swept.gained.shape
    ranked = swept.ranked
    cuda.kernels("tfce_scores").launch(
        kernel,
        (-(-n_voxels // SCORE_THREADS), n_maps),
        SCORE_THREADS,
        swept.gained,
        ranked.order,
        ranked.n_positive,
        ranked.exponents,
        _layout(lattice).voxels,
        form.divisor,
        n_voxels,
        *arrays,
    )


def _first_capacity(most_components: int) -> int:
    """Return the components of a map that the first sweep has room for."""
    return min(CAPACITY, most_components)


def _table_bytes(n_voxels: int, capacity: int, *, wide: bool = False) -> int:
    """Return the size of the tables of one map."""
    parents = 4 * capacity if wide else 0
    return 4 * COMPONENT * capacity + parents + (4 if wide else 2) * (n_voxels + 1)


def _carve(
    memory: cupy.ndarray, n: int, n_voxels: int, capacity: int, *, wide: bool = False
) -> list[cupy.ndarray]:
    """Cut out components, parents if they are ``wide``, and labels for n maps."""
    parts: list[tuple[int, DTypeLike]] = [(n * COMPONENT * capacity, np.int32)]
    if wide:
        parts.append((n * capacity, np.uint32))
    parts.append((n * (n_voxels + 1), np.uint32 if wide else np.uint16))
    arrays, begin = [], 0
    for size, dtype in parts:
        end = begin + size * np.dtype(dtype).itemsize
        arrays.append(memory[begin:end].view(dtype))
        begin = end
    return arrays


def _kept(build: Callable[P, T]) -> Callable[P, T]:
    """Let a function keep its last two results on each device."""

    @cache
    def on_device(_: int) -> Callable[..., T]:
        return lru_cache(maxsize=2)(build)

    @wraps(build)
    def kept(*args: P.args, **options: P.kwargs) -> T:
        return on_device(cupy.cuda.Device().id)(*args, **options)

    return kept


def _copied(array: NDArray[Any]) -> cupy.ndarray:
    """Copy to the current device, for any of its streams."""
    copy = cupy.asarray(array)
    # a copy is complete in its own stream only
    cupy.cuda.Device().synchronize()
    return copy


@_kept
def _weights(n_voxels: int, extent: float) -> cupy.ndarray:
    """Tabulate the powers of extents."""
    return _copied(cpu_tfce.extent_weights(n_voxels, extent))


@_kept
def _level_sums(form: Height) -> cupy.ndarray:
    """Tabulate the integrated heights of the first levels; of none for the exact integral."""
    return _copied(cpu_tfce.level_sums(LEVELS if form.step else 0, form))


@_kept
def _layout(lattice: Lattice) -> _Layout:
    """Lay out a lattice for the sweep."""
    n_voxels = lattice.n_voxels
    voxels = _brick_order(lattice)
    cells = np.empty(n_voxels, dtype=np.int32)
    cells[voxels] = np.arange(n_voxels, dtype=np.int32)
    box = np.full(int(np.prod(lattice.box)), n_voxels, dtype=np.int32)
    box[lattice.cells] = cells
    steps = np.concatenate([-lattice.backward_steps, lattice.backward_steps])
    neighbours = np.full((n_voxels + 1, ROWS[lattice.connectivity]), n_voxels, dtype=np.int32)
    for column, step in enumerate(steps):
        neighbours[:n_voxels, column] = box[lattice.cells[voxels] + step]
    return _Layout(
        cells=_copied(cells),
        voxels=_copied(voxels.astype(np.int32)),
        neighbours=_copied(neighbours),
        most_components=_most_components(lattice),
    )


def _brick_order(lattice: Lattice) -> NDArray[np.intp]:
    """List the voxels brick by brick."""
    coordinates = np.unravel_index(lattice.cells, lattice.box)
    bricks = [axis // BRICK for axis in coordinates]
    inside = [axis % BRICK for axis in coordinates]
    return np.lexsort((*inside[::-1], *bricks[::-1]))


@lru_cache(maxsize=2)
def _most_components(lattice: Lattice) -> int:
    """Bound the components of a map: of voxels that all touch, at most one begins any."""
    coordinates = np.unravel_index(lattice.cells, lattice.box)
    edges = CLIQUES[lattice.connectivity]
    boxes = [axis // edge for axis, edge in zip(coordinates, edges, strict=True)]
    return int(np.unique(np.ravel_multi_index(boxes, lattice.box)).size)
