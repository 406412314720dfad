"""Basins of a map: the local maxima that a superlevel set joins, voxel by voxel, for the CPU.

Clusters of a map at every height at once are usually found by adding voxels from the highest
down and uniting each with its neighbours. Here a voxel is united with *basins* instead. Every
voxel climbs to its highest neighbour, and on to a local maximum: the basin it belongs to. That
path lies above the voxel, so it is in the map's superlevel set whenever the voxel is. Hence two
voxels are connected above some height exactly when their basins are, and a voxel has to say only
which basins it joins at its own height. Most voxels have a single basin around them and join none.

A neighbourhood is covered by *cliques*, sets of cells that are all neighbours of each other:
edges (6 neighbours), 2 x 2 squares (18) or 2 x 2 x 2 blocks (26). The label of a clique is the
basin of its highest cell. Any two neighbours share a clique, and each reaches the clique's highest
cell at its own height, so the basins joined at a voxel are the labels of the cliques around it.

Cells have one total order, the higher first and the lower index first among equals: in the climb,
in the cliques and in the list of voxels alike. Without it paths would go in circles on plateaus.

Assumed and not checked: `values` is contiguous float32 of the length of the mask, all finite. A
voxel is positive when its value is at least `SMALLEST_HEIGHT` (smaller ones are subnormal, and a
GPU takes them for zero). Heights are compared as the integers of their bits, which order positive
floats alike.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from gpustats.engines.cpu_grid import (
    MOST_BASINS,
    N_DIGIT_VALUES,
    Geometry,
    Index,
    Offsets,
    Scratch,
)
from gpustats.jit import kernel

SMALLEST_HEIGHT: Final = np.finfo(np.float32).smallest_normal
SMALLEST_BITS: Final = int(SMALLEST_HEIGHT.view(np.int32))
LARGEST_BITS: Final = 2**31 - 1
LOWEST_BITS: Final = np.int32(-(2**31))
KEY_SHIFT: Final = np.uint64(32)
DIGIT_WIDTH: Final = np.uint64(11)
DIGIT_MASK: Final = np.uint64(N_DIGIT_VALUES - 1)
LABEL_WIDTH: Final = np.uint32(16)
LABEL_MASK: Final = np.uint32(MOST_BASINS - 1)


@kernel
def rank_voxels(values: NDArray[np.float32], cells: NDArray[np.uint32], scratch: Scratch) -> Index:
    """Put a map into the box, list its positive voxels from the highest down and count them."""
    box, entries, spare, counts = scratch.box, scratch.entries, scratch.spare, scratch.counts
    bits = values.view(np.int32)
    n_positive = np.uint64(0)
    for voxel in range(np.uint64(bits.size)):
        cell, height = np.uint64(cells[voxel]), bits[voxel]
        box[cell] = height
        entries[n_positive] = np.uint64(LARGEST_BITS - height) << KEY_SHIFT | cell
        n_positive += np.uint64(height >= SMALLEST_BITS)
    _count_digits(entries, n_positive, counts)
    _move_by_digit(entries, n_positive, np.uint64(0), counts[0], spare)
    _move_by_digit(spare, n_positive, np.uint64(1), counts[1], entries)
    _move_by_digit(entries, n_positive, np.uint64(2), counts[2], spare)
    heights = scratch.heights.view(np.int32)
    for i in range(n_positive):
        scratch.order[i] = np.uint32(spare[i])
        heights[i] = LARGEST_BITS - np.int32(spare[i] >> KEY_SHIFT)
    return n_positive


@kernel
def _digit(entry: Index, place: Index) -> Index:
    """One of the three digits of the sort key of an entry, place 0 the least significant."""
    return np.uint64(entry >> (KEY_SHIFT + place * DIGIT_WIDTH) & DIGIT_MASK)


@kernel
def _count_digits(
    entries: NDArray[np.uint64], n_entries: Index, counts: NDArray[np.uint32]
) -> None:
    """Count the values of each digit, and turn the counts into where each value begins."""
    counts[:] = 0
    for i in range(n_entries):
        for place in range(np.uint64(3)):
            counts[place, _digit(entries[i], place)] += np.uint32(1)
    for place in range(3):
        begin = np.uint32(0)
        for value in range(N_DIGIT_VALUES):
            count = counts[place, value]
            counts[place, value] = begin
            begin += count


@kernel
def _move_by_digit(
    source: NDArray[np.uint64],
    n_entries: Index,
    place: Index,
    begins: NDArray[np.uint32],
    target: NDArray[np.uint64],
) -> None:
    """One pass of the radix sort: stable, so equal heights stay in the order of their cells."""
    for i in range(n_entries):
        entry = source[i]
        digit = _digit(entry, place)
        position = begins[digit]
        begins[digit] = position + np.uint32(1)
        target[position] = entry


@kernel
def climb(
    box: NDArray[np.int32],
    start: Index,
    stop: Index,
    neighbours: Offsets,
    highest: NDArray[np.int32],
    ascent: NDArray[np.uint32],
) -> None:
    """Point these cells to the highest of these neighbours, where it beats earlier ones."""
    for cell in range(start, stop):
        best, step = highest[cell - start], ascent[cell]
        for offset in neighbours:
            height = box[cell + offset]
            higher = height > best
            best = height if higher else best
            step = np.uint32(offset) if higher else step
        highest[cell - start] = best
        ascent[cell] = step


@kernel
def label_basins(
    order: NDArray[np.uint32],
    n_positive: Index,
    ascent: NDArray[np.uint32],
    basins: NDArray[np.uint16],
) -> Index:
    """Label every positive voxel by its basin and count the basins, even beyond `MOST_BASINS`.

    The neighbour that a voxel climbs to comes before it in the order, so one pass is enough.
    """
    n_basins = np.uint64(0)
    for i in range(n_positive):
        cell = order[i]
        is_maximum = ascent[cell] == 0
        basin = basins[np.uint32(cell + ascent[cell])]
        basins[cell] = np.uint16(n_basins) if is_maximum else basin
        n_basins += np.uint64(is_maximum)
    return n_basins


@kernel
def label_cliques(
    box: NDArray[np.int32],
    basins: NDArray[np.uint16],
    start: Index,
    stop: Index,
    corners: Offsets,
    labels: NDArray[np.uint16],
) -> None:
    """Label the cliques of one orientation that begin at these cells."""
    for cell in range(start, stop):
        highest, label = box[cell], basins[cell]
        for offset in corners:
            # Both are loaded before the choice: LLVM does not vectorise a load inside it.
            height, basin = box[cell + offset], basins[cell + offset]
            higher = height > highest
            highest = height if higher else highest
            label = basin if higher else label
        labels[cell] = label


@kernel
def link_basins(
    labels: NDArray[np.uint16],
    start: Index,
    stop: Index,
    cliques: Offsets,
    links: NDArray[np.uint32],
) -> None:
    """Find the basins joined at these cells: two of the labels of the cliques around each.

    The low half of a link is the least label and the high half the greatest, or the other way
    round to say that there are further ones.
    """
    for cell in range(start, stop):
        least = greatest = labels[cell + cliques[0]]
        for offset in cliques[1:]:
            label = labels[cell + offset]
            least = min(least, label)
            greatest = max(greatest, label)
        others = np.uint16(0)
        for offset in cliques:
            label = labels[cell + offset]
            others |= min(np.uint16(label ^ least), np.uint16(label ^ greatest))
        low, high = np.uint32(least), np.uint32(greatest)
        ordered = np.uint32(low | high << LABEL_WIDTH)
        swapped = np.uint32(high | low << LABEL_WIDTH)
        links[cell] = ordered if others == 0 else swapped


@kernel
def find_basins(n_positive: Index, geometry: Geometry, scratch: Scratch) -> Index:
    """Find what basins every positive voxel joins, unless there are more than `MOST_BASINS`."""
    box, basins, highest = scratch.box, scratch.basins, scratch.highest
    labels = scratch.cliques.ravel()
    for plane in range(geometry.starts.size):
        start, stop = geometry.starts[plane], geometry.stops[plane]
        highest[:] = LOWEST_BITS
        for k in range(len(geometry.neighbours)):
            climb(box, start, stop, geometry.neighbours[k], highest, scratch.ascent)
    n_basins = label_basins(scratch.order, n_positive, scratch.ascent, basins)
    if n_basins > MOST_BASINS:
        return n_basins
    for plane in range(geometry.starts.size):
        start, stop = geometry.clique_starts[plane], geometry.clique_stops[plane]
        for k in range(len(geometry.corners)):
            label_cliques(box, basins, start, stop, geometry.corners[k], scratch.cliques[k])
        start, stop = geometry.starts[plane], geometry.stops[plane]
        link_basins(labels, start, stop, geometry.cliques, scratch.links)
    for i in range(n_positive):
        scratch.joined[i] = scratch.links[scratch.order[i]]
    return n_basins
