"""What GPUs can do at best, and how long counted work takes them then."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.cost_counts import Counts

ISSUE_SLOTS = 4
"""Instructions of warps that a multiprocessor begins in a cycle."""
SECTORS_A_CYCLE = 4
"""Sectors of 32 bytes, or one access to shared memory, that it serves in a cycle."""


class Device(NamedTuple):
    """A GPU, by its data sheet; the rate of products is what is planned with.

    Parameters
    ----------
    name
        As it is sold.
    processors, ghz
        Streaming multiprocessors, and their boost clock.
    gb_per_second, gb
        Of its memory.
    fp32_lanes, fp64_lanes
        Of a multiprocessor.
    bus_gb_per_second
        To it, over PCIe with 16 lanes.
    product_tflops
        Of cuBLAS, float32 without TF32: planned, not from the data sheet.
    """

    name: str
    processors: int
    ghz: float
    gb_per_second: float
    gb: float
    fp32_lanes: int
    fp64_lanes: int
    bus_gb_per_second: float
    product_tflops: float

    @property
    def cycles(self) -> float:
        """Cycles of all multiprocessors in a second."""
        return self.processors * self.ghz * 1e9


DEVICES = (
    Device("H100 SXM", 132, 1.98, 3350, 80, 128, 64, 64, 50),
    Device("A100 80 GB SXM", 108, 1.41, 2039, 80, 64, 32, 32, 15),
    Device("RTX 4090", 128, 2.52, 1008, 24, 128, 2, 32, 55),
)

AT_WORST = {"memory": 0.6, "L1": 0.6, "issue": 1 / 3, "FP32": 0.5, "FP64": 0.5, "bus": 0.8}
"""Share of what the data sheet says that is planned with at worst. Issue: half of the slots, and
three instructions of the machine for two of PTX."""


class Bound(NamedTuple):
    """The longest of several times, in seconds, and what it is spent on."""

    seconds: float
    resource: str


def seconds_at_best(counts: Counts, device: Device) -> dict[str, float]:
    """Return the time that each part of a device needs for counted work."""
    cycles = device.cycles
    return {
        "memory": counts.least_bytes / (device.gb_per_second * 1e9),
        "L1": (counts.sectors / SECTORS_A_CYCLE + counts.passes) / cycles,
        "issue": counts.instructions / (ISSUE_SLOTS * cycles),
        "FP32": counts.fp32 / (device.fp32_lanes * cycles),
        "FP64": counts.fp64 / (device.fp64_lanes * cycles),
    }


def bound(counts: Counts, device: Device) -> Bound:
    """Return the least time of counted work, with caches that hold what they can."""
    times = seconds_at_best(counts, device)
    resource = max(times, key=times.__getitem__)
    return Bound(times[resource], resource)


def seconds_at_worst(counts: Counts, device: Device) -> float:
    """Return the time that is planned with where caches hold little and nothing overlaps well."""
    times = seconds_at_best(counts._replace(least_bytes=counts.most_bytes), device)
    return max(seconds / AT_WORST[resource] for resource, seconds in times.items())


def product_seconds(operations: float, traffic: float, device: Device) -> tuple[float, float]:
    """Return the time of products at the planned rate, at best and at worst."""
    computing = operations / (device.product_tflops * 1e12)
    moving = traffic / (device.gb_per_second * 1e9)
    return max(computing, moving), max(computing, moving / AT_WORST["memory"])


def bus_seconds(traffic: float, device: Device) -> tuple[float, float]:
    """Return the time of copies from the host, at best and at worst."""
    seconds = traffic / (device.bus_gb_per_second * 1e9)
    return seconds, seconds / AT_WORST["bus"]
