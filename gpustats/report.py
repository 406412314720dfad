"""What was found, on one page: a report in HTML that opens anywhere, without a network."""

from __future__ import annotations

import os
import tempfile
import webbrowser
from collections.abc import Iterator, Mapping
from dataclasses import replace
from html import escape
from numbers import Real
from pathlib import Path
from typing import Any, Protocol

from gpustats import images
from gpustats.cluster_facts import TableChoices
from gpustats.contrast_maps import ContrastMaps
from gpustats.environment import versions
from gpustats.fits import Fit
from gpustats.outputs import contrast_results
from gpustats.pictures import PlotType, View, require_nilearn, view_img
from gpustats.records import Record
from gpustats.report_page import render
from gpustats.thresholding import HeightControl, ThresholdRule

__all__ = ["Report", "build_report", "make_glm_report", "require_nilearn", "view_img"]


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
    view = View(bg_img, plot_type, cut_coords, display_mode)
    results: dict[str, ContrastMaps] = {}
    for name, definition in _definitions(contrasts):
        maps = model.contrast_maps(definition, first_level_contrast=first_level_contrast)
        results[_unused(name or maps.contrast.name, results)] = maps
    if not results:
        raise ValueError("there is no contrast to report; name at least one")
    fitted = model.fit_for(first_level_contrast)
    record = record_of(fitted, results, rule, min_distance, model.parameters())
    return build_report(record, title=title, view=view).resize(*report_dims)


def record_of(
    fitted: Fit,
    results: Mapping[str, ContrastMaps],
    rule: ThresholdRule,
    min_distance: float,
    parameters: Mapping[str, str],
) -> Record:
    """Return what ``gpustats fit`` would leave behind, in memory.

    Parameters
    ----------
    fitted
        The fit.
    results
        Its contrasts by name.
    rule
        Which voxels count.
    min_distance
        Least distance of sub-peaks in mm.
    parameters
        Other settings that a report should list, by name.
    """
    table, outcomes = TableChoices(min_distance), []
    for number, (name, maps) in enumerate(results.items(), start=1):
        # names may differ in characters only that names of files cannot have
        contrast = replace(maps.contrast, name=str(number))
        one = contrast_results(replace(maps, contrast=contrast), rule, table)
        outcomes.append(one._replace(summary={**one.summary, "name": name}))
    content = {
        "versions": versions(),
        "engine": fitted.engine.describe(),
        "parameters": dict(parameters),
        "data": {
            "n_subjects": fitted.maps.n_subjects,
            "n_voxels": fitted.maps.grid.n_voxels,
            "dropped_voxels": fitted.maps.dropped,
            "rows_matched_by": fitted.design.matched_by,
        },
        "design": fitted.design.table.to_dict(orient="list"),
        "contrasts": [outcome.summary for outcome in outcomes],
    }
    pictures = {name: kept for one in outcomes for name, kept in one.pictures.items()}
    tables = {name: table for one in outcomes for name, table in one.tables.items()}
    return Record(content, lambda name: pictures[name][0], tables.__getitem__)


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


def build_report(record: Record, *, title: str | None = None, view: View | None = None) -> Report:
    """Report what a run left behind, on one page.

    Parameters
    ----------
    record
        The run, from its folder (`gpustats.records.read_record`) or from memory.
    title
        Title of the page; that of the run, or made from the contrasts, by default.
    view
        How brains are drawn.

    Returns
    -------
    Report
        One HTML file without references to others.

    Raises
    ------
    ImportError
        If nilearn, matplotlib or jinja2 is missing; the message says how to get them.
    ValueError
        If the files do not belong to the JSON.
    """
    title, html = render(record, view or View(), title)
    return Report(html, title)
