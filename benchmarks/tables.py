"""Put the tables of the results into README.md: ``python -m benchmarks.tables [--check]``.

A table stands between the lines ``<!-- benchmark:NAME -->`` and ``<!-- /benchmark -->``.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import ROOT
from benchmarks.records import RESULTS, Environment, Result, load, table

OPENING = "<!-- benchmark:"
BLOCK = re.compile(r"(<!-- benchmark:(\w+) -->\n)(?:(?!<!-- ).)*?(<!-- /benchmark -->)", re.DOTALL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tables, or with ``--check`` tell by the exit status whether they are up to date."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, fail if outdated")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", help="the file")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of results")
    options = parser.parse_args(arguments)
    before = options.readme.read_text(encoding="utf-8")
    after = splice(before, options.results)
    if before == after:
        return 0
    if options.check:
        print(f"{options.readme.name} is outdated: run python -m benchmarks.tables")
        return 1
    options.readme.write_text(after, encoding="utf-8")
    return 0


def splice(text: str, results: Path) -> str:
    """Replace what stands between each pair of markers by the table of its result.

    Raises
    ------
    ValueError
        If a marker is not closed.
    FileNotFoundError
        If a marker names a workload without a result.
    """
    replaced, n_blocks = BLOCK.subn(
        lambda block: block[1] + markdown(load(results / f"{block[2]}.json")) + block[3], text
    )
    if n_blocks != text.count(OPENING):
        raise ValueError(f"every '{OPENING}NAME -->' needs a '<!-- /benchmark -->' after it")
    return replaced


def markdown(result: Result) -> str:
    """Write a result as a Markdown table and a line on what it was measured on."""
    alignment = ("---", "---:", "---:", "---:", "---")
    headings, *lines = table(result)
    rows = "".join(f"| {' | '.join(line)} |\n" for line in (headings, alignment, *lines))
    return f"\n{rows}\n{result.workload}. {origin(result.environment)}\n\n"


def origin(environment: Environment) -> str:
    """Say what a result was measured on."""
    packages = ", ".join(f"{name} {version}" for name, version in environment.packages.items())
    commit = f", commit {environment.commit}" if environment.commit else ""
    gpu = f"{environment.gpu}; " if environment.gpu else ""
    return (
        f"Measured {environment.date} on {gpu}{environment.cpu}, {environment.cores} cores, "
        f"with Python {environment.python}, {packages}{commit}."
    )


if __name__ == "__main__":
    sys.exit(main())
