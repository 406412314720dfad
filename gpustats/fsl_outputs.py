"""The files of FSL's randomise, under its names: statistics, 1 - p, null distributions, and a JSON.

================================  ==============================================================
``<root>_tstat1``                 t of the first t contrast; ``fstat1`` is of the first F test;
                                  of the smoothed variance with ``-v``
``<root>_vox_corrp_tstat1``       1 - p, corrected over voxels (``-x``)
``<root>_vox_p_tstat1``           1 - p of the voxel alone (``-x --uncorrp``)
``<root>_clustere_corrp_tstat1``  the same of cluster extent (``-c``, ``-F``)
``<root>_clusterm_corrp_tstat1``  of cluster mass (``-C``, ``-S``)
``<root>_tfce_corrp_tstat1``      of TFCE (``-T``, ``--T2``)
``<root>_tfce_tstat1``            the score itself (``-R``); also ``clustere`` and ``clusterm``
``<root>_tfce_corrp_tstat1.txt``  the largest score of every permutation (``-N``)
``<root>_perm_tstat1.txt``        a line per permutation: rows from 1, or signs (``-P``)
``<root>_glm_cope``               4D: a volume per t contrast; also ``varcope``; ``pe`` has one
                                  per regressor; ``sigmasqr`` is one (``--glm_output``)
================================  ==============================================================

Values outside the mask are 0. Uncorrected p of clusters are what the name says; randomise itself
writes zeros there. Where ``-D`` takes out the mean, ``varcope`` and ``sigmasqr`` have the degrees
of freedom of the test, so that cope / sqrt(varcope) is t.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpustats import images
from gpustats.contrast_maps import ContrastMaps
from gpustats.contrasts import Contrast
from gpustats.fits import Fit
from gpustats.fsl_model import FslModel, FslTest
from gpustats.fsl_options import RandomiseOptions
from gpustats.memory import cut
from gpustats.outcomes import Inference, Outcome
from gpustats.outputs import Pictures, contrast_summary, extreme
from gpustats.shuffles import Shuffles
from gpustats.spaces import Grid

STEMS = {
    "voxelwise": "vox",
    "cluster_extent": "clustere",
    "cluster_mass": "clusterm",
    "tfce": "tfce",
}
ENDINGS = {"NIFTI_GZ": ".nii.gz", "NIFTI": ".nii"}
"""How images end, by ``FSLOUTPUTTYPE``."""
ALPHA = 0.05
AT_A_TIME = 4096
"""Permutations that are drawn at once, to be written."""


def image_ending() -> str:
    """Return how images end, as ``FSLOUTPUTTYPE`` says.

    Raises
    ------
    ValueError
        If that is a type that is not written here.
    """
    kind = os.environ.get("FSLOUTPUTTYPE", "") or "NIFTI_GZ"
    if kind not in ENDINGS:
        raise ValueError(f"FSLOUTPUTTYPE must be {' or '.join(ENDINGS)}, got {kind!r}")
    return ENDINGS[kind]


def pictures_of(
    maps: ContrastMaps, inference: Inference | None, options: RandomiseOptions
) -> Pictures:
    """Return the images of a contrast by what stands between the root and the ending of a name.

    Parameters
    ----------
    maps
        What the contrast says at every voxel.
    inference
        Its permutation test; None if there was none.
    options
        What is asked for.
    """
    name, grid = maps.contrast.name, maps.grid
    arrays: dict[str, NDArray[np.float64]] = {name: maps.statistic}
    for outcome in inference.outcomes if inference else ():
        stem = STEMS[outcome.statistic]
        arrays[f"{stem}_corrp_{name}"] = one_minus(outcome.p_corrected, outcome.n_shuffles)
        if options.uncorrected:
            arrays[f"{stem}_p_{name}"] = one_minus(outcome.p_uncorrected, outcome.n_shuffles)
        if options.raw and outcome.statistic != "voxelwise":
            arrays[f"{stem}_{name}"] = outcome.observed
    return {key: (images.unmask(array, grid, key), np.float32) for key, array in arrays.items()}


def one_minus(p: NDArray[np.float64], n_shuffles: int) -> NDArray[np.float64]:
    """Return 1 - p of counts over ``n_shuffles``, exactly (n - count) / n."""
    return np.asarray((n_shuffles - np.rint(p * n_shuffles)) / n_shuffles)


def glm_pictures(fitted: Fit, model: FslModel) -> Pictures:
    """Return estimates of regressors and t contrasts, with variances, by name as in `pictures_of`.

    Rank-deficient designs have the estimates of the pseudo-inverse.
    """
    basis = fitted.design.basis
    estimates = (np.linalg.pinv(fitted.design.matrix) @ basis) @ fitted.coordinates
    tested = [fitted.contrast(contrast) for contrast in model.contrasts]
    residual = fitted.engine.to_host(fitted.regression.residual_ss)
    arrays = {
        "glm_pe": estimates[: model.n_evs],
        "glm_cope": np.array([maps.effect for maps in tested]),
        "glm_varcope": np.array([maps.variance for maps in tested]),
        "glm_sigmasqr": np.asarray(residual)[np.newaxis] / fitted.design.df,
    }
    grid = fitted.maps.grid
    return {key: (_stacked(rows, grid, key), np.float32) for key, rows in arrays.items()}


def _stacked(rows: NDArray[np.float64], grid: Grid, description: str) -> Any:
    """Return a 4D image with a volume per row."""
    volumes = np.stack([grid.unmask(row) for row in rows], axis=-1)
    return images.to_image(volumes, grid.affine, description)


def together(pairs: Sequence[tuple[FslTest, Inference]]) -> Inference:
    """Put the tests of all contrasts into one result, under the titles of the design files.

    Parameters
    ----------
    pairs
        Each test and what it found, one or more.
    """
    first = pairs[0][1]
    names = {test.contrast.name: f"{test.contrast.name} {test.title}".strip() for test, _ in pairs}
    settings = dict(first.settings)
    for key in ("shuffles", "n_distinct"):
        settings[key] = {
            names[name]: value for _, one in pairs for name, value in one.settings[key].items()
        }
    settings["statistics"] = list(
        dict.fromkeys(one for _, found in pairs for one in found.settings["statistics"])
    )
    widths = [found.settings["variance_smoothing_mm"] for _, found in pairs]
    settings["variance_smoothing_mm"] = next((one for one in widths if one is not None), None)
    settings["errors"] = {names[test.contrast.name]: test.errors for test, _ in pairs}
    outcomes = [
        replace(outcome, contrast=_renamed(outcome.contrast, names))
        for _, found in pairs
        for outcome in found.outcomes
    ]
    maps = {
        names[name]: replace(one, contrast=_renamed(one.contrast, names))
        for _, found in pairs
        for name, one in found.maps.items()
    }
    return replace(first, outcomes=tuple(outcomes), settings=settings, maps=maps)


def _renamed(contrast: Contrast, names: Mapping[str, str]) -> Contrast:
    """Return a contrast under its title."""
    return replace(contrast, name=names[contrast.name])


def texts_of(
    folder: Path, root: str, test: FslTest, inference: Inference, options: RandomiseOptions
) -> list[str]:
    """Write the null distributions that are asked for, a number per line; return the names."""
    names = []
    for outcome in inference.outcomes if options.null_files else ():
        names.append(f"{root}_{STEMS[outcome.statistic]}_corrp_{test.contrast.name}.txt")
        lines = "".join(f"{value!r}\n" for value in outcome.null_maxima.tolist())
        (folder / names[-1]).write_text(lines, encoding="ascii")
    return names


def write_permutations(
    folder: Path, root: str, model: FslModel, test: FslTest, options: RandomiseOptions
) -> list[str]:
    """Write which row of the design every volume meets, from 1, or the sign it is given.

    Returns
    -------
    list of str
        The name of the file, if it is asked for.
    """
    if not options.permutation_files:
        return []
    name = f"{root}_perm_{test.contrast.name}.txt"
    shuffles = Shuffles(
        model.design.n_subjects,
        test.errors,
        test.n_permutations,
        model.design.matrix,
        model.blocks,
        model.block_exchange,
        options.seed,
    )
    with (folder / name).open("w", encoding="ascii") as file:
        for part in cut(range(shuffles.n_shuffles), AT_A_TIME):
            rows, signs = shuffles.draw(part)
            np.savetxt(file, signs if test.errors == "ise" else rows + 1, fmt="%d")
    return [name]


def described(test: FslTest, maps: ContrastMaps, inference: Inference | None) -> dict[str, Any]:
    """Describe a test for the JSON, with the keys of ``gpustats permute``."""
    found: dict[str, Any] = {**contrast_summary(maps), "title": test.title}
    if inference is None:
        return {**found, "shuffles": None, "statistics": []}
    first = inference.outcomes[0]
    return {
        **found,
        "shuffles": {
            "description": inference.settings["shuffles"][test.contrast.name],
            "n_shuffles": first.n_shuffles,
            "n_distinct": inference.settings["n_distinct"][test.contrast.name],
            "minimum_p": first.minimum_p,
        },
        "alpha": ALPHA,
        "two_sided": False,
        "statistics": [_summary(outcome, inference.grid) for outcome in inference.outcomes],
    }


def _summary(outcome: Outcome, grid: Grid) -> dict[str, Any]:
    """Describe what a statistic found."""
    p = outcome.p_corrected
    peak = int(np.lexsort((-outcome.observed, p))[0])
    return {
        "statistic": outcome.statistic,
        "fwe_thresholds": {f"{ALPHA:g}": outcome.threshold(ALPHA)},
        "smallest_p_corrected": extreme(p, peak, grid),
        "score_there": float(outcome.observed[peak]),
        "n_surviving_voxels": int(np.count_nonzero(p <= ALPHA)),
    }


def critical_values(root: str, found: Mapping[str, Any]) -> list[str]:
    """Say which score each statistic must reach, as randomise does."""
    lines = []
    for one in found["statistics"]:
        height = one["fwe_thresholds"][f"{ALPHA:g}"]
        words = "out of reach" if height is None else f"{height:.6g}"
        stem = f"{root}_{STEMS[one['statistic']]}_{found['name']}"
        lines.append(f"Critical Value for: {stem} is: {words}")
    return lines
