"""The sweeps of TFCE: components grow from the highest voxel down, scores with them, on the CPU.

A component keeps its extent, the integrated height at which that last changed, and the score that
its first voxel has gathered since it came in. Each change of extent adds one increment. When two
components unite, the members of one remember by how much its score was ahead (`shift`), which
leaves one running score for all. A voxel's own score is the final one, shifts added, minus what
it read when it came in: one subtraction of integers, exact.

`sweep_basins` unites the basins that `find_basins` found; a component lists its basins, and the
shorter side is relabelled, so that every lookup is one load. `sweep_voxels` is the plain union-find
over voxels, for maps with more than `MOST_BASINS` maxima. Both find the same integers; `cpu_tfce`
says why, and what an integrated height is.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gpustats.engines.cpu_basins import LABEL_MASK, LABEL_WIDTH
from gpustats.engines.cpu_grid import Geometry, Index, Offsets, Scratch
from gpustats.jit import kernel

NODE: Final = np.dtype(
    [
        ("score", np.int64),
        ("shift", np.int64),
        ("integral", np.float64),
        ("size", np.uint32),
        ("parent", np.uint32),
    ]
)
UNVISITED: Final = np.uint32(2**32 - 1)


@kernel
def _increment(weights: NDArray[np.float64], size: Index, above: float, below: float) -> np.int64:
    """Score what a cluster of this size gathers between two integrated heights."""
    return np.int64(np.rint(weights[size] * (above - below)))


@kernel
def _absorb(winner: Any, loser: Any, integral: float, weights: NDArray[np.float64]) -> np.int64:
    """Bring two components to one height and join them; the lead of the loser's score."""
    winner.score += _increment(weights, winner.size, winner.integral, integral)
    loser.score += _increment(weights, loser.size, loser.integral, integral)
    winner.integral = integral
    winner.size += loser.size
    return np.int64(loser.score - winner.score)


@kernel
def sweep_basins(
    n_positive: Index,
    n_basins: Index,
    cliques: Offsets,
    scratch: Scratch,
    weights: NDArray[np.float64],
) -> np.int64:
    """Unite basins from the highest voxel down; the largest score of the map."""
    labels = scratch.cliques.ravel()
    roots, components = scratch.roots, scratch.components
    _found(n_basins, roots, components)
    for i in range(n_positive):
        integral, link = scratch.integrals[i], scratch.joined[i]
        basin, other = np.uint64(link & LABEL_MASK), np.uint64(link >> LABEL_WIDTH)
        root = np.uint64(roots[basin])
        if root != roots[other]:
            root = _unite(root, np.uint64(roots[other]), integral, roots, components, weights)
        if basin > other:
            for offset in cliques:
                other = np.uint64(roots[labels[scratch.order[i] + offset]])
                if root != other:
                    root = _unite(root, other, integral, roots, components, weights)
        component = components[root]
        component.score += _increment(weights, component.size, component.integral, integral)
        component.integral = integral
        component.size += np.uint32(1)
        scratch.starting[i] = component.score + components[basin].shift
    return _finish(n_basins, roots, components, weights)


@kernel
def _found(n_basins: Index, roots: NDArray[np.uint16], components: Any) -> None:
    """Make every basin a component of its own, still without voxels."""
    for basin in range(n_basins):
        roots[basin] = basin
        component = components[basin]
        component.score = 0
        component.shift = 0
        component.integral = 0.0
        component.size = 0
        component.last = basin


@kernel
def _unite(
    first: Index,
    second: Index,
    integral: float,
    roots: NDArray[np.uint16],
    components: Any,
    weights: NDArray[np.float64],
) -> Index:
    """Bring two components to one height and relabel the basins of the smaller; the root left."""
    if components[first].size >= components[second].size:
        root, joining = first, second
    else:
        root, joining = second, first
    winner, loser = components[root], components[joining]
    difference = _absorb(winner, loser, integral, weights)
    basin = joining
    while True:
        roots[basin] = root
        components[basin].shift += difference
        if basin == loser.last:
            break
        basin = np.uint64(components[basin].next)
    components[winner.last].next = joining
    winner.last = loser.last
    return root


