"""Kernels of the stand-in: `cupy.RawModule`, executed by one of the two emulators.

Every launch is held against CUDA's limits and recorded. What runs it (front end, mode and
schedule) is asked at the launch, so that one module of CuPy serves all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from .arguments import ArgumentError, check_arguments
from .host import HostModule
from .launch import (
    MAX_BLOCK_DEPTH,
    MAX_GRID,
    MAX_THREADS,
    MODES,
    HostKernel,
    Module,
    Schedule,
    Size,
)
from .nvrtc import to_ptx
from .ptx import PtxModule
from .report import Report
from .stand_in_arrays import hosts_of, ndarray
from .stand_in_devices import (
    COMPUTE_CAPABILITY,
    SHARED_BYTES,
    SHARED_BYTES_ON_REQUEST,
    CUDADriverError,
)
from .stand_in_streams import Stream, get_current_stream, schedule

ARCHITECTURE = 10 * COMPUTE_CAPABILITY[0] + COMPUTE_CAPABILITY[1]
FRONTS = ("source", "ptx")
MAX_BLOCK = (MAX_THREADS, MAX_THREADS, MAX_BLOCK_DEPTH)


class Execution(NamedTuple):
    """How kernels run.

    Parameters
    ----------
    front
        ``"source"`` (g++ on the text) or ``"ptx"`` (what NVRTC makes of it).
    mode
        ``"fast"``, or ``"check"``: bounds, races and uninitialised memory are detected.
    seed
        Of a random order of threads with preemption; None runs them in turn.
    """

    front: str = "source"
    mode: str = "fast"
    seed: int | None = None


@dataclass
class Launch:
    """A launch that happened.

    Parameters
    ----------
    kernel, grid, block, shared_bytes
        What was launched, and the dynamic shared memory of a block.
    arguments
        Arrays by type and shape, numbers by type and value: ``"float32 (3, 400)"``, ``"int32 7"``.
    report
        What the emulator counted, once the kernel has run.
    """

    kernel: str
    grid: Size
    block: Size
    shared_bytes: int
    arguments: tuple[str, ...]
    report: Report = field(default_factory=Report, repr=False)


launches: list[Launch] = []
_executions = [Execution()]


@contextmanager
def executed(front: str = "source", mode: str = "fast", seed: int | None = None) -> Iterator[None]:
    """Run the launches that are made meanwhile in another way."""
    if front not in FRONTS or mode not in MODES:
        raise ValueError(f"front is one of {FRONTS}, mode of {MODES}; got {front!r}, {mode!r}")
    _executions.append(Execution(front, mode, seed))
    try:
        yield
    finally:
        _executions.pop()


class RawModule:
    """``cupy.RawModule`` of a source."""

    def __init__(
        self,
        code: str | None = None,
        *,
        path: str | None = None,
        options: tuple[str, ...] = (),
        backend: str = "nvrtc",
    ) -> None:
        if (code is None) == (path is None):
            raise TypeError("Exactly one of `code` and `path` keyword arguments must be given.")
        if not isinstance(options, tuple):
            kind = type(options).__name__
            raise TypeError(f"Argument 'options' has incorrect type (expected tuple, got {kind})")
        if path or backend != "nvrtc":
            raise NotImplementedError("the stand-in compiles sources with NVRTC only")
        self.code, self.options, self.backend = code, options, backend

    def get_function(self, name: str) -> RawKernel:
        return RawKernel(self.code, name, self.options)


class RawKernel:
    """``cupy.RawKernel``: one kernel of a source, compiled when it is launched."""

    def __init__(
        self, code: str, name: str, options: tuple[str, ...] = (), backend: str = "nvrtc"
    ) -> None:
        self.code, self.name, self.options, self.backend = code, name, options, backend
        self._shared_limit = SHARED_BYTES

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        return self._shared_limit

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, n_bytes: int) -> None:
        if n_bytes > SHARED_BYTES_ON_REQUEST:
            limit = f"of {SHARED_BYTES_ON_REQUEST} that a block can have"
            raise CUDADriverError(1).because(
                f"{self.name}: {n_bytes} bytes of shared memory {limit}"
            )
        self._shared_limit = n_bytes

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Any,
        *,
        shared_mem: int = 0,
        stream: Stream | None = None,
    ) -> None:
        front, mode, seed = _executions[-1]
        kernel = _kernel(front, mode, self.code, self.options, self.name)
        sizes = _sizes(grid), _sizes(block)
        self._check_sizes(kernel, *sizes, shared_mem)
        passed = tuple(map(self._passed, args))
        try:
            check_arguments(kernel.parameters, passed)
        except ArgumentError as misfit:
            raise ArgumentError(f"{self.name}: {misfit}") from None
        launch = Launch(self.name, *sizes, shared_mem, tuple(map(_described, passed)))
        launches.append(launch)
        order = Schedule() if seed is None else Schedule.shuffled(seed)
        limit = self._shared_limit

        def run() -> None:
            kernel.max_dynamic_shared_size_bytes = limit
            try:
                kernel(*sizes, passed, shared_mem=shared_mem, schedule=order)
            finally:
                launch.report = kernel.report

        schedule.give((get_current_stream() if stream is None else stream)._queue, run)

    def _check_sizes(self, kernel: HostKernel, grid: Size, block: Size, shared_bytes: int) -> None:
        """Refuse what CUDA's driver refuses, and say why."""
        n_threads = block[0] * block[1] * block[2]
        all_shared_bytes = shared_bytes + kernel.static_shared_bytes
        limits = [
            *((n, most, "blocks of a grid") for n, most in zip(grid, MAX_GRID, strict=True)),
            *((n, most, "threads of a block") for n, most in zip(block, MAX_BLOCK, strict=True)),
            (n_threads, min(MAX_THREADS, kernel.max_threads), "threads of a block in all"),
            (shared_bytes, self._shared_limit, "bytes of dynamic shared memory"),
            (all_shared_bytes, max(SHARED_BYTES, self._shared_limit), "bytes of shared memory"),
        ]
        for n, most, what in limits:
            if n > most:
                raise CUDADriverError(1).because(f"{self.name}: {n} {what}, the most is {most}")

    def _passed(self, value: Any) -> Any:
        """Return an argument as the emulators take it, or refuse it."""
        if isinstance(value, ndarray):
            return hosts_of(value)
        if isinstance(value, np.generic):
            return value
        if isinstance(value, (bool, int, float)):
            raise TypeError(
                f"{self.name}: CuPy passes {value!r} as 8 bytes whatever the parameter is; "
                "make it a NumPy number"
            )
        raise TypeError(f"Unsupported type {type(value)}")


def _sizes(lengths: tuple[int, ...]) -> Size:
    """Return three lengths; CuPy launches one block where a length is 0."""
    if not isinstance(lengths, tuple):
        raise TypeError(
            f"Argument 'grid' has incorrect type (expected tuple, got {type(lengths).__name__})"
        )
    x, y, z = (max(1, int(length)) for length in (*lengths, 1, 1)[:3])
    return x, y, z


def _described(value: Any) -> str:
    """Say what an argument is."""
    return f"{value.dtype} {value.shape if isinstance(value, np.ndarray) else value}"


@cache
def _module(front: str, mode: str, code: str, options: tuple[str, ...]) -> Module:
    """Compile a source for one of the emulators, once per process."""
    if front == "source":
        return HostModule(code, options, mode)
    return PtxModule(to_ptx(code, ARCHITECTURE, options), mode)


def _kernel(front: str, mode: str, code: str, options: tuple[str, ...], name: str) -> HostKernel:
    """Return a kernel as an emulator runs it."""
    module = _module(front, mode, code, options)
    if name not in module.names:
        raise CUDADriverError(500).because(f"{name!r} is not of {', '.join(module.names)}")
    return module.kernel(name)
