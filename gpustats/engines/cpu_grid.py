"""A mask laid out for the CPU kernels of `cpu_basins` and `cpu_tfce`, and their working memory.

Voxels are numbered in C order of the mask. Cells are those of the mask's bounding box, padded by
one on every side so that no neighbour needs a test, numbered in C order too. Offsets are
differences of cells modulo 2**64: index arithmetic is unsigned throughout, because Numba tests
signed indices for wrap-around and makes a float of uint64 + int64.
"""

from collections.abc import Callable, Iterable
from itertools import combinations, product
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)
Function = TypeVar("Function", bound=Callable[..., Any])
Offsets: TypeAlias = tuple[np.uint64, ...]
Index: TypeAlias = Any
"""A cell, a voxel, a basin or a number of them: always unsigned in a kernel."""

MOST_BASINS: Final = 2**16
"""Labels are 16 bits wide; a map with more maxima needs the sweep over voxels instead."""

N_DIGIT_VALUES: Final = 2**11
"""Values of one of the three digits by which heights are sorted."""

CLIQUE_DIMENSIONS: Final = {6: 1, 18: 2, 26: 3}
"""Connectivity to the dimension of its cliques, which is also the longest squared step it takes."""

MOST_UNROLLED: Final = 9
"""Neighbours per pass of the climb; LLVM vectorises the loop only when it can unroll the pass."""


class Geometry(NamedTuple):
    """A mask laid out for the kernels: read-only, shared by all threads."""

    cells: NDArray[np.uint32]
    """Cell of every voxel, (n_voxels,)."""
    voxels: NDArray[np.uint32]
    """Voxel of every cell, (n_cells,); 0 outside the mask."""
    starts: NDArray[np.uint64]
    """First cell of the mask in every plane of the box, (n_planes,)."""
    stops: NDArray[np.uint64]
    """One past the last cell of the mask in every plane; its start if there is none."""
    clique_starts: NDArray[np.uint64]
    """The same for the first cells of the cliques around the mask."""
    clique_stops: NDArray[np.uint64]
    neighbours: tuple[Offsets, ...]
    """Offsets of the neighbours and of the cell itself, ascending, in passes of equal length."""
    corners: tuple[Offsets, ...]
    """Offsets of the further cells of a clique from its first, ascending, for each orientation."""
    cliques: Offsets
    """Offsets of the cliques around a cell, in `Scratch.cliques` seen as one flat array."""


class Scratch(NamedTuple):
    """Working memory of one thread, about 110 bytes per voxel of a brain mask; reused by every map.

    Arrays called "of every positive voxel" are filled from the front, highest voxel first.
    """

    box: NDArray[np.int32]
    """Bits of the height of every cell, (n_cells,)."""
    highest: NDArray[np.int32]
    """Bits of the highest neighbour that the climb has met so far, for the cells of one plane."""
    ascent: NDArray[np.uint32]
    """Offset of the highest neighbour of every cell, modulo 2**32; 0 at a local maximum."""
    basins: NDArray[np.uint16]
    """Basin of every cell, numbered from the highest maximum down."""
    cliques: NDArray[np.uint16]
    """Basin of the highest cell of every clique, (n_orientations, n_cells)."""
    links: NDArray[np.uint32]
    """Two basins joined at every cell; see `link_basins`."""
    entries: NDArray[np.uint64]
    """Sort buffer: complement of the height, then the cell."""
    spare: NDArray[np.uint64]
    counts: NDArray[np.uint32]
    """How often each value of each digit of the sort key occurs."""
    order: NDArray[np.uint32]
    """Cell of every positive voxel."""
    heights: NDArray[np.float32]
    """Height of every positive voxel."""
    integrals: NDArray[np.float64]
    """Integrated height of every positive voxel, in units of the fixed point."""
    joined: NDArray[np.uint32]
    """Links of every positive voxel."""
    starting: NDArray[np.int64]
    """Score that every positive voxel has to subtract from its basin's."""
    scores: NDArray[np.int64]
    """Score of every voxel in fixed point, (n_voxels,)."""
    roots: NDArray[np.uint16]
    """Basin that stands for the component of every basin."""
    components: Any
    """State of every component, and the list of its basins; see `BASIN`."""


BASIN: Final = np.dtype(
    [
        ("score", np.int64),
        ("shift", np.int64),
        ("integral", np.float64),
        ("size", np.uint32),
        ("next", np.uint16),
        ("last", np.uint16),
    ]
)
"""Half a cache line, so that a sweep that visits components at random misses once for each."""


