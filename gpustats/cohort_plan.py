"""What is to be stacked, and where: which maps a store holds already, and which are to follow."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gpustats import images
from gpustats.cohort_header import (
    Entry,
    Header,
    Key,
    Reading,
    is_vacant,
    map_key,
    new_header,
    read_header,
)
from gpustats.cohort_layout import DType, Layout, shard_height
from gpustats.cohort_places import Place
from gpustats.images import ImageLike, Volumes
from gpustats.maps import check_labels, file_labels
from gpustats.spaces import Grid
from gpustats.subjects import repeated_labels

logger = logging.getLogger("gpustats")


@dataclass(frozen=True, eq=False)
class Source:
    """One map that is to be stacked.

    Parameters
    ----------
    image
        A path, an image, or an opened 4D image.
    name
        How messages call it.
    volume
        Which volume of a 4D image.
    label
        The subject, if the maps carry labels.
    """

    image: ImageLike | Volumes
    name: str
    volume: int = 0
    label: str | None = None

    @cached_property
    def path(self) -> Path | None:
        """Where it is stored, None if it is in memory."""
        path = self.image.path if isinstance(self.image, Volumes) else self.image
        return Path(path).absolute() if isinstance(path, str | os.PathLike) else None

    @property
    def file(self) -> str | None:
        """The path as it is noted."""
        return None if self.path is None else str(self.path)

    @cached_property
    def key(self) -> Key:
        """What tells it from other maps."""
        return map_key(self.label, self.file, self.volume)

    def state(self) -> tuple[int | None, int | None]:
        """Return size and time of change of the file, None where there is none."""
        if self.path is None or not self.path.exists():
            return None, None
        status = self.path.stat()
        return status.st_size, status.st_mtime_ns


@dataclass(frozen=True, eq=False)
class Wanted:
    """What a store is to be: the options of `stack_maps`, by the same names."""

    grid: Grid | None
    dtype: DType
    reading: Reading
    subjects_per_shard: int | None
    append: bool
    skip_bad: bool

    def header(self, n_maps: int) -> Header:
        """Return the header of a new store.

        Raises
        ------
        ValueError
            If an option is missing or wrong.
        """
        if self.grid is None:
            raise ValueError("a new store needs a mask: which voxels to keep (mask=, --mask)")
        if self.dtype not in ("float32", "int16"):
            raise ValueError(f"dtype must be 'float32' or 'int16', got {self.dtype!r}")
        height = self.subjects_per_shard or shard_height(self.grid.n_voxels, n_maps)
        return new_header(Layout(self.grid.n_voxels, height, self.dtype), self.grid, self.reading)

    def check(self, store: str, header: Header) -> None:
        """Refuse a store that was made with other options, naming them all."""
        made = {"dtype": header.layout.dtype, **asdict(header.reading)}
        asked = {"dtype": self.dtype, **asdict(self.reading)}
        if self.subjects_per_shard is not None:
            made["subjects_per_shard"] = header.layout.height
            asked["subjects_per_shard"] = self.subjects_per_shard
        other = [f"{name}={made[name]}" for name in made if made[name] != asked[name]]
        if self.grid is not None and not _same_voxels(self.grid, header.grid):
            other.append("another mask")
        if other:
            raise ValueError(
                f"{store}: was made with {', '.join(other)}; give the same, or choose another name"
            )


def list_sources(
    maps: ImageLike | Iterable[ImageLike], subjects: Sequence[str] | None
) -> list[Source]:
    """List the maps that a user gives, each with its label.

    Raises
    ------
    ValueError
        If there is none, one is given twice, or labels do not match or repeat.
    """
    many: Any = maps
    one = isinstance(maps, str | os.PathLike) or images.is_image(maps)
    given: list[Any] = [maps] if one else list(many)
    sources = [Source(image, _name(image, number)) for number, image in enumerate(given, start=1)]
    if len(sources) == 1:
        sources = _volumes(sources[0])
    if not sources:
        raise ValueError("no maps were given")
    labels = file_labels(source.path for source in sources) if subjects is None else subjects
    if labels is not None:
        check_labels(list(map(str, labels)), len(sources), "maps")
        named = zip(sources, labels, strict=True)
        return [replace(source, label=str(label)) for source, label in named]
    seen: set[Key] = set()
    for source in sources:
        if source.path is not None and source.key in seen:
            raise ValueError(f"{source.name}: given twice; a store holds every map once")
        seen.add(source.key)
    return sources


def plan(place: Place, sources: Sequence[Source], wanted: Wanted) -> tuple[Header, list[Source]]:
    """Return what is in a store, or the header of a new one, and the maps that are to follow.

    Raises
    ------
    FileNotFoundError
        If a file is not there, unless bad ones are to be skipped.
    FileExistsError
        If something else is in the place.
    ValueError
        If the store is damaged, was made with other options or holds other maps.
    """
    header = read_header(place)
    if header is None:
        if not is_vacant(place):
            raise FileExistsError(errno.EEXIST, "holds something that is not a cohort", place.name)
        header = wanted.header(len(sources))
    wanted.check(place.name, header)
    new = _remaining(place.name, header, sources, wanted.append)
    if not wanted.skip_bad:
        for source in new:
            if source.path is not None and not source.path.exists():
                raise FileNotFoundError(f"{source.name}: no such file")
    if wanted.append:  # what was left out may have been mended
        again = {source.key for source in new}
        left_out = tuple(skipped for skipped in header.skipped if skipped.key not in again)
        header = replace(header, skipped=left_out)
    return header, new


def _remaining(store: str, header: Header, sources: Sequence[Source], append: bool) -> list[Source]:
    """Return the maps that are not in a store yet; refuse a store that these do not continue."""
    if not header.entries:
        return list(sources)
    if header.labelled != (sources[0].label is not None):
        raise ValueError(
            f"{store}: its subjects have {'' if header.labelled else 'no '}labels, unlike the maps "
            "given; labels come from BIDS file names, from a table, or from subjects="
        )
    known = {entry.key: entry for entry in header.entries}
    stored = [source for source in sources if source.path and source.key in known]
    for source in stored:
        _check_unchanged(store, source, known[source.key])
    passed = {source.key for source in stored}
    if not append:
        _check_order(store, header, sources, stored)
        passed |= {skipped.key for skipped in header.skipped}
    new = [source for source in sources if source.path is None or source.key not in passed]
    labels = [entry.label for entry in header.entries] + [source.label for source in new]
    repeated = repeated_labels(label for label in labels if label is not None)
    if repeated:
        raise ValueError(f"{store}: holds subjects of these labels already: {repeated[:10]}")
    if stored:
        logger.info("%s: holds %d of the %d maps already", store, len(stored), len(sources))
    return new


def _check_unchanged(store: str, source: Source, entry: Entry) -> None:
    """Refuse a file that is not the one that was stacked; it may have moved, or be gone."""
    state = source.state()
    if state not in ((None, None), (entry.n_bytes, entry.modified_ns)):
        raise ValueError(
            f"{source.name}: {store} holds another map of {entry.name}, from {entry.file}, or "
            "an earlier version of it; make a new store"
        )


def _check_order(
    store: str, header: Header, sources: Sequence[Source], stored: Sequence[Source]
) -> None:
    """Refuse a store that is not the beginning of the one that is to be made."""
    if any(source.path is None for source in sources):
        raise ValueError(
            f"{store}: is there already, and maps in memory cannot be told from those in it; "
            "remove it, choose another name, or add to it (append=True)"
        )
    if [source.key for source in stored] != [entry.key for entry in header.entries]:
        raise ValueError(
            f"{store}: holds {len(header.entries)} maps that are not the first of those given; "
            "choose another name, or add to it (append=True, --append)"
        )


def _name(image: Any, number: int) -> str:
    """Return how messages call an image."""
    return str(image) if isinstance(image, str | os.PathLike) else f"image {number}"


def _volumes(source: Source) -> list[Source]:
    """Return the volumes of the only image."""
    if isinstance(source.image, Volumes):
        return [source]
    whole = images.open_image(source.image, source.name)
    if whole.n_volumes == 1:
        return [source]
    names = [f"{whole.name}, volume {number + 1}" for number in range(whole.n_volumes)]
    return [Source(whole, name, number) for number, name in enumerate(names)]


def _same_voxels(one: Grid, other: Grid) -> bool:
    """Tell whether two masks hold the same voxels in the same place."""
    same = images.same_grid(one.mask.shape, one.affine, other.mask.shape, other.affine)
    return same and np.array_equal(one.mask, other.mask)
