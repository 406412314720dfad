"""How a store grows: maps fill a shard, shards are written behind, the header follows at last."""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gpustats.cohort import Cohort
from gpustats.cohort_header import Entry, Header, Skipped, commit
from gpustats.cohort_places import Place

logger = logging.getLogger("gpustats")

COMMIT_SECONDS = 5.0
"""Least time between two commits: at 40,000 subjects each takes a tenth of a second."""

REPORT_ENDING = ".skipped.tsv"


class Writer:
    """Append maps to a store, which is whole at every moment.

    While one shard is being written the next is filled: two shards are held in memory. When the
    context ends, however it ends, what was added is in the store if it can be written at all.

    Parameters
    ----------
    place
        Where the store is; nothing else writes to it.
    header
        What is in it.
    """

    def __init__(self, place: Place, header: Header) -> None:
        self.place = place
        self.layout = header.layout
        self.committed = self.stored = header
        self.entries = list(header.entries)
        self.skipped = list(header.skipped)
        self.filling = self.layout.empty()
        self.other = self.layout.empty()
        self.pool = ThreadPoolExecutor(1)
        self.writing: Future[None] | None = None
        self.broken = False
        self.time = time.monotonic()
        self._take_up()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if not self.broken:
                self._finish()
        finally:
            self.pool.shutdown()

    def add(self, values: NDArray[np.float32], entry: Entry) -> None:
        """Append a map, ``(n_voxels,)``.

        Raises
        ------
        OSError
            If earlier ones could not be written; the message says how many are safe.
        """
        self.layout.put(self.filling, len(self.entries) % self.layout.height, values)
        self.entries.append(entry)
        if len(self.entries) % self.layout.height == 0:
            self._send()

    def skip(self, skipped: Skipped) -> None:
        """Note a map that is left out."""
        logger.warning("left out: %s", skipped.reason)
        self.skipped.append(skipped)

    def _take_up(self) -> None:
        """Read the subjects of a shard that is not full: the next ones join them."""
        n_last = len(self.entries) % self.layout.height
        if n_last:
            rows = np.arange(len(self.entries) - n_last, len(self.entries))
            for row, values in enumerate(Cohort(self.place, self.stored, rows).read().T):
                self.layout.put(self.filling, row, values)

    def _send(self) -> None:
        """Have the filled shard written, and go on with the other."""
        self._wait()
        header = replace(self.stored, entries=tuple(self.entries), skipped=tuple(self.skipped))
        self.writing = self.pool.submit(self._write, self.filling, header)
        self.filling, self.other = self.other, self.filling

    def _write(self, shard: NDArray[np.float32], header: Header) -> None:
        """Write a shard and, now and then, commit."""
        number = (len(header.entries) - 1) // self.layout.height
        self.place.write(self.layout.key(number), self.layout.parts(shard))
        self.stored = header
        if time.monotonic() - self.time >= COMMIT_SECONDS:
            self._commit(header)

    def _commit(self, header: Header) -> None:
        """Make what was written part of the store."""
        commit(self.place, header)
        self.committed = header
        self.time = time.monotonic()

    def _wait(self) -> None:
        """Wait for what is being written, and pass on what went wrong."""
        if self.writing is None:
            return
        error = self.writing.exception()
        self.writing = None
        if error is not None:
            self.broken = True
            raise self._advised(error)

    def _advised(self, error: BaseException) -> BaseException:
        """Add to an error of the system how much is safe."""
        if not isinstance(error, OSError):
            return error
        n_safe = len(self.committed.entries)
        advice = f"{n_safe:,} maps are safe in the store; the same command goes on from there"
        return OSError(error.errno, f"{error.strerror}; {advice}", error.filename)

    def _finish(self) -> None:
        """Write the shard that is not full, and commit what was written."""
        self._wait()
        if len(self.entries) > len(self.stored.entries):
            n_last = len(self.entries) % self.layout.height
            if n_last:
                self.filling[:, n_last:] = np.nan
            self._send()
            self._wait()
        header = replace(self.stored, skipped=tuple(self.skipped))
        if header.entries != self.committed.entries or header.skipped != self.committed.skipped:
            self.writing = self.pool.submit(self._commit, header)
            self._wait()
        if self.skipped:
            lines = ["\t".join(map(str, row)) for row in (Skipped._fields, *self.skipped)]
            self.place.write_beside(REPORT_ENDING, "\n".join([*lines, ""]))
