"""Which voxels count: thresholds on the height and the extent of a z map."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from gpustats import images
from gpustats.contrasts import StatisticName
from gpustats.engines import resolve
from gpustats.outcomes import Inference
from gpustats.spaces import Grid, Lattice, check_connectivity

logger = logging.getLogger("gpustats")

HeightControl: TypeAlias = Literal["fpr", "fdr", "bonferroni"] | None

HEIGHT_WORDS: dict[HeightControl, str] = {
    "fpr": "uncorrected p <= {alpha:g}",
    "fdr": "false discovery rate {alpha:g}",
    "bonferroni": "family-wise error {alpha:g} by Bonferroni",
    None: "chosen by hand",
}
UNUSED_THRESHOLDS = (None, 3.0, 3.09)
"""Thresholds that are defaults: nobody asked for them."""
LIKELY_P_VALUE = 0.1
"""A z threshold as small as this is more likely to be a p value."""


@dataclass(frozen=True)
class ThresholdRule:
    """Say which voxels of a z map count; the parameters are those of `map_threshold`.

    Raises
    ------
    ValueError
        If a number is not in its unit, or a name is unknown.
    """

    alpha: float = 0.001
    threshold: float | None = 3.0
    height_control: HeightControl = "fpr"
    cluster_threshold: int = 0
    two_sided: bool = True
    connectivity: int = 6

    def __post_init__(self) -> None:
        if self.height_control not in ("fpr", "fdr", "bonferroni", None):
            raise ValueError(
                "height_control must be 'fpr', 'fdr', 'bonferroni' or None, "
                f"got {self.height_control!r}"
            )
        if not 0 < self.alpha <= 0.5:
            raise ValueError(
                f"alpha must be an error rate in (0, 0.5], got {self.alpha!r}; "
                "a z threshold goes into threshold=, with height_control=None"
            )
        if self.threshold is not None and not 0 <= self.threshold < np.inf:
            raise ValueError(f"threshold must be a z value >= 0, got {self.threshold!r}")
        if not self.cluster_threshold >= 0:
            raise ValueError(
                f"cluster_threshold must be a number of voxels, got {self.cluster_threshold!r}"
            )
        check_connectivity(self.connectivity)
        if self.height_control is not None and self.threshold not in UNUSED_THRESHOLDS:
            logger.warning(
                "threshold=%s is not used with height_control=%r; give height_control=None",
                self.threshold,
                self.height_control,
            )
        if self.height_control is None and 0 < (self.threshold or 0) <= LIKELY_P_VALUE:
            warnings.warn(
                f"threshold={self.threshold:g} is taken as a z value; if it is a p value, "
                "pass alpha= with height_control='fpr'",
                stacklevel=4,
            )

    def for_statistic(self, statistic: StatisticName) -> ThresholdRule:
        """Return the rule for a kind of statistic: F has one tail whatever was asked for."""
        return replace(self, two_sided=False) if statistic == "F" else self

    def describe(self, height: float) -> str:
        """Say in words which voxels pass, given the ``height`` that `height` returned."""
        sides = "|z|" if self.two_sided else "z"
        extent = f", at least {self.cluster_threshold} voxels" if self.cluster_threshold > 1 else ""
        control = HEIGHT_WORDS[self.height_control].format(alpha=self.alpha)
        return f"{sides} >= {height:.3f} ({control}{extent}; {self.connectivity} neighbours)"

    def height(self, values: NDArray[np.float64]) -> float:
        """Return the z threshold for the tested values, ``(n_voxels,)``."""
        tail = self.alpha / 2 if self.two_sided else self.alpha
        match self.height_control:
            case "fpr":
                return -float(ndtri(tail))
            case "bonferroni":
                return -float(ndtri(tail / values.size))
            case "fdr":
                return fdr_threshold(np.abs(values) if self.two_sided else values, tail)
        return 3.0 if self.threshold is None else float(self.threshold)

    def surviving(
        self, values: NDArray[np.float64], height: float, lattice: Lattice
    ) -> NDArray[np.bool_]:
        """Return which of the values are at or beyond a height, in clusters that are large enough.

        Parameters
        ----------
        values
            ``(n_voxels,)``.
        height
            What `height` returned.
        lattice
            Which of the voxels touch.
        """
        sides = [values >= height, values <= -height] if self.two_sided else [values >= height]
        above = np.stack(sides)
        if self.cluster_threshold > 1:
            for side, labels in zip(above, resolve("cpu").label(above, lattice), strict=True):
                side &= np.bincount(labels)[labels] >= self.cluster_threshold
        return np.asarray(above.any(axis=0))


def map_threshold(
    stat_img: Any = None,
    mask_img: Any = None,
    alpha: float = 0.001,
    threshold: float | None = 3.0,
    height_control: HeightControl | Literal["fwe"] = "fpr",
    cluster_threshold: int | None = 0,
    two_sided: bool = True,
    *,
    connectivity: int = 6,
    inference: Inference | None = None,
) -> tuple[Any, float]:
    """Keep the voxels of a z map that pass a threshold, in clusters of a least size.

    Parameters
    ----------
    stat_img
        A map of z values, path or image; left unchanged. None is allowed where the threshold
        does not depend on the data (``height_control`` ``"fpr"`` or None).
    mask_img
        The voxels that were tested: their number is the number of tests. By default those that
        are finite and not 0, which is the model's mask in maps that this package made.
    alpha
        Error rate in (0, 0.5]: of the uncorrected test (``"fpr"``), the false discovery rate
        (``"fdr"``), or the family-wise error rate (``"bonferroni"``, ``"fwe"``).
    threshold
        The threshold in z units, used when ``height_control`` is None; None means 3.0.
    height_control
        ``"fpr"``, ``"fdr"`` (Benjamini & Hochberg), ``"bonferroni"``, None, or ``"fwe"``: by the
        permutation test given as ``inference``.
    cluster_threshold
        Clusters of fewer voxels are removed; None or 0 keeps all. Clusters of either sign are
        formed apart.
    two_sided
        Whether large negative values count as well; ``alpha`` is then shared by both tails.
        Maps of F, and their z, have one tail: pass False.
    connectivity
        Which voxels touch: 6, 18 or 26 neighbours.
    inference
        The result of `permutation_test` for ``height_control="fwe"``: a voxel passes if p of the
        first statistic, corrected over voxels, is at most ``alpha``. The test was one- or
        two-sided as it was told; ``two_sided`` only says how clusters are formed.

    Returns
    -------
    thresholded : nibabel image or None
        The map with 0 where a voxel does not pass; all 0 if none does.
    threshold : float
        The z threshold: voxels at or beyond it pass. It is finite also when nothing survives
        the false discovery rate: then it is the height at which a single voxel would have. With
        ``"fwe"``, the smallest score of the statistic that passes, in its own unit.

    Raises
    ------
    ValueError
        If ``alpha`` is not in (0, 0.5], ``threshold`` is negative, the name of a method or a
        connectivity is unknown, or the map or its mask is empty.
    FileNotFoundError
        If a file is not there.

    References
    ----------
    .. [1] Benjamini & Hochberg (1995), J. R. Stat. Soc. B 57, 289-300.

    Examples
    --------
    >>> _, z = map_threshold(alpha=0.05, height_control="fpr", two_sided=False)
    >>> round(z, 3)
    1.645
    """
    if height_control == "fwe":
        rule = ThresholdRule(alpha, None, None, cluster_threshold or 0, two_sided, connectivity)
        return _by_permutation(stat_img, rule, inference)
    if inference is not None:
        raise ValueError("inference goes with height_control='fwe'")
    rule = ThresholdRule(
        alpha, threshold, height_control, cluster_threshold or 0, two_sided, connectivity
    )
    if stat_img is None:
        if height_control not in ("fpr", None):
            raise ValueError(f"stat_img is needed for height_control={height_control!r}")
        return None, rule.height(np.empty(0))
    volume, affine = images.read_map(stat_img)
    grid = tested_voxels(volume, affine, mask_img)
    values = volume[grid.mask]
    height = rule.height(values)
    kept = rule.surviving(values, height, grid.lattice(connectivity))
    return images.unmask(np.where(kept, values, 0.0), grid, "thresholded map"), height


def _by_permutation(
    stat_img: Any, rule: ThresholdRule, inference: Inference | None
) -> tuple[Any, float]:
    """Keep the voxels whose corrected p is small enough."""
    if inference is None or stat_img is None:
        raise ValueError("height_control='fwe' needs stat_img, and inference=permutation_test(...)")
    outcome, grid = inference.outcomes[0], inference.grid
    height = outcome.threshold(rule.alpha)
    if height is None:
        raise ValueError(
            f"{outcome.n_shuffles} shuffles cannot give p <= {rule.alpha:g}; "
            f"take at least {np.ceil(1 / rule.alpha):.0f}"
        )
    volume, affine = images.read_map(stat_img)
    if not images.same_grid(volume.shape, affine, grid.mask.shape, grid.affine):
        raise ValueError(f"stat_img has shape {volume.shape}, the inference {grid.mask.shape}")
    passes = outcome.p_corrected <= rule.alpha
    values = np.where(passes, volume[grid.mask], 0.0)
    smallest = np.min(np.abs(values[values != 0]), initial=np.inf)
    kept = rule.surviving(values, float(smallest), grid.lattice(rule.connectivity))
    return images.unmask(np.where(kept, values, 0.0), grid, "thresholded map"), height


threshold_stats_img = map_threshold


def tested_voxels(volume: NDArray[np.float64], affine: Any, mask_img: Any) -> Grid:
    """Return the grid of the voxels that a map tests.

    Raises
    ------
    ValueError
        If the mask is of another grid, or no voxel is finite and in the mask.
    """
    finite = np.isfinite(volume)
    if mask_img is None:
        grid = Grid(finite & (volume != 0), affine)
    else:
        mask = images.read_mask(mask_img)
        if not images.same_grid(volume.shape, affine, mask.mask.shape, mask.affine):
            raise ValueError(
                f"the mask has shape {mask.mask.shape} and affine {mask.affine[:3].tolist()}, the "
                f"map {volume.shape} and {np.asarray(affine)[:3].tolist()}; they must share a grid"
            )
        grid = Grid(mask.mask & finite, affine)
        if grid.n_voxels < mask.n_voxels:
            logger.info("%d voxels of the mask are not finite", mask.n_voxels - grid.n_voxels)
    if grid.n_voxels == 0:
        raise ValueError("the map has no voxel to threshold: none is finite and in the mask")
    return grid


def fdr_threshold(z_values: NDArray[np.float64], alpha: float) -> float:
    """Return the smallest z that Benjamini and Hochberg's procedure rejects at rate ``alpha``.

    Parameters
    ----------
    z_values
        ``(n_tests,)``; large values speak against the hypothesis.
    alpha
        The false discovery rate of the upper tail.

    Returns
    -------
    float
        Just below the smallest rejected value, so that ``>`` and ``>=`` mean the same voxels. If
        nothing is rejected, the z at which the largest value would have been.
    """
    z_values = np.sort(z_values)[::-1]
    n_tests = z_values.size
    passes = np.flatnonzero(ndtr(-z_values) <= alpha * np.arange(1, n_tests + 1) / n_tests)
    if passes.size == 0:
        return -float(ndtri(alpha / n_tests))
    return float(np.nextafter(z_values[passes[-1]], -np.inf))
