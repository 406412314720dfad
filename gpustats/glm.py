"""The general linear model at every voxel: one fit, any number of contrasts."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpustats.cohort import Cohort
from gpustats.design import Design
from gpustats.engines import Regression, resolve
from gpustats.fits import Fit, PairwiseFit, PatternFit, joined
from gpustats.maps import Maps
from gpustats.memory import Load, for_fit, parse_bytes
from gpustats.patterns import Patterns
from gpustats.progress import shown
from gpustats.stored import Sieve, StoredMaps

logger = logging.getLogger("gpustats")

NO_VARIANCE = 2.0**-46
"""Residual share of a voxel's sum of squares that float32 rounding alone leaves: (2**-23)²."""

NO_RESIDUAL = (
    "no residual variance",
    "the design explains every voxel entirely; no residual variance is left",
)
TOO_FEW = (
    "too few subjects for the design",
    "no voxel has data of more subjects than the design has independent columns; leave out columns "
    "or add subjects",
)
"""Why voxels leave the mask, and what is said where none stays."""


def fit(
    maps: Maps | StoredMaps | Cohort,
    design: Design | None = None,
    *,
    device: str = "auto",
    memory: str | int | None = None,
) -> Fit:
    """Fit a design to the maps by ordinary least squares.

    Parameters
    ----------
    maps
        One map per subject, in memory or in a store, which is then read once, block by block.
    design
        The regressors; rows are matched to the maps by subject label where both have labels,
        else by order. One column of ones (the group mean) by default.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:<index>"``.
    memory
        What blocks of a store may take, ``"2G"`` or a number of bytes; half of what is free by
        default.

    Returns
    -------
    Fit
        Its mask is that of ``maps`` without the voxels that the design explains entirely, which
        have no residual variance to test against; their number is logged. Of a store, voxels
        that are missing in some map or equal in all leave it too. A ``PairwiseFit`` where voxels
        lack subjects.

    Raises
    ------
    DesignError
        If maps and rows do not match.
    ValueError
        If no voxel has residual variance.
    DeviceError
        If the device is not there.

    Examples
    --------
    >>> import nibabel as nib
    >>> from gpustats import load_maps
    >>> noise = np.random.default_rng(0).standard_normal((4, 5, 6, 10), dtype=np.float32)
    >>> fitted = fit(load_maps(nib.Nifti1Image(noise, np.eye(4))), device="cpu")
    >>> fitted.contrast("intercept").z.shape, fitted.df
    ((120,), 9)
    """
    engine = resolve(device)
    design = design_for(maps, design)
    size = maps.n_voxels, maps.n_subjects, len(design.columns), design.rank
    logger.debug("fitting %d voxels of %d maps: %d columns of rank %d", *size)
    if not isinstance(maps, Maps):
        return _fit_stored(maps, design, device, parse_bytes(memory))
    if maps.missing is not None:
        return _fit_pairwise(maps, maps.missing, design, device)
    fitted = Fit(maps, design, engine.regress(maps.values, design.basis), device)
    varies = _varies(fitted.coordinates, fitted.residual_ss)
    if varies.all():
        return fitted
    maps = maps.without(varies, *NO_RESIDUAL)
    return Fit(maps, design, engine.regress(maps.values, design.basis), device)


def _fit_stored(maps: StoredMaps | Cohort, design: Design, device: str, memory: int | None) -> Fit:
    """Fit a store block by block, sorting out the voxels that cannot be analysed on the way."""
    engine = resolve(device)
    plan = for_fit(engine, Load(maps.n_voxels, maps.n_subjects, design.rank), memory)
    logger.info("plan of the fit: %s", plan.describe())
    sieve = Sieve(maps)
    found: list[Regression] = []
    blocks = sieve.whole.blocks(plan.block_voxels)
    for span, values in shown(blocks, "fitting", plan.n_blocks, "block"):
        usable = np.flatnonzero(sieve.usable(values))
        if usable.size == 0:
            continue
        taken = values if usable.size == len(values) else values.T.take(usable, axis=1).T
        coordinates, residual_ss = map(engine.to_host, engine.regress(taken, design.basis))
        varies = _varies(coordinates, residual_ss)
        sieve.keep(span.start + usable[varies], NO_RESIDUAL[0], int(np.count_nonzero(~varies)))
        found.append(Regression(coordinates[:, varies], residual_ss[varies]))
        del values, taken
    kept = sieve.maps()
    joined = (np.concatenate(parts, axis=-1) for parts in zip(*found, strict=True))
    # in the layout of a fit in memory: products would have other last bits
    arrays = (engine.to_device(np.ascontiguousarray(array)) for array in joined)
    return Fit(kept, design, Regression(*arrays), device, plan)


def _fit_pairwise(maps: Maps, missing: Patterns, design: Design, device: str) -> Fit:
    """Fit the voxels of each pattern of missing subjects to the others."""
    engine = resolve(device)
    parts = [(*part, design.restricted(part[0])) for part in missing]
    testable = np.array([part.has_residuals for *_, part in parts])[missing.of_voxel]
    if not testable.all():
        return fit(maps.without(testable, *TOO_FEW), design, device=device)
    patterns = tuple(
        PatternFit(subjects, voxels, part, engine.regress(maps.part(subjects, voxels), part.basis))
        for subjects, voxels, part in parts
    )
    of_each = [_varies(*map(engine.to_host, one.regression)) for one in patterns]
    varies = joined(of_each, patterns)
    if not varies.all():
        return fit(maps.without(varies, *NO_RESIDUAL), design, device=device)
    coordinates = [
        one.design.change_of_basis(design) @ engine.to_host(one.regression.coordinates)
        for one in patterns
    ]
    residual_ss = [engine.to_host(one.regression.residual_ss) for one in patterns]
    together = (joined(arrays, patterns) for arrays in (coordinates, residual_ss))
    regression = Regression(*map(engine.to_device, together))
    return PairwiseFit(maps, design, regression, device, patterns=patterns)


def _varies(
    coordinates: NDArray[np.float64], residual_ss: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Tell at which voxels the design leaves more than rounding errors."""
    model_ss = np.einsum("kv,kv->v", coordinates, coordinates)
    return np.asarray(residual_ss > NO_VARIANCE * (model_ss + residual_ss))


def design_for(maps: Maps | StoredMaps | Cohort, design: Design | None) -> Design:
    """Return a design, of the group mean by default, with its rows in the order of the maps.

    Raises
    ------
    DesignError
        If maps and rows do not match.
    """
    if design is None:
        design = group_mean(maps.n_subjects)
    return design.aligned(maps.subjects, maps.n_subjects)


def group_mean(n_subjects: int) -> Design:
    """Return the design of the one-sample test: a column ``intercept`` of ones."""
    return Design(pd.DataFrame({"intercept": np.ones(n_subjects)}))
