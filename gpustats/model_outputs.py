"""Results of a fitted model on disk, under the names that nilearn gives them."""

from __future__ import annotations

import inspect
import logging
import os
from base64 import b64decode
from collections.abc import Iterator, Mapping
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gpustats import images
from gpustats.bids import write_dataset_description
from gpustats.contrast_maps import ContrastMaps
from gpustats.fits import Fit
from gpustats.outputs import Pictures, contrast_images, result_folder, save_images, write_json
from gpustats.pictures import View, drawing, require_nilearn
from gpustats.plots import design_picture
from gpustats.report import GroupModel, build_report, make_glm_report, record_of
from gpustats.tables import surviving_clusters
from gpustats.thresholding import ThresholdRule

logger = logging.getLogger("gpustats")

LEVEL = "group"
"""The folder that second levels are written to."""

OF_NILEARN = ("effect", "variance", "t", "F", "z", "p")
"""Maps of a contrast that nilearn writes, by the label of ``stat``."""

OF_VIEW = ("bg_img", "plot_type", "cut_coords", "display_mode")
"""Options that only say how brains are drawn."""

WORDS = {"-": " Minus ", "+": " Plus ", ">": " Gt ", "<": " Lt ", "_": " "}


class SecondLevel(GroupModel, Protocol):
    """What `save_glm_to_bids` asks of a fitted model."""

    def contrast_maps(
        self,
        definition: Any,
        /,
        first_level_contrast: Any = None,
        second_level_stat_type: Any = None,
    ) -> ContrastMaps:
        """Test a contrast."""
        ...


class _Told(NamedTuple):
    """What is written of a model: its fit, its contrasts by name, and which voxels count."""

    fit: Fit
    rule: ThresholdRule
    min_distance: float
    results: dict[str, ContrastMaps]


def save_glm_to_bids(
    model: SecondLevel,
    contrasts: Any,
    first_level_contrast: Any = None,
    contrast_types: Mapping[str, str] | None = None,
    out_dir: str | os.PathLike[str] = ".",
    prefix: str | None = None,
    **kwargs: Any,
) -> SecondLevel:
    """Write the results of a fitted model as nilearn's function of this name does.

    Parameters
    ----------
    model
        A fitted `gpustats.SecondLevelModel`.
    contrasts
        One contrast (an expression, or an array ``(n_columns,)`` or ``(n_rows, n_columns)`` of
        weights), a list of them, or a dictionary of them by name. Files are named by the names:
        ``"win - neutral"`` becomes ``contrast-winMinusNeutral``.
    first_level_contrast
        Which first-level maps to test, where the model was fitted to first-level models.
    contrast_types
        ``"t"`` or ``"F"``, by the names of contrasts; by default that of `compute_contrast`, and
        F for arrays of two dimensions.
    out_dir
        Where to; made if absent. Maps go to its folder ``group``.
    prefix
        How names begin, before ``_``.
    **kwargs
        What `make_glm_report` takes: ``title``, ``threshold``, ``alpha``, ``cluster_threshold``,
        ``height_control``, ``two_sided``, ``min_distance``, ``plot_type``, ...

    Returns
    -------
    SecondLevelModel
        The model.

    Raises
    ------
    DesignError
        If a contrast does not fit the design.
    ValueError
        If a name or a number is not in its range, or two contrasts would share their files.
    TypeError
        If an option is none of the report.
    OSError
        If the folder cannot be written to.

    Notes
    -----
    Written are, in ``group``, for each contrast ``contrast-<name>_stat-<label>_statmap.nii.gz``
    with the effect, its variance, t or F, z and p, the tables ``contrast-<name>_clusters.tsv``
    with what its threshold was (``.json``) and ``contrast-<name>_design.png``; of the model
    ``stat-errorts_statmap.nii.gz`` (residuals), ``stat-rsquared_statmap.nii.gz``,
    ``mask.nii.gz``, ``design.tsv``, ``design.png``, ``corrdesign.png``, ``statmap.json`` and
    ``report.html``; and ``dataset_description.json`` in ``out_dir``. Pictures and the report
    need ``gpustats[report]``. Clusters are those of z, where nilearn's are of another map.
    """
    chosen = _options(kwargs)
    rule = ThresholdRule(
        chosen["alpha"],
        chosen["threshold"],
        chosen["height_control"],
        chosen["cluster_threshold"] or 0,
        chosen["two_sided"],
        chosen["connectivity"],
    )
    types = dict(contrast_types or {})
    named = dict(_named(contrasts))
    _check_names(named, types)
    results = {
        name: model.contrast_maps(
            definition, first_level_contrast, types.get(name, _type_of(definition))
        )
        for name, definition in named.items()
    }
    told = _Told(model.fit_for(first_level_contrast), rule, chosen["min_distance"], results)
    start = f"{prefix}_" if prefix and not prefix.endswith("_") else prefix or ""
    out_dir = Path(out_dir)
    with result_folder(out_dir / LEVEL) as folder:
        _write_model(folder, start, told.fit, model.parameters())
        for name in results:
            _write_contrast(folder, start, name, told)
        _write_pictures(folder, start, told, model.parameters(), chosen)
    with result_folder(out_dir) as folder:
        write_dataset_description(folder, out_dir, "A second-level model of gpustats.")
    return model


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a report; refuse others."""
    known = {
        name: one.default
        for name, one in inspect.signature(make_glm_report).parameters.items()
        if name not in ("model", "contrasts", "first_level_contrast")
    }
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise TypeError(
            f"{', '.join(unknown)}: no option of make_glm_report; it takes {', '.join(known)}"
        )
    return {**known, **given}


def _named(contrasts: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name and the definition of each contrast."""
    if contrasts is None:
        raise TypeError("contrasts must be an expression, an array, or several of them, got None")
    if isinstance(contrasts, Mapping):
        yield from ((str(name), _weights(one)) for name, one in contrasts.items())
        return
    one_only = isinstance(contrasts, str) or all(isinstance(one, Real) for one in contrasts)
    for definition in [contrasts] if one_only else contrasts:
        yield str(definition), _weights(definition)


