"""What Dask costs: two processes against two threads, and the scheduler of 1,000 workers."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, NamedTuple

import dask
import numpy as np
from distributed import Client, LocalCluster
from nilearn.datasets import load_mni152_brain_mask

from benchmarks.harness import check_below, n_cores, run_alone, time_interleaved
from benchmarks.null_group import FULL, QUICK, Effort, null_group
from benchmarks.records import Result, Row, describe_environment
from benchmarks.second_level import ellipsoid
from gpustats import Maps, Tfce, distributed, images, permutation_test
from gpustats.crew import Crew
from gpustats.engines import SHUFFLE_TILE, resolve
from gpustats.outcomes import Outcome

PACKAGES = ("gpustats", "numpy", "scipy", "numba", "dask", "distributed")
N_SUBJECTS = 100
N_PROCESSES = 2
SHUFFLES = {False: 5000, True: 400}
SPEED = 0.95
"""Of one process on as many cores."""

N_STUBS = {False: 1000, True: 20}
STUB_RANGES = 2
"""Ranges of each stub."""
STUB_SECONDS = {False: (0.0, 10.0, 20.0, 40.0), True: (0.0, 0.5)}
"""How long a range takes; one of 0 seconds costs what handing it out and taking it in costs."""
MOST_OVERHEAD = 0.05
UNWATCHED = {
    "distributed.admin.tick.interval": "1h",
    "distributed.admin.system-monitor.interval": "1h",
    "distributed.worker.profile.enabled": False,
    "distributed.worker.profile.interval": "1h",
    "distributed.worker.profile.cycle": "1h",
    "distributed.admin.low-level-log-length": 0,
}
"""What keeps stubs from watching themselves, which elsewhere each does on a machine of its own."""


def run(*, quick: bool) -> Result:
    """Compare the results, then measure both.

    Parameters
    ----------
    quick
        Take a coarse grid, few shuffles and few stubs.
    """
    effort = QUICK if quick else FULL
    grid = ellipsoid() if quick else images.read_mask(load_mni152_brain_mask(resolution=2))
    group = null_group(grid, N_SUBJECTS)
    check, row = processes(group, SHUFFLES[quick], effort)
    rows = (row, *scheduler(quick=quick))
    workload = (
        f"{grid.n_voxels:,} voxels, {N_SUBJECTS} subjects, {SHUFFLES[quick]:,} shuffles of TFCE; "
        f"medians of {effort.long_repeats} interleaved repeats; stubs hold no data and sleep, all "
        f"in one process with Dask's scheduler, {STUB_RANGES} ranges each"
    )
    return Result("distributed", workload, describe_environment(PACKAGES), (check,), rows)


def processes(group: Maps, n_shuffles: int, effort: Effort) -> tuple[Any, Row]:
    """Time a test in processes of a thread each against one of as many threads."""
    threads = max(1, n_cores() // N_PROCESSES)
    test = partial(
        permutation_test, group, statistics=[Tfce()], n_permutations=n_shuffles, device="cpu"
    )
    with (
        LocalCluster(
            n_workers=N_PROCESSES, threads_per_worker=threads, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        one, spread = test()["tfce"].maxima, test(client=client)["tfce"].maxima
        check = check_below("largest difference from one process", np.abs(one - spread).max(), 1e-9)
        jobs = {"one process": test, "Dask": partial(test, client=client)}
        seconds = time_interleaved(jobs, effort.long_repeats)
    what = f"TFCE, {N_PROCESSES} Dask workers of {threads} thread"
    peer = f"one process, {N_PROCESSES * threads} threads"
    return check, Row(what, "s", seconds["Dask"], seconds["one process"], peer, SPEED)


def scheduler(*, quick: bool) -> list[Row]:
    """Measure what ranges cost that take a given time, beside that time, in a process apart."""
    with TemporaryDirectory() as folder:
        report = Path(folder, "seconds.json")
        run_alone(time_stubs, str(report), "quick" if quick else "full")
        found = json.loads(report.read_text())
    n_stubs = N_STUBS[quick]
    rows = []
    for of_range, taken in found:
        if of_range == 0:
            each = taken / (STUB_RANGES * n_stubs)
            rows.append(Row(f"a range of no work, {n_stubs:,} stubs", "s", (each,), (), ""))
            continue
        ideal = STUB_RANGES * of_range
        what = f"{STUB_RANGES} ranges of {of_range:g} s on each of {n_stubs:,} stubs"
        rows.append(Row(what, "s", (taken,), (ideal,), "work alone", 1 - MOST_OVERHEAD))
    return rows


def time_stubs(report: str, effort: str) -> None:
    """Write what `spread` takes with workers that sleep, by the seconds of a range, to a file."""
    quick = effort == "quick"
    n_stubs = N_STUBS[quick]
    # stubs of one process are not to wait for one another, as tests must
    distributed.ONE_AT_A_TIME = nullcontext()
    distributed.using_cores = nullcontext
    found = []
    # one process is far beyond the share of memory that Dask would give to each
    options = {"processes": False, "memory_limit": 0, "dashboard_address": ":0"}
    with (
        dask.config.set(UNWATCHED),
        LocalCluster(n_workers=n_stubs, threads_per_worker=1, **options) as cluster,
        Client(cluster) as client,
    ):
        crew = Crew(client, "cpu", allow_mixed=False)
        for of_range in STUB_SECONDS[quick]:
            indices = range(STUB_RANGES * n_stubs * SHUFFLE_TILE)
            start = time.perf_counter()
            distributed.spread(crew, [Stub(of_range, indices)], _ignore, memory=1)
            found.append((of_range, time.perf_counter() - start))
    Path(report).write_text(json.dumps(found))


def _ignore(n_more: float) -> None:
    """Take no notice of progress."""
    del n_more


class StubTask(NamedTuple):
    """Say which shuffles a stub is to do."""

    indices: range
    contrast = SimpleNamespace(name="nothing")
    plan = load = None

    def of(self, indices: range, *_: object) -> StubTask:
        """Return the task for other shuffles."""
        return StubTask(indices)


class Stub:
    """Stand for a test: what takes a worker so many seconds, and yields a number a shuffle."""

    statistics = (Tfce(),)
    engine = resolve("cpu")
    reported = None

    def __init__(self, seconds: float, indices: range) -> None:
        self.seconds = seconds
        self.task = StubTask(indices)

    def run(self, *_: object) -> list[Outcome]:
        """Sleep."""
        indices = self.task.indices
        time.sleep(self.seconds)
        nothing, maxima = np.empty(0), np.zeros(len(indices))
        found = nothing, nothing, indices, maxima.size, True, maxima, maxima, None
        return [Outcome("tfce", None, *found)]
