"""Results of permutation tests on disk: one file each, whole or in part, equal to the last bit."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np

from gpustats import images
from gpustats.contrast_maps import ContrastMaps
from gpustats.contrasts import Contrast
from gpustats.outcomes import Inference, Outcome
from gpustats.spaces import Grid

FORMAT = 1
"""Version of what is in a file; it rises when older versions of the package cannot read it."""

HEADER = "gpustats_inference"
"""The array that holds the JSON: its name tells our files from other archives."""

OUTCOME_ARRAYS = ("observed", "limits", "maxima", "null_maxima", "counts", "null_contributions")
MAPS_ARRAYS = ("effect", "variance", "statistic")
VARYING = ("df", "n", "unscaled_variance")
"""What maps have an array of where voxels lack subjects."""

Arrays = dict[str, Any]


def save_inference(inference: Inference, path: str | os.PathLike[str]) -> None:
    """Write a result of `permutation_test`, of all or some of its shuffles, to be merged or read.

    Parameters
    ----------
    inference
        The result. Its settings must be what JSON can hold.
    path
        Where to write, ``.npz``: NumPy arrays and a JSON text, no pickle; whole or not at all.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    contrasts = _contrasts(inference)
    numbers = {contrast.name: number for number, contrast in enumerate(contrasts)}
    arrays: Arrays = {"mask": inference.grid.mask, "affine": inference.grid.affine}
    for number, contrast in enumerate(contrasts):
        arrays[f"contrast{number}_weights"] = contrast.weights
    for number, outcome in enumerate(inference.outcomes):
        arrays |= _arrays_of(outcome, OUTCOME_ARRAYS, f"outcome{number}")
    for name, maps in inference.maps.items():
        arrays |= _arrays_of(maps, MAPS_ARRAYS, f"maps{numbers[name]}")
        if maps.n is not None:
            arrays |= _arrays_of(maps, VARYING, f"maps{numbers[name]}")
    header = {
        "format": FORMAT,
        "settings": dict(inference.settings),
        "fingerprint": dict(inference.fingerprint),
        "contrasts": [
            {"name": one.name, "statistic": one.statistic, "columns": one.columns}
            for one in contrasts
        ],
        "outcomes": [
            {
                "statistic": outcome.statistic,
                "contrast": numbers[outcome.contrast.name],
                "indices": [outcome.indices.start, outcome.indices.stop],
                "n_shuffles": outcome.n_shuffles,
                "two_sided": outcome.two_sided,
                "scale": outcome.scale,
            }
            for outcome in inference.outcomes
        ],
        "maps": [
            {
                "contrast": numbers[name],
                "df": maps.df if maps.n is None else None,
                "dimension": maps.dimension,
                "unscaled_variance": maps.unscaled_variance if maps.n is None else None,
                "slopes": list(maps.slopes),
            }
            for name, maps in inference.maps.items()
        ],
    }
    arrays[HEADER] = np.frombuffer(json.dumps(header, allow_nan=False).encode(), np.uint8)
    with images.whole_file(Path(path)) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)


def load_inference(path: str | os.PathLike[str]) -> Inference:
    """Read a result that `save_inference` wrote.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    Inference
        Equal to what was saved, every number to its last bit.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    ValueError
        If it is damaged, something else, or of a later version of the package.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    content = path.read_bytes()
    try:
        return _restored(_members(content))
    # zipfile and NumPy answer damage with a dozen kinds of error
    except Exception as error:
        raise ValueError(
            f"{path}: not a whole result of a permutation test ({error}); copy or compute it again"
        ) from error


def _contrasts(inference: Inference) -> list[Contrast]:
    """Return the contrasts that were tested, each once."""
    return list({one.contrast.name: one.contrast for one in inference.outcomes}.values())


def _arrays_of(holder: Outcome | ContrastMaps, names: Iterable[str], prefix: str) -> Arrays:
    """Return the arrays of an outcome or of maps under the names that they have in the file."""
    found = {f"{prefix}_{name}": getattr(holder, name) for name in names}
    return {name: array for name, array in found.items() if array is not None}


def _members(content: bytes) -> Arrays:
    """Return the arrays of an archive; reading each file in it to the end checks its checksum."""
    with ZipFile(BytesIO(content)) as archive:
        return {
            name.removesuffix(".npy"): np.lib.format.read_array(
                BytesIO(archive.read(name)), allow_pickle=False
            )
            for name in archive.namelist()
        }


def _restored(members: Arrays) -> Inference:
    """Put a result together from the arrays of its file."""
    if HEADER not in members:
        raise ValueError("gpustats did not write it")
    header = json.loads(members[HEADER].tobytes())
    if header["format"] != FORMAT:
        raise ValueError(f"its format is {header['format']}, this version reads {FORMAT}")
    grid = Grid(members["mask"], members["affine"])
    contrasts = [
        Contrast(
            facts["name"],
            members[f"contrast{number}_weights"],
            facts["statistic"],
            tuple(facts["columns"]),
        )
        for number, facts in enumerate(header["contrasts"])
    ]
    outcomes = tuple(
        Outcome(
            statistic=facts["statistic"],
            contrast=contrasts[facts["contrast"]],
            indices=range(*facts["indices"]),
            n_shuffles=facts["n_shuffles"],
            two_sided=facts["two_sided"],
            scale=facts["scale"],
            observed=members[f"outcome{number}_observed"],
            limits=members[f"outcome{number}_limits"],
            maxima=members[f"outcome{number}_maxima"],
            null_maxima=members[f"outcome{number}_null_maxima"],
            counts=members.get(f"outcome{number}_counts"),
            null_contributions=members.get(f"outcome{number}_null_contributions"),
        )
        for number, facts in enumerate(header["outcomes"])
    )
    maps = [_maps(facts, contrasts, grid, members) for facts in header["maps"]]
    return Inference(
        outcomes,
        grid,
        header["settings"],
        header["fingerprint"],
        {one.contrast.name: one for one in maps},
    )


def _maps(
    facts: dict[str, Any], contrasts: list[Contrast], grid: Grid, members: Arrays
) -> ContrastMaps:
    """Restore the maps of a contrast."""
    number = facts["contrast"]
    arrays = {name: members[f"maps{number}_{name}"] for name in MAPS_ARRAYS}
    return ContrastMaps(
        contrast=contrasts[number],
        grid=grid,
        df=members[f"maps{number}_df"] if facts["df"] is None else facts["df"],
        dimension=facts["dimension"],
        device="cpu",
        n=members.get(f"maps{number}_n"),
        # files of earlier versions do not tell
        unscaled_variance=members.get(
            f"maps{number}_unscaled_variance", facts.get("unscaled_variance")
        ),
        slopes=tuple(facts.get("slopes", ())),
        **arrays,
    )
