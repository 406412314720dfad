"""The second front end of the emulator: executes the PTX that the CUDA compiler made of a kernel.

What the compiler really emitted runs here, its mathematical library included: float32 is flushed
and products are fused where an instruction says so. PTX knows the sizes of parameters but not the
types behind pointers; the first front end (``host.py``) checks those.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

from .arguments import Parameter
from .launch import MAX_SHARED_BYTES, Module
from .ptx_functions import Body, Memory, plain
from .ptx_opcodes import UnsupportedError
from .ptx_parse import Function, Variable, parse

FLAGS = {"fast": ("-O2",), "check": ("-O1", "-DPTX_CHECK")}
ARITHMETIC_FLAGS = ("-fwrapv", "-frounding-math", "-fno-math-errno")
"""Integers wrap around, rounding modes change, and square roots are one instruction."""
HEADER = """#include "ptx.h"
alignas(128) thread_local char emu_shared[{max_shared}];
static u32 dynamic_shared;
extern "C" {{ u64 emu_counts[{n_blocks}]; }}
extern "C" void emu_bind_shared(u32 n_static_bytes)
{{
    dynamic_shared = n_static_bytes;
    emu_dyn(emu_shared + n_static_bytes, sizeof emu_shared - n_static_bytes);
}}
"""
FUNCTION = """#define COUNT(i) ++emu_counts[{first_block} + i]
{head}
{{
char *const shared = emu_shared;
u32 carry = 0;
{declarations}
{lines}
}}
#undef COUNT
"""


class PtxModule(Module):
    """Kernels of a PTX text, executed by the host.

    Parameters
    ----------
    text
        PTX, as `nvrtc.to_ptx` gives it.
    mode
        ``"fast"``, or ``"check"`` to detect faults.

    Raises
    ------
    UnsupportedError
        If the emulator does not know an instruction.

    Examples
    --------
    >>> code = 'extern "C" __global__ void fill(int *x) { x[threadIdx.x] = blockDim.x; }'
    >>> values = np.zeros(4, np.int32)
    >>> module = PtxModule(to_ptx(code))
    >>> module.kernel("fill")((1,), (4,), (values,))
    >>> values
    array([4, 4, 4, 4], dtype=int32)
    >>> module.mix("fill")["st.global.u32"]
    4
    """

    def __init__(self, text: str, mode: str = "fast") -> None:
        self._translation = translate(text)
        super().__init__(self._translation.text, FLAGS.get(mode, ()) + ARITHMETIC_FLAGS, mode)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The kernels of this module."""
        return tuple(self._translation.kernels)

    def symbol(self, name: str) -> str:
        """Return the name that a kernel has in the library."""
        return plain(name)

    def parameters(self, name: str) -> tuple[Parameter, ...]:
        """Return what a kernel takes: PTX knows sizes only."""
        sizes = self._translation.kernels[name].parameter_bytes
        return tuple(Parameter(False, "", n_bytes) for n_bytes in sizes)

    def max_threads(self, name: str) -> int:
        """Return the threads of a block that its ``__launch_bounds__`` allow."""
        return self._translation.kernels[name].max_threads

    def static_shared_bytes(self, name: str) -> int:
        """Return the shared memory that a kernel declares; the dynamic part follows it."""
        return self._translation.kernels[name].n_static_bytes

    def where(self, sites: Sequence[int]) -> list[str]:
        """Return ``file:line`` of lines of PTX."""
        return [self._translation.locations.get(site, "an unknown line") for site in sites]

    def prepare(self) -> None:
        """Count the instructions of every launch from 0."""
        ctypes.memset(self._counts, 0, ctypes.sizeof(self._counts))

    def instructions(self) -> dict[str, int]:
        """Return the instructions that the last launch executed, by opcode."""
        total: Counter[str] = Counter()
        for n_executed, block in zip(self._counts, self._translation.blocks, strict=True):
            for kind, count in block.items() if n_executed else ():
                total[kind] += n_executed * count
        return dict(total.most_common())

    def mix(self, name: str) -> dict[str, int]:
        """Return the instructions that the last launch of a kernel executed, by opcode.

        Every thread counts, and so does an instruction that a predicate turned off. Modifiers
        that cost nothing are left out: ``fma.rn.ftz.f32`` counts as ``fma.f32``.
        """
        return self.kernel(name).report.instructions

    @property
    def _counts(self) -> ctypes.Array[ctypes.c_uint64]:
        """How often each basic block was entered."""
        counters = ctypes.c_uint64 * len(self._translation.blocks)
        return counters.in_dll(self.library, "emu_counts")


