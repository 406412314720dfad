"""Compile C++ into shared libraries that hold kernels and the runtime that executes them.

What was compiled is kept in a folder under a hash of all that went into it. Several processes may
build at once: each writes beside and renames.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import tempfile
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
INCLUDES = FOLDER / "include"
COMPILER = "g++"
CACHE_VARIABLE = "GPUSTATS_EMULATOR_CACHE"
KERNEL_FLAGS = (
    "-std=c++17",
    "-fPIC",
    "-w",
    "-fno-strict-aliasing",
    "-fno-finite-loops",  # a loop without end must hang, not vanish
    "-fno-gnu-unique",  # libraries share nothing, whatever their kernels are named
    "-fno-extern-tls-init",  # shared arrays have no constructors
    "-ffp-contract=off",  # kernels are compiled with --fmad=false
    f"-I{INCLUDES}",
)
RUNTIME_FLAGS = ("-std=c++17", "-O2", "-fPIC", "-U_FORTIFY_SOURCE")
LINK_FLAGS = ("-shared", "-Wl,-Bsymbolic")


class BuildError(RuntimeError):
    """The host's compiler refuses a kernel."""


def cache_folder() -> Path:
    """Return the folder of compiled libraries, ``$GPUSTATS_EMULATOR_CACHE`` or a temporary one."""
    default = Path(tempfile.gettempdir()) / f"gpustats-emulator-{os.getuid()}"
    folder = Path(os.environ.get(CACHE_VARIABLE, default))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else; set {CACHE_VARIABLE}")
    return folder


def library(text: str, flags: tuple[str, ...]) -> Path:
    """Return the shared library of a C++ text, compiled if it is not there yet.

    Raises
    ------
    BuildError
        If the text does not compile; the message is the compiler's.
    """
    flags = (*KERNEL_FLAGS, *_processor_flags(), *flags)
    key = _hash(text, *flags, _runtime_key(), *_contents("include/**/*.h"))
    path = cache_folder() / f"{key}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            source, compiled, built = (
                Path(scratch, f"kernels.{end}") for end in ("cpp", "o", "so")
            )
            source.write_text(text)
            _compile(*flags, "-c", str(source), "-o", str(compiled))
            # without the flags: the libraries of the sanitizers must not be linked
            _compile(*LINK_FLAGS, str(compiled), str(_runtime()), "-o", str(built))
            built.replace(path)
    return path


def _runtime() -> Path:
    """Return the runtime as one object file; compiled as one text, it takes a third of the time."""
    path = cache_folder() / f"runtime-{_runtime_key()}.o"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            source, built = Path(scratch, "runtime.cpp"), Path(scratch, "runtime.o")
            parts = sorted((FOLDER / "runtime").glob("*.cpp"))
            source.write_text("".join(f'#include "{part}"\n' for part in parts))
            _compile(*RUNTIME_FLAGS, "-c", str(source), "-o", str(built))
            built.replace(path)
    return path


def _compile(*arguments: str) -> None:
    """Run the compiler."""
    done = subprocess.run([COMPILER, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{COMPILER} failed:\n{done.stderr[-6000:]}")


@cache
def _processor_flags() -> tuple[str, ...]:
    """Let the compiler use the processor's fused multiply-add where a kernel asks for one."""
    if platform.machine() != "x86_64":
        return ()
    return ("-mfma",) if " fma " in Path("/proc/cpuinfo").read_text() else ()


@cache
def _runtime_key() -> str:
    """Return the hash of the runtime, its compiler included."""
    version = subprocess.run([COMPILER, "-v"], capture_output=True, text=True, check=True).stderr
    patterns = ("build.py", "runtime/*.cpp", "runtime/*.h", "include/emulator/interface.h")
    return _hash(version, *(text for pattern in patterns for text in _contents(pattern)))


@cache
def _contents(pattern: str) -> tuple[str, ...]:
    """Return the texts of our own files."""
    return tuple(path.read_text() for path in sorted(FOLDER.glob(pattern)))


def _hash(*parts: str) -> str:
    """Return a name for a content."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
