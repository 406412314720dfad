"""What a run left behind, read again: its JSON and the files that the JSON names."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpustats import images

RESULT = "result.json"

NEEDED = (
    *("name", "label", "weights", "statistic", "df", "two_sided", "min_distance_mm"),
    *("clusters", "files"),
)
"""What every version that this one can read says of a contrast."""


@dataclass(frozen=True, eq=False)
class Record:
    """Hold what a run left behind, on disk or in memory.

    Parameters
    ----------
    content
        What is in the JSON.
    open_image
        Returns an image, or the path of one, given the name of its file.
    open_table
        Returns a table, likewise.
    """

    content: Mapping[str, Any]
    open_image: Callable[[str], Any]
    open_table: Callable[[str], pd.DataFrame]

    @property
    def contrasts(self) -> list[Mapping[str, Any]]:
        """What the JSON says of each contrast."""
        return list(self.content["contrasts"])

    def volume(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the voxels ``(nx, ny, nz)`` of an image, and its affine."""
        return images.read_map(self.open_image(name), name)


def read_record(path: str | os.PathLike[str]) -> Record:
    """Read a run that was written to a folder.

    Parameters
    ----------
    path
        The run's ``result.json``, or its folder.

    Returns
    -------
    Record
        The JSON; images and tables are read when they are asked for.

    Raises
    ------
    FileNotFoundError
        If the JSON, or a file that it names, is not there.
    ValueError
        If the file is no JSON, or none that this version can read.
    """
    path = Path(path)
    path = path / RESULT if path.is_dir() else path
    content = _content(path)
    for entry in content["contrasts"]:
        for name in entry["files"]:
            if not (path.parent / name).is_file():
                raise FileNotFoundError(
                    f"{path.parent / name}: no such file, though {path.name} names it; keep the "
                    "files of a run together, or run it again"
                )

    def table(name: str) -> pd.DataFrame:
        return pd.read_csv(path.parent / name, sep="\t", keep_default_na=False)

    return Record(content, lambda name: path.parent / name, table)


def _content(path: Path) -> Mapping[str, Any]:
    """Read the JSON, and refuse what is not that of a run."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; name the {RESULT} of a run, or its folder")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: this is no JSON ({error}); name the {RESULT} of a run") from None
    entries = content.get("contrasts") if isinstance(content, dict) else None
    if (
        not isinstance(entries, list)
        or not entries
        or not isinstance(content.get("versions"), dict)
    ):
        raise ValueError(
            f"{path}: this is not the {RESULT} of gpustats fit, permute or merge: it lists no "
            "contrasts or no versions"
        )
    for entry in entries:
        lacking = [key for key in NEEDED if not isinstance(entry, dict) or key not in entry]
        if lacking or not _has_threshold(entry):
            raise ValueError(
                f"{path}: was written by gpustats {content['versions'].get('gpustats', 'unknown')} "
                f"and lacks what this version reports ({', '.join(lacking) or 'a threshold'}); "
                "run it again"
            )
    found: Mapping[str, Any] = content
    return found


def _has_threshold(entry: Mapping[str, Any]) -> bool:
    """Tell whether a contrast says what its voxels had to reach, by theory or by permutation."""
    if "statistics" in entry:
        return all("null_maxima" in test for test in entry["statistics"])
    return "threshold_z" in entry
