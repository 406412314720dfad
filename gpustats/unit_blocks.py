"""The data of a test at unit length, block by block of voxels."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from gpustats.engines import Engine, Units
from gpustats.maps import Maps
from gpustats.stored import StoredMaps


class UnitBlocks:
    """Give the data in blocks, as often as they are asked for.

    While a block is worked on the next is read, so that two are in memory if the caller lets go of
    each before taking the next. A block of all voxels is kept instead.

    Parameters
    ----------
    maps
        The data.
    engine
        Where they go.
    removed
        ``(n_subjects, k)``: orthonormal basis of what is taken out of them.
    """

    def __init__(
        self, maps: Maps | StoredMaps, engine: Engine, removed: NDArray[np.float64]
    ) -> None:
        self.maps = maps
        self.engine = engine
        self.removed = removed
        self._whole: Units | None = None

    def __call__(self, size: int, start: int = 0) -> Iterator[tuple[range, Units]]:
        """Yield blocks of ``size`` voxels from ``start`` on, and which voxels these are."""
        n_voxels = self.maps.n_voxels
        if self._whole is not None:
            yield range(n_voxels), self._whole
            return
        spans = [range(a, min(a + size, n_voxels)) for a in range(start, n_voxels, size)]
        with ThreadPoolExecutor(1) as reader:
            coming = [reader.submit(self.maps.read, span) for span in spans[:1]]
            for number, span in enumerate(spans, start=1):
                units = self.engine.unit_tiles(coming.pop().result(), self.removed)
                coming += [reader.submit(self.maps.read, span) for span in spans[number:][:1]]
                if len(span) == n_voxels:
                    self._whole = units
                yield span, units
                del units