def _weights(definition: Any) -> Any:
    """Return weights as an array, and an expression as it is."""
    return definition if isinstance(definition, str) else np.asarray(definition)


def _type_of(definition: Any) -> str | None:
    """Return the statistic that nilearn takes for an array; None for an expression."""
    if isinstance(definition, str):
        return None
    return "F" if definition.ndim == 2 else "t"


def _check_names(contrasts: Mapping[str, Any], types: Mapping[str, str]) -> None:
    """Refuse names that would share files, and types of contrasts that are not there."""
    labels = {name: label_of(name) for name in contrasts}
    for name, label in labels.items():
        if not label or list(labels.values()).count(label) > 1:
            raise ValueError(
                f"contrast {name!r} would be written to files named contrast-{label}, as another "
                "or as none; give a dictionary with other names"
            )
    unknown = sorted(set(types) - set(contrasts))
    if unknown:
        raise ValueError(
            f"contrast_types names {', '.join(unknown)}, which no contrast is called; "
            f"there are {', '.join(contrasts)}"
        )


def label_of(name: str) -> str:
    """Return the label of a contrast in the names of files, as nilearn makes it.

    Examples
    --------
    >>> label_of("Win - neutral_2"), label_of("[ 1 -1]")
    ('winMinusNeutral2', '1Minus1')
    """
    for symbol, word in WORDS.items():
        name = name.replace(symbol, word)
    first, *others = name.split(" ")
    joined = first.lower() + "".join(word.title() for word in others)
    return "".join(letter for letter in joined if letter.isalnum())


def _write_model(folder: Path, start: str, fit: Fit, parameters: Mapping[str, str]) -> None:
    """Write what is known of a model whatever its contrasts."""
    grid = fit.maps.grid
    arrays: dict[str, NDArray[Any]] = {
        "errorts": fit.residuals().T,
        "rsquared": fit.r_square(),
    }
    pictures: Pictures = {
        f"{start}stat-{label}_statmap.nii.gz": (images.unmask(values, grid, label), np.float32)
        for label, values in arrays.items()
    }
    mask = images.to_image(grid.mask, grid.affine, "mask")
    save_images(folder, {**pictures, f"{start}mask.nii.gz": (mask, np.uint8)})
    fit.design.table.to_csv(folder / f"{start}design.tsv", sep="\t", index=False)
    told = {"Description": "Statistical maps of gpustats.", "ModelParameters": dict(parameters)}
    write_json(folder / f"{start}statmap.json", told)


