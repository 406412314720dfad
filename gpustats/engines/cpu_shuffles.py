"""The rows of a tile of shuffles (CPU)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpustats.engines import SHUFFLE_TILE
from gpustats.shuffles import Shuffles


def shuffled_rows(
    plan: Shuffles, columns: NDArray[np.float64], indices: range
) -> NDArray[np.float32]:
    """Shuffle ``(k, n)`` columns into a tile ``(192, k, n)``: shuffle i is at i mod 192."""
    tile = np.zeros((SHUFFLE_TILE, *columns.shape), dtype=np.float32)
    start = indices.start % SHUFFLE_TILE
    tile[start : start + len(indices)] = plan.shuffled(columns, indices)
    return tile
