"""What a user runs from files to a z map, in gpustats or in nilearn, by the same names.

Each package is imported when it is used: in a process whose memory is measured there must be
no trace of the other.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

MODULES = {"gpustats": "gpustats", "nilearn": "nilearn.glm.second_level"}
OPTIONS: dict[str, dict[str, Any]] = {"gpustats": {"device": "cpu"}, "nilearn": {}}


def fit_files(package: str, paths: Sequence[Path], mask: Path | None = None) -> Any:
    """Return a one-sample `SecondLevelModel` of a package, fitted to the maps."""
    module = importlib.import_module(MODULES[package])
    model = module.SecondLevelModel(mask_img=mask, **OPTIONS[package])
    design = pd.DataFrame({"intercept": [1.0] * len(paths)})
    return model.fit(list(paths), design_matrix=design)


def z_map(package: str, paths: Sequence[Path], mask: Path | None = None) -> Any:
    """Go from files to the image of z."""
    return fit_files(package, paths, mask).compute_contrast("intercept", output_type="z_score")


def z_map_of_folder(package: str, folder: str) -> None:
    """Go from all maps of a folder to the image of z, no mask given."""
    z_map(package, map_paths(Path(folder)))


def map_paths(folder: Path) -> list[Path]:
    """Return the maps of a folder, in order."""
    return sorted(folder.glob("sub-*.nii.gz"))
