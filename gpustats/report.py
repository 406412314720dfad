"""What was found, on one page: a report in HTML that opens anywhere, without a network."""

from __future__ import annotations

import os
import tempfile
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from gpustats import images, pictures
from gpustats.contrast_maps import ContrastMaps
from gpustats.contrasts import Contrast
from gpustats.design import Design
from gpustats.environment import versions
from gpustats.findings import Finding, degrees_of_freedom, find
from gpustats.fits import Fit
from gpustats.pictures import Brain, PlotType, View, Viewer, require_nilearn, view_img
from gpustats.thresholding import HeightControl, ThresholdRule

__all__ = ["Report", "build_report", "make_glm_report", "require_nilearn", "view_img"]

MAX_NAMES = 3
"""Names of contrasts that fit into a title."""


class Report:
    """Hold a page of results that can be saved, opened in a browser or shown in a notebook.

    Parameters
    ----------
    html
        The page: a whole document that needs no other file.
    title
        What it is called.
    width, height
        Size in a notebook, in pixels.
    """

    def __init__(self, html: str, title: str, width: int = 1600, height: int = 800) -> None:
        self.html = html
        self.title = title
        self.width = width
        self.height = height

    def __repr__(self) -> str:
        size = len(self.html.encode()) / 1e6
        return f"Report({self.title!r}, {size:.1f} MB; save_as_html(path) writes it)"

    def save_as_html(self, path: str | os.PathLike[str]) -> None:
        """Write the page to a file, whole or not at all.

        Raises
        ------
        FileNotFoundError
            If the folder is not there.
        """
        path = Path(path)
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path.parent}: no such folder; make it first")
        with images.whole_file(path) as partial:
            partial.write_text(self.html, encoding="utf-8")

    def open_in_browser(self, path: str | os.PathLike[str] | None = None) -> None:
        """Show the page in the browser, from a temporary file if no path is given."""
        if path is None:
            path = Path(tempfile.mkdtemp(prefix="gpustats-")) / "report.html"
        self.save_as_html(path)
        webbrowser.open(Path(path).resolve().as_uri())

    def get_standalone(self) -> str:
        """Return the page."""
        return self.html

    def get_iframe(self, width: int | None = None, height: int | None = None) -> str:
        """Return the page as an element of another page, sizes in pixels."""
        return (
            f'<iframe srcdoc="{escape(self.html)}" title="{escape(self.title)}" '
            f'width="{width or self.width}" height="{height or self.height}" '
            'style="border: 0"></iframe>'
        )

    def resize(self, width: int, height: int) -> Report:
        """Set the size in a notebook, in pixels."""
        self.width, self.height = width, height
        return self

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        return self.get_iframe()


class GroupModel(Protocol):
    """What `make_glm_report` asks of a fitted model."""

    def contrast_maps(self, definition: Any, /, first_level_contrast: Any) -> ContrastMaps:
        """Test a contrast."""
        ...

    def fit_for(self, first_level_contrast: Any) -> Fit:
        """Return the fit in which contrasts are tested."""
        ...

    def parameters(self) -> Mapping[str, str]:
        """Return the settings of the model, by name."""
        ...


