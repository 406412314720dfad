"""``gpustats report``: the page of a run, made again; and the page that other commands add."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpustats.pictures import View
from gpustats.records import RESULT, read_record
from gpustats.report import build_report, require_nilearn

logger = logging.getLogger("gpustats")

REPORT = "report.html"

EXAMPLES = """\
examples:
  gpustats report gpustats-results/result.json
  gpustats report gpustats-results --title "Placebo study" --output placebo.html
"""


def add_report(commands: Any) -> None:
    """Add the command that makes the report of a run again."""
    command = commands.add_parser(
        "report",
        help="make the report of a run again",
        description="Make the report of a run again, from its JSON and the files beside it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("result", type=Path, metavar="RESULT", help=f"{RESULT}, or its folder")
    command.add_argument(
        "--output", type=Path, metavar="FILE", help=f"where to; default: {REPORT} beside the JSON"
    )
    command.add_argument("--title", help="default: that of the run, or made from the contrasts")
    command.add_argument(
        "--background", type=Path, metavar="IMAGE", help="what slices are drawn on; default: MNI152"
    )
    command.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> None:
    """Make the report, and say where it is."""
    record = read_record(options.result)
    folder = options.result if options.result.is_dir() else options.result.parent
    path = options.output or folder / REPORT
    view = View() if options.background is None else View(options.background)
    try:
        page = build_report(record, title=options.title, view=view)
    except (LookupError, SyntaxError) as error:
        raise ValueError(
            f"{options.result}: lacks or garbles what this version of gpustats reports ({error}); "
            "run it again"
        ) from error
    page.save_as_html(path)
    print(f"written to {path} ({len(page.html.encode()) / 1e6:.1f} MB)")


def report_name(*, wanted: bool = True) -> str | None:
    """Return the name of the report to be written, or say why there will be none."""
    if not wanted:
        return None
    try:
        require_nilearn()
    except ImportError as error:
        logger.warning("no %s: %s", REPORT, error)
        return None
    return REPORT


def write_report(summary: Mapping[str, Any], folder: Path) -> None:
    """Write the report of a run whose results are in their folder, if there is to be one.

    Results come first: whatever happens here, they are there, and so is the command that makes
    the report from them.
    """
    if summary["report"] is None:
        if (folder / REPORT).exists():
            logger.warning("%s is of an earlier run: this one writes none", folder / REPORT)
        return
    logger.info("drawing the report")
    try:
        build_report(read_record(folder)).save_as_html(folder / summary["report"])
    except (ValueError, OSError) as error:
        raise ValueError(f"the results are in {folder}, but no {REPORT}: {error}") from error
    except KeyboardInterrupt as interruption:
        raise type(interruption)(
            f"interrupted; the results are in {folder}, without the report: "
            f"gpustats report {folder / RESULT}"
        ) from None
