"""Launch kernels of a compiled library on NumPy arrays, with CuPy's call."""

from __future__ import annotations

import ctypes
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from . import build
from .arguments import ArgumentError, Copies, Parameter, check_arguments
from .report import Report, read_report

MODES = ("fast", "check")
DEFAULT_SHARED_BYTES = 48 << 10
MAX_SHARED_BYTES = 227 << 10
MAX_THREADS, MAX_BLOCK_DEPTH, MAX_GRID = 1024, 64, (2**31 - 1, 65535, 65535)
MESSAGE_BYTES = 4096

Size = tuple[int, int, int]


class KernelError(RuntimeError):
    """A kernel does not compile, cannot be launched so, or does what CUDA leaves undefined."""


class RaceError(KernelError):
    """Threads access the same memory in no order."""


@dataclass(frozen=True)
class Schedule:
    """In which order threads run, and when to give up.

    Parameters
    ----------
    seed
        Of the random order; equal seeds give equal orders.
    window
        Blocks that run at once.
    random
        Run threads and blocks in random order, not one after the other.
    preempt
        Probability of letting another thread run before an access to memory: all accesses in
        check mode, in fast mode only those with a cache operator. With any, half of all atomics
        do.
    budget
        Memory accesses (in fast mode atomics and collectives only) after which a launch is said
        to hang.
    seconds
        Processor time after which it is.
    """

    seed: int = 0
    window: int = 1
    random: bool = False
    preempt: float = 0.0
    budget: int = 10**9
    seconds: float = 120.0

    @classmethod
    def shuffled(cls, seed: int, **others: Any) -> Schedule:
        """Return a random schedule: four blocks at once, preemption at one access in sixteen."""
        return cls(**({"seed": seed, "window": 4, "random": True, "preempt": 1 / 16} | others))


_launching = Lock()
"""Held by the launch that runs: one at a time, of all modules."""
_with_stacks: set[Module] = set()
"""The module that launched last: no other keeps the stacks of its threads."""


class _Options(ctypes.Structure):
    """Mirrors ``Options`` of ``runtime/runtime.h``."""

    _fields_ = (
        ("seed", ctypes.c_uint64),
        ("budget", ctypes.c_uint64),
        ("dynamic_bytes", ctypes.c_uint64),
        ("preempt", ctypes.c_double),
        ("seconds", ctypes.c_double),
        ("window", ctypes.c_int),
        ("random", ctypes.c_int),
        ("check", ctypes.c_int),
        ("flush_denormals", ctypes.c_int),
    )


