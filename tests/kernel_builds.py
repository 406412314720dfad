"""Every build of a kernel that the engine uses, compiled for every architecture without a GPU.

``python tests/kernel_builds.py`` prints the table of registers and shared memory, and says where
it departs from the one in ``kernels/README.md``; ``--write`` puts it there. NVRTC is all it needs.

Whatever the compiler's version, no kernel may spill registers, compute in float64 outside of the
sources in `FLOAT64_SOURCES`, or use ``volatile`` accesses (they reach beyond the device), and
kernels that are meant to load 16 bytes at once must do so. Registers are compared with the table
only if this compiler made it.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from emulator import nvrtc
from emulator.ptx_parse import Function, parse

from gpustats.sources import OPTIONS, source

README = Path(__file__).parent.parent / "kernels" / "README.md"
BEGIN, END = "<!-- registers -->", "<!-- /registers -->"
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
FLOAT64_SOURCES = ("t_statistic", "t_to_z", "tfce", "cluster_sums")
"""How the names of those sources begin that compute in float64 on purpose: cluster sums for the few
voxels above the threshold only, whose masses are differences of float64 on the CPU."""
MOVES = ("ld", "st", "mov", "selp")
"""Opcodes that move float64 and do not compute."""

ENTRY = re.compile(r"Compiling entry function '(\w+)'")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")
WIDE = re.compile(r"ld\.global[\w.:]*\.(v4\.[bfsu]32|v2\.[bfsu]64)\b")


class Build(NamedTuple):
    """A source and its constants.

    ``wide_loads`` names kernels that load 16 bytes at once; ``launched`` those that the engine
    launches from this build, all if it is empty.
    """

    source: str
    constants: tuple[tuple[str, int], ...] = ()
    wide_loads: tuple[str, ...] = ()
    launched: tuple[str, ...] = ()

    def __str__(self) -> str:
        constants = " ".join(f"{name}={value}" for name, value in self.constants)
        return f"{self.source}.cu {constants}".strip()


class Usage(NamedTuple):
    """What one kernel takes of a device, in registers of a thread and bytes."""

    registers: int
    spilled: int
    stack: int
    shared: int


class Compilation(NamedTuple):
    """A build for one architecture: use of every kernel, and the functions of its PTX."""

    build: Build
    architecture: int
    usages: dict[str, Usage]
    functions: tuple[Function, ...]


def _t_statistic(n_columns: int, launched: tuple[str, ...] = (), width: int = 16384) -> Build:
    """Return a build of ``t_statistic.cu`` for so many columns of a basis, and a width of tiles."""
    constants = (("COLUMNS", n_columns), ("SHUFFLE_TILE", 192), ("VOXEL_TILE", width))
    wide_loads = launched or (*OF_COLUMNS, "t_statistic_peaks", "t_statistic_values")
    return Build("t_statistic", constants, wide_loads, launched)


def _tfce(neighbours: int, full: int) -> Build:
    """Return a build of ``tfce.cu`` for scores of all voxels, or their maxima only."""
    return Build("tfce", (("FULL", full), ("NEIGHBOURS", neighbours)), ("tfce_sweep", "tfce_redo"))


OF_COLUMNS = ("t_statistic_project", "t_statistic_residual_ss", "t_statistic_unit")
BUILDS: tuple[Build, ...] = (
    Build("cluster_sums", (("THREADS", 512),)),
    Build("label", (("THREADS", 512),)),
    Build("shuffles", (("THREADS", 256),)),
    _t_statistic(1),
    *(_t_statistic(n_columns, OF_COLUMNS) for n_columns in (2, 4, 8)),
    _t_statistic(1, (*OF_COLUMNS, "t_statistic_peaks", "t_statistic_values"), 256),
    *(_t_statistic(n_columns, OF_COLUMNS, 256) for n_columns in (2, 4, 8)),
    Build("t_to_z", (("THREADS", 128),)),
    *(_tfce(neighbours, full) for neighbours in (6, 18, 26) for full in (0, 1)),
    Build("tfce_scores"),
    Build("tfce_sort"),
)
"""What the engine compiles."""


def compiled(
    builds: Iterable[Build] = BUILDS, text_of: Callable[[str], str] = source
) -> list[Compilation]:
    """Compile builds for all architectures; ``text_of`` gives the text of a source.

    Raises
    ------
    CompileError
        If a source is not valid for an architecture.
    """
    jobs = [(build, architecture) for build in builds for architecture in ARCHITECTURES]
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda job: _compilation(*job, text_of(job[0].source)), jobs))


def _compilation(build: Build, architecture: int, text: str) -> Compilation:
    """Compile one build for one architecture."""
    constants = tuple(f"-D{name}={value}" for name, value in build.constants)
    code = nvrtc.to_machine_code(text, architecture, OPTIONS + constants, str(build))
    found, launched = usages(code.log), set(build.launched)
    if launched:
        found = {kernel: usage for kernel, usage in found.items() if kernel in launched}
    return Compilation(build, architecture, found, parse(code.ptx).functions)


def usages(log: str) -> dict[str, Usage]:
    """Read the log of the assembler.

    Examples
    --------
    >>> usages('''ptxas info : Compiling entry function 'add' for 'sm_80'
    ... ptxas . 8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
    ... ptxas info : Used 22 registers, used 1 barriers, 64 bytes smem, 400 bytes cmem[0]''')
    {'add': Usage(registers=22, spilled=8, stack=8, shared=64)}
    """
    found: dict[str, Usage] = {}
    for section in re.split(r"(?=Compiling entry function)", log):
        if entry := ENTRY.match(section):
            frames = [tuple(map(int, frame)) for frame in FRAME.findall(section)]
            found[entry[1]] = Usage(
                registers=max(map(int, REGISTERS.findall(section))),
                spilled=sum(stores + loads for _, stores, loads in frames),
                stack=max(stack for stack, _, _ in frames),
                shared=max(map(int, SHARED.findall(section)), default=0),
            )
    return found


def faults(compilations: Iterable[Compilation]) -> list[str]:
    """Return what no compiler may make of a kernel, each fault with its architectures."""
    found: dict[tuple[Build, str], list[str]] = {}
    for compilation in compilations:
        architecture = f"sm_{compilation.architecture}"
        for fault in (*_spills(compilation), *_instructions_amiss(compilation)):
            found.setdefault((compilation.build, fault), []).append(architecture)
    return [
        f"{build}: {fault} ({', '.join(architectures)})"
        for (build, fault), architectures in found.items()
    ]


def _spills(compilation: Compilation) -> Iterator[str]:
    """Yield the kernels that spill."""
    for kernel, usage in compilation.usages.items():
        if usage.spilled:
            yield f"{kernel} spills {usage.spilled} bytes"


def _instructions_amiss(compilation: Compilation) -> Iterator[str]:
    """Yield the functions with instructions that they must not have, or without those they must."""
    build = compilation.build
    for function in compilation.functions:
        opcodes = set(_opcodes(function))
        doubles = {word for word in opcodes if ".f64" in word and not word.startswith(MOVES)}
        if doubles and not build.source.startswith(FLOAT64_SOURCES):
            yield f"{function.name} computes in float64: {', '.join(sorted(doubles))}"
        if any(".volatile" in word for word in opcodes):
            yield f"{function.name} has volatile accesses; use __ldcg for racy loads"
        if function.name in build.wide_loads and not any(map(WIDE.match, opcodes)):
            yield f"{function.name} has no load of 16 bytes"
    for missing in set(build.wide_loads) - {each.name for each in compilation.functions}:
        yield f"there is no kernel {missing}, which is said to have wide loads"


def _opcodes(function: Function) -> Iterator[str]:
    """Yield opcodes with their modifiers."""
    for statement in function.body:
        if statement.kind == "instruction":
            yield re.sub(r"^@\S+ ", "", statement.text).partition(" ")[0]


def table(compilations: Iterable[Compilation]) -> str:
    """Return the table of the README: shared memory of blocks and registers of threads."""
    rows: dict[tuple[str, Build], dict[int, Usage]] = {}
    for build, architecture, kernels, _ in compilations:
        for kernel, usage in sorted(kernels.items()):
            rows.setdefault((kernel, build), {})[architecture] = usage
    head = ["kernel", "build", "shared bytes", *(f"sm_{each}" for each in ARCHITECTURES)]
    spilled = sum(usage.spilled for each in rows.values() for usage in each.values())
    lines = [f"Registers of a thread, by {_compiler()}; spills: {spilled}.", ""]
    lines += ["| " + " | ".join(head) + " |", "|---|---|" + "---:|" * (len(head) - 2)]
    for (kernel, build), by_architecture in rows.items():
        shared = max(usage.shared for usage in by_architecture.values())
        registers = [by_architecture[each].registers for each in ARCHITECTURES]
        cells = [f"`{kernel}`", f"`{build}`", shared, *registers]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _compiler() -> str:
    """Name the compiler that is installed here."""
    return "NVRTC {}.{}".format(*nvrtc.version())


def is_of_this_compiler(readme: str) -> bool:
    """Return whether the table in the README was made by the compiler that is installed here."""
    return f"by {_compiler()};" in _table_in(readme)


def check(readme: str, compilations: list[Compilation]) -> list[str]:
    """Return faults, and where the table in the README departs from what this compiler makes.

    Registers differ between versions of the compiler: a table that another one made is not
    compared.
    """
    differences = faults(compilations)
    if not is_of_this_compiler(readme):
        return differences
    said, found = _table_in(readme).splitlines(), table(compilations).splitlines()
    differences += [f"not in the table of the README: {line}" for line in found if line not in said]
    differences += [
        f"only in the table of the README: {line}" for line in said if line not in found
    ]
    return differences


def with_table(readme: str, compilations: Iterable[Compilation]) -> str:
    """Return the text of the README with the table of this compiler."""
    before, rest = readme.split(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{table(compilations)}\n{END}{after}"


def _table_in(readme: str) -> str:
    """Return what the README has between the marks."""
    return readme.partition(BEGIN)[2].partition(END)[0].strip()


def main() -> int:
    """Print the table and what is wrong; return 1 if anything is."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--write", action="store_true", help=f"put the table into {README.name}")
    is_to_be_written = parser.parse_args().write
    compilations = compiled()
    if is_to_be_written:
        README.write_text(with_table(README.read_text(), compilations))
    readme = README.read_text()
    print(table(compilations), end="\n\n")
    if not is_of_this_compiler(readme):
        print(f"The table in {README.name} is not of {_compiler()}: registers were not compared.")
    differences = check(readme, compilations)
    print("\n".join(differences) or "No faults.")
    return int(bool(differences))


if __name__ == "__main__":
    sys.exit(main())
