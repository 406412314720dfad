"""What a user runs from files to maps of p, each in a process of its own."""

from __future__ import annotations

import json
import time
from pathlib import Path

from benchmarks.pipelines import map_paths
from gpustats import (
    ClusterExtent,
    ClusterMass,
    Tfce,
    Voxelwise,
    images,
    load_maps,
    permutation_test,
)
from gpustats.outcomes import Inference

ALL_STATISTICS = (
    Voxelwise(),
    ClusterExtent(connectivity=26, threshold_t=3.1),
    ClusterMass(connectivity=26, threshold_t=3.1),
    Tfce(),
)
FEW_SHUFFLES = 8


def tfce_study(folder: str, n_permutations: str, sides: str) -> None:
    """Test the mean of the maps of a folder with TFCE, ``"one-sided"`` or ``"two-sided"``."""
    maps = load_maps(map_paths(Path(folder)), Path(folder, "mask.nii.gz"))
    inference = permutation_test(
        maps,
        statistics=(Tfce(),),
        n_permutations=int(n_permutations),
        two_sided=sides == "two-sided",
        device="cpu",
    )
    save_p(inference, Path(folder))


def time_first_calls(folder: str, report: str) -> None:
    """Write the seconds of the first and the second small study with all statistics to a file."""
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        maps = load_maps(map_paths(Path(folder)), Path(folder, "mask.nii.gz"))
        inference = permutation_test(
            maps, statistics=ALL_STATISTICS, n_permutations=FEW_SHUFFLES, device="cpu"
        )
        save_p(inference, Path(folder))
        seconds.append(time.perf_counter() - start)
    Path(report).write_text(json.dumps(seconds))


def save_p(inference: Inference, folder: Path) -> None:
    """Write the corrected p of every statistic."""
    for outcome in inference.outcomes:
        image = images.unmask(outcome.p_corrected, inference.grid)
        images.save_image(image, folder / f"p_{outcome.statistic}.nii.gz", "float32")
