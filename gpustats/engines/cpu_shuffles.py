"""The rows of a tile of shuffles (CPU)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpustats.engines import SHUFFLE_TILE
from gpustats.shuffles import Shuffles

DRAWN = 2**18
"""Subjects of all shuffles that are drawn at a time: some ten megabytes of keys, orders, rows."""


def shuffled_rows(
    plan: Shuffles, columns: NDArray[np.float64], indices: range
) -> NDArray[np.float32]:
    """Shuffle ``(k, n)`` columns into a tile ``(192, k, n)``: shuffle i is at i mod 192."""
    tile = np.zeros((SHUFFLE_TILE, *columns.shape), dtype=np.float32)
    first = indices.start - indices.start % SHUFFLE_TILE
    n_at_a_time = max(1, DRAWN // plan.n_subjects)
    for start in range(indices.start, indices.stop, n_at_a_time):
        part = range(start, min(start + n_at_a_time, indices.stop))
        tile[part.start - first : part.stop - first] = plan.shuffled(columns, part)
    return tile