def prepare(mask: NDArray[np.bool_], connectivity: int) -> Geometry:
    """Lay out a mask for the kernels; once per mask and connectivity.

    Parameters
    ----------
    mask
        Three-dimensional; at least one voxel is True.
    connectivity
        6, 18 or 26: neighbours share a face, an edge or a corner.

    Returns
    -------
    Geometry
        To be shared by all threads and maps.
    """
    box = np.pad(mask[_bounds(mask)], 1)
    cells = np.flatnonzero(box)
    voxels = np.zeros(box.size, np.int64)
    voxels[cells] = np.arange(cells.size)
    strides = np.array([box.shape[1] * box.shape[2], box.shape[2], 1])
    steps = np.array(list(product((-1, 0, 1), repeat=3)))
    dimension = CLIQUE_DIMENSIONS[connectivity]
    shapes = _clique_shapes(dimension) @ strides
    first_cells = np.zeros_like(box)
    np.put(first_cells, cells - shapes.reshape(-1, 1), True)
    starts, stops = _plane_runs(box)
    clique_starts, clique_stops = _plane_runs(first_cells)
    return Geometry(
        cells=_frozen(cells, np.uint32),
        voxels=_frozen(voxels, np.uint32),
        starts=starts,
        stops=stops,
        clique_starts=clique_starts,
        clique_stops=clique_stops,
        neighbours=_passes((steps @ strides)[(steps**2).sum(axis=1) <= dimension].tolist()),
        corners=tuple(_offsets(shape[1:]) for shape in shapes),
        cliques=_offsets((np.arange(len(shapes))[:, None] * box.size - shapes).ravel()),
    )


def scratch_for(geometry: Geometry) -> Scratch:
    """Allocate the working memory of one thread."""
    n_voxels, n_cells = geometry.cells.size, geometry.voxels.size
    return Scratch(
        box=np.zeros(n_cells, np.int32),
        highest=np.empty(int((geometry.stops - geometry.starts).max()), np.int32),
        ascent=np.zeros(n_cells, np.uint32),
        basins=np.zeros(n_cells, np.uint16),
        cliques=np.zeros((len(geometry.corners), n_cells), np.uint16),
        links=np.empty(n_cells, np.uint32),
        entries=np.empty(n_voxels, np.uint64),
        spare=np.empty(n_voxels, np.uint64),
        counts=np.empty((3, N_DIGIT_VALUES), np.uint32),
        order=np.empty(n_voxels, np.uint32),
        heights=np.empty(n_voxels, np.float32),
        integrals=np.empty(n_voxels),
        joined=np.empty(n_voxels, np.uint32),
        starting=np.empty(n_voxels, np.int64),
        scores=np.empty(n_voxels, np.int64),
        roots=np.empty(MOST_BASINS, np.uint16),
        components=np.empty(MOST_BASINS, BASIN),
    )


def _bounds(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Slices of the smallest box that holds the mask."""
    voxels = np.argwhere(mask)
    return tuple(map(slice, voxels.min(axis=0), voxels.max(axis=0) + 1))


def _clique_shapes(dimension: int) -> NDArray[np.int64]:
    """Corners of a clique in every orientation, (n_orientations, n_corners, 3)."""
    orientations = list(combinations(range(3), dimension))
    shapes = np.zeros((len(orientations), 2**dimension, 3), np.int64)
    for shape, axes in zip(shapes, orientations, strict=True):
        shape[:, axes] = list(product((0, 1), repeat=dimension))
    return shapes


def _plane_runs(
    inside: NDArray[np.bool_],
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """First and one past the last of the cells inside, in every plane."""
    planes = inside.reshape(len(inside), -1)
    first = planes.argmax(axis=1)
    stop = np.where(planes.any(axis=1), planes.shape[1] - planes[:, ::-1].argmax(axis=1), 0)
    begin = np.arange(len(planes)) * planes.shape[1]
    return _frozen(begin + first, np.uint64), _frozen(begin + stop, np.uint64)


def _passes(offsets: list[int]) -> tuple[Offsets, ...]:
    """Cut ascending offsets into passes of equal length, the last offset repeated as needed."""
    n_passes = -(-len(offsets) // MOST_UNROLLED)
    length = -(-len(offsets) // n_passes)
    padded = offsets + offsets[-1:] * (n_passes * length - len(offsets))
    return tuple(_offsets(padded[i : i + length]) for i in range(0, len(padded), length))


def _offsets(differences: Iterable[int]) -> Offsets:
    """Differences of cells as unsigned integers, so that adding one wraps around."""
    return tuple(np.uint64(int(difference) % 2**64) for difference in differences)


def _frozen(array: NDArray[Any], dtype: type[Scalar]) -> NDArray[Scalar]:
    """Copy to a type and forbid writing."""
    frozen = array.astype(dtype)
    frozen.setflags(write=False)
    return frozen
