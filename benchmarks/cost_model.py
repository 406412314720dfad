"""What kernels cost: ``python -m benchmarks.cost_model [--write] [--check]``.

Computed, not measured: what the emulator of the tests counts, over what data sheets promise. The
tables stand in ``kernels/README.md`` between the lines ``<!-- costs -->`` and ``<!-- /costs -->``.
They take half a minute, g++ and NVRTC (``pip install nvidia-cuda-nvrtc``), and no GPU.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from benchmarks.cost_counts import Counts, brain, compiler, counts_of_all
from benchmarks.cost_devices import AT_WORST, DEVICES, Device, bound
from benchmarks.cost_workloads import N_TILES, n_voxel_tiles, seconds, workloads
from benchmarks.harness import ROOT

README = ROOT / "kernels" / "README.md"
BEGIN, END = "<!-- costs -->", "<!-- /costs -->"
IDLE = 1000
"""Instructions of warps below which a kernel found nothing to do."""

COUNTED = (
    "kernel",
    "in",
    "of one",
    "memory, MB",
    "sectors",
    "shared",
    "instructions",
    "FP32",
    "FP64",
    "atomics",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables, put them into the README, or tell whether those in it are up to date."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost_model", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the tables into the README")
    parser.add_argument("--check", action="store_true", help="change nothing, fail if outdated")
    parser.add_argument("--readme", type=Path, default=README, help="the file")
    options = parser.parse_args(arguments)
    if not (by := compiler()):
        print("NVRTC is not installed, nothing was counted: pip install nvidia-cuda-nvrtc")
        return 0 if options.check else 2
    before = options.readme.read_text(encoding="utf-8")
    if options.check and f"by {by}" not in costs_in(before):
        print(f"the costs in {options.readme.name} are not of {by}: they were not compared")
        return 0
    block = tables(counts_of_all(), by)
    if options.check:
        if block == costs_in(before):
            return 0
        print(f"{options.readme.name} is outdated: run python -m benchmarks.cost_model --write")
        return 1
    if options.write:
        options.readme.write_text(with_costs(before, block), encoding="utf-8")
    else:
        print(block)
    return 0


def costs_in(readme: str) -> str:
    """Return what the README has between the marks."""
    return readme.partition(BEGIN)[2].partition(END)[0].strip()


def with_costs(readme: str, block: str) -> str:
    """Return the text of the README with another block between the marks.

    Raises
    ------
    ValueError
        If the marks are not there.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the lines {BEGIN} and {END} must be in the README")
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def tables(counts: Sequence[Counts], by: str) -> str:
    """Return all that stands between the marks."""
    n_launches = 2 * N_TILES * n_voxel_tiles()
    return "\n".join(
        [
            f"Computed, not measured: PTX by {by}, executed on {brain().n_voxels:,} voxels or a "
            "part of them. Of one map, shuffle or subject:",
            "",
            *markdown((*COUNTED, *(device.name for device in DEVICES)), counted_rows(counts)),
            "",
            "Memory: traffic if caches keep what they can, and if they keep nothing of what a "
            "thousand maps in flight hold. Sectors (of 32 bytes), accesses to shared memory and "
            "instructions are those of warps, as if all lanes always took part; FP32, FP64 and "
            "atomics are those of threads, which take turns: where they unite components at once, "
            "there is a little more to do. Then the least time, and what it is spent on.",
            "",
            *markdown(("study", *(device.name for device in DEVICES)), study_rows(counts)),
            "",
            f"At best and at worst, from the stack in the memory of the host. Not in it: what the "
            f"host does (the largest t of 10,000 shuffles takes {n_launches:,} launches, whatever "
            "the number of subjects), latency (TFCE of fewer than a thousand maps at a time is "
            "bound by it), and files. A stack that does not fit goes over the bus for every 192 "
            "shuffles.",
            "",
            *markdown(DEVICE_HEADINGS, map(device_cells, DEVICES)),
            "",
            f"From data sheets, but for products, which are planned. At worst {percentages()}.",
        ]
    )


def markdown(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Return the lines of a table whose first column holds words."""
    headings = tuple(headings)
    alignment = ("---", *("---:" for _ in headings[1:]))
    return [f"| {' | '.join(cells)} |" for cells in (headings, alignment, *rows)]


def counted_rows(counts: Iterable[Counts]) -> Iterator[tuple[str, ...]]:
    """Yield a row for each kernel that did something, once if it did the same in other cases."""
    seen = set()
    for one in counts:
        if one.instructions < IDLE or one[2:] in seen:
            continue
        seen.add(one[2:])
        megabytes = [one.least_bytes / 1e6, one.most_bytes / 1e6]
        bounds = (bound(one, device) for device in DEVICES)
        yield (
            f"`{one.kernel}`",
            one.case,
            one.unit,
            span(*(f"{two_digits(number)}" for number in megabytes)),
            *(thousands(number) for number in one[5:]),
            *(f"{duration(limit.seconds)}, {limit.resource}" for limit in bounds),
        )


def study_rows(counts: Sequence[Counts]) -> Iterator[tuple[str, ...]]:
    """Yield a row for each study."""
    for workload in workloads():
        times = (seconds(workload, counts, device) for device in DEVICES)
        yield workload.what, *(span(duration(least), duration(most)) for least, most in times)


DEVICE_HEADINGS = (
    "GPU",
    "processors",
    "GHz",
    "GB/s",
    "GB",
    "FP32 lanes",
    "FP64 lanes",
    "bus, GB/s",
    "products, TFLOP/s",
)


def device_cells(device: Device) -> tuple[str, ...]:
    """Write what is known of a GPU for a table."""
    return device.name, *(f"{number:,g}" for number in device[1:])


def percentages() -> str:
    """Say what is planned with at worst."""
    return ", ".join(f"{share:.0%} of {resource}" for resource, share in AT_WORST.items())


def span(least: str, most: str) -> str:
    """Write two numbers, or one if they look the same."""
    return least if least == most else f"{least} to {most}"


def duration(time: float) -> str:
    """Write seconds with two digits: ``1.9e-7`` as ``0.19 µs``."""
    for unit, length in (("s", 1.0), ("ms", 1e-3)):
        if time >= length:
            return f"{two_digits(time / length)} {unit}"
    return f"{two_digits(time / 1e-6)} µs"


def thousands(number: float) -> str:
    """Write a count in thousands."""
    return f"{two_digits(number / 1000)} k" if number else ""


def two_digits(number: float) -> str:
    """Round to two significant digits, or to a whole number if it is large."""
    if number == 0:
        return "0"
    decimals = max(0, 1 - math.floor(math.log10(number)))
    return f"{number:,.{decimals}f}"


if __name__ == "__main__":
    sys.exit(main())
