"""The door that users of nistats and nilearn know: `SecondLevelModel`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import pandas as pd

from gpustats import glm, images, report
from gpustats.contrast_maps import ContrastMaps
from gpustats.contrasts import StatisticName
from gpustats.design import group_design
from gpustats.fits import Fit
from gpustats.inference import permutation_test
from gpustats.inputs import Group, group_input
from gpustats.maps import Missing
from gpustats.masker import Masker
from gpustats.memory import parse_bytes
from gpustats.outcomes import Inference
from gpustats.pooled_variance import warn_of_unequal_variances
from gpustats.reading import Reading
from gpustats.subjects import read_table

OutputType: TypeAlias = Literal[
    "z_score", "stat", "p_value", "effect_size", "effect_variance", "all"
]
OUTPUTS = {
    "z_score": "z",
    "stat": "statistic",
    "p_value": "p",
    "effect_size": "effect",
    "effect_variance": "variance",
}
"""Names of nilearn's output types, and of the arrays of `ContrastMaps` that they are."""


class SecondLevelModel:
    """Compare maps across subjects, voxel by voxel: nilearn's and nistats' second level.

    Parameters
    ----------
    mask_img
        The voxels to analyse: path, image, `Grid` or fitted masker. By default the masks of the
        first-level models, or else the voxels that are finite in all maps and vary.
    smoothing_fwhm
        Full width at half maximum of a Gaussian to smooth each map with, in mm.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:<index>"``.
    missing, min_subjects, zero_is_missing, resample
        As in `load_maps`.
    memory_limit
        What blocks of a store may take, ``"2G"`` or a number of bytes; half of what is free by
        default. The ``memory`` of `fit` and `permutation_test`, which is nilearn's cache here.
    target_affine, target_shape
        Refused: give a mask on the wanted grid and ``resample=True``.
    memory, memory_level, verbose, n_jobs, minimize_memory, reports
        Accepted for nilearn's sake, without effect: nothing is cached on disk, all cores are
        used, and residuals are there whenever they are asked for.

    Attributes
    ----------
    design_ : Design
        The design, confounds included, rows in the order of the maps.
    design_matrix_ : pandas.DataFrame
        The same as a table.
    masker_ : Masker
        Moves between images and voxel arrays of the fitted mask.

    Examples
    --------
    >>> import nibabel as nib
    >>> import numpy as np
    >>> noise = np.random.default_rng(0).standard_normal((4, 5, 6, 10), dtype=np.float32)
    >>> model = SecondLevelModel(device="cpu").fit(nib.Nifti1Image(noise, np.eye(4)))
    >>> model.compute_contrast().shape
    (4, 5, 6)
    """

    def __init__(
        self,
        mask_img: Any = None,
        smoothing_fwhm: float | None = None,
        device: str = "auto",
        *,
        missing: Missing = "drop_voxel",
        min_subjects: int | None = None,
        zero_is_missing: bool = False,
        resample: bool = False,
        memory_limit: str | int | None = None,
        target_affine: Any = None,
        target_shape: Any = None,
        memory: Any = None,
        memory_level: int = 1,
        verbose: int = 0,
        n_jobs: int = 1,
        minimize_memory: bool = True,
        reports: bool = True,
    ) -> None:
        for name, value in {"target_affine": target_affine, "target_shape": target_shape}.items():
            if value is not None:
                raise ValueError(
                    f"{name} is not supported; give a mask_img on the wanted grid and resample=True"
                )
        del memory, memory_level, verbose, n_jobs, minimize_memory, reports
        self.mask_img = mask_img
        # that of a masker counts, as in nilearn
        self.smoothing_fwhm = smoothing_fwhm or getattr(mask_img, "smoothing_fwhm", None)
        self.device = device
        self.missing, self.min_subjects = missing, min_subjects
        self.zero_is_missing = zero_is_missing
        self.resample = resample
        parse_bytes(memory_limit)
        self.memory_limit = memory_limit
        self._fits: dict[str, Fit] = {}

    def __str__(self) -> str:
        return "Second Level Model"

    def fit(
        self,
        second_level_input: Any,
        confounds: pd.DataFrame | None = None,
        design_matrix: pd.DataFrame | str | os.PathLike[str] | None = None,
    ) -> SecondLevelModel:
        """Set up the model, and fit it where there is one map per subject.

        Parameters
        ----------
        second_level_input
            A list of fitted first-level models, of images or of paths; one 4D image; a table
            with the columns ``subject_label``, ``map_name`` and ``effects_map_path``; or a
            `Cohort`, or the path or URL of one, which is read block by block.
        confounds
            Regressors to join to the design, one row per subject; matched by their column
            ``subject_label`` where the maps have labels too, else by order.
        design_matrix
            The regressors, a table or the path of one; matched likewise. One column
            ``intercept`` by default.

        Raises
        ------
        DesignError
            If rows and maps do not match, a confound is in the design already, or a column is
            not usable.
        TypeError, ValueError, FileNotFoundError
            If the input is not one of the above, or its maps are not readable (`load_maps`); or
            if the model has a mask or smooths, and they are a store's, read already.
        """
        if isinstance(design_matrix, str | os.PathLike):
            design_matrix = read_table(design_matrix)
        for name, table in {"design_matrix": design_matrix, "confounds": confounds}.items():
            if table is not None and not isinstance(table, pd.DataFrame):
                raise TypeError(f"{name} must be a pandas DataFrame, got {type(table).__name__}")
        group = group_input(second_level_input)
        self._reading().check(group)
        self.input_: Group = group
        self._fits = {}
        labels, n_maps = self.input_.subjects, self.input_.n_maps
        self.design_ = group_design(design_matrix, confounds, labels, n_maps)
        if self.input_.one_contrast:
            self.fit_for(None)
        return self

    def fit_for(self, first_level_contrast: Any = None) -> Fit:
        """Return the fit to the maps of a first-level contrast; computed once, the last is kept."""
        self._check_fitted()
        key = self.input_.key(first_level_contrast)
        if key not in self._fits:
            maps = self._reading(first_level_contrast).read(self.input_)
            fitted = glm.fit(maps, self.design_, device=self.device, memory=self.memory_limit)
            self._fits = {key: fitted}
        return self._fits[key]

    def contrast_maps(
        self,
        second_level_contrast: Any = None,
        first_level_contrast: Any = None,
        second_level_stat_type: StatisticName | None = None,
    ) -> ContrastMaps:
        """Return all maps of a contrast as arrays; the parameters are `compute_contrast`'s."""
        self._check_fitted()
        # a wrong contrast is told before any map is computed
        contrast = self.design_.contrast(second_level_contrast, statistic=second_level_stat_type)
        fitted = self.fit_for(first_level_contrast)
        warn_of_unequal_variances(fitted.maps, fitted.design, contrast)
        return fitted.contrast(contrast)

    def compute_contrast(
        self,
        second_level_contrast: Any = None,
        first_level_contrast: Any = None,
        second_level_stat_type: StatisticName | None = None,
        output_type: OutputType = "z_score",
    ) -> Any:
        """Test a contrast and return its map, or all of its maps.

        Parameters
        ----------
        second_level_contrast
            A column name, an expression over column names (``"patients - controls"``), a vector
            or a matrix of weights. None where the design has one column.
        first_level_contrast
            Which maps to compare: the contrast to compute in the first-level models, or the
            ``map_name`` of the table.
        second_level_stat_type
            ``"t"`` or ``"F"``; t for one row of weights and F for several by default.
        output_type
            ``"z_score"``, ``"stat"``, ``"p_value"`` (one-sided, upper tail), ``"effect_size"``,
            ``"effect_variance"``, or ``"all"``.

        Returns
        -------
        nibabel image or dict of nibabel images
            float64, 0 outside the mask; 4D for the effects of an F contrast. With ``"all"``, by
            output type.

        Raises
        ------
        DesignError
            If the contrast does not fit the design or is not estimable.
        ValueError
            If ``output_type`` is unknown, ``first_level_contrast`` is missing, or the model has
            not been fitted.
        """
        if output_type not in (*OUTPUTS, "all"):
            raise ValueError(f"output_type must be one of {[*OUTPUTS, 'all']}, got {output_type!r}")
        maps = self.contrast_maps(
            second_level_contrast, first_level_contrast, second_level_stat_type
        )
        names = OUTPUTS if output_type == "all" else (output_type,)
        outputs = {
            name: images.unmask(
                getattr(maps, OUTPUTS[name]), maps.grid, f"{name} of contrast {maps.contrast.name}"
            )
            for name in names
        }
        return outputs if output_type == "all" else outputs[output_type]

    def permutation_test(
        self, second_level_contrast: Any = None, first_level_contrast: Any = None, **options: Any
    ) -> Inference:
        """Test contrasts by permutation.

        Parameters
        ----------
        second_level_contrast
            As in `compute_contrast`, or a mapping from names to contrasts.
        first_level_contrast
            As in `compute_contrast`.
        **options
            The options of `gpustats.permutation_test`; its ``memory`` is this model's
            ``memory_limit`` by default.

        Raises
        ------
        ValueError
            As `gpustats.permutation_test`.
        """
        fitted = self.fit_for(first_level_contrast)
        options = {"memory": self.memory_limit, **options}
        return permutation_test(
            fitted.maps, fitted.design, second_level_contrast, device=self.device, **options
        )

    def generate_report(self, contrasts: Any = None, **options: Any) -> report.Report:
        """Make the report of this model; `make_glm_report` has the parameters."""
        return report.make_glm_report(self, contrasts, **options)

    def parameters(self) -> dict[str, str]:
        """Return what the model was told, in words for a report."""
        return {
            "mask_img": "from the data" if self.mask_img is None else _describe(self.mask_img),
            "smoothing_fwhm": f"{self.smoothing_fwhm or 0:g} mm",
            "missing": f"{self.missing} (min_subjects={self.min_subjects})",
            "zero_is_missing": str(self.zero_is_missing),
            "resample": str(self.resample),
            "device": self.device,
            "rows matched by": self.design_.matched_by,
        }

    @property
    def design_matrix_(self) -> pd.DataFrame:
        """The design as a table, confounds included, rows in the order of the maps."""
        self._check_fitted()
        return self.design_.table

    @property
    def masker_(self) -> Masker:
        """The masker of the last fit."""
        return Masker(self._last_fit().maps.grid)

    @property
    def mask_img_(self) -> Any:
        """The mask of the last fit as an image."""
        return self.masker_.mask_img_

    @property
    def residuals(self) -> Any:
        """What the last fit leaves unexplained, a 4D image with a volume per subject."""
        fit = self._last_fit()
        return images.unmask(fit.residuals().T, fit.maps.grid, "residuals")

    @property
    def predicted(self) -> Any:
        """The fitted values of the last fit, a 4D image with a volume per subject."""
        fit = self._last_fit()
        return images.unmask(fit.predicted().T, fit.maps.grid, "predicted")

    @property
    def r_square(self) -> Any:
        """The share of variance that the last fit explains."""
        fit = self._last_fit()
        return images.unmask(fit.r_square(), fit.maps.grid, "r_square")

    residuals_ = residuals
    predicted_ = predicted
    r_square_ = r_square

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "input_")

    def _reading(self, first_level_contrast: Any = None) -> Reading:
        """Return how maps are read."""
        return Reading(
            self.mask_img,
            self.smoothing_fwhm,
            self.resample,
            self.zero_is_missing,
            self.missing,
            self.min_subjects,
            first_level_contrast,
            self.memory_limit,
            {"mask": "mask_img", "memory": "memory_limit"},
        )

    def _check_fitted(self) -> None:
        """Refuse to work before `fit`."""
        if not self.__sklearn_is_fitted__():
            raise ValueError("this SecondLevelModel has not been fitted; call fit first")

    def _last_fit(self) -> Fit:
        """Return the fit of the maps that were looked at last."""
        self._check_fitted()
        if not self._fits:
            raise ValueError("no contrast has been computed yet; call compute_contrast first")
        return next(iter(self._fits.values()))


def _describe(mask_img: Any) -> str:
    """Name a mask by its path, or by what it is."""
    if isinstance(mask_img, str | os.PathLike):
        return os.fspath(mask_img)
    return f"{type(mask_img).__name__} in memory"


def make_second_level_design_matrix(
    subjects_label: Sequence[str], confounds: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Make a design matrix of confounds and an intercept, rows in the order of the subjects.

    Parameters
    ----------
    subjects_label
        The subjects' labels.
    confounds
        A table with a column ``subject_label`` and one or more regressors.

    Returns
    -------
    pandas.DataFrame
        The confounds, then ``intercept``.

    Raises
    ------
    DesignError
        If a subject has no row or several, or a confound is not numeric and finite.
    """
    labels = tuple(str(label) for label in subjects_label)
    return group_design(None, confounds, labels, len(labels)).table
