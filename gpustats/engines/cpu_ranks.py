"""The largest height of a rank in many maps on the CPU: one map a task, one histogram a thread."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gpustats.engines.cpu_threads import n_threads, share_out
from gpustats.engines.scores import FIRST_STEP, N_STEPS, STEP_BITS, ScoreCounts, step_of
from gpustats.jit import kernel


def rank_peaks(
    maps: NDArray[np.float32], heights: NDArray[np.float64], reaching: ScoreCounts | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the largest height + log10 of a rank of each map, and the height there."""
    peaks, levels = np.empty((2, len(maps)))
    bits = maps.view(np.int32)

    def work(queue: Iterator[int]) -> NDArray[np.int64] | int:
        counts = None if reaching is None else np.zeros(maps.shape[1], dtype=np.int64)
        histogram = np.zeros(N_STEPS, dtype=np.int32)
        for number in queue:
            peaks[number], levels[number] = _rank_peak(bits[number], heights, histogram)
            if reaching is not None and counts is not None:
                places = step_of(maps[number])
                counts += (places >= 0) & (heights[places] >= reaching.limits)
        return 0 if counts is None else counts

    counted = share_out(work, len(maps), n_threads())
    if reaching is not None:
        reaching.counts[:] += sum(counted)
    return peaks, levels


@kernel
def _rank_peak(
    bits: NDArray[np.int32], heights: NDArray[np.float64], histogram: NDArray[np.int32]
) -> tuple[float, float]:
    """Find the peak of a map, given its bits; the histogram is zero before and after."""
    for v in range(bits.size):
        place = (bits[v] >> STEP_BITS) - FIRST_STEP
        if place >= 0:
            histogram[min(place, N_STEPS - 1)] += 1
    peak, level, rank = 0.0, 0.0, 0
    for place in range(N_STEPS - 1, -1, -1):
        if histogram[place] == 0:
            continue
        rank += histogram[place]
        histogram[place] = 0
        height = heights[place] + math.log10(rank)
        if height > peak:
            peak, level = height, heights[place]
    return peak, level
