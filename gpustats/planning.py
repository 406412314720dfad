"""What a permutation test was asked for, checked before anything is computed."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from gpustats.cohort import Cohort
from gpustats.contrasts import Contrast
from gpustats.design import Design
from gpustats.engines import Engine, Form
from gpustats.enhancements import (
    ClusterExtent,
    ClusterMass,
    MapKind,
    Statistic,
    looks_at_f,
    looks_at_z,
)
from gpustats.exchangeability import BlockExchange
from gpustats.maps import Maps
from gpustats.memory import Load, Plan, streamed
from gpustats.partition import SCHEMES, Partition, Projection, Scheme, partition, projection
from gpustats.shuffles import Shard, Shuffles
from gpustats.smoothing import Blur, check_sigma
from gpustats.stored import StoredMaps

logger = logging.getLogger("gpustats")


@dataclass(frozen=True, eq=False)
class Task:
    """Say what is to be done for a contrast; all of it is known before the data are looked at.

    Parameters
    ----------
    contrast
        What is tested.
    shuffles
        The shuffles of the test.
    scheme, rule
        How shuffles meet the nuisance, and what that is where no voxel lacks subjects.
    two_sided
        Whether both tails count.
    indices
        Which shuffles are to be computed.
    load
        What there is to go through.
    plan
        How to go through data on disk.
    variance_smoothing_mm
        Standard deviation of the Gaussian that smooths variances, if any does.
    """

    contrast: Contrast
    shuffles: Shuffles
    scheme: Scheme
    rule: Projection
    two_sided: bool
    indices: range
    load: Load
    plan: Plan | None = None
    variance_smoothing_mm: float | None = None

    @property
    def form(self) -> Form:
        """What the rows of a shuffle are."""
        return form_of(self.rule, self.contrast)

    def of(self, indices: range, engine: Engine, memory: int | None) -> Task:
        """Return the task for other shuffles, planned anew."""
        load = replace(self.load, shuffles=indices)
        plan = self.plan and streamed(engine, load, memory)
        return replace(self, indices=indices, load=load, plan=plan)


@dataclass(frozen=True, eq=False)
class Choices:
    """Hold what a test was told; see `gpustats.inference.permutation_test`."""

    statistics: tuple[Statistic, ...]
    n_permutations: int
    two_sided: bool | None
    seed: int
    shuffles: range | Shard | None
    blocks: NDArray[Any] | None
    block_exchange: BlockExchange
    errors: str
    scheme: Scheme
    uncorrected: bool
    null_contributions: bool = False
    variance_smoothing_mm: float | None = None

    def as_settings(self) -> dict[str, Any]:
        """Return what is kept of it, whichever range of shuffles is computed."""
        return {
            "seed": int(self.seed),
            "n_permutations": int(self.n_permutations),
            "scheme": self.scheme,
            "errors": self.errors,
            "two_sided": self.two_sided is not False,
            "uncorrected": self.uncorrected,
            "null_contributions": self.null_contributions,
            "variance_smoothing_mm": self.variance_smoothing_mm,
            "statistics": [repr(statistic) for statistic in self.statistics],
        }

    def tasks(
        self,
        maps: Maps | StoredMaps | Cohort,
        design: Design,
        contrasts: Collection[Contrast],
        engine: Engine,
        budget: int | None,
    ) -> list[Task]:
        """Plan the test of every contrast; refuse what can be refused without a look at the data.

        Raises
        ------
        ValueError
            If an option does not fit, or the memory is too little.
        """
        all_complete = not isinstance(maps, Maps) or maps.missing is None
        df = design.df if all_complete else None
        check_options(contrasts, self.statistics, self.two_sided, self.scheme, df)
        sigma_mm = self.variance_smoothing_mm
        if sigma_mm is not None:
            check_smoothing(sigma_mm, contrasts, self.statistics, df)
        load = Load(
            maps.n_voxels,
            maps.n_subjects,
            design.rank,
            len(contrasts),
            len(self.statistics),
            spatial=self.null_contributions
            or sigma_mm is not None
            or any(statistic.name != "voxelwise" for statistic in self.statistics),
            smoothing_bytes=0 if sigma_mm is None else Blur(maps.grid, sigma_mm).working_bytes,
        )
        tasks = []
        for one in contrasts:
            parts = partition(design, one)
            drawn = self._drawn(design, parts, all_complete)
            logger.info("%s: %s", one.name, drawn.describe())
            rule = projection(parts, self.scheme, drawn.unmoved)
            indices = shuffle_range(self.shuffles, drawn.n_shuffles)
            # of t, and of what a nuisance that is fitted again explains
            n_maps = 1 if sigma_mm is None or rule.n_rows == rule.n_tested else 2
            its_load = replace(load, n_rows=rule.n_rows, shuffles=indices, maps_per_shuffle=n_maps)
            plan = None if isinstance(maps, Maps) else streamed(engine, its_load, budget)
            both_tails = counts_both_tails(one, self.two_sided)
            choices = drawn, self.scheme, rule, both_tails, indices
            tasks.append(Task(one, *choices, its_load, plan, sigma_mm))
        for task in tasks:
            if task.plan is not None:
                logger.info("plan of %s: %s", task.contrast.name, task.plan.describe())
        return tasks

    def _drawn(self, design: Design, parts: Partition, all_complete: bool) -> Shuffles:
        """Return the shuffles of a contrast."""
        errors = chosen_errors(self.errors, parts)
        # shuffles that are one to all subjects, with equal rows, are not one to some of them
        all_alike = all_complete or errors == "ise"
        return Shuffles(
            design.n_subjects,
            errors,
            self.n_permutations,
            design.matrix if all_alike else None,
            self.blocks,
            self.block_exchange,
            self.seed,
        )


def described_maps(maps: Maps | StoredMaps) -> dict[str, Any]:
    """Return how many voxels left the mask, and how many patterns of missing subjects are left."""
    missing = maps.missing if isinstance(maps, Maps) else None
    return {
        "dropped_voxels": maps.dropped,
        "missing_patterns": 0 if missing is None else missing.n_patterns,
    }


def form_of(rule: Projection, contrast: Contrast) -> Form:
    """Return what the rows of a rule are."""
    n_nuisance, is_f = rule.n_rows - rule.n_tested, contrast.statistic == "F"
    return Form(rule.n_tested, n_nuisance, float(rule.df), is_f)


def described(tasks: Sequence[Task]) -> dict[str, Any]:
    """Return which shuffles are used for each contrast, and out of how many."""
    numbers = {task.contrast.name: task.shuffles.n_distinct for task in tasks}
    return {
        "shuffles": {task.contrast.name: task.shuffles.describe() for task in tasks},
        # JSON has no larger integers; the line above says about how many there are
        "n_distinct": {name: n if n < 2**53 else None for name, n in numbers.items()},
    }


def plans_of(tasks: Sequence[Task], seconds: Sequence[float | None]) -> dict[str, Any]:
    """Return how the data are gone through for each contrast, and how long was expected."""
    return {
        "contrasts": {
            task.contrast.name: {
                **task.plan.as_settings(),
                "seconds": None if expected is None else round(expected, 1),
            }
            for task, expected in zip(tasks, seconds, strict=True)
            if task.plan
        }
    }


def named_contrasts(design: Design, contrast: Any) -> dict[str, Contrast]:
    """Return the contrasts to test, by name."""
    if not isinstance(contrast, Mapping):
        contrast = {None: contrast}
    checked = [design.contrast(definition, name=name) for name, definition in contrast.items()]
    return {one.name: one for one in checked}


def check_options(
    contrasts: Iterable[Contrast],
    statistics: Sequence[Statistic],
    two_sided: bool | None,
    scheme: Scheme,
    df: float | None,
) -> None:
    """Refuse what does not go together before the first contrast is computed.

    ``df`` is None where voxels differ in it.
    """
    names = [statistic.name for statistic in statistics]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"statistics must be one or more, each kind once; got {names}")
    if scheme not in SCHEMES:
        raise ValueError(f"scheme must be one of {', '.join(SCHEMES)}, got {scheme!r}")
    if df is None and any(map(looks_at_f, statistics)):
        raise ValueError(
            "F of unequal degrees of freedom is compared as z; give threshold_z or threshold_p, "
            "not threshold_f, where voxels lack subjects"
        )
    for contrast in contrasts:
        if contrast.statistic == "F" and two_sided:
            raise ValueError(f"contrast {contrast.name!r} is an F contrast, which has one tail")
        df_of_maps = df if contrast.statistic == "t" else None
        kind = MapKind(contrast.statistic, df_of_maps, counts_both_tails(contrast, two_sided), 0.0)
        for statistic in statistics:
            if isinstance(statistic, ClusterExtent | ClusterMass):
                statistic.height(kind)


def check_smoothing(
    variance_smoothing_mm: float,
    contrasts: Iterable[Contrast],
    statistics: Sequence[Statistic],
    df: float | None,
) -> None:
    """Refuse to smooth variances where that is not what it says; ``df`` as of `check_options`."""
    check_sigma(variance_smoothing_mm)
    if df is None:
        raise ValueError(
            "variance_smoothing_mm needs data of every subject at every voxel, got voxels that "
            "lack subjects; load the maps without missing='pairwise', or leave it out"
        )
    if any(looks_at_z(statistic, "t") for statistic in statistics):
        raise ValueError("t of a smoothed variance has no z; leave out of_z, or the smoothing")
    for contrast in contrasts:
        if contrast.statistic == "F":
            raise ValueError(
                f"variance_smoothing_mm smooths the variance of t, and contrast {contrast.name!r} "
                "is an F contrast (FSL's -v leaves F as it is, too); test it by itself, without"
            )


def counts_both_tails(contrast: Contrast, two_sided: bool | None) -> bool:
    """Tell whether both tails count: those of t do unless it was said otherwise."""
    return contrast.statistic == "t" and two_sided is not False


def shuffle_range(shuffles: range | Shard | None, n_shuffles: int) -> range:
    """Return the shuffles to compute; refuse a range with gaps or beyond the last."""
    if shuffles is None:
        return range(n_shuffles)
    if isinstance(shuffles, Shard):
        return shuffles.range_of(n_shuffles)
    if shuffles.step != 1 or not 0 <= shuffles.start < shuffles.stop <= n_shuffles:
        raise ValueError(
            f"shuffles must be a range without gaps inside 0 to {n_shuffles}, got {shuffles}"
        )
    return shuffles


def chosen_errors(errors: str, parts: Partition) -> Any:
    """Return what is assumed of the errors: by itself, signs are flipped where a mean is tested."""
    if errors != "auto":
        return errors
    return "ise" if parts.tests_the_mean else "ee"
