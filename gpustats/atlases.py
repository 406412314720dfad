"""What the places of the brain are called: label images and their tables."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpustats import images
from gpustats.spaces import Grid

logger = logging.getLogger("gpustats")

NUMBER_COLUMNS = ("index", "label_id", "value", "id", "number")
NAME_COLUMNS = ("name", "label", "region", "structure", "roi")

FETCHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "aal": ("fetch_atlas_aal", {}),
    "destrieux": ("fetch_atlas_destrieux_2009", {}),
    "harvard-oxford-cortical": (
        "fetch_atlas_harvard_oxford",
        {"atlas_name": "cort-maxprob-thr25-2mm"},
    ),
    "harvard-oxford-subcortical": (
        "fetch_atlas_harvard_oxford",
        {"atlas_name": "sub-maxprob-thr25-2mm"},
    ),
    "juelich": ("fetch_atlas_juelich", {"atlas_name": "maxprob-thr25-2mm"}),
    "schaefer": ("fetch_atlas_schaefer_2018", {"resolution_mm": 2}),
    "talairach": ("fetch_atlas_talairach", {"level_name": "gyrus"}),
}
"""Atlases that nilearn fetches, and what it calls them."""

LOOKUP_LINE = re.compile(r"\s*(\d+)\s+(\S.*?)((\s+[\d.]+){3,4})?\s*")
"""A number, a name that may have spaces, and maybe a colour."""


@dataclass(frozen=True, eq=False)
class Atlas:
    """Hold regions and their names.

    Parameters
    ----------
    name
        What the atlas is called.
    labels
        ``(nx, ny, nz)`` int64: the number of the region of each voxel, 0 for none.
    affine
        ``(4, 4)``, from its voxels to millimetres.
    names
        The name of each number. A number without one is called ``"label 17"``.
    """

    name: str
    labels: NDArray[np.int64]
    affine: NDArray[np.float64]
    names: Mapping[int, str]

    def at(self, grid: Grid) -> NDArray[np.int64]:
        """Return the region at each voxel of a grid, ``(n_voxels,)``: that of the nearest voxel.

        0 where there is none, and outside the atlas; a warning is logged where that is everywhere.
        """
        to_atlas = np.linalg.inv(self.affine)
        places = grid.to_mm(np.argwhere(grid.mask)) @ to_atlas[:3, :3].T + to_atlas[:3, 3]
        nearest = np.floor(places + 0.5).astype(np.int64)
        inside = ((nearest >= 0) & (nearest < self.labels.shape)).all(axis=1)
        found = np.zeros(grid.n_voxels, dtype=np.int64)
        found[inside] = self.labels[tuple(nearest[inside].T)]
        if not found.any():
            logger.warning(
                "atlas %s has no region at any voxel of the mask; it must be in the space of the "
                "maps",
                self.name,
            )
        return found

    def name_of(self, number: int) -> str:
        """Return the name of a region, empty where there is none."""
        return self.names.get(number, f"label {number}") if number else ""


def load_atlas(
    image: Any, labels: str | os.PathLike[str] | pd.DataFrame | None = None, name: str | None = None
) -> Atlas:
    """Read an atlas: a label image with a table of its labels, or one that nilearn fetches.

    Parameters
    ----------
    image
        A 3D image of whole numbers, 0 for no region, path or image; or, without ``labels``, the
        name of an atlas that nilearn has or fetches: ``"aal"``, ``"destrieux"``,
        ``"harvard-oxford-cortical"``, ``"harvard-oxford-subcortical"``, ``"juelich"``,
        ``"schaefer"``, ``"talairach"``.
    labels
        A table (.tsv, .csv, or a DataFrame) with a column of numbers (``index``, ``label_id``,
        ``value``, ``id``, ``number``) and one of names (``name``, ``label``, ``region``,
        ``structure``, ``roi``), as BIDS' ``*_dseg.tsv``; or the .xml of an atlas of FSL or of AAL;
        or a FreeSurfer lookup table (.txt, .lut, .ctab): lines of a number, a name and maybe a
        colour.
    name
        What the atlas is called; by default its file.

    Returns
    -------
    Atlas
        The regions and their names.

    Raises
    ------
    FileNotFoundError
        If a file is not there, or the name is unknown.
    ValueError
        If the image is not of whole numbers in three dimensions, or the table has no such columns.
    ImportError
        If nilearn is needed and not installed.
    OSError
        If nilearn has not got the atlas and cannot fetch it.
    """
    if labels is None:
        return _fetched(image)
    volume, affine = images.read_map(image, "atlas")
    table = labels if isinstance(labels, pd.DataFrame) else _read_labels(Path(labels))
    if name is None:
        name = Path(image).name.split(".")[0] if isinstance(image, str | os.PathLike) else "atlas"
    return Atlas(name, _whole(volume, name), affine, _names(table, str(labels)[:200]))


def with_distinct_names(atlases: Iterable[Atlas]) -> tuple[Atlas, ...]:
    """Return atlases; refuse two of one name, by which a table tells them apart.

    Raises
    ------
    ValueError
        If two atlases have the same name.
    """
    found = tuple(atlases)
    for number, one in enumerate(found):
        if one.name in {other.name for other in found[:number]}:
            raise ValueError(
                f"two atlases are called {one.name!r}; give each once, and each a name of its own "
                "(load_atlas(..., name=...), or the name of its file)"
            )
    return found


def _fetched(name: object) -> Atlas:
    """Return an atlas by name, from nilearn's data folder or from where nilearn finds it."""
    if name not in FETCHERS:
        raise FileNotFoundError(
            f"no atlas is called {name!s}: give an image and its table of labels, or one of "
            f"{', '.join(FETCHERS)}"
        )
    try:
        from nilearn import datasets
    except ImportError as error:
        raise ImportError(
            f"atlas {name} comes with nilearn; pip install 'gpustats[report]'"
        ) from error
    fetcher, options = FETCHERS[str(name)]
    logger.info("atlas %s: from nilearn's data folder, or fetched to it", name)
    try:
        found = getattr(datasets, fetcher)(**options, verbose=0)
    except Exception as error:
        # a missing network answers with the errors of three libraries
        raise OSError(
            f"atlas {name} is not in nilearn's data folder and could not be fetched "
            f"({type(error).__name__}); fetch it where there is a network, or give an image and "
            "its table of labels"
        ) from error
    volume, affine = images.read_map(found.maps, str(name))
    return Atlas(str(name), _whole(volume, str(name)), affine, _names(found.lut, str(name)))


