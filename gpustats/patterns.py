"""Which subjects a voxel lacks: voxels grouped by the pattern of their missing values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Patterns:
    """Group voxels by the subjects that have data there.

    Parameters
    ----------
    observed
        ``(n_patterns, n_subjects)`` bool: who has data; no two rows are equal.
    of_voxel
        ``(n_voxels,)``: the pattern of each voxel; each pattern has one at least.

    Raises
    ------
    ValueError
        If shapes or numbers do not fit together.
    """

    observed: NDArray[np.bool_]
    of_voxel: NDArray[np.intp]

    def __post_init__(self) -> None:
        numbers = np.unique(self.of_voxel)
        if self.observed.ndim != 2 or not np.array_equal(numbers, np.arange(len(self.observed))):
            raise ValueError(
                f"patterns must be (n_patterns, n_subjects) and each have a voxel, got shape "
                f"{self.observed.shape} and {numbers.size} patterns among the voxels"
            )

    @property
    def n_patterns(self) -> int:
        """Number of patterns."""
        return len(self.observed)

    @property
    def n_observed(self) -> NDArray[np.intp]:
        """Number of subjects with data at each voxel, ``(n_voxels,)``."""
        return np.asarray(self.observed.sum(axis=1)[self.of_voxel])

    def __iter__(self) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Yield the subjects and the voxels of each pattern, ascending."""
        ends = np.cumsum(np.bincount(self.of_voxel))
        voxels = np.split(np.argsort(self.of_voxel, kind="stable"), ends[:-1])
        yield from zip(map(np.flatnonzero, self.observed), voxels, strict=True)

    def subset(self, keep: NDArray[np.bool_]) -> Patterns | None:
        """Return the patterns of the voxels where ``keep``; None where none of these lacks any."""
        kept, of_voxel = np.unique(self.of_voxel[keep], return_inverse=True)
        observed = self.observed[kept]
        return None if observed.all() else Patterns(observed, of_voxel)


def find_patterns(values: NDArray[np.float32]) -> Patterns | None:
    """Group the voxels of ``(n_voxels, n_subjects)`` values by where they are not finite.

    Returns
    -------
    Patterns or None
        None if all values are finite.
    """
    label = np.zeros(len(values), dtype=np.intp)
    n_labels = 1
    for column in values.T:
        # those who lack this subject part from the others of their group
        lacking = np.flatnonzero(~np.isfinite(column))
        groups, number = np.unique(label[lacking], return_inverse=True)
        label[lacking] = n_labels + number
        n_labels += groups.size
    if n_labels == 1:
        return None
    _, example, of_voxel = np.unique(label, return_index=True, return_inverse=True)
    return Patterns(np.isfinite(values[example]), of_voxel)
