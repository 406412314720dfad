"""The first front end of the emulator: g++ compiles the unmodified text of kernels.

``include/emulator.h`` gives the text CUDA's vocabulary. In check mode g++ instruments every access
to memory and every operation that C++ leaves undefined; the runtime hears of all of them.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Sequence
from functools import cached_property

from .arguments import Parameter, read_parameters
from .build import INCLUDES
from .launch import MAX_SHARED_BYTES, MAX_THREADS, Module

FLAGS = {
    "fast": ("-O2",),
    "check": (
        "-O1",
        "-gdwarf-4",
        "-fsanitize=thread,undefined,float-cast-overflow",
        "-fno-sanitize=vptr",
        "-fno-sanitize-recover=all",
        "--param=tsan-distinguish-volatile=1",
        "--param=tsan-instrument-func-entry-exit=0",
    ),
}
PASSED_ON = ("-D", "-U", "-std=")
"""Options of NVRTC that g++ understands as well."""
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
KERNEL = re.compile(
    r'extern\s+"C"\s+__global__\s+(?:void\s+)?'
    r"(?:__launch_bounds__\s*\((?P<bounds>[^(),]*(?:\([^()]*\))?[^(),]*)[^()]*\)\s*)?"
    r"(?:void\s+)?(?P<name>\w+)\s*\("
)
DYNAMIC = re.compile(
    r"extern\s+__shared__\s+(?:__align__\s*\([^)]*\)\s*)?(?P<type>[\w ]+?)\s+(?P<name>\w+)\s*\["
)


class HostModule(Module):
    """Kernels of a CUDA C++ text, executed by the host.

    Parameters
    ----------
    code
        The text; its kernels are ``extern "C"``.
    options
        Options for NVRTC, of which definitions and the standard are used. float32 is flushed to
        zero below its normal range (as CuPy has it) unless ``-ftz=false`` is among them.
    mode
        ``"fast"``, or ``"check"`` to detect faults.

    Raises
    ------
    KernelError
        If g++ refuses the text.

    Examples
    --------
    >>> code = 'extern "C" __global__ void fill(int *x) { x[threadIdx.x] = blockDim.x; }'
    >>> values = np.zeros(4, np.int32)
    >>> HostModule(code).kernel("fill")((1,), (4,), (values,))
    >>> values
    array([4, 4, 4, 4], dtype=int32)
    """

    def __init__(self, code: str, options: Sequence[str] = (), mode: str = "fast") -> None:
        plain = COMMENT.sub("", code)
        self._bounds = {match["name"]: match["bounds"] for match in KERNEL.finditer(plain)}
        self._dynamic = {match["name"]: match["type"] for match in DYNAMIC.finditer(plain)}
        self.flush_denormals = not {"-ftz=false", "--ftz=false"} & set(options)
        passed_on = tuple(option for option in options if option.startswith(PASSED_ON))
        super().__init__(self._text(code), FLAGS.get(mode, ()) + passed_on, mode)

    def _text(self, code: str) -> str:
        """Return the text with the vocabulary before it and the runtime's view of it behind."""
        exports = [
            f"EMU_EXPORT({name}, ({bounds or MAX_THREADS}))"
            for name, bounds in self._bounds.items()
        ]
        lines = ['#include "emulator.h"', '#line 1 "kernel.cu"', code, '#line 1 "exports"']
        return "\n".join([*lines, *self._dynamic_shared(), *exports, ""])

    def _dynamic_shared(self) -> list[str]:
        """Define dynamic shared memory: all names that a text has for it mean one region."""
        if not self._dynamic:
            return ['extern "C" void emu_bind_shared(unsigned) { emu_dyn(nullptr, 0); }']
        region = f"alignas(128) thread_local char emu_shared[{MAX_SHARED_BYTES}];"
        names = [
            f'extern thread_local {kind} {name}[] __attribute__((alias("emu_shared")));'
            for name, kind in self._dynamic.items()
        ]
        bind = "void emu_bind_shared(unsigned) { emu_dyn(emu_shared, sizeof emu_shared); }"
        return ['extern "C" {', region, bind, "}", *names]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The kernels of this module."""
        return tuple(self._bounds)

    def parameters(self, name: str) -> tuple[Parameter, ...]:
        """Return what a kernel takes, as the compiler understood it."""
        signature = getattr(self.library, f"emu_sig_{name}")
        signature.restype = ctypes.c_char_p
        return read_parameters(signature().decode())

    def max_threads(self, name: str) -> int:
        """Return the threads of a block that its ``__launch_bounds__`` allow."""
        return ctypes.c_int.in_dll(self.library, f"emu_bound_{name}").value

    def where(self, sites: Sequence[int]) -> list[str]:
        """Return ``file:line`` of return addresses; our own headers are not what is meant."""
        addresses = [hex(max(site - 1, 0)) for site in sites]
        command = ["addr2line", "-a", "-i", "-e", str(self.path), *addresses]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return [_own_line(chunk) for chunk in re.split(r"^0x\w+\n", lines, flags=re.M)[1:]]


def _own_line(frames: str) -> str:
    """Return the innermost frame, of those inlined into each other, that is not the emulator's."""
    lines = [line.partition(" (")[0] for line in frames.splitlines()]
    own = [line for line in lines if not line.startswith((str(INCLUDES), "?"))]
    return own[0].rpartition("/")[2] if own else "an unknown line"
