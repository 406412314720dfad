"""The largest height of a rank in many maps on a GPU: a histogram of each map (CUDA)."""

from __future__ import annotations

import cupy
import numpy as np
from numpy.typing import NDArray

from gpustats.engines import Array
from gpustats.engines.scores import N_STEPS, ScoreCounts, step_of


def rank_peaks(
    maps: Array, heights: NDArray[np.float64], reaching: ScoreCounts | None
) -> tuple[Array, Array]:
    """Return the largest height + log10 of a rank of each map, and the height there."""
    # from the highest step down, and what is below all of them last
    falling = cupy.asarray(np.append(heights[::-1], 0.0))
    peaks, levels = cupy.zeros((2, len(maps)), dtype=np.float64)
    for number in range(len(maps)):
        places = N_STEPS - 1 - step_of(maps[number])
        histogram = cupy.bincount(places, minlength=N_STEPS + 1)[:N_STEPS]
        ranks = cupy.cumsum(histogram)
        sums = falling[:N_STEPS] + cupy.log10(cupy.maximum(ranks, 1))
        sums = cupy.where(histogram > 0, sums, 0.0)
        best = cupy.argmax(sums)
        peaks[number] = sums[best]
        levels[number] = cupy.where(sums[best] > 0, falling[best], 0.0)
        if reaching is not None:
            reached = (places < N_STEPS) & (falling[places] >= reaching.limits)
            reaching.counts[...] += reached
    return peaks, levels