class Kernel(NamedTuple):
    """What a launch and a report need to know of a kernel, its C++ aside."""

    parameter_bytes: tuple[int, ...]
    max_threads: int
    n_static_bytes: int


class Translation(NamedTuple):
    """C++ of a module, its kernels, and the tables behind its reports.

    ``blocks`` holds the instructions of every basic block, ``locations`` the line of the source
    of every line of PTX.
    """

    text: str
    kernels: dict[str, Kernel]
    blocks: list[Counter[str]]
    locations: dict[int, str]


def translate(text: str) -> Translation:
    """Translate PTX to C++ for the runtime.

    Raises
    ------
    UnsupportedError
        If an instruction is not known; the message has the line of PTX and its text.
    """
    module = parse(text)
    names, definitions, n_outside_bytes = _variables(module.variables)
    functions = {each.name: f"f_{plain(each.name)}" for each in module.functions}
    prototypes = [f"{_head(each)};" for each in module.functions if not each.is_kernel]
    pieces, kernels = [*definitions, *prototypes], {}
    blocks: list[Counter[str]] = []
    locations: dict[int, str] = {}
    for function in module.functions:
        body = Body(function, names | _parameters(function), functions)
        body.translate(function.body)
        offsets, n_static_bytes = _layout(tuple(body.shared), n_outside_bytes)
        if body.shared and not function.is_kernel:
            raise UnsupportedError(f"{function.name}: shared memory of a called function")
        pieces.append(
            FUNCTION.format(
                first_block=len(blocks),
                head=_head(function),
                declarations="\n".join(offsets + body.declarations),
                lines="\n".join(body.lines),
            )
        )
        blocks += body.blocks
        locations |= _named(body.locations, module.files)
        if function.is_kernel:
            sizes = tuple(parameter.n_bytes for parameter in function.parameters)
            kernels[function.name] = Kernel(sizes, function.max_threads, n_static_bytes)
    header = HEADER.format(max_shared=MAX_SHARED_BYTES, n_blocks=len(blocks))
    return Translation(header + "\n".join(pieces), kernels, blocks, locations)


def _head(function: Function) -> str:
    """Return the head of the C++ function: parameters arrive by their addresses."""
    name = plain(function.name)
    if function.is_kernel:
        return f'extern "C" void emu_thunk_{name}(void **arguments)'
    parameters = [f"u64 p_{plain(each.name)}" for each in function.results + function.parameters]
    return f"static void f_{name}({', '.join(parameters)})"


def _parameters(function: Function) -> dict[str, Memory]:
    """Return where the parameters of a function lie."""
    if function.is_kernel:
        return {
            each.name: Memory("param", f"(u64)arguments[{position}]")
            for position, each in enumerate(function.parameters)
        }
    passed = function.results + function.parameters
    return {each.name: Memory("param", f"p_{plain(each.name)}") for each in passed}


def _variables(variables: tuple[Variable, ...]) -> tuple[dict[str, Memory], list[str], int]:
    """Return names and definitions of the variables of a module, and its bytes of shared memory."""
    names, definitions = {}, []
    shared = tuple(each for each in variables if each.space == "shared" and each.n_bytes)
    offsets, n_shared_bytes = _layout(shared, 0)
    for each in variables:
        if each.space == "shared":
            offset = f"OFFSET_{plain(each.name)}" if each.n_bytes else "dynamic_shared"
            names[each.name] = Memory("shared", offset)
        else:
            variable = f"g_{plain(each.name)}"
            values = ", ".join(map(str, each.values))
            definitions.append(
                f"alignas({each.alignment}) u8 {variable}[{each.n_bytes}] = {{{values}}};"
            )
            names[each.name] = Memory(each.space, f"(u64){variable}")
    return names, offsets + definitions, n_shared_bytes


def _layout(variables: tuple[Variable, ...], begin: int) -> tuple[list[str], int]:
    """Place shared variables one after the other; dynamic shared memory follows, aligned to 128."""
    offsets, end = [], begin
    for each in variables:
        offset = -(-end // each.alignment) * each.alignment
        offsets.append(f"enum {{ OFFSET_{plain(each.name)} = {offset} }};")
        end = offset + each.n_bytes
    return offsets, -(-end // 128) * 128


def _named(locations: dict[int, str], files: dict[str, str]) -> dict[int, str]:
    """Put the names of files in place of their numbers: ``find.cuh:12, inlined at label.cu:60``."""
    named = {}
    for line, location in locations.items():
        places = [place.partition(":") for place in location.split()]
        readable = [f"{files.get(file, '?').rpartition('/')[2]}:{row}" for file, _, row in places]
        named[line] = ", inlined at ".join(readable) or f"PTX line {line}"
    return named
