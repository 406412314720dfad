"""Whole permutation tests on a GPU beside the same ones on the CPU, from a stack in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from benchmarks.gpu_data import Data
from benchmarks.harness import Check, check_below, time_interleaved
from benchmarks.records import Row
from benchmarks.spatial import CLUSTER_CONNECTIVITY, THRESHOLD
from gpustats import ClusterExtent, ClusterMass, Maps, Tfce, Voxelwise, permutation_test
from gpustats.enhancements import Statistic
from gpustats.outcomes import Inference

T_ERROR = 1e-5
SCORE_ERROR = 1e-3
"""Relative. Maps of t differ in their last bits, and a voxel at the edge of a cluster may be in."""
SHARE_OF_SHUFFLES = 0.01
"""Of which so many may have larger errors."""


class Study(NamedTuple):
    """A test: in words, its statistics, and whether both tails count."""

    what: str
    statistics: tuple[Statistic, ...]
    two_sided: bool


CLUSTERS = {"connectivity": CLUSTER_CONNECTIVITY, "threshold_t": THRESHOLD}
LARGEST_T = Study("largest t, two-sided", (Voxelwise(),), two_sided=True)
SPATIAL = (
    Study("clusters", (Voxelwise(), ClusterExtent(**CLUSTERS), ClusterMass(**CLUSTERS)), False),
    Study("TFCE, one-sided", (Tfce(),), two_sided=False),
    Study("TFCE, two-sided", (Tfce(),), two_sided=True),
)


def studies(data: Data) -> Iterator[Check | Row]:
    """Run every study on both engines, compare their null maxima, and time them in turn."""
    for n_subjects in data.sizes.study_subjects:
        maps = data.group(n_subjects)
        chosen = (
            (LARGEST_T, *SPATIAL) if n_subjects == data.sizes.study_subjects[0] else (LARGEST_T,)
        )
        for study in chosen:
            yield from compare_and_time(maps, study, data)


def compare_and_time(maps: Maps, study: Study, data: Data) -> Iterator[Check | Row]:
    """Run one study on both engines."""
    found: dict[str, Inference] = {}

    def run(device: str) -> None:
        found[device] = permutation_test(
            maps,
            statistics=study.statistics,
            n_permutations=data.sizes.study_shuffles,
            two_sided=study.two_sided,
            device=device,
        )

    seconds = time_interleaved(
        {device: lambda device=device: run(device) for device in ("cuda", "cpu")},
        data.sizes.long_repeats,
    )
    what = f"{data.sizes.study_shuffles:,} sign flips, {study.what}, {maps.n_subjects} subjects"
    yield from compare(found["cuda"], found["cpu"], what)
    yield Row(f"whole study, {what}", "s", seconds["cuda"], seconds["cpu"], "CPU engine")


def compare(ours: Inference, theirs: Inference, what: str) -> Iterator[Check]:
    """Check the null maxima of every statistic."""
    for one, other in zip(ours.outcomes, theirs.outcomes, strict=True):
        limit = T_ERROR if one.statistic == "voxelwise" else SCORE_ERROR
        # where no cluster was found there is nothing to divide by
        wanted = np.maximum(np.abs(other.null_maxima), np.finfo(np.float32).tiny)
        errors = np.abs(one.null_maxima - other.null_maxima) / wanted
        share = float(np.mean(errors > limit))
        name = f"share of {one.statistic} maxima off by more than {limit:g}, {what}"
        yield check_below(name, share, SHARE_OF_SHUFFLES)