def make_glm_report(
    model: GroupModel,
    contrasts: Any = None,
    first_level_contrast: Any = None,
    title: str | None = None,
    bg_img: Any = "MNI152TEMPLATE",
    threshold: float | None = 3.09,
    alpha: float = 0.001,
    cluster_threshold: int | None = 0,
    height_control: HeightControl = "fpr",
    two_sided: bool = False,
    min_distance: float = 8.0,
    plot_type: PlotType = "slice",
    cut_coords: Any = None,
    display_mode: str | None = None,
    report_dims: tuple[int, int] = (1600, 800),
    *,
    connectivity: int = 6,
) -> Report:
    """Report what a fitted model says about some contrasts, on one page.

    Parameters
    ----------
    model
        A fitted `gpustats.SecondLevelModel`.
    contrasts
        One contrast (an expression, or an array ``(n_columns,)`` or ``(n_rows, n_columns)`` of
        weights), a list of them, or a dictionary of them by name. A list of numbers is one
        contrast. None is allowed where the design has one column.
    first_level_contrast
        Which first-level maps to test, where the model was fitted to first-level models.
    title
        Title of the page; made from the contrasts by default.
    bg_img
        Background of the slices; path, image, ``"MNI152TEMPLATE"`` or None.
    threshold, alpha, cluster_threshold, height_control, two_sided
        Which voxels count, as in `gpustats.map_threshold`: ``threshold`` is in z units and used
        where ``height_control`` is None, ``alpha`` where it is not; ``cluster_threshold`` is in
        voxels. F contrasts have one side.
    min_distance
        Sub-peaks of a cluster are further than this from each other, in mm.
    plot_type
        What comes first, ``"slice"`` or ``"glass"``; the page has both.
    cut_coords
        Where the slices are cut, in mm, or how many there are; as in nilearn.
    display_mode
        Directions of what comes first; ``"z"`` for slices, ``"lyrz"`` for glass by default.
    report_dims
        Width and height in a notebook, in pixels.
    connectivity
        Which voxels touch: 6, 18 or 26 neighbours.

    Returns
    -------
    Report
        One HTML file without references to others.

    Raises
    ------
    ImportError
        If nilearn, matplotlib or jinja2 is missing; the message says how to get them.
    DesignError
        If a contrast does not fit the design.
    ValueError
        If a number is not in its unit, or a name is unknown.
    FileNotFoundError
        If ``bg_img`` is a path and no file is there.
    """
    rule = ThresholdRule(
        alpha, threshold, height_control, cluster_threshold or 0, two_sided, connectivity
    )
    results: dict[str, ContrastMaps] = {}
    for name, definition in _definitions(contrasts):
        maps = model.contrast_maps(definition, first_level_contrast=first_level_contrast)
        results[_unused(name or maps.contrast.name, results)] = maps
    return build_report(
        model.fit_for(first_level_contrast),
        results,
        rule,
        title=title,
        bg_img=bg_img,
        min_distance=min_distance,
        plot_type=plot_type,
        cut_coords=cut_coords,
        display_mode=display_mode,
        parameters=model.parameters(),
    ).resize(*report_dims)


def _definitions(contrasts: Any) -> Iterator[tuple[str | None, Any]]:
    """Yield the name, if it has one, and the definition of each contrast."""
    if isinstance(contrasts, Mapping):
        yield from ((str(name), definition) for name, definition in contrasts.items())
    elif isinstance(contrasts, list | tuple) and not all(isinstance(c, Real) for c in contrasts):
        yield from ((None, definition) for definition in contrasts)
    else:
        yield None, contrasts


def _unused(name: str, taken: Mapping[str, Any]) -> str:
    """Add a number to a name that is taken."""
    numbered, number = name, 1
    while numbered in taken:
        number += 1
        numbered = f"{name} ({number})"
    return numbered


