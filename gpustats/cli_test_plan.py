"""``gpustats permute --dry-run``: what a permutation test would do, how long and what it writes."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gpustats.archives import save_inference
from gpustats.cli_data import parameters, reading
from gpustats.cli_rehearsal import Rehearsal, Row, check_folder, hushed, print_plan, time_row
from gpustats.cli_report import report_name
from gpustats.cli_results import Wanted, file_of, with_run, write_results
from gpustats.cohort import Cohort
from gpustats.contrasts import Contrast
from gpustats.crew import NOT_ALONE
from gpustats.design import Design
from gpustats.engines import resolve
from gpustats.inference import permutation_test
from gpustats.inputs import Group
from gpustats.maps import Maps
from gpustats.memory import parse_bytes
from gpustats.outcomes import Inference
from gpustats.planning import Choices, Task

FEW_SHUFFLES, SOME_SHUFFLES = 16, 64
"""Shuffles of a trial, and of another: what differs is the time of shuffles alone."""


def print_plan_of_test(
    options: argparse.Namespace,
    group: Group,
    design: Design,
    contrasts: Sequence[Contrast],
    test: Mapping[str, Any],
    wanted: Wanted,
) -> None:
    """Say what would be done, and do it with a few voxels of noise.

    Parameters
    ----------
    options
        The command line.
    group, design, contrasts
        What is tested.
    test
        Arguments of `permutation_test`, as `Choices` takes them.
    wanted
        What is written.

    Raises
    ------
    ValueError, OSError
        What the test would raise before it reads the maps.
    """
    found = reading(options).survey(group)
    check_folder(options.output_dir)
    if options.checkpoint is not None and (options.dask or options.dask_local):
        raise ValueError(NOT_ALONE)
    rehearsal = Rehearsal(found, design, contrasts, options.missing == "pairwise")
    engine, memory = resolve(options.device), parse_bytes(options.memory)
    maps = found if isinstance(found, Cohort) and not rehearsal.pairwise else rehearsal.few()
    with hushed():  # the lines below say it
        tasks = Choices(**test).tasks(maps, design, contrasts, engine, memory)
    run = partial(
        permutation_test,
        design=design,
        contrast={contrast.name: contrast for contrast in contrasts},
        device=options.device,
    )
    rows = [*rehearsal.rows(), *_rows_of(tasks, options)]
    rows.append(("device", engine.describe()))
    rows.append(_expected(rehearsal, run, test, tasks))

    def write(folder: Path, maps: Maps) -> None:
        file = folder / file_of(test["shuffles"])
        if test["shuffles"] is not None:
            file.touch()
            return
        few = {**test, "n_permutations": min(FEW_SHUFFLES, test["n_permutations"])}
        inference: Inference = run(maps, **few)
        inference = with_run(inference, {"parameters": parameters(options)})
        save_inference(inference, file)
        write_results(folder, inference, wanted, time.perf_counter(), report)

    whole = test["shuffles"] is None
    report = report_name(wanted=whole and not options.no_report)
    names = rehearsal.names(write) + ([report] if report else [])
    print_plan(rows, options.output_dir, sorted(names))


def _rows_of(tasks: Sequence[Task], options: argparse.Namespace) -> Iterator[Row]:
    """Say which shuffles are used, and how data on disk are gone through."""
    for task in tasks:
        part = task.indices
        only = f"; of them {part.start:,} to {part.stop - 1:,}" if _in_part(options) else ""
        yield "shuffles", f"{task.contrast.name}: {task.shuffles.describe()}{only}"
    yield "statistics", options.statistics
    for task in tasks:
        if task.plan is not None:
            yield "memory", f"{task.contrast.name}: {task.plan.describe()}"
    if options.dask or options.dask_local:
        workers = options.dask or f"{options.dask_local} processes"
        yield "workers", f"{workers} (not asked)"
    if options.checkpoint is not None:
        kept = any(options.checkpoint.glob("*.checkpoint"))
        yield "checkpoint", f"{options.checkpoint}: {'goes on from it' if kept else 'a new one'}"


def _in_part(options: argparse.Namespace) -> bool:
    """Tell whether only a part of the shuffles is asked for."""
    return options.shard is not None or options.shuffles is not None


def _expected(
    rehearsal: Rehearsal, run: partial[Inference], test: Mapping[str, Any], tasks: Sequence[Task]
) -> Row:
    """Say how long the test may take, by how long some shuffles of some voxels do."""
    n_least = min(task.shuffles.n_shuffles for task in tasks)
    n_few, n_some = min(FEW_SHUFFLES, n_least), min(SOME_SHUFFLES, n_least)

    def seconds_of(n_shuffles: int) -> float:
        return rehearsal.timed(lambda maps: run(maps, **{**test, "shuffles": range(n_shuffles)}))

    seconds = few = seconds_of(n_few)
    n_all = sum(len(task.indices) for task in tasks)
    if n_some > n_few:
        per_shuffle = max(0.0, seconds_of(n_some) - few) / (n_some - n_few) / len(tasks)
        seconds += per_shuffle * max(0, n_all - n_few * len(tasks))
    return time_row(seconds, "reading the maps comes on top")
