"""Whole studies as sums of counted kernels, of products and of copies over the bus."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from benchmarks.cost_counts import N_DRAWN, N_NUISANCE, Counts, brain
from benchmarks.cost_devices import Device, bound, bus_seconds, product_seconds, seconds_at_worst
from gpustats.engines import SHUFFLE_TILE

SUBJECTS = (100, 40_000)
N_SHUFFLES = 10_000
VOXEL_TILE = 16384
"""As in gpustats/engines/gpu_sweep.py, which needs CuPy."""
RESIDENT_SHARE = 0.6
"""As in gpustats/engines/gpu_memory.py: a stack that takes more stays on the host."""

N_TILES = -(-N_SHUFFLES // SHUFFLE_TILE)


class Workload(NamedTuple):
    """One study.

    Parameters
    ----------
    what
        In words.
    n_subjects
        Of its stack, which comes from the memory of the host.
    amounts
        How much of each counted case, in its unit.
    n_passes
        How often the stack goes to the device before shuffles begin.
    n_rows
        Rows of the product for each shuffle; 0 without shuffles.
    """

    what: str
    n_subjects: int
    amounts: dict[str, float]
    n_passes: int = 1
    n_rows: int = 0

    @property
    def stack_bytes(self) -> float:
        """Size of the stack."""
        return 4.0 * self.n_subjects * brain().n_voxels

    @property
    def tiles_bytes(self) -> float:
        """Size of the unit residuals, filled up to whole tiles."""
        return 4.0 * self.n_subjects * n_voxel_tiles() * VOXEL_TILE


def n_voxel_tiles() -> int:
    """Return how many tiles of voxels a brain is cut into."""
    return -(-brain().n_voxels // VOXEL_TILE)


def workloads() -> list[Workload]:
    """List what is done with a GPU."""
    largest, maps = "largest r, counts", "largest r, counts, maps"
    nuisance = f"largest t, counts, {N_NUISANCE} nuisance"
    few = SUBJECTS[0]
    return [
        *(Workload(f"fit and z map, n = {n:,}", n, _observed(n) | {"z of t": 1}) for n in SUBJECTS),
        *(_study("largest t", n, largest) for n in SUBJECTS),
        _study(f"largest t, {N_NUISANCE} nuisance", few, nuisance, n_rows=1 + N_NUISANCE),
        _study("clusters, 26 neighbours", few, maps, "largest cluster, 26"),
        _study("TFCE, 6 neighbours", few, maps, "TFCE, 6"),
        _study("TFCE with uncorrected p, 6 neighbours", few, maps, "TFCE and counts, 6"),
        _study("TFCE, 26 neighbours", few, maps, "TFCE, 26"),
    ]


def _observed(n_subjects: int) -> dict[str, float]:
    """Return what the observed map takes."""
    return {"fit, rank 1": n_subjects, "contrast": 1}


def _study(what: str, n_subjects: int, *cases: str, n_rows: int = 1) -> Workload:
    """Return a test that does these cases for each of its shuffles."""
    drawn = "sign flips" if n_rows == 1 else "permutations"
    amounts = {
        **_observed(n_subjects),
        "residuals, rank 0": n_subjects,
        f"{drawn}, {N_DRAWN:,} subjects": N_SHUFFLES * n_subjects / N_DRAWN,
        **dict.fromkeys(cases, N_SHUFFLES),
    }
    name = f"{N_SHUFFLES:,} {drawn}, {what}, n = {n_subjects:,}"
    return Workload(name, n_subjects, amounts, n_passes=2, n_rows=n_rows)


def seconds(workload: Workload, counts: Iterable[Counts], device: Device) -> tuple[float, float]:
    """Return the time of a study, at best and at worst."""
    copying = bus_seconds(_bus_bytes(workload, device), device)
    computing = product_seconds(*_products(workload), device)
    for one in counts:
        amount = workload.amounts.get(one.case, 0)
        least, most = bound(one, device).seconds, seconds_at_worst(one, device)
        computing = computing[0] + amount * least, computing[1] + amount * most
    return max(copying[0], computing[0]), copying[1] + computing[1]


def _bus_bytes(workload: Workload, device: Device) -> float:
    """Return what goes to the device: the residuals for every tile of shuffles if they are large.

    They are then copied back to the host first.
    """
    once = workload.n_passes * workload.stack_bytes
    if not workload.n_rows or workload.tiles_bytes <= RESIDENT_SHARE * 1e9 * device.gb:
        return once
    return once + (1 + N_TILES) * workload.tiles_bytes


def _products(workload: Workload) -> tuple[float, float]:
    """Return operations and traffic of the products of all shuffles, which fill whole tiles."""
    n_rows = N_TILES * SHUFFLE_TILE * workload.n_rows
    n_columns = n_voxel_tiles() * VOXEL_TILE
    operations = 2.0 * n_rows * n_columns * workload.n_subjects
    traffic = N_TILES * workload.tiles_bytes if workload.n_rows else 0.0
    return operations, traffic
