"""nilearn's permutation test by name: `non_parametric_inference`."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pandas as pd

from gpustats import images
from gpustats.enhancements import ClusterExtent, ClusterMass, Statistic, Voxelwise
from gpustats.inference import permutation_test
from gpustats.maps import Missing
from gpustats.outcomes import Inference
from gpustats.second_level import SecondLevelModel
from gpustats.subjects import join_columns, read_table
from gpustats.tfce import Tfce

NAMES = {"cluster_extent": "size", "cluster_mass": "mass", "tfce": "tfce"}
"""Names of statistics, and nilearn's for them."""


def non_parametric_inference(  # noqa: PLR0913 -- nilearn's signature
    second_level_input: Any,
    confounds: pd.DataFrame | None = None,
    design_matrix: Any = None,
    second_level_contrast: Any = None,
    first_level_contrast: Any = None,
    mask: Any = None,
    smoothing_fwhm: float | None = None,
    model_intercept: bool = True,
    n_perm: int = 10000,
    two_sided_test: bool = False,
    random_state: int | None = None,
    n_jobs: int = 1,
    verbose: int = 0,
    threshold: float | None = None,
    tfce: bool = False,
    *,
    missing: Missing = "drop_voxel",
    min_subjects: int | None = None,
    zero_is_missing: bool = False,
    memory_limit: str | int | None = None,
    device: str = "auto",
) -> Any:
    """Test a contrast by permutation, with nilearn's arguments and return values.

    Parameters
    ----------
    second_level_input, confounds, design_matrix, first_level_contrast
        As in `SecondLevelModel.fit` and `SecondLevelModel.compute_contrast`.
    second_level_contrast
        A column name, an expression or weights; may be left out where the design has one column
        besides the intercept.
    mask, smoothing_fwhm
        As ``mask_img`` and ``smoothing_fwhm`` of `SecondLevelModel`.
    model_intercept
        Whether to add a column ``intercept`` of ones to a design that cannot express a constant.
    n_perm
        Rearrangements besides the observed one.
    two_sided_test
        Whether large negative values count too.
    random_state
        Seed; None is 0: results are the same in every run.
    n_jobs, verbose
        Accepted for nilearn's sake, without effect: all cores are used.
    threshold
        Cluster-forming threshold, a p value. With one, clusters are tested too.
    tfce
        Whether to test threshold-free clusters too.
    missing, min_subjects, zero_is_missing
        As in `load_maps`.
    memory_limit
        As in `SecondLevelModel`: what working on a store may take.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:<index>"``.

    Returns
    -------
    nibabel image, or dict of nibabel images
        -log10 of the family-wise error corrected p of every voxel. With ``threshold`` or
        ``tfce``, a dictionary: ``"t"``, ``"logp_max_t"``, and ``"size"``, ``"logp_max_size"``,
        ``"mass"``, ``"logp_max_mass"``, ``"tfce"``, ``"logp_max_tfce"`` as far as asked for.

    Raises
    ------
    ValueError
        As `permutation_test`.

    Notes
    -----
    Clusters have 6 neighbours and their mass is what exceeds the threshold, as in nilearn. Other
    than nilearn's: confounds are used; nuisance is everything that the contrast does not test;
    signs are flipped where a mean is tested; p of clusters counts the observed arrangement;
    results do not depend on ``n_jobs``; TFCE is the exact integral.
    """
    del n_jobs, verbose
    model = SecondLevelModel(
        mask,
        smoothing_fwhm,
        device,
        missing=missing,
        min_subjects=min_subjects,
        zero_is_missing=zero_is_missing,
        memory_limit=memory_limit,
    )
    if model_intercept and design_matrix is not None:
        design_matrix = _with_intercept(design_matrix)
    model.fit(second_level_input, confounds, design_matrix)
    fitted = model.fit_for(first_level_contrast)
    if second_level_contrast is None:
        others = [name for name in fitted.design.columns if name != "intercept"]
        second_level_contrast = others[0] if len(others) == 1 else None
    contrast = fitted.design.contrast(second_level_contrast)
    statistics: list[Statistic] = [Voxelwise()]
    if threshold is not None:
        statistics.append(ClusterExtent(connectivity=6, threshold_p=threshold))
        statistics.append(ClusterMass(connectivity=6, threshold_p=threshold, mass="above"))
    if tfce:
        statistics.append(Tfce())
    inference = permutation_test(
        fitted.maps,
        fitted.design,
        contrast,
        statistics=statistics,
        n_permutations=n_perm + 1,
        two_sided=two_sided_test if contrast.statistic == "t" else None,
        seed=random_state or 0,
        device=device,
        memory=memory_limit,
    )
    return _images(inference, only_voxels=threshold is None and not tfce)


def _with_intercept(design_matrix: Any) -> pd.DataFrame:
    """Add a column of ones to a table that cannot express a constant."""
    if isinstance(design_matrix, str | os.PathLike):
        design_matrix = read_table(design_matrix)
    numbers = design_matrix.select_dtypes("number").to_numpy(dtype=np.float64)
    ones = np.ones(len(design_matrix))
    fitted = numbers @ np.linalg.lstsq(numbers, ones, rcond=None)[0] if numbers.size else 0 * ones
    if np.allclose(fitted, ones):
        return pd.DataFrame(design_matrix)
    joined = join_columns(design_matrix, pd.DataFrame({"intercept": ones}))
    return joined.set_index(design_matrix.index)


def _images(inference: Inference, *, only_voxels: bool) -> Any:
    """Name the maps as nilearn does."""
    grid = inference.grid
    maps: dict[str, Any] = {}
    for outcome in inference.outcomes:
        name = NAMES.get(outcome.statistic, "t")
        observed = outcome.observed
        if name == "t":  # whatever is compared
            observed = inference.maps[outcome.contrast.name].statistic
        maps[name] = images.unmask(observed, grid, name)
        log_p = -np.log10(outcome.p_corrected)
        maps[f"logp_max_{name}"] = images.unmask(log_p, grid, f"-log10 corrected p of {name}")
    return maps["logp_max_t"] if only_voxels else maps
