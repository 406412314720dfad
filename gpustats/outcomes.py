"""What a permutation test yields: observed scores, null maxima, p."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpustats.contrast_maps import ContrastMaps
from gpustats.contrasts import Contrast
from gpustats.spaces import Grid
from gpustats.sweeping import Scale
from gpustats.tails import Tail, TailMethod, counts_to_p, empirical_p, fit_tail, threshold_for

RELATIVE_TOLERANCE = 1e-5
"""Scores this far below the reported one tie with it, relatively where it is over 1."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """Hold what was found of one statistic of one contrast.

    Parameters
    ----------
    statistic
        Its name: ``"voxelwise"``, ``"cluster_extent"``, ``"cluster_mass"``, ``"tfce"`` or
        ``"true_discoveries"``.
    contrast
        What was tested.
    observed
        ``(n_voxels,)``: t or F (their z or the pseudo-t, says ``scale``), or the score of each
        voxel, with the sign of its side.
    limits
        ``(n_voxels,)``: what a value under a shuffle must reach to be no smaller than the observed
        one, in the unit of ``maxima``.
    indices
        The shuffles that were computed.
    n_shuffles
        How many there are in all.
    two_sided
        Whether large negative values count.
    maxima
        ``(len(indices),)``: the largest value of each shuffle, as it is compared.
    null_maxima
        The same in the unit of ``observed``.
    counts
        ``(n_voxels,)`` int64: how many of the shuffles reach the limit of each voxel, or None if
        that was not counted.
    scale
        What values of voxels are given as: ``"statistic"``, ``"z"`` where degrees of freedom
        differ because voxels lack subjects, or ``"pseudo-t"`` where variances are smoothed.
    null_contributions
        ``(n_voxels,)`` int64: how many of the shuffles have their maximum at each voxel, ties
        included: at all voxels of the winning cluster, at the voxels whose ranks make the largest
        value of `TrueDiscoveries`. None if that was not counted.
    """

    statistic: str
    contrast: Contrast
    observed: NDArray[np.float64]
    limits: NDArray[np.float64]
    indices: range
    n_shuffles: int
    two_sided: bool
    maxima: NDArray[np.float64]
    null_maxima: NDArray[np.float64]
    counts: NDArray[np.int64] | None
    scale: Scale = "statistic"
    null_contributions: NDArray[np.int64] | None = None

    @property
    def is_complete(self) -> bool:
        """Whether all shuffles have been computed."""
        return len(self.indices) == self.n_shuffles

    @property
    def scores(self) -> NDArray[np.float64]:
        """What speaks against the hypothesis, ``(n_voxels,)``: sizes if both tails count."""
        return np.abs(self.observed) if self.two_sided else self.observed

    @property
    def p_corrected(self) -> NDArray[np.float64]:
        """Family-wise error corrected p, ``(n_voxels,)``."""
        self._check_complete()
        return empirical_p(self.limits, self.maxima)

    @property
    def p_uncorrected(self) -> NDArray[np.float64]:
        """Uncorrected p, ``(n_voxels,)``: exact counts over the number of shuffles."""
        self._check_complete()
        if self.counts is None:
            raise ValueError(
                f"{self.statistic} was not counted at every voxel; run the test with "
                "uncorrected=True"
            )
        return counts_to_p(self.counts, self.n_shuffles)

    def tail(
        self, method: TailMethod = "gpd"
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], Tail]:
        """Return p corrected with a fit to the tail of the null maxima.

        Parameters
        ----------
        method
            As in `gpustats.tails.fit_tail`.

        Returns
        -------
        p : ndarray
            ``(n_voxels,)``, which can be below 1 / n_shuffles.
        fitted : ndarray
            Where p comes from the fit; elsewhere it is `p_corrected`.
        tail : Tail
            The fit, its goodness, or why there is none.
        """
        self._check_complete()
        tail = fit_tail(self.null_maxima, method)
        p, fitted = tail.p(self.scores)
        return np.where(fitted, p, self.p_corrected), fitted, tail

    @property
    def minimum_p(self) -> float:
        """The smallest p that the test can give."""
        return 1 / self.n_shuffles

    def threshold(self, alpha: float) -> float | None:
        """Return the smallest score whose corrected p is at most ``alpha``; None if none is."""
        self._check_complete()
        return threshold_for(self.null_maxima, alpha)

    def _check_complete(self) -> None:
        """Refuse to give p from a part of the shuffles."""
        if not self.is_complete:
            raise ValueError(
                f"shuffles {self.indices.start} to {self.indices.stop} of {self.n_shuffles} were "
                "computed; merge the results of all ranges first"
            )


@dataclass(frozen=True, eq=False)
class Inference:
    """Hold the outcomes of a permutation test.

    ``inference["tfce"]`` is the outcome of a statistic where one contrast was tested,
    ``inference["age", "tfce"]`` where there were several.

    Parameters
    ----------
    outcomes
        One per contrast and statistic.
    grid
        Which voxels these are.
    settings
        What the test was told.
    fingerprint
        What must be equal in results that are merged: data, design, settings, version, device.
    maps
        The observed effect, variance, t or F, z and p maps, by the name of the contrast.
    """

    outcomes: tuple[Outcome, ...]
    grid: Grid
    settings: Mapping[str, Any]
    fingerprint: Mapping[str, str]
    maps: Mapping[str, ContrastMaps] = field(default_factory=dict)

    def __getitem__(self, key: str | tuple[str, str]) -> Outcome:
        """Return an outcome by statistic, or by contrast and statistic."""
        contrast, statistic = (None, key) if isinstance(key, str) else key
        found = [
            outcome
            for outcome in self.outcomes
            if outcome.statistic == statistic and contrast in (None, outcome.contrast.name)
        ]
        if len(found) != 1:
            there = ", ".join(f"{o.contrast.name!r}, {o.statistic!r}" for o in self.outcomes)
            raise KeyError(f"{key!r} names {len(found)} outcomes; there are: {there}")
        return found[0]

    def p_corrected_over_contrasts(self, statistic: str) -> dict[str, NDArray[np.float64]]:
        """Return p of a statistic, corrected over voxels and contrasts, by contrast.

        Raises
        ------
        ValueError
            If the contrasts' statistics differ in kind, scale or dimension, or in shuffles.
        """
        chosen = [outcome for outcome in self.outcomes if outcome.statistic == statistic]
        kinds = {
            (o.contrast.statistic, o.scale, np.linalg.matrix_rank(o.contrast.weights), o.n_shuffles)
            for o in chosen
        }
        if len(kinds) != 1:
            raise ValueError(
                "correction over contrasts needs contrasts of one statistic and rank, and equal "
                f"shuffles; {statistic!r} has {len(kinds)} kinds of them"
            )
        for outcome in chosen:
            outcome._check_complete()
        joint = np.max([outcome.null_maxima for outcome in chosen], axis=0)
        corrected = {}
        for outcome in chosen:
            scores = outcome.scores
            tolerance = RELATIVE_TOLERANCE * np.maximum(np.abs(scores), 1)
            corrected[outcome.contrast.name] = empirical_p(scores, joint, tolerance=tolerance)
        return corrected
