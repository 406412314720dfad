"""What a permutation test was asked for, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gpustats.contrasts import Contrast
from gpustats.design import Design
from gpustats.enhancements import ClusterExtent, ClusterMass, MapKind, Statistic
from gpustats.partition import SCHEMES, Partition, Scheme
from gpustats.shuffles import Shard


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
