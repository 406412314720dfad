"""What sweeps of shuffles find: how many reach what was observed, and their largest values."""

from __future__ import annotations

from typing import Any, NamedTuple


class Exceedances(NamedTuple):
    """Count the shuffles that reach the observed value of a voxel.

    Parameters
    ----------
    limits
        ``(n_voxels,)`` float32, what a value must reach.
    two_sided
        Whether its size must, whatever its sign.
    counts
        ``(n_voxels,)`` int64, to which `sweep` adds.
    """

    limits: Any
    two_sided: bool
    counts: Any


class Peaks(NamedTuple):
    """Hold the largest values of shuffles over all voxels, as `Form` has them.

    Parameters
    ----------
    upper
        ``(n_shuffles,)`` float32, the largest value.
    lower
        ``(n_shuffles,)`` float32, the largest negated value; of no use for R² and F.
    """

    upper: Any
    lower: Any