def _whole(volume: NDArray[np.float64], name: str) -> NDArray[np.int64]:
    """Return the numbers of regions; refuse what is none."""
    if not (np.isfinite(volume).all() and (volume == np.round(volume)).all() and volume.min() >= 0):
        raise ValueError(
            f"atlas {name}: regions must be whole numbers from 0 on; take a label image, not one "
            "of probabilities"
        )
    if not volume.any():
        raise ValueError(f"atlas {name}: the image is empty; no voxel has a region")
    return volume.astype(np.int64)


def _read_labels(path: Path) -> pd.DataFrame:
    """Read the table of an atlas by the ending of its name."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    ending = path.suffix.lower()
    try:
        if ending == ".xml":
            return _xml_labels(path)
        if ending in (".txt", ".lut", ".ctab"):
            return _lookup_labels(path)
        separator = "," if ending == ".csv" else "\t"
        # a region may be called NA
        return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
    except (ElementTree.ParseError, UnicodeDecodeError, pd.errors.ParserError) as error:
        raise ValueError(f"{path}: not a table of labels ({error})") from error
    except pd.errors.EmptyDataError as error:
        raise ValueError(f"{path}: the table of labels is empty") from error


def _xml_labels(path: Path) -> pd.DataFrame:
    """Read FSL's or AAL's description of an atlas.

    The images of FSL's probabilistic atlases hold the index of a label plus one, those of its
    label atlases, and of AAL, the index itself.
    """
    root = ElementTree.parse(path).getroot()
    kind = (root.findtext("header/type") or "").strip().lower()
    rows = [
        (one.get("index") or one.findtext("index"), one.findtext("name") or one.text)
        for one in root.iter("label")
    ]
    table = pd.DataFrame(rows, columns=["index", "name"])
    if kind.startswith("prob"):
        table["index"] = pd.to_numeric(table["index"], errors="coerce") + 1
    return table


def _lookup_labels(path: Path) -> pd.DataFrame:
    """Read a lookup table of FreeSurfer."""
    lines = [line.partition("#")[0] for line in path.read_text(encoding="utf-8-sig").splitlines()]
    rows = []
    for line in filter(str.strip, lines):
        match = LOOKUP_LINE.fullmatch(line)
        if match is None:
            raise ValueError(
                f"{path}: a line of a lookup table must be a number and a name, got {line[:80]!r}"
            )
        rows.append((match[1], match[2]))
    return pd.DataFrame(rows, columns=["index", "name"])


def _names(table: pd.DataFrame, source: str) -> dict[int, str]:
    """Return the name of each number in a table."""
    columns = {str(column).strip().lower(): column for column in table.columns}
    numbers = next((columns[one] for one in NUMBER_COLUMNS if one in columns), None)
    names = next((columns[one] for one in NAME_COLUMNS if one in columns), None)
    if numbers is None or names is None:
        raise ValueError(
            f"{source}: a table of labels needs a column {' or '.join(NUMBER_COLUMNS)} and a "
            f"column {' or '.join(NAME_COLUMNS)}; it has {', '.join(map(str, table.columns))}"
        )
    values = pd.to_numeric(table[numbers], errors="coerce")
    if values.empty:
        raise ValueError(f"{source}: the table of labels is empty")
    if values.isna().any() or (values != np.round(values)).any():
        raise ValueError(f"{source}: column {numbers!r} must hold whole numbers")
    whole = values.astype(np.int64)
    if whole.duplicated().any():
        raise ValueError(f"{source}: number {whole[whole.duplicated()].iloc[0]} has two names")
    pairs = zip(whole.tolist(), table[names].tolist(), strict=True)
    return {
        number: str(label).strip()
        for number, label in pairs
        if not pd.isna(label) and str(label).strip()
    }