def _write_contrast(folder: Path, start: str, name: str, told: _Told) -> None:
    """Write the maps of a contrast, and the table of its clusters."""
    maps = told.results[name]
    rule = told.rule.for_statistic(maps.contrast.statistic)
    height, thresholded, clusters = surviving_clusters(maps.z, maps.grid, rule, told.min_distance)
    own, prefix = maps.contrast.label, f"{start}contrast-{label_of(name)}"
    written = contrast_images(maps, thresholded, clusters)
    names = {f"contrast-{own}_stat-{stat}_statmap.nii.gz": stat for stat in OF_NILEARN}
    pictures = {
        f"{prefix}_stat-{names[file]}_statmap.nii.gz": picture
        for file, picture in written.items()
        if file in names
    }
    save_images(folder, pictures)
    clusters.table.to_csv(folder / f"{prefix}_clusters.tsv", sep="\t", index=False)
    write_json(
        folder / f"{prefix}_clusters.json", _threshold_words(rule, height, told.min_distance)
    )


def _threshold_words(rule: ThresholdRule, height: float, min_distance: float) -> dict[str, Any]:
    """Say what a threshold was, in nilearn's words."""
    height = round(height, 3)
    chosen = (
        {"Height control": "None", "Threshold Z": height}
        if rule.height_control is None
        else {
            "Height control": rule.height_control,
            "α": rule.alpha,  # noqa: RUF001 -- nilearn's own name
            "Threshold (computed)": height,
        }
    )
    return {
        **chosen,
        "Cluster size threshold (voxels)": rule.cluster_threshold,
        "Minimum distance (mm)": min_distance,
    }


def _write_pictures(
    folder: Path,
    start: str,
    told: _Told,
    parameters: Mapping[str, str],
    chosen: Mapping[str, Any],
) -> None:
    """Draw design and contrasts, and write the report, where the packages for that are."""
    try:
        require_nilearn()
    except ImportError as error:
        logger.warning("no pictures and no report.html: %s", error)
        return
    design = told.fit.design
    weights = [(name, maps.contrast.weights) for name, maps in told.results.items()]
    encoded = design_picture(design.columns, design.matrix, weights).partition(",")[2]
    (folder / f"{start}design.png").write_bytes(b64decode(encoded))
    varying = np.flatnonzero(np.ptp(design.matrix, axis=0) > 0)
    if varying.size:
        columns = [design.columns[column] for column in varying]
        correlations = np.atleast_2d(np.corrcoef(design.matrix[:, varying], rowvar=False))
        _draw(folder / f"{start}corrdesign.png", correlations, columns, columns)
    for name, maps in told.results.items():
        path = folder / f"{start}contrast-{label_of(name)}_design.png"
        rows = [name, *[""] * (len(maps.contrast.weights) - 1)]
        _draw(path, maps.contrast.weights, design.columns, rows)
    record = record_of(told.fit, told.results, told.rule, told.min_distance, parameters)
    view = View(*(chosen[name] for name in OF_VIEW))
    page = build_report(record, title=chosen["title"], view=view)
    page.save_as_html(folder / f"{start}report.html")


def _draw(path: Path, matrix: NDArray[np.float64], columns: Any, rows: Any) -> None:
    """Draw a matrix with the names of its columns and rows, its zeros white."""
    largest = float(np.abs(matrix).max())
    with drawing() as library:
        size = 2.6 + 0.45 * matrix.shape[1], 1.8 + 0.45 * matrix.shape[0]
        figure = library.matplotlib.figure.Figure(size, layout="constrained")
        axes = figure.add_subplot()
        picture = axes.imshow(matrix, "RdBu_r", vmin=-largest, vmax=largest, interpolation="none")
        axes.xaxis.tick_top()
        named = {"parse_math": False}
        axes.set_xticks(range(len(columns)), columns, rotation=40, ha="left", **named)
        axes.set_yticks(range(len(rows)), rows, **named)
        figure.colorbar(picture, ax=axes)
        figure.savefig(path, dpi=120)
