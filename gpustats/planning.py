"""What a permutation test was asked for, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpustats.contrasts import Contrast
from gpustats.design import Design
from gpustats.engines import Form
from gpustats.enhancements import ClusterExtent, ClusterMass, MapKind, Statistic
from gpustats.memory import Plan
from gpustats.partition import SCHEMES, Partition, Projection, Scheme
from gpustats.shuffles import Shard, Shuffles


@dataclass(frozen=True, eq=False)
class Task:
    """Say what is to be done for a contrast; all of it is known before the data are looked at.

    Parameters
    ----------
    contrast
        What is tested.
    shuffles
        The shuffles of the test.
    rule
        What a shuffle does.
    two_sided
        Whether both tails count.
    indices
        Which shuffles are to be computed.
    plan
        How to go through data on disk.
    """

    contrast: Contrast
    shuffles: Shuffles
    rule: Projection
    two_sided: bool
    indices: range
    plan: Plan | None = None

    @property
    def form(self) -> Form:
        """What the rows of a shuffle are."""
        n_tested, df = self.rule.n_tested, float(self.rule.df)
        is_f = self.contrast.statistic == "F"
        return Form(n_tested, self.rule.n_rows - n_tested, df, is_f)


def described(tasks: Sequence[Task]) -> dict[str, Any]:
    """Return which shuffles are used for each contrast, and out of how many."""
    numbers = {task.contrast.name: task.shuffles.n_distinct for task in tasks}
    return {
        "shuffles": {task.contrast.name: task.shuffles.describe() for task in tasks},
        # JSON has no larger integers; the line above says about how many there are
        "n_distinct": {name: n if n < 2**53 else None for name, n in numbers.items()},
    }


def plans_of(tasks: Sequence[Task]) -> dict[str, Any]:
    """Return how the data are gone through for each contrast, for a JSON."""
    plans = {task.contrast.name: task.plan for task in tasks}
    return {"contrasts": {name: plan.as_settings() for name, plan in plans.items() if plan}}


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
    df: float,
) -> None:
    """Refuse what does not go together before the first contrast is computed."""
    names = [statistic.name for statistic in statistics]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"statistics must be one or more, each kind once; got {names}")
    if scheme not in SCHEMES:
        raise ValueError(f"scheme must be one of {', '.join(SCHEMES)}, got {scheme!r}")
    for contrast in contrasts:
        if contrast.statistic == "F" and two_sided:
            raise ValueError(f"contrast {contrast.name!r} is an F contrast, which has one tail")
        kind = MapKind(contrast.statistic, df, counts_both_tails(contrast, two_sided), 0.0)
        for statistic in statistics:
            if isinstance(statistic, ClusterExtent | ClusterMass):
                statistic.height(kind)


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
