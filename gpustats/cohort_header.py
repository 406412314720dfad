"""What a store knows of itself: one document, whose replacement is the one act of committing.

It is the metadata of the Zarr group, ``zarr.json``: subjects that it does not list are not there
yet, whatever the arrays hold. A digest of all that it says guards it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from hashlib import blake2b
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from gpustats.cohort_layout import (
    MASK,
    VALUES,
    Layout,
    checked,
    checksum,
    json_bytes,
    mask_document,
)
from gpustats.cohort_places import LOCK, Place
from gpustats.environment import versions
from gpustats.spaces import Grid

FORMAT = 1
"""Version of what is in a store; it rises when older versions of the package cannot read it."""

DOCUMENT = "zarr.json"
ATTRIBUTE = "gpustats_cohort"
MASK_KEY = f"{MASK}/c/0/0/0"
BEFORE_DOCUMENT = {LOCK, MASK_KEY, f"{MASK}/{DOCUMENT}", f"{VALUES}/{DOCUMENT}"}
"""What a writer leaves that is killed before the first commit."""


Key: TypeAlias = str | tuple[str | None, int]


class Entry(NamedTuple):
    """What is known of one subject's map.

    Parameters
    ----------
    label
        The subject, if the maps carry labels.
    file
        Where the map came from, None if it was in memory.
    volume
        Which volume of the file.
    n_bytes, modified_ns
        Size of the file and time of its last change when it was read.
    n_finite
        Voxels of the mask in which the map has data.
    checksum
        CRC-32C of its values as they were read, float32, in voxel order.
    """

    label: str | None
    file: str | None
    volume: int
    n_bytes: int | None
    modified_ns: int | None
    n_finite: int
    checksum: int

    @property
    def name(self) -> str:
        """How messages call it."""
        return self.label or self.file or "a map from memory"

    @property
    def key(self) -> Key:
        """What tells it from other maps: the subject, or else the file."""
        return map_key(self.label, self.file, self.volume)


class Skipped(NamedTuple):
    """A map that was left out.

    Parameters
    ----------
    label, file, volume
        Whose it is.
    reason
        What was wrong.
    """

    label: str | None
    file: str | None
    volume: int
    reason: str

    @property
    def key(self) -> Key:
        """What tells it from other maps."""
        return map_key(self.label, self.file, self.volume)


@dataclass(frozen=True)
class Reading:
    """How maps were read, as `load_maps` takes it."""

    zero_is_missing: bool = False
    resample: bool = False
    smoothing_fwhm: float | None = None


@dataclass(frozen=True, eq=False)
class Header:
    """Hold what a store knows of itself.

    Parameters
    ----------
    layout
        Where values lie.
    grid
        Which voxels these are.
    reading
        How maps were read.
    created_with, changed_with
        Versions of gpustats.
    entries
        The subjects, in the order of the rows.
    skipped
        Maps that were left out.
    """

    layout: Layout
    grid: Grid
    reading: Reading
    created_with: str
    changed_with: str
    entries: Sequence[Entry] = ()
    skipped: Sequence[Skipped] = ()

    @property
    def labelled(self) -> bool:
        """Whether subjects carry labels: all do, or none."""
        return len(self.entries) > 0 and self.entries[0].label is not None

    def document(self) -> bytes:
        """Return the document with its digest."""
        content = {
            "format": FORMAT,
            "layout": asdict(self.layout),
            "shape": list(self.grid.mask.shape),
            "affine": self.grid.affine.tolist(),
            "mask": mask_digest(self.grid),
            "reading": asdict(self.reading),
            "created_with": self.created_with,
            "changed_with": self.changed_with,
            "n_subjects": len(self.entries),
            "subjects": _columns(Entry, self.entries),
            "skipped": _columns(Skipped, self.skipped),
        }
        content["digest"] = _digest(content)
        attributes = {ATTRIBUTE: content}
        return json_bytes({"zarr_format": 3, "node_type": "group", "attributes": attributes})


def map_key(label: str | None, file: str | None, volume: int) -> Key:
    """Return what tells a map from others, in every run."""
    return (file, volume) if label is None else label.removeprefix("sub-")


@cache
def this_version() -> str:
    """Return the version of gpustats."""
    return versions()["gpustats"]


def new_header(layout: Layout, grid: Grid, reading: Reading) -> Header:
    """Return the header of a store without subjects."""
    return Header(layout, grid, reading, this_version(), this_version())


def read_header(place: Place) -> Header | None:
    """Read the header of a store and its mask, or return None where there is none.

    Raises
    ------
    ValueError
        If something else is there, or it is damaged or of a later version.
    """
    try:
        content = _content(place.read(DOCUMENT))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise damaged(place, f"{DOCUMENT}: {error}") from error
    if content is None:
        raise ValueError(f"{place.name}: a Zarr store, but not one that gpustats stack made")
    if content["format"] != FORMAT:
        raise ValueError(
            f"{place.name}: its format is {content['format']}, this version reads {FORMAT}"
        )
    layout = Layout(**content["layout"])
    return Header(
        layout,
        _grid(place, content, layout),
        Reading(**content["reading"]),
        content["created_with"],
        content["changed_with"],
        _rows(Entry, content["subjects"]),
        _rows(Skipped, content["skipped"]),
    )


def is_vacant(place: Place) -> bool:
    """Tell whether a store may be made here: nothing is there, or what a killed writer left."""
    return all(name in BEFORE_DOCUMENT for name in place.names())


def write_grid(place: Place, grid: Grid) -> None:
    """Write the mask."""
    mask = grid.mask.tobytes()
    place.write(MASK_KEY, [mask, checksum(mask)])
    place.write(f"{MASK}/{DOCUMENT}", [json_bytes(mask_document(grid.mask.shape))])


def commit(place: Place, header: Header) -> None:
    """Make what the header lists part of the store."""
    values = header.layout.document(len(header.entries))
    place.write(f"{VALUES}/{DOCUMENT}", [json_bytes(values)])
    place.write(DOCUMENT, [replace(header, changed_with=this_version()).document()])


def check_arrays(place: Place, header: Header) -> None:
    """Refuse metadata of the arrays that are not those of the header.

    Raises
    ------
    ValueError
        If one was changed, or lists fewer subjects than the header does.
    """
    try:
        mask = json.loads(place.read(f"{MASK}/{DOCUMENT}"))
        values = json.loads(place.read(f"{VALUES}/{DOCUMENT}"))
        # rows beyond those that are committed are on their way
        n_rows = max(len(header.entries), int(values["shape"][0]))
        right = mask == mask_document(header.grid.mask.shape)
        right &= values == header.layout.document(n_rows)
    except (FileNotFoundError, ValueError, TypeError, LookupError):
        right = False
    if not right:
        raise damaged(place, f"the metadata of {MASK} or {VALUES} are not as they were written")


def damaged(place: Place, detail: str) -> ValueError:
    """Return the one error for a store that is not as it was written."""
    return ValueError(f"{place.name}: the store is damaged ({detail}); copy or stack it again")


def mask_digest(grid: Grid) -> str:
    """Return 16 hexadecimal digits of which voxels are in the mask, and where they are."""
    return blake2b(grid.mask.tobytes() + grid.affine.tobytes(), digest_size=8).hexdigest()


def _content(document: bytes) -> dict[str, Any] | None:
    """Return what a document says of a cohort, None if it is no cohort's."""
    try:
        content = json.loads(document)["attributes"].get(ATTRIBUTE)
        whole = content is None or content.pop("digest") == _digest(content)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError("not the metadata of a cohort") from error
    if not whole:
        raise ValueError("wrong digest")
    return None if content is None else dict(content)


def _digest(content: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits of all that a header says."""
    return blake2b(json_bytes(content), digest_size=8).hexdigest()


def _grid(place: Place, content: Mapping[str, Any], layout: Layout) -> Grid:
    """Read the mask and put it on its affine."""
    shape = content["shape"]
    try:
        cells = checked(memoryview(place.read(MASK_KEY)))
        mask = np.frombuffer(cells, dtype=bool).reshape(shape)
    except (FileNotFoundError, ValueError) as error:
        raise damaged(place, f"{MASK_KEY}: {error}") from error
    grid = Grid(mask, np.array(content["affine"]))
    if mask_digest(grid) != content["mask"] or grid.n_voxels != layout.n_voxels:
        raise damaged(place, f"{MASK_KEY}: not the mask of this store")
    return grid


def _columns(kind: type[NamedTuple], rows: Sequence[Any]) -> dict[str, list[Any]]:
    """Turn rows into lists by name."""
    names = kind._fields
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)) if rows else {}


def _rows(kind: Any, columns: Mapping[str, Sequence[Any]]) -> tuple[Any, ...]:
    """Turn lists by name back into rows."""
    named = [columns[name] for name in kind._fields] if columns else []
    return tuple(map(kind._make, zip(*named, strict=True)))
