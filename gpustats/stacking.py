"""How a stack grows: maps read ahead by threads arrive one by one, voxels join as they vary."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gpustats.spaces import Grid

logger = logging.getLogger("gpustats")

T = TypeVar("T")
R = TypeVar("R")

REMEDIES = {
    "missing in some map": "--missing pairwise (missing='pairwise') analyses them in the maps that "
    "have data there",
    "observed in fewer than": "--min-subjects (min_subjects) says how many it takes",
    "equal in all maps": "outside the brain that is as it should be, and a mask leaves them out; "
    "inside see whether files are copies of each other",
    "no residual variance": "see whether maps are copies of each other, or leave out columns",
    "too few subjects": "leave out columns or add subjects",
}
"""What can be done where voxels leave the mask, by how the reason begins."""


def prefetch(
    function: Callable[[T], R], items: Iterable[T], n_threads: int, n_ahead: int | None = None
) -> Iterator[R]:
    """Yield ``function(item)`` in order, computed by threads a few items ahead."""
    n_ahead = n_threads + 1 if n_ahead is None else n_ahead
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(n_threads) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > n_ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def logged(dropped: dict[str, int]) -> dict[str, int]:
    """Log how many voxels left the mask, by reason, and what can be done about it."""
    for reason, count in dropped.items():
        if count:
            known = (words for start, words in REMEDIES.items() if reason.startswith(start))
            told = "; ".join([reason, *known])
            logger.warning("%d voxels left the mask: %s", count, told)
    return dropped


class Stack:
    """Grow the voxel-by-subject array map by map.

    A voxel gets a row once it is seen to differ from the first map, so that the empty space
    around a brain costs nothing, without reading anything twice.

    Parameters
    ----------
    grid
        The candidate voxels.
    n_maps
        How many maps will come.
    all_rows
        Whether the candidates are a mask that the user gave (missing values are then counted
        in all of them), or the whole volume (only where some map has data).
    """

    def __init__(self, grid: Grid, n_maps: int, *, all_rows: bool) -> None:
        self.grid = grid
        self.n_maps = n_maps
        self.all_rows = all_rows
        self.wanted = "all maps"
        # memory order of a NIfTI volume is x fastest; voxels are numbered z fastest
        number = np.arange(grid.mask.size, dtype=np.int32).reshape(grid.mask.shape)
        self.cells = np.flatnonzero(grid.mask.ravel(order="F"))
        self.number = number.ravel(order="F")[self.cells]
        if all_rows:
            # given in voxel order, whole maps can be copied
            self.cells = self.cells[np.argsort(self.number)]
            self.number = np.sort(self.number)
        self.waiting = np.ones(self.cells.size, dtype=bool)
        self.finite = self.waiting.copy()
        self.ever_finite = np.zeros_like(self.waiting)
        self.rows = np.empty(0, dtype=np.intp)
        self.buffer = np.empty((0, n_maps), dtype=np.float32, order="F")
        self.n_added = 0
        self.complete = False

    def add(self, values: NDArray[np.float32], name: str) -> None:
        """Append a map: the values of the candidates, ``(n_candidates,)`` in their order."""
        self._note_missing(values, name)
        if self.n_added == 0:
            self.first = values
        else:
            new = self._differs(values)
            new &= self.waiting
            if new.any():
                self._join(np.flatnonzero(new))
            column = self.buffer[: self.rows.size, self.n_added]
            if self.complete:
                column[:] = values
            else:
                values.take(self.rows, out=column, mode="clip")
        self.n_added += 1

    def _note_missing(self, values: NDArray[np.float32], name: str) -> None:
        """Keep account of the voxels that have data in all maps, and in some."""
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(values.sum()):  # then every value is
                self.ever_finite[:] = True
                return
        finite = np.isfinite(values)
        if not finite.any():
            raise ValueError(f"{name}: no finite voxel in the mask; leave this map out or mend it")
        self.finite &= finite
        self.ever_finite |= finite

    def _differs(self, values: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Tell which candidates of use differ from the first map."""
        new: NDArray[np.bool_] = values != self.first
        new &= self.finite
        return new

    def _join(self, new: NDArray[np.intp]) -> None:
        """Give rows to voxels that so far were equal to the first map."""
        new = new[np.argsort(self.number[new])]
        start = self.rows.size
        self.rows = np.concatenate([self.rows, new])
        self.waiting[new] = False
        self.complete = np.array_equal(self.rows, np.arange(self.cells.size))
        if self.rows.size > self.buffer.shape[0]:
            room = min(int(self.rows.size * 1.02) + 1024, self.cells.size)
            grown = np.empty((room, self.n_maps), dtype=np.float32, order="F")
            grown[:start, : self.n_added] = self.buffer[:start, : self.n_added]
            self.buffer = grown
        self.buffer[start : self.rows.size, : self.n_added] = self.first[new][:, None]

    def dropped(self, *, allow_missing: bool) -> dict[str, int]:
        """Count, and log, the voxels that cannot be analysed, by reason.

        Raises
        ------
        ValueError
            If a voxel is missing in some map and that is not allowed.
        """
        expected = self.ever_finite | self.all_rows
        n_missing = int(np.count_nonzero(expected & ~self.finite))
        if n_missing and not allow_missing:
            raise ValueError(
                f"{n_missing} of {np.count_nonzero(expected)} voxels are missing in some map; "
                "mend the maps, mask these voxels, or drop them (missing='drop_voxel')"
            )
        dropped = {"missing in some map": n_missing}
        if self.all_rows:
            dropped["equal in all maps"] = int(np.count_nonzero(self.finite & self.waiting))
        return logged(dropped)

    def finish(self) -> tuple[NDArray[np.float32], Grid]:
        """Put the usable rows in voxel order, in place, and return them with their grid.

        Raises
        ------
        ValueError
            If no voxel is left.
        """
        kept = np.flatnonzero(self._usable()[self.rows])
        if kept.size == 0:
            raise ValueError(f"no voxel is finite in {self.wanted} and differs between them")
        kept = kept[np.argsort(self.number[self.rows[kept]])]
        mask = np.zeros(self.grid.mask.size, dtype=bool)
        mask[self.cells[self.rows[kept]]] = True
        grid = Grid(mask.reshape(self.grid.mask.shape, order="F"), self.grid.affine)
        return self._compact(kept), grid

    def _usable(self) -> NDArray[np.bool_]:
        """Tell which candidates have data enough."""
        return self.finite

    def _compact(self, kept: NDArray[np.intp]) -> NDArray[np.float32]:
        """Gather the kept rows column by column into the front of the same memory."""
        n_rows = self.buffer.shape[0]
        if kept.size == n_rows and bool((kept == np.arange(n_rows)).all()):
            return self.buffer
        flat = self.buffer.ravel(order="K")
        for column in range(self.n_maps):
            # a column never moves towards the end, so nothing unread is overwritten
            gathered = flat[column * n_rows :][:n_rows][kept]
            flat[column * kept.size :][: kept.size] = gathered
        return flat[: kept.size * self.n_maps].reshape((kept.size, self.n_maps), order="F")
