"""Pseudo-t of many maps on the CPU: one map a task, one room a thread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gpustats.engines import Exceedances, Peaks
from gpustats.engines.cpu_threads import n_threads, one_blas_thread, share_out
from gpustats.engines.smoothing import Rooms, Smoothing, smooth_variance

Map = NDArray[np.float32]


def pseudo_t(
    maps: Sequence[Map],
    odds: Sequence[Map] | None,
    smoothing: Smoothing,
    exceeding: Exceedances | None,
) -> Peaks:
    """Turn maps of t into pseudo-t, in place; return their largest values, and count."""
    peaks = Peaks(*np.empty((2, len(maps)), dtype=np.float32))

    def work(queue: Iterator[int]) -> NDArray[np.int64] | int:
        rooms = Rooms.of(smoothing, np)
        counts = np.zeros(maps[0].size, dtype=np.int64)
        for number in queue:
            t = maps[number]
            smooth_variance(t, odds and odds[number], smoothing, rooms, _multiply, np)
            peaks.upper[number], peaks.lower[number] = t.max(), -t.min()
            if exceeding is not None:
                counts += (np.abs(t) if exceeding.two_sided else t) >= exceeding.limits
        return counts

    with one_blas_thread():
        counts = share_out(work, len(maps), n_threads())
    if exceeding is not None:
        exceeding.counts[:] += sum(counts)
    return peaks


def _multiply(left: Map, right: Map, out: Map) -> None:
    """Write the product of a matrix with a transposed one."""
    np.matmul(left, right.T, out=out)
