"""A cohort on disk: maps of more subjects than fit in memory, read by blocks of voxels."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpustats.cohort_header import (
    DOCUMENT,
    Header,
    Skipped,
    check_arrays,
    damaged,
    mask_digest,
    read_header,
)
from gpustats.cohort_layout import VOXELS_PER_CHUNK, checksum
from gpustats.cohort_places import Place, find_place
from gpustats.maps import Maps, Missing, checked_minimum
from gpustats.pairwise_stack import PairwiseStack
from gpustats.patterns import find_patterns
from gpustats.progress import shown
from gpustats.spaces import Grid
from gpustats.stacking import Stack, prefetch

CHUNKS_PER_READ = 8
"""At most: 4 MiB of float32 at a time, large for a disk and small for a cache."""

Rows: TypeAlias = slice | NDArray[np.intp]


class Piece(NamedTuple):
    """A stretch of a shard's file, and where its values go."""

    shard: int
    chunks: range
    rows: Rows
    """Of the shard."""
    subjects: Rows
    """Of the cohort."""


@dataclass(frozen=True, eq=False)
class Cohort:
    """Read the maps of a cohort from a store that `stack_maps` made.

    Nothing but the mask and the list of subjects is held in memory. Every read is checked against
    checksums. Subjects that are appended after a store was opened are not seen.

    Parameters
    ----------
    place
        Where the store is.
    header
        What it knows of itself.
    rows
        ``(n_subjects,)``: which of its subjects these are.

    Examples
    --------
    >>> import nibabel as nib
    >>> from gpustats import stack_maps
    >>> noise = np.random.default_rng(0).standard_normal((4, 5, 6, 10), dtype=np.float32)
    >>> everywhere = Grid(np.ones((4, 5, 6), bool), np.eye(4))
    >>> cohort = stack_maps(nib.Nifti1Image(noise, np.eye(4)), everywhere, "memory://doc.zarr")
    >>> cohort.n_subjects, cohort.n_voxels
    (10, 120)
    >>> cohort.read(0, 50).shape
    (50, 10)
    """

    place: Place
    header: Header
    rows: NDArray[np.intp]
    _whole: set[int] = field(default_factory=set, repr=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Cohort:
        """Open a store.

        Parameters
        ----------
        path
            A folder, or a URL such as ``s3://bucket/cohort.zarr``.

        Raises
        ------
        FileNotFoundError
            If there is none.
        ValueError
            If it is not a cohort, has no subjects yet, is damaged or of a later version.
        ImportError
            If an optional package is missing.
        """
        place = find_place(path)
        header = read_header(place)
        if header is None:
            raise FileNotFoundError(f"{place.name}: no cohort store is there")
        check_arrays(place, header)
        if not header.entries:
            raise ValueError(f"{place.name}: no subject is in it yet; stack the maps first")
        return cls(place, header, np.arange(len(header.entries)))

    @property
    def name(self) -> str:
        """Path or URL of the store."""
        return self.place.name

    @property
    def grid(self) -> Grid:
        """The voxels of the mask, whether or not all subjects have data there."""
        return self.header.grid

    @property
    def n_voxels(self) -> int:
        """Number of voxels in the mask."""
        return self.header.layout.n_voxels

    @property
    def n_subjects(self) -> int:
        """Number of maps."""
        return self.rows.size

    @cached_property
    def subjects(self) -> tuple[str, ...] | None:
        """Label of each subject, or None when they carry none."""
        labels = tuple(self.header.entries[row].label or "" for row in self.rows)
        return labels if self.header.labelled else None

    @cached_property
    def n_finite(self) -> NDArray[np.int64]:
        """Voxels in which each subject has data, ``(n_subjects,)``."""
        return np.array([self.header.entries[row].n_finite for row in self.rows], dtype=np.int64)

    @property
    def skipped(self) -> Sequence[Skipped]:
        """Maps that were left out of the store, and why."""
        return self.header.skipped

    @property
    def stored_bytes(self) -> int:
        """Size of the store's values, of all its subjects."""
        layout = self.header.layout
        return layout.n_shards(len(self.header.entries)) * layout.shard_bytes

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits, equal for equal values in the same voxels; nothing is read."""
        checksums = np.array([self.header.entries[row].checksum for row in self.rows], "<u4")
        layout = self.header.layout
        precision = "" if layout.dtype == "float32" else f"{layout}{self.rows.tolist()}"
        content = mask_digest(self.grid).encode() + checksums.tobytes() + precision.encode()
        return blake2b(content, digest_size=8).hexdigest()

    def subset(self, rows: ArrayLike) -> Cohort:
        """Return the cohort of some of its subjects.

        Parameters
        ----------
        rows
            Indices in the order wanted, or a mask ``(n_subjects,)``.
        """
        chosen = np.asarray(rows)
        if chosen.dtype != bool:
            chosen = chosen.astype(np.intp)
        return Cohort(self.place, self.header, self.rows[chosen], self._whole)

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Read a block of voxels of all subjects, in threads.

        Parameters
        ----------
        start, stop
            The first voxel, and the one after the last. Multiples of 1,024 waste nothing.

        Returns
        -------
        ndarray
            ``(stop - start, n_subjects)`` float32 in Fortran order, NaN where data are missing.

        Raises
        ------
        ValueError
            If there are no such voxels, or the store is damaged.
        """
        stop = self.n_voxels if stop is None else stop
        if not 0 <= start < stop <= self.n_voxels:
            raise ValueError(
                f"voxels {start} to {stop} asked for; blocks must lie in 0 to {self.n_voxels}"
            )
        block = np.empty((self.n_subjects, stop - start), dtype=np.float32)
        first, last = start // VOXELS_PER_CHUNK, -(-stop // VOXELS_PER_CHUNK)
        pieces = [
            Piece(shard, range(low, min(low + CHUNKS_PER_READ, last)), rows, subjects)
            for shard, rows, subjects in self._shards
            for low in range(first, last, CHUNKS_PER_READ)
        ]
        with ThreadPoolExecutor(self.place.n_threads) as pool:
            list(pool.map(lambda piece: self._read_piece(piece, block, start), pieces))
        return block.T

    def blocks(self, size: int = 8192) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Read all voxels block by block, each while the one before is worked on.

        Memory is that of two blocks, if the caller lets go of each before taking the next.

        Parameters
        ----------
        size
            Voxels of a block, best a multiple of 1,024; the last block is smaller.

        Yields
        ------
        start : int
            The first voxel of the block.
        values : ndarray
            What `read` returns.
        """
        if size < 1:
            raise ValueError(f"a block must have at least 1 voxel, got {size}")

        def block(start: int) -> tuple[int, NDArray[np.float32]]:
            return start, self.read(start, min(start + size, self.n_voxels))

        yield from prefetch(block, range(0, self.n_voxels, size), 1, n_ahead=1)

    def load(self, missing: Missing = "drop_voxel", *, min_subjects: int | None = None) -> Maps:
        """Read all of it into memory, as `load_maps` would have read the files.

        Parameters
        ----------
        missing, min_subjects
            What to do with voxels that are not finite in some map; see `load_maps`.

        Returns
        -------
        Maps
            Voxels that vary and are finite in every map, or in enough of them; the same bits as
            from the files if the store is float32.

        Raises
        ------
        ValueError
            If there are fewer than two subjects, no voxel is left, ``missing="raise"`` and one
            is, or the store is damaged.
        """
        if self.n_subjects < 2:
            raise ValueError(f"a group needs at least 2 maps, got {self.n_subjects}")
        min_subjects = checked_minimum(missing, min_subjects, self.n_subjects)
        stack = Stack(self.grid, self.n_subjects, all_rows=True)
        if missing == "pairwise":
            stack = PairwiseStack(self.grid, self.n_subjects, min_subjects, all_rows=True)
        height = self.header.layout.height
        parts = [self.rows[low : low + height] for low in range(0, self.n_subjects, height)]
        blocks = prefetch(self._maps_of, parts, 1, n_ahead=1)
        with shown(None, "reading maps", self.n_subjects, "map") as bar:
            for part, block in zip(parts, blocks, strict=True):
                for row, values in zip(part, block.T, strict=True):
                    stack.add(values, self.header.entries[row].name)
                bar.update(part.size)
        dropped = stack.dropped(allow_missing=missing != "raise")
        values, grid = stack.finish()
        patterns = find_patterns(values) if missing == "pairwise" else None
        return Maps(values, grid, self.subjects, dropped, patterns)

    def verify(self) -> None:
        """Read everything and compare it with all that was noted when it was written.

        Raises
        ------
        ValueError
            If anything differs; the message lists the files at fault, and whose data they hold.
        """
        faults: list[str] = []
        shards = shown(self._shards, "checking", len(self._shards), "shard")
        for _, _, subjects in shards:
            rows = self.rows[subjects]
            try:
                block = self._maps_of(rows)
            except ValueError as error:
                faults.append(str(error))
                continue
            for row, values in zip(rows, block.T, strict=True):
                entry = self.header.entries[row]
                same = np.count_nonzero(np.isfinite(values)) == entry.n_finite
                if self.header.layout.dtype == "float32":
                    same &= int.from_bytes(checksum(values), "little") == entry.checksum
                if not same:
                    faults.append(f"{entry.name}: not the map that was stacked")
        if faults:
            raise ValueError("; ".join(faults[:10]))

    @cached_property
    def _shards(self) -> list[tuple[int, Rows, Rows]]:
        """The shards that hold these subjects, with their rows in the shard and in the cohort."""
        height = self.header.layout.height
        shard_of = self.rows // height
        found = []
        for shard in np.unique(shard_of):
            subjects = np.flatnonzero(shard_of == shard)
            rows = self.rows[subjects] - shard * height
            found.append((int(shard), _as_slice(rows), _as_slice(subjects)))
        return found

    def _maps_of(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Read whole maps of some rows of the store, ``(n_voxels, n_rows)``."""
        return Cohort(self.place, self.header, rows, self._whole).read()

    def _read_piece(self, piece: Piece, block: NDArray[np.float32], start: int) -> None:
        """Read a piece, and put what belongs to a block where it belongs."""
        layout = self.header.layout
        size = layout.chunk_bytes
        self._check_shard(piece.shard)
        content = self._bytes(piece.shard, piece.chunks.start * size, len(piece.chunks) * size)
        stop = start + block.shape[1]
        for number, chunk in enumerate(piece.chunks):
            low = chunk * VOXELS_PER_CHUNK
            try:
                values = layout.decoded(content[number * size : (number + 1) * size])
            except ValueError as error:
                detail = f"{error} of voxels {low} to {low + VOXELS_PER_CHUNK - 1}"
                raise self._damaged(piece.shard, detail) from error
            first, last = max(start, low), min(stop, low + VOXELS_PER_CHUNK)
            wanted = values[piece.rows, first - low : last - low]
            block[piece.subjects, first - start : last - start] = wanted

    def _check_shard(self, shard: int) -> None:
        """Look once at the index and the length of a shard."""
        if shard in self._whole:
            return
        layout = self.header.layout
        index = layout.index
        # one byte more would be there if the file were too long
        found = self._bytes(shard, layout.shard_bytes - len(index), len(index), spare=1)
        if found != index:
            raise self._damaged(shard, "wrong index")
        self._whole.add(shard)

    def _bytes(self, shard: int, start: int, length: int, spare: int = 0) -> memoryview:
        """Read a stretch of a shard, of that length exactly."""
        try:
            content = self.place.read(self.header.layout.key(shard), start, length + spare)
        except FileNotFoundError as error:
            raise self._damaged(shard, "missing") from error
        if len(content) != length:
            raise self._damaged(shard, "wrong length")
        return memoryview(content)

    def _damaged(self, shard: int, detail: str) -> ValueError:
        """Return the error for a damaged shard: which file, and whose data are in it."""
        height = self.header.layout.height
        last = min((shard + 1) * height, len(self.header.entries))
        whose = f"subjects {shard * height + 1} to {last}"
        return damaged(self.place, f"{self.header.layout.key(shard)}, {whose}: {detail}")


def is_store(source: Any) -> bool:
    """Tell a store from images and tables: a folder or a URL with the metadata of a Zarr group.

    Parameters
    ----------
    source
        Anything that a user may give as maps.
    """
    if not isinstance(source, str | os.PathLike):
        return False
    try:
        find_place(source).read(DOCUMENT, 0, 1)
    except OSError:
        return False
    return True


def _as_slice(indices: NDArray[np.intp]) -> Rows:
    """Return indices that follow one another as a slice, which NumPy copies faster."""
    first = int(indices[0])
    consecutive = bool((np.diff(indices) == 1).all())
    return slice(first, first + indices.size) if consecutive else indices
