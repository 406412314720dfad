"""Volumes whose components are hard to find when many threads unite at once."""

import numpy as np

PERCOLATION = {6: 0.30, 18: 0.14, 26: 0.10}
"""Density of noise at which components are largest and most branched, by connectivity."""


def comb(shape=(11, 12, 3)):
    """Teeth of one voxel, which meet at their ends only."""
    volume = np.zeros(shape, bool)
    volume[::2, :, ::2] = True
    volume[:, -1] = True
    return volume


def spiral(side=15):
    """A plane with a path of one voxel, wound inwards."""
    plane = np.zeros((side, side), bool)
    free = np.pad(np.ones((side, side), bool), 2)
    here, step = np.array([0, 0]), np.array([0, 1])
    for _ in range(side * side // 2):
        plane[tuple(here)] = free[tuple(here + 2)] = True
        ahead, beyond = here + step, here + 2 * step
        inside = ((ahead >= 0) & (ahead < side)).all()
        taken = ((beyond >= 0) & (beyond < side)).all() and plane[tuple(beyond)]
        if not inside or taken:
            step = np.array([step[1], -step[0]])
        here = here + step
    return plane[:, :, None]


def checkerboard(shape=(9, 10, 11)):
    """Every second voxel: alone with 6 neighbours, one component with 18 and 26."""
    return np.indices(shape).sum(axis=0) % 2 == 0


def noise(rng, connectivity, shape=(10, 11, 12)):
    """Independent voxels, as dense as lets components span the volume."""
    return rng.random(shape) < PERCOLATION[connectivity]


def volumes(rng, connectivity):
    """All of them, an empty and a full one, and some of one voxel's breadth."""
    return {
        "comb": comb(),
        "spiral": spiral(),
        "checkerboard": checkerboard(),
        "noise": noise(rng, connectivity),
        "dense noise": rng.random((9, 10, 8)) < 0.5,
        "empty": np.zeros((4, 5, 6), bool),
        "full": np.ones((7, 8, 9), bool),
        "one voxel": np.ones((1, 1, 1), bool),
        "line": np.ones((1, 70, 1), bool),
    }


def narrow(rng, connectivity):
    """The three that show lost updates."""
    return [comb((9, 8, 3)), spiral(11), noise(rng, connectivity, (7, 8, 9))]