@kernel
def _finish(
    n_basins: Index, roots: NDArray[np.uint16], components: Any, weights: NDArray[np.float64]
) -> np.int64:
    """Bring all components to height 0, leave the score of its maximum in every basin."""
    for basin in range(n_basins):
        component = components[basin]
        if roots[basin] == basin:
            component.score += _increment(weights, component.size, component.integral, 0.0)
    peak = np.int64(0)
    for basin in range(n_basins):
        components[basin].shift += components[roots[basin]].score
        peak = max(peak, components[basin].shift)
    return peak


@kernel
def settle_scores(n_positive: Index, voxels: NDArray[np.uint32], scratch: Scratch) -> None:
    """Give every voxel its score after `sweep_basins`."""
    scratch.scores[:] = 0
    for i in range(n_positive):
        basin = scratch.joined[i] & LABEL_MASK
        score = scratch.components[basin].shift - scratch.starting[i]
        scratch.scores[voxels[scratch.order[i]]] = score


@kernel
def sweep_voxels(
    n_positive: Index,
    geometry: Geometry,
    scratch: Scratch,
    weights: NDArray[np.float64],
) -> np.int64:
    """Unite voxels from the highest down and give every voxel its score; the largest score."""
    ranks, nodes = scratch.ascent, np.empty(n_positive, NODE)
    ranks[:] = UNVISITED
    for i in range(n_positive):
        cell, root = scratch.order[i], i
        ranks[cell] = i
        _plant(i, scratch.integrals[i], nodes)
        for k in range(len(geometry.neighbours)):
            for offset in geometry.neighbours[k]:
                if ranks[cell + offset] != UNVISITED:
                    other = _root(np.uint64(ranks[cell + offset]), nodes)
                    if other != root:
                        root = _graft(root, other, scratch.integrals[i], nodes, weights)
    scratch.scores[:] = 0
    peak = np.int64(0)
    for i in range(n_positive):
        score = _path_score(i, nodes, weights)
        scratch.scores[geometry.voxels[scratch.order[i]]] = score
        peak = max(peak, score)
    return peak


@kernel
def _plant(voxel: Index, integral: float, nodes: Any) -> None:
    """Make a voxel a component of its own."""
    node = nodes[voxel]
    node.score = 0
    node.shift = 0
    node.integral = integral
    node.size = 1
    node.parent = voxel


@kernel
def _root(voxel: Index, nodes: Any) -> Index:
    """Root of a voxel's tree; every other node on the way is hung two levels higher."""
    while nodes[voxel].parent != voxel:
        node, parent = nodes[voxel], nodes[nodes[voxel].parent]
        if parent.parent != node.parent:
            node.shift += parent.shift
            node.parent = parent.parent
        voxel = np.uint64(node.parent)
    return voxel


@kernel
def _graft(
    first: Index,
    second: Index,
    integral: float,
    nodes: Any,
    weights: NDArray[np.float64],
) -> Index:
    """Bring two trees to one height and hang the smaller below the larger; the root left."""
    if nodes[first].size >= nodes[second].size:
        root, joining = first, second
    else:
        root, joining = second, first
    nodes[joining].shift = _absorb(nodes[root], nodes[joining], integral, weights)
    nodes[joining].parent = root
    return root


@kernel
def _path_score(voxel: Index, nodes: Any, weights: NDArray[np.float64]) -> np.int64:
    """Score of a voxel: the shifts up to its root, and the root's score brought to height 0."""
    score = np.int64(0)
    while nodes[voxel].parent != voxel:
        score += nodes[voxel].shift
        voxel = np.uint64(nodes[voxel].parent)
    root = nodes[voxel]
    return np.int64(score + root.score + _increment(weights, root.size, root.integral, 0.0))
