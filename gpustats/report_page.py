"""The page of a report: from what a run left behind to one HTML file."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

from gpustats import pictures, plots, report_words, viewer
from gpustats.findings import SCORES, STATISTIC_NAMES, Finding, find
from gpustats.pictures import Brain, View, require_nilearn
from gpustats.records import Record
from gpustats.references import Citations
from gpustats.report_tables import Table, clusters_table, peaks_table

MAX_NAMES = 3
"""Names of contrasts that fit into a title."""


class Test(NamedTuple):
    """What a statistic of a permutation test found, in words and as a picture."""

    name: str
    observed: str
    threshold: str
    smallest_p: str
    mm: str
    n_surviving: str
    picture: str


class Section(NamedTuple):
    """What the page shows of a contrast."""

    finding: Finding
    result: str
    limit: str
    pictures: dict[str, str]
    tests: list[Test]
    table: Table


def render(record: Record, view: View, title: str | None = None) -> tuple[str, str]:
    """Write the page.

    Parameters
    ----------
    record
        What the run left behind.
    view
        How brains are drawn.
    title
        Title of the page; made from the contrasts by default.

    Returns
    -------
    title, html : str
        What the page is called, and the page.

    Raises
    ------
    ImportError
        If a package is missing; the message says how to get it.
    ValueError
        If the files do not belong to the JSON.
    """
    jinja2 = require_nilearn().jinja2
    content = record.content
    findings = [find(record, entry) for entry in record.contrasts]
    title = title or _title(content, findings)
    backdrop = viewer.backdrop(findings[0].grid, view)
    scripts = [viewer.brainsprite(), _packaged("viewer.js")]
    cite = Citations()
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gpustats"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("report.html").render(
        title=title,
        version=content["versions"].get("gpustats", ""),
        written=f"{datetime.now(UTC):%Y-%m-%d}",
        policy=_policy(scripts),
        style=_packaged("report.css"),
        scripts=scripts,
        methods=report_words.methods(content, findings, cite),
        references=cite,
        sections=[_section(finding, view) for finding in findings],
        fits_background=view.fits(findings[0].grid),
        sprite=backdrop.sprite(),
        data={
            "backdrop": backdrop.described(),
            "contrasts": [viewer.explored(finding) for finding in findings],
        },
        count=report_words.count,
        place=report_words.place,
        design_picture=_design_picture(content, findings),
        design=content.get("design") or {},
        weights=_weights(content, findings),
        lists=_lists(content),
    )
    return title, html


def _packaged(name: str) -> str:
    """Read a part of the page that is no template."""
    return files("gpustats").joinpath("templates", name).read_text(encoding="utf-8")


def _policy(scripts: Sequence[str]) -> str:
    """Return the page's security policy: nothing is loaded, and only these scripts run."""
    digests = [b64encode(sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src {allowed}; base-uri 'none'; form-action 'none'"
    )


def _title(content: Mapping[str, Any], findings: Sequence[Finding]) -> str:
    """Make a title of the contrasts, or of their number where there are many."""
    given = (content.get("parameters") or {}).get("title")
    if given:
        return str(given)
    names = [finding.name for finding in findings]
    what = ", ".join(names) if len(names) <= MAX_NAMES else f"{len(names)} contrasts"
    n_subjects = (content.get("data") or {}).get("n_subjects")
    of = "" if n_subjects is None else f" of {report_words.count(n_subjects, 'subject')}"
    return f"Group analysis{of}: {what}"


def _section(finding: Finding, view: View) -> Section:
    """Draw and tell a contrast: what survives, or else the largest effects."""
    brain = Brain(finding.shown, finding.grid, finding.two_sided)
    drawn = {"slice": pictures.slices, "glass": pictures.glass_brain}
    order = sorted(drawn, key=lambda plot_type: plot_type != view.plot_type)
    return Section(
        finding,
        report_words.result(finding),
        report_words.limit_of(finding),
        {plot_type: drawn[plot_type](brain, view) for plot_type in order},
        [_test(finding, test) for test in finding.tests],
        clusters_table(finding) if finding.n_surviving else peaks_table(finding),
    )


def _test(finding: Finding, test: Mapping[str, Any]) -> Test:
    """Tell and draw what a statistic of a permutation test found."""
    name, alpha = test["statistic"], float(finding.entry["alpha"])
    unit = SCORES.get(name, finding.statistic if test["scale"] == "statistic" else test["scale"])
    threshold = test["fwe_thresholds"][f"{alpha:g}"]
    observed = float(test["score_there"])
    size = abs(observed) if finding.two_sided else observed
    unit = f"|{unit}|" if finding.two_sided and name == "voxelwise" else unit
    smallest = test["smallest_p_corrected"]
    null = plots.NullDistribution(unit, finding.null_maxima(test), size, threshold, alpha)
    return Test(
        STATISTIC_NAMES.get(name, name),
        f"{observed:.5g}",
        "out of reach" if threshold is None else f"{threshold:.5g}",
        report_words.p_value(smallest["value"]),
        report_words.place(smallest["mm"]),
        f"{test['n_surviving_voxels']:,}",
        plots.null_picture(null),
    )


def _design_picture(content: Mapping[str, Any], findings: Sequence[Finding]) -> str | None:
    """Draw the design with the contrasts, where the run kept it."""
    design = content.get("design")
    if not design:
        return None
    matrix = np.array(list(design.values()), dtype=np.float64).T
    contrasts = [(one.name, np.array(one.entry["weights"], dtype=np.float64)) for one in findings]
    return plots.design_picture(list(design), matrix, contrasts)


def _weights(
    content: Mapping[str, Any], findings: Sequence[Finding]
) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return the heads and rows of the table of weights: a row per column of the design."""
    heads, columns = [], []
    for finding in findings:
        rows = finding.entry["weights"]
        for number, row in enumerate(rows, start=1):
            part = f" (row {number})" if len(rows) > 1 else ""
            heads.append(f"{finding.name}{part}")
            columns.append([f"{weight:.4g}" for weight in row])
    names = list(content.get("design") or ())
    if not names:
        names = [f"column {number}" for number in range(1, len(columns[0]) + 1)]
    return heads, list(zip(names, map(list, zip(*columns, strict=True)), strict=True))


def _lists(content: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the lists at the end of the page, without what was left empty."""
    software = {**content["versions"], "engine": content.get("engine")}
    lists = {
        "Data": content.get("data"),
        "Parameters": content.get("parameters"),
        "Permutation test": content.get("test"),
        "Software": software,
    }
    return {
        title: {
            name.replace("_", " "): text for name, value in given.items() if (text := _text(value))
        }
        for title, given in lists.items()
        if given
    }


def _text(value: Any) -> str:
    """Write a value of the JSON; nothing if it is empty."""
    if value is None or value is False or value in ("", [], {}):
        return ""
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {text}" for name, one in value.items() if (text := _text(one)))
    if isinstance(value, list):
        return ", ".join(_text(one) for one in value)
    return "yes" if value is True else str(value)