class Module(ABC):
    """Kernels in one compiled library; what differs between the front ends is left to them.

    Parameters
    ----------
    text
        C++ that includes ``emulator.h``, and defines the kernels and ``emu_bind_shared``.
    flags
        Flags of the compiler, beside those that all kernels have.
    mode
        ``"fast"``, or ``"check"`` if the text was instrumented.
    """

    flush_denormals = False
    """Whether the processor must flush float32 to zero below its normal range."""

    def __init__(self, text: str, flags: Sequence[str], mode: str) -> None:
        if mode not in MODES:
            raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
        self.mode = mode
        try:
            self.path: Path = build.library(text, tuple(flags))
        except build.BuildError as error:
            raise KernelError(str(error)) from None
        self.library = ctypes.CDLL(str(self.path))
        self.library.emu_report.restype = ctypes.c_char_p
        self.kernel: Callable[[str], HostKernel] = cache(self._kernel)

    def _kernel(self, name: str) -> HostKernel:
        """Look a kernel up."""
        if name not in self.names:
            raise KernelError(f"no kernel {name!r} here, only {', '.join(self.names)}")
        return HostKernel(self, name)

    def take_stacks(self) -> None:
        """Be the one module that keeps the stacks of its threads for the next launch."""
        for other in _with_stacks - {self}:
            other.library.emu_release_stacks()
        _with_stacks.clear()
        _with_stacks.add(self)

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The kernels of this module."""

    @abstractmethod
    def parameters(self, name: str) -> tuple[Parameter, ...]:
        """Return what a kernel takes."""

    @abstractmethod
    def max_threads(self, name: str) -> int:
        """Return the threads of a block that its ``__launch_bounds__`` allow."""

    @abstractmethod
    def where(self, sites: Sequence[int]) -> list[str]:
        """Return ``file:line`` of sites that the runtime names."""

    def symbol(self, name: str) -> str:
        """Return the name that a kernel has in the library."""
        return name

    def static_shared_bytes(self, name: str) -> int:  # noqa: ARG002
        """Return what a kernel has of shared memory in the same region as the dynamic one."""
        return 0

    def prepare(self) -> None:  # noqa: B027
        """Get ready for a launch; not all front ends have to."""

    def instructions(self) -> dict[str, int]:
        """Return the instructions that the last launch executed, by opcode."""
        return {}


class HostKernel:
    """A kernel that is launched on NumPy arrays as CuPy's ``RawKernel`` is on the device's.

    ``report`` tells what the latest launch did.
    """

    def __init__(self, module: Module, name: str) -> None:
        self.module, self.name = module, name
        self.parameters = module.parameters(name)
        self.max_threads = module.max_threads(name)
        self.static_shared_bytes = module.static_shared_bytes(name)
        self.report = Report()
        self._shared_limit = DEFAULT_SHARED_BYTES
        self._thunk = getattr(module.library, f"emu_thunk_{module.symbol(name)}")

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        """Dynamic shared memory that a launch may ask for."""
        return self._shared_limit

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, n_bytes: int) -> None:
        if not 0 <= n_bytes <= MAX_SHARED_BYTES - self.static_shared_bytes:
            raise KernelError(f"{self.name}: {n_bytes} bytes of shared memory, no device has them")
        self._shared_limit = n_bytes

    def __call__(
        self,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[Any],
        *,
        shared_mem: int = 0,
        schedule: Schedule = Schedule(),
    ) -> None:
        """Run the kernel to its end.

        Raises
        ------
        KernelError
            If the launch is not possible or the kernel does what CUDA leaves undefined.
        RaceError
            In check mode, if threads access the same memory in no order.
        """
        sizes = _three(grid), _three(block)
        self._check_sizes(*sizes, shared_mem)
        try:
            check_arguments(self.parameters, args)
        except ArgumentError as error:
            raise KernelError(f"{self.name}: {error}") from None
        with _launching:
            self.module.take_stacks()
            message = self._launch(*sizes, args, self._options(shared_mem, schedule))
        if message:
            raise KernelError(f"{self.name}: {self._with_lines(message)}")
        if self.report.races:
            raise RaceError(f"{self.name}: " + "; ".join(map(str, self.report.races[:8])))

    def _check_sizes(self, grid: Size, block: Size, shared_bytes: int) -> None:
        """Refuse what CUDA's driver refuses."""
        n_threads = block[0] * block[1] * block[2]
        limits = (
            (n_threads, MAX_THREADS, "threads of a block"),
            (n_threads, self.max_threads, "threads of a block, by __launch_bounds__"),
            (block[2], MAX_BLOCK_DEPTH, "threads of a block in z"),
            *((n, most, "blocks of a grid") for n, most in zip(grid, MAX_GRID, strict=True)),
        )
        for n, most, what in limits:
            if not 1 <= n <= most:
                raise KernelError(f"{self.name}: 1 to {most} {what}, got {n} ({grid=}, {block=})")
        if not 0 <= shared_bytes <= self._shared_limit:
            raise KernelError(
                f"{self.name}: {self._shared_limit} bytes of dynamic shared memory at most, got "
                f"{shared_bytes}; max_dynamic_shared_size_bytes raises the limit"
            )

    def _options(self, shared_bytes: int, schedule: Schedule) -> _Options:
        """Return the options of a launch as the runtime takes them."""
        check, flush = self.module.mode == "check", self.module.flush_denormals
        return _Options(
            dynamic_bytes=shared_bytes, check=check, flush_denormals=flush, **vars(schedule)
        )

    def _launch(self, grid: Size, block: Size, args: Sequence[Any], options: _Options) -> str:
        """Run, keep the report, and return what went wrong."""
        library = self.module.library
        arrays = [each for each in args if isinstance(each, np.ndarray)]
        copies = Copies(arrays) if options.check else None
        self._register(args, copies)
        values = [_as_c(value, copies) for value in args]
        addresses = (ctypes.c_void_p * max(1, len(values)))(*map(ctypes.addressof, values))
        library.emu_bind_shared(ctypes.c_uint(self.static_shared_bytes))
        self.module.prepare()
        error = ctypes.create_string_buffer(MESSAGE_BYTES)
        extents = ((ctypes.c_uint * 3)(*size) for size in (grid, block))
        failed = library.emu_launch(
            ctypes.cast(self._thunk, ctypes.c_void_p),
            *extents,
            addresses,
            ctypes.byref(options),
            error,
            ctypes.c_size_t(MESSAGE_BYTES),
        )
        if copies:
            copies.copy_back()
        instructions = self.module.instructions()
        self.report = read_report(library.emu_report(), instructions, self.module.where)
        return error.value.decode() if failed else ""

    def _register(self, args: Sequence[Any], copies: Copies | None) -> None:
        """Tell the runtime which memory the kernel may touch."""
        library = self.module.library
        library.emu_forget_arrays()
        for position, value in enumerate(args):
            if copies and isinstance(value, np.ndarray):
                library.emu_register(
                    ctypes.c_void_p(copies.address(value)),
                    ctypes.c_size_t(value.nbytes),
                    value.itemsize,
                    int(not value.flags.writeable),
                    f"argument {position}".encode(),
                )

    def _with_lines(self, message: str) -> str:
        """Put file and line where the runtime names a site."""
        return re.sub(
            r"\[site (\d+)\]", lambda match: f"at {self.module.where([int(match[1])])[0]}", message
        )


def _three(lengths: Sequence[int]) -> Size:
    """Return the three lengths of a grid or block."""
    x, y, z = (*map(int, lengths), 1, 1)[:3]
    return x, y, z


def _as_c(value: Any, copies: Copies | None) -> Any:
    """Return an argument as the kernel finds it: the address of an array, or a number."""
    if isinstance(value, np.ndarray):
        return ctypes.c_void_p(copies.address(value) if copies else value.ctypes.data)
    return (ctypes.c_char * value.itemsize).from_buffer_copy(value.tobytes())
