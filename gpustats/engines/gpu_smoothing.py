"""Pseudo-t of many maps on a GPU, one after the other: each is three products of matrices."""

from __future__ import annotations

from collections.abc import Sequence

import cupy
from cupy import cublas

from gpustats.engines import Exceedances, Peaks
from gpustats.engines.gpu_sweep import float32_products
from gpustats.engines.smoothing import Rooms, Smoothing, smooth_variance

__all__ = ["pseudo_t"]


def pseudo_t(
    maps: Sequence[cupy.ndarray],
    odds: Sequence[cupy.ndarray] | None,
    smoothing: Smoothing,
    exceeding: Exceedances | None,
) -> Peaks:
    """Turn maps of t into pseudo-t, in place; return their largest values, and count."""
    rooms = Rooms.of(smoothing, cupy)
    with float32_products():
        for number, t in enumerate(maps):
            smooth_variance(t, odds and odds[number], smoothing, rooms, _multiply, cupy)
            if exceeding is not None:
                reached = (cupy.abs(t) if exceeding.two_sided else t) >= exceeding.limits
                exceeding.counts[...] += reached
    upper, lower = ([t.max() for t in maps], [-t.min() for t in maps])
    return Peaks(cupy.stack(upper), cupy.stack(lower))


def _multiply(left: cupy.ndarray, right: cupy.ndarray, out: cupy.ndarray) -> None:
    """Write the product of a matrix with a transposed one; cuBLAS copies none of them."""
    cublas.gemm("N", "T", left, right, out=out)
