"""NVRTC through ctypes: CUDA C++ to PTX or machine code, with no GPU, no driver and no CuPy.

The wheel ``nvidia-cuda-nvrtc`` is all that is needed. CuPy's own `RawModule` asks a device for its
architecture first, so that it cannot compile on a machine without one.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

CUPY_OPTIONS = ("-ftz=true", "--device-as-default-execution-space")
"""What CuPy adds to the options of every source; without them something else would be tested."""


class CompileError(RuntimeError):
    """The compiler refused a source; the message is its log."""


class MachineCode(NamedTuple):
    """What became of a source: a cubin, the PTX before it, and what compiler and assembler said."""

    cubin: bytes
    ptx: str
    log: str


def installed() -> bool:
    """Return whether the compiler can be loaded here."""
    try:
        _library()
    except OSError:
        return False
    return True


def version() -> tuple[int, int]:
    """Return the version of the compiler, for example ``(13, 5)``."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _succeed(_library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return major.value, minor.value


def architectures() -> tuple[int, ...]:
    """Return the compute capabilities for which the compiler makes code, for example 80 for 8.0."""
    count = ctypes.c_int()
    _succeed(_library().nvrtcGetNumSupportedArchs(ctypes.byref(count)))
    numbers = (ctypes.c_int * count.value)()
    _succeed(_library().nvrtcGetSupportedArchs(numbers))
    return tuple(numbers)


def to_ptx(
    text: str, architecture: int = 80, options: tuple[str, ...] = (), name: str = "kernel.cu"
) -> str:
    """Compile a source to the PTX that CuPy would get, with the source lines of instructions.

    Raises
    ------
    CompileError
        If the source is not valid; the message is the compiler's log.
    """
    flags = (f"-arch=compute_{architecture}", "-lineinfo", *CUPY_OPTIONS, *options)
    with _compiled(text, name, flags) as (program, _):
        return _text_output(program, "PTX")


def to_machine_code(
    text: str, architecture: int, options: tuple[str, ...] = (), name: str = "kernel.cu"
) -> MachineCode:
    """Compile a source to machine code; the log tells registers, spills and shared memory.

    Raises
    ------
    CompileError
        If the source is not valid; the message is the compiler's log.
    """
    flags = (f"-arch=sm_{architecture}", "--ptxas-options=-v", *CUPY_OPTIONS, *options)
    with _compiled(text, name, flags) as (program, log):
        return MachineCode(_output(program, "CUBIN"), _text_output(program, "PTX"), log)


@contextmanager
def _compiled(
    text: str, name: str, flags: tuple[str, ...]
) -> Iterator[tuple[ctypes.c_void_p, str]]:
    """Run the compiler; its outputs and log are there as long as the program is."""
    library, program = _library(), ctypes.c_void_p()
    created = library.nvrtcCreateProgram(
        ctypes.byref(program), text.encode(), name.encode(), 0, None, None
    )
    _succeed(created)
    try:
        options = (ctypes.c_char_p * len(flags))(*(flag.encode() for flag in flags))
        status = library.nvrtcCompileProgram(program, len(flags), options)
        log = _text_output(program, "ProgramLog")
        if status:
            raise CompileError(f"{name} ({' '.join(flags)}):\n{log or _meaning(status)}")
        yield program, log
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _text_output(program: ctypes.c_void_p, kind: str) -> str:
    """Fetch one of the outputs of a program that are text."""
    return _output(program, kind).rstrip(b"\0").decode()


def _output(program: ctypes.c_void_p, kind: str) -> bytes:
    """Fetch one of the outputs of a program."""
    size = ctypes.c_size_t()
    _succeed(getattr(_library(), f"nvrtcGet{kind}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _succeed(getattr(_library(), f"nvrtcGet{kind}")(program, buffer))
    return buffer.raw


def _succeed(status: int) -> None:
    """Raise what a function of the library reports."""
    if status:
        raise RuntimeError(_meaning(status))


def _meaning(status: int) -> str:
    """Return the name of an error."""
    return str(_library().nvrtcGetErrorString(status).decode())


@cache
def _library() -> ctypes.CDLL:
    """Load the newest NVRTC among the installed wheels, or that of the system."""
    package = importlib.util.find_spec("nvidia")
    folders = package.submodule_search_locations if package else None
    found = [
        path
        for folder in folders or ()
        for path in Path(folder).glob("*/lib/libnvrtc.so.*")
        if re.fullmatch(r"libnvrtc\.so\.[\d.]+", path.name)
    ]
    newest = max(found, key=lambda path: int(path.name.split(".")[2]), default=None)
    name = str(newest) if newest else ctypes.util.find_library("nvrtc")
    if name is None:
        raise OSError("NVRTC is not installed: pip install nvidia-cuda-nvrtc")
    library = ctypes.CDLL(name)
    library.nvrtcGetErrorString.restype = ctypes.c_char_p
    return library