def build_report(
    fit: Fit,
    results: Mapping[str, ContrastMaps],
    rule: ThresholdRule,
    *,
    title: str | None = None,
    bg_img: Any = "MNI152TEMPLATE",
    min_distance: float = 8.0,
    plot_type: PlotType = "slice",
    cut_coords: Any = None,
    display_mode: str | None = None,
    parameters: Mapping[str, str] | None = None,
) -> Report:
    """Report what a fit says about some contrasts, on one page.

    Parameters
    ----------
    fit
        The fit.
    results
        Its contrasts by name, at least one.
    rule
        Which voxels count.
    title, bg_img, min_distance, plot_type, cut_coords, display_mode
        As in `make_glm_report`.
    parameters
        Other settings that the page should list, by name.

    Returns
    -------
    Report
        One HTML file without references to others.

    Raises
    ------
    ImportError
        If nilearn, matplotlib or jinja2 is missing; the message says how to get them.
    ValueError
        If there is no contrast, ``plot_type`` is unknown, ``min_distance`` is not positive, or
        ``bg_img`` is not an image.
    FileNotFoundError
        If ``bg_img`` is a path and no file is there.
    """
    jinja2 = require_nilearn().jinja2
    view = View(bg_img, plot_type, cut_coords, display_mode)
    findings = [find(name, maps, rule, min_distance) for name, maps in results.items()]
    if not findings:
        raise ValueError("there is no contrast to report; name at least one")
    title = title or _title(fit.maps.n_subjects, list(results))
    page = jinja2.Environment(
        loader=jinja2.PackageLoader("gpustats"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html")
    html = page.render(
        title=title,
        fit=fit,
        is_mean=_is_mean(fit.design),
        design_picture=pictures.design_picture(fit.design),
        sections=[_section(finding, fit.design, view) for finding in findings],
        fits_background=view.fits(fit.maps.grid),
        settings=_settings(fit, rule, min_distance),
        parameters=parameters or {},
        versions={**versions(), "engine": fit.engine.describe()},
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )
    return Report(html, title)


class _Section(NamedTuple):
    """What the page shows of a contrast."""

    finding: Finding
    pictures: dict[str, str]
    viewer: Viewer
    weights: list[tuple[str, list[float]]]


def _section(finding: Finding, design: Design, view: View) -> _Section:
    """Draw a contrast: what survives, or else the largest effects and, to explore, all of them."""
    grid, two_sided = finding.maps.grid, finding.rule.two_sided
    brain = Brain(finding.shown, grid, two_sided)
    explored = brain if finding.n_surviving else Brain(finding.maps.z, grid, two_sided=True)
    drawn = {"slice": pictures.slices, "glass": pictures.glass_brain}
    order = sorted(drawn, key=lambda plot_type: plot_type != view.plot_type)
    return _Section(
        finding,
        {plot_type: drawn[plot_type](brain, view) for plot_type in order},
        pictures.viewer(explored, view),
        _weights(finding.maps.contrast, design),
    )


def _weights(contrast: Contrast, design: Design) -> list[tuple[str, list[float]]]:
    """Return the weights of each column of the design that has any."""
    columns = zip(design.columns, contrast.weights.T, strict=True)
    return [(name, weights.tolist()) for name, weights in columns if weights.any()]


def _title(n_subjects: int, names: Sequence[str]) -> str:
    """Make a title of the contrasts, or of their number where there are many."""
    what = ", ".join(names) if len(names) <= MAX_NAMES else f"{len(names)} contrasts"
    return f"Group analysis of {n_subjects} subjects: {what}"


def _is_mean(design: Design) -> bool:
    """Tell whether a design is that of the one-sample test."""
    return len(design.columns) == 1 and float(np.ptp(design.matrix)) == 0


def _settings(fit: Fit, rule: ThresholdRule, min_distance: float) -> dict[str, str]:
    """Return what the page lists of the data, the design and the threshold."""
    grid, design = fit.maps.grid, fit.design
    dropped = [f"{n:,} {reason}" for reason, n in fit.maps.dropped.items() if n]
    fixed, extent = rule.height_control is None, rule.cluster_threshold
    return {
        "maps": str(fit.maps.n_subjects),
        "grid": " x ".join(map(str, grid.mask.shape)) + " voxels",
        "voxel size": " x ".join(f"{size:.4g}" for size in grid.voxel_sizes_mm) + " mm",
        "voxels in the mask": f"{grid.n_voxels:,}",
        "voxels that left the mask": "; ".join(dropped) or "none",
        "columns of the design": f"{', '.join(design.columns)} (rank {design.rank})",
        "degrees of freedom": degrees_of_freedom(fit.df),
        "height control": str(rule.height_control or "none"),
        "alpha": "not used" if fixed else f"{rule.alpha:g}",
        "threshold chosen by hand": f"z = {rule.height(np.empty(0)):g}" if fixed else "not used",
        "sides": "two (one for F)" if rule.two_sided else "one",
        "smallest cluster": f"{extent} voxels" if extent > 1 else "any",
        "connectivity": f"{rule.connectivity} neighbours",
        "distance of sub-peaks": f"more than {min_distance:g} mm",
    }
