"""What engines share that score maps: counts of scores, and steps on which values are ranked."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

N_STEPS = 2**16
"""Steps of a ladder of values, each of which stands for all values from it up to the next."""
STEP_BITS = 12
"""Low bits of a float32 in which the values of a step differ: steps rise by 2**-11 or less."""
FIRST_STEP = int(np.array(2.0**-6, dtype=np.float32).view(np.int32)) >> STEP_BITS
"""The bits of the lowest step, 1/64; the highest is next to 2**26."""


class ScoreCounts(NamedTuple):
    """Count the maps whose score reaches the observed one of a voxel.

    Parameters
    ----------
    limits
        ``(n_voxels,)`` float64, what a score must reach: positive, or infinite where nothing is
        to be counted.
    counts
        ``(n_voxels,)`` int64, to which counting adds.
    """

    limits: Any
    counts: Any


def steps() -> NDArray[np.float32]:
    """Return the value of every step, ``(N_STEPS,)``, rising."""
    numbers = np.arange(FIRST_STEP, FIRST_STEP + N_STEPS, dtype=np.int32)
    return (numbers << STEP_BITS).view(np.float32)


def step_of(values: Any) -> Any:
    """Return the number of the step of each float32, of any device; -1 below the lowest.

    The bits of positive numbers rise with them, and those of negative ones are negative.
    """
    return ((values.view(np.int32) >> STEP_BITS) - FIRST_STEP).clip(-1, N_STEPS - 1)
