"""Time work on a GPU by its own clock: whole calls, each kernel in them, and what limits both.

CuPy is imported when something is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np

from benchmarks.harness import time_interleaved
from benchmarks.null_group import each
from benchmarks.records import Row
from gpustats.engines import Array, Engine, Units


class Reference(NamedTuple):
    """Work that others are compared with.

    Parameters
    ----------
    name
        What it does.
    work
        Does it.
    traffic
        Bytes that it reads and writes: its time is scaled to the traffic of what is compared with
        it. 0 if it does just as much.
    """

    name: str
    work: Callable[[], object]
    traffic: float = 0.0


@dataclass(frozen=True)
class Case:
    """A call to be timed.

    Parameters
    ----------
    what
        What it does.
    unit, amount
        What is counted, and how many of it a call does: ``"a map"``, 192.
    work
        The call.
    traffic
        Bytes that it has to read and write.
    operations
        Additions and multiplications, where they are what counts.
    against
        What it is compared with; a copy on the device by default.
    kernels
        Bytes that each of its kernels has to read and write.
    """

    what: str
    unit: str
    amount: int
    work: Callable[[], object]
    traffic: float = 0.0
    operations: float = 0.0
    against: Reference | None = None
    kernels: Mapping[str, float] = field(default_factory=dict)


def measure(case: Case, copy: Reference, engine: Engine, repeats: int) -> list[Row]:
    """Time a call, its limits in turn, then the kernels in it."""
    against = case.against or copy
    works = {"gpustats": case.work, against.name: against.work, copy.name: copy.work}
    seconds = time_interleaved(works, repeats, engine.elapsed)
    row = Row(
        f"{case.what}, {case.unit}",
        "s",
        each(seconds["gpustats"], case.amount),
        _scaled(seconds[against.name], against, case.traffic, case.amount),
        against.name,
        traffic=case.traffic / case.amount,
        operations=case.operations / case.amount,
    )
    times = [kernel_seconds(case.work) for _ in range(repeats)]
    kernel_rows = (
        Row(
            f"{case.what}: {kernel}",
            "s",
            each([time[kernel] for time in times], case.amount),
            _scaled(seconds[copy.name], copy, traffic, case.amount),
            copy.name,
            traffic=traffic / case.amount,
        )
        for kernel, traffic in case.kernels.items()
    )
    return [row, *kernel_rows]


def _scaled(
    seconds: tuple[float, ...], reference: Reference, traffic: float, amount: int
) -> tuple[float, ...]:
    """Return the time of a reference for one of what a case does."""
    share = traffic / reference.traffic if reference.traffic else 1.0
    return tuple(second * share / amount for second in seconds)


def kernel_seconds(work: Callable[[], object]) -> dict[str, float]:
    """Return the seconds of each of our kernels in a call, launches of the same one added up.

    The time of a kernel that takes no longer than its launch, a few microseconds, is the launch's.
    """
    import cupy

    from gpustats import cuda

    launch, noted = cuda.Kernels.launch, []

    def launch_between_events(
        kernels: cuda.Kernels, name: str, *inputs: Any, **options: Any
    ) -> None:
        start, stop = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        launch(kernels, name, *inputs, **options)
        stop.record()
        noted.append((name, start, stop))

    with patch.object(cuda.Kernels, "launch", launch_between_events):
        work()
    cupy.cuda.Device().synchronize()
    seconds: dict[str, float] = {}
    for name, start, stop in noted:
        milliseconds = cupy.cuda.get_elapsed_time(start, stop)
        seconds[name] = seconds.get(name, 0.0) + milliseconds / 1000
    return seconds


def device_copy(n_bytes: int) -> Reference:
    """Copy on the device: what is bound by its memory cannot be faster than this."""
    import cupy

    source, target = (cupy.ones(n_bytes // 4, dtype=np.float32) for _ in range(2))
    return Reference("copying as much", lambda: cupy.copyto(target, source), 2.0 * source.nbytes)


def host_copy(n_bytes: int) -> Reference:
    """Copy from pinned memory of the host: no array of the host can come faster than this."""
    import cupy

    from gpustats.engines.gpu_memory import pinned

    source = pinned((n_bytes // 4,))
    source[...] = 1
    target = cupy.empty(source.shape, dtype=np.float32)
    return Reference("copying as much to it", lambda: target.set(source), float(source.nbytes))


def plain_products(rows: Array, units: Units) -> Reference:
    """Multiply rows of shuffles with as many tiles as there are, and nothing else."""
    import cupy
    from cupy import cublas

    n_tiles, n, width = units.tiles.shape
    left, tile = rows.reshape(-1, n), cupy.asarray(units.tiles[0])
    products = cupy.empty((len(left), width), dtype=np.float32)

    def multiply() -> None:
        for _ in range(n_tiles):
            cublas.gemm("N", "N", left, tile, out=products)

    return Reference("cuBLAS sgemm", multiply)
