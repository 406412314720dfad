"""The files of PALM, under its names: statistics, p, and the words of the command line.

====================================  ==========================================================
``<prefix>_vox_tstat_c1``             t of the first contrast; ``_c1`` only if there are several
``<prefix>_vox_tstat_uncp_c1``        p of the voxel alone
``<prefix>_vox_tstat_fwep_c1``        p corrected over voxels
``<prefix>_vox_tstat_fdrp_c1``        p adjusted for the false discovery rate (``-fdr``)
``<prefix>_vox_tstat_cfwep_c1``       p corrected over contrasts, too (``-corrcon``); ``cfdrp``
``<prefix>_vox_tstat_uncparap_c1``    parametric p (``-saveparametric``); ``fdrparap``
``<prefix>_vox_tstat_c1_dof.txt``     degrees of freedom: rank of the contrast, of the residuals
``<prefix>_tfce_tstat...``            score, ``uncp``, ``fwep``, ... of TFCE (``-T``)
``<prefix>_clustere_tstat...``        extent and ``fwep`` of clusters (``-C``); ``clusterm``: mass
``<prefix>_vox_fstat_c3``             F, behind the t contrasts; ``ztstat``, ``zfstat``: ``-zstat``
``<prefix>_vox_cope_c1``              effect, and ``varcope``, of t contrasts (``-saveglm``)
``<prefix>mask``                      1 where voxels are tested (``-savemask``)
``<prefix>_palmconfig.txt``           the command line, which may be given instead of it
====================================  ==========================================================

Values outside the mask are 0, those of p too. p is 1 - p with ``-save1-p``, and
-log10 p with ``-logp``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from gpustats import images
from gpustats.contrast_maps import ContrastMaps
from gpustats.outcomes import Inference, Outcome
from gpustats.outputs import Pictures, contrast_summary, extreme
from gpustats.palm_model import PalmModel, PalmTest
from gpustats.palm_options import PalmOptions
from gpustats.significance import upper_tail_p
from gpustats.spaces import Grid

STEMS = {
    "voxelwise": "vox",
    "cluster_extent": "clustere",
    "cluster_mass": "clusterm",
    "tfce": "tfce",
}
METHODS = {"tail": "gpd", "gamma": "gamma"}
"""What fits to the null distribution are called in `gpustats.tails`."""
ALPHA = 0.05
SMALLEST_P = 1e-300
"""What a fit that says 0 is written as, so that -log10 p is a number."""

Arrays = dict[str, NDArray[np.float64]]


def image_ending(source: Path) -> str:
    """Return how images end: as the input does."""
    return ".nii" if source.name.lower().endswith((".nii", ".img", ".hdr")) else ".nii.gz"


class Written:
    """Know what is written of a run.

    Parameters
    ----------
    options, model
        What was asked for.
    inference
        The test of all contrasts.
    """

    def __init__(self, options: PalmOptions, model: PalmModel, inference: Inference) -> None:
        self.options = options
        self.model = model
        self.inference = inference
        self.corrected: dict[str, dict[str, NDArray[np.float64]]] = {}
        self.adjusted: dict[str, dict[str, NDArray[np.float64]]] = {}
        if options.over_contrasts:
            names = dict.fromkeys(outcome.statistic for outcome in inference.outcomes)
            self.corrected = {one: inference.p_corrected_over_contrasts(one) for one in names}
            self.adjusted = {one: self._adjusted_together(one) for one in names if self._has(one)}

    def pictures(self, test: PalmTest) -> Pictures:
        """Return the images of a contrast by what stands between prefix and ending of a name."""
        arrays = self._of_voxels(test)
        for outcome in self._outcomes(test):
            arrays |= self._of(test, outcome)
        grid = self.inference.grid
        return {key: (images.unmask(array, grid, key), np.float32) for key, array in arrays.items()}

    def described(self, test: PalmTest) -> dict[str, Any]:
        """Describe a test for the JSON, with the keys of ``gpustats permute``."""
        name, settings = test.contrast.name, self.inference.settings
        outcomes = self._outcomes(test)
        return {
            **contrast_summary(self._maps(test)),
            "title": test.title,
            "shuffles": {
                "description": settings["shuffles"][name],
                "n_shuffles": outcomes[0].n_shuffles,
                "n_distinct": settings["n_distinct"][name],
                "minimum_p": outcomes[0].minimum_p,
            },
            "alpha": ALPHA,
            "two_sided": outcomes[0].two_sided,
            "statistics": [_summary(outcome, self.inference.grid) for outcome in outcomes],
        }

    def degrees_of_freedom(self, test: PalmTest) -> dict[str, str]:
        """Return the text of degrees of freedom by the name of its file, if it is asked for."""
        if not self.options.degrees_of_freedom:
            return {}
        maps = self._maps(test)
        return {f"vox_{self._kind(test)}{test.suffix}_dof.txt": f"{maps.dimension}\n{maps.df}\n"}

    def _maps(self, test: PalmTest) -> ContrastMaps:
        """Return what the contrast says at every voxel."""
        return self.inference.maps[test.contrast.name]

    def _outcomes(self, test: PalmTest) -> list[Outcome]:
        """Return what was found of a contrast."""
        name = test.contrast.name
        return [one for one in self.inference.outcomes if one.contrast.name == name]

    def _kind(self, test: PalmTest) -> str:
        """Return what the statistic is called."""
        return f"z{test.kind}" if self.options.z_statistic else test.kind

    def _of_voxels(self, test: PalmTest) -> Arrays:
        """Return what is not compared: the statistic, its parts, and parametric p."""
        maps, kind, suffix = self._maps(test), self._kind(test), test.suffix
        found = {f"vox_{kind}{suffix}": maps.z if self.options.z_statistic else maps.statistic}
        if self.options.save_glm and test.kind == "tstat":
            found |= {f"vox_cope{suffix}": maps.effect, f"vox_varcope{suffix}": maps.variance}
        if self.options.parametric:
            both = self.options.two_tailed and test.kind == "tstat"
            p = upper_tail_p(maps.z, two_sided=both)
            found[f"vox_{kind}_uncparap{suffix}"] = self._as_written(p)
            if self.options.fdr:
                adjusted = false_discovery_control(p)
                found[f"vox_{kind}_fdrparap{suffix}"] = self._as_written(adjusted)
        return found

    def _of(self, test: PalmTest, outcome: Outcome) -> Arrays:
        """Return the score and p of a statistic."""
        statistic, name = outcome.statistic, test.contrast.name
        stem = f"{STEMS[statistic]}_{self._kind(test)}"
        found = {} if statistic == "voxelwise" else {f"{stem}{test.suffix}": outcome.scores}
        p = {"fwep": self._corrected(outcome)}
        if self._has(statistic):
            p["uncp"] = outcome.p_uncorrected
            if self.options.fdr:
                p["fdrp"] = np.asarray(false_discovery_control(outcome.p_uncorrected))
        if statistic in self.corrected:
            p["cfwep"] = self.corrected[statistic][name]
        if statistic in self.adjusted and self.options.fdr:
            p["cfdrp"] = self.adjusted[statistic][name]
        return found | {f"{stem}_{k}{test.suffix}": self._as_written(v) for k, v in p.items()}

    def _has(self, statistic: str) -> bool:
        """Tell whether there are uncorrected p of a statistic."""
        return not self.options.without_uncorrected and statistic in ("voxelwise", "tfce")

    def _corrected(self, outcome: Outcome) -> NDArray[np.float64]:
        """Return corrected p, from a fit on request."""
        if self.options.accelerate is None:
            return outcome.p_corrected
        p, *_ = outcome.tail("gpd" if self.options.accelerate == "tail" else "gamma")
        return p

    def _adjusted_together(self, statistic: str) -> dict[str, NDArray[np.float64]]:
        """Adjust the uncorrected p of all contrasts at once."""
        chosen = [one for one in self.inference.outcomes if one.statistic == statistic]
        p = np.array([one.p_uncorrected for one in chosen])
        q = false_discovery_control(p, axis=None).reshape(p.shape)
        return {one.contrast.name: row for one, row in zip(chosen, q, strict=True)}

    def _as_written(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        """Turn p into what is asked for."""
        if self.options.one_minus_p:
            return 1 - p
        return -np.log10(np.maximum(p, SMALLEST_P)) if self.options.log_p else p


def mask_picture(grid: Grid) -> Pictures:
    """Return the image of the mask, whose name has no underscore in PALM."""
    return {"mask": (images.unmask(np.ones(grid.n_voxels), grid, "mask"), np.uint8)}


def _summary(outcome: Outcome, grid: Grid) -> dict[str, Any]:
    """Describe what a statistic found."""
    p = outcome.p_corrected
    peak = int(np.lexsort((-outcome.scores, p))[0])
    return {
        "statistic": outcome.statistic,
        "fwe_thresholds": {f"{ALPHA:g}": outcome.threshold(ALPHA)},
        "smallest_p_corrected": extreme(p, peak, grid),
        "score_there": float(outcome.observed[peak]),
        "n_surviving_voxels": int(np.count_nonzero(p <= ALPHA)),
    }


def configuration(words: Sequence[str]) -> str:
    """Return the text of a command line as PALM keeps it: an option per line."""
    lines = ["# Configuration file for PALM.", f"# {datetime.now():%d-%b-%Y %H:%M:%S}", ""]
    for word in words:
        if word.startswith("-"):
            lines.append(word)
        else:
            lines[-1] += f" {word}"
    return "\n".join(lines) + "\n"


def titled(inference: Inference, tests: Sequence[PalmTest]) -> Inference:
    """Return a test with contrasts under the titles of the design files."""
    names = {one.contrast.name: f"{one.contrast.name} {one.title}".strip() for one in tests}

    def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
        return {names[name]: value for name, value in values.items()}

    settings = dict(inference.settings)
    settings |= {key: renamed(settings[key]) for key in ("shuffles", "n_distinct")}
    outcomes = [
        replace(one, contrast=replace(one.contrast, name=names[one.contrast.name]))
        for one in inference.outcomes
    ]
    maps = {
        names[name]: replace(one, contrast=replace(one.contrast, name=names[name]))
        for name, one in inference.maps.items()
    }
    return replace(inference, outcomes=tuple(outcomes), settings=settings, maps=maps)
