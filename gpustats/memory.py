"""How a test fits into memory: blocks of voxels, batches of maps, and what reading that costs."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from gpustats.engines import SHUFFLE_TILE, Engine, resolve
from gpustats.environment import n_cores

SHARE_OF_FREE = 0.5
"""What a test takes of the memory that is free, unless it is told."""
SHARE_OF_BLOCKS = 0.25
"""What blocks take of what is left, where the rest holds maps: these save passes."""
SHARE_OF_ROWS = 0.25
"""What the rows of all shuffles may take of what is left, not to be drawn for each block."""
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

PER_VOXEL = 120
"""Bytes of what a test knows of every voxel, and of making that."""
PER_CONTRAST, PER_STATISTIC = 24, 32
"""Bytes per voxel of maps that stay: effect, variance, t; observed scores, limits, counts."""
SCRATCH = 128
"""Bytes per voxel in which a thread works on clusters and TFCE, and its counts."""
FITTED = 3 * 4
"""Bytes of a value that is fitted: in its block, without the voxels that leave it, and the next."""
WORKING = 2**25
"""Bytes of drawing shuffles, of products and of stretches of files on their way."""
WORKING_PER_CORE = 2**24


def parse_bytes(size: str | int | None) -> int | None:
    """Read a size such as ``"2G"``, ``"500M"`` or a number of bytes; None stays None.

    Raises
    ------
    ValueError
        If it is none.

    Examples
    --------
    >>> parse_bytes("1.5G") == 3 * 2**29
    True
    """
    if size is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", str(size).strip(), re.IGNORECASE)
    n_bytes = int(float(match[1]) * UNITS[match[2].upper()]) if match else 0
    if n_bytes == 0:
        raise ValueError(f"memory must be a size such as '2G' or '500M', got {size!r}")
    return n_bytes


def budget_of(engine: Engine, memory: int | None) -> int:
    """Return the bytes that may be used: half of what is free, on the device and beside it."""
    free = min(engine.free_bytes(), resolve("cpu").free_bytes())
    return memory or int(SHARE_OF_FREE * free)


@dataclass(frozen=True)
class Load:
    """Say what a test has to go through.

    Parameters
    ----------
    n_voxels, n_subjects
        The size of the data.
    rank
        Of the design.
    n_contrasts, n_statistics
        What is found out.
    spatial
        Whether maps of shuffles are needed.
    n_rows
        Rows of each shuffle.
    shuffles
        The range of shuffles to compute.
    maps_per_shuffle
        How many maps are held of each shuffle, where any are.
    smoothing_bytes
        What a thread takes to smooth variances.
    """

    n_voxels: int
    n_subjects: int
    rank: int
    n_contrasts: int = 1
    n_statistics: int = 1
    spatial: bool = False
    n_rows: int = 1
    shuffles: range = range(0)
    maps_per_shuffle: int = 1
    smoothing_bytes: int = 0

    @property
    def fixed_bytes(self) -> int:
        """What is held whatever the blocks."""
        # the fit is there twice while it is put together
        per_voxel = PER_VOXEL + 16 * (self.rank + 1)
        per_voxel += self.n_contrasts * (PER_CONTRAST + PER_STATISTIC * self.n_statistics)
        per_voxel += SCRATCH * n_cores() if self.spatial else 0
        per_core = WORKING_PER_CORE + self.smoothing_bytes
        return per_voxel * self.n_voxels + WORKING + per_core * n_cores()

    @property
    def tile_bytes(self) -> int:
        """The rows of a tile of shuffles."""
        return 4 * SHUFFLE_TILE * self.n_rows * self.n_subjects


@dataclass(frozen=True)
class Plan:
    """Say how a test goes through its data; voxels that leave the mask make all of it less.

    Parameters
    ----------
    block_voxels
        Voxels that are in memory at a time.
    n_blocks
        How many blocks there are.
    maps
        Most maps of shuffles that are held at a time; 0 where none are needed, or where all data
        are in memory.
    keeps_rows
        Whether all shuffles are held, rather than drawn again for every block.
    passes
        How often all of the data are read.
    bytes_read
        How much is read in all.
    peak_bytes
        Memory that is expected to be in use at most, beside the process itself.
    """

    block_voxels: int
    n_blocks: int
    maps: int
    keeps_rows: bool
    passes: int
    bytes_read: int
    peak_bytes: int

    def describe(self) -> str:
        """Return one line for the log."""
        size = f"about {self.peak_bytes / 2**20:,.0f} MiB of memory"
        if self.n_blocks == 1:
            return f"all voxels at once, {self.bytes_read / 2**30:,.1f} GiB to read, {size}"
        batches = f", {self.maps:,} shuffles at a time" if self.maps else ""
        return (
            f"{self.n_blocks:,} blocks of {self.block_voxels:,} voxels{batches}, "
            f"{self.passes:,} {'passes' if self.passes > 1 else 'pass'} over the data, "
            f"{self.bytes_read / 2**30:,.1f} GiB to read, {size}"
        )

    def as_settings(self) -> dict[str, Any]:
        """Return the plan for a JSON."""
        return asdict(self)


def for_fit(engine: Engine, load: Load, memory: int | None) -> Plan:
    """Plan the fit of data that stay on disk.

    Raises
    ------
    ValueError
        If the memory is too little; it says how much would do.
    """
    return _by_blocks(engine, load, FITTED * load.n_subjects, budget_of(engine, memory))


def streamed(engine: Engine, load: Load, memory: int | None) -> Plan:
    """Plan a test whose data stay on disk.

    Parameters
    ----------
    engine
        Where it is computed.
    load
        What there is to do.
    memory
        Bytes that may be used; half of what is free by default.

    Raises
    ------
    ValueError
        If that is too little; it says how much would do.
    """
    budget = budget_of(engine, memory)
    # a block, and the one that is made of it or that is being read meanwhile
    per_voxel = 2 * 4 * load.n_subjects
    if not load.spatial:
        n_rows_bytes = -(-len(load.shuffles) // SHUFFLE_TILE) * load.tile_bytes
        smallest = load.fixed_bytes + engine.voxel_tile() * FITTED * load.n_subjects
        keeps = n_rows_bytes <= SHARE_OF_ROWS * (budget - smallest)
        held = n_rows_bytes if keeps else load.tile_bytes
        return _by_blocks(engine, load, per_voxel, budget, held=held, keeps_rows=keeps)
    return _by_batches(engine, load, per_voxel, budget)


def _by_blocks(
    engine: Engine,
    load: Load,
    per_voxel: int,
    budget: int,
    *,
    held: int = 0,
    maps: int = 0,
    keeps_rows: bool = False,
) -> Plan:
    """Make blocks as large as the memory allows, given what is held beside them."""
    step = engine.voxel_tile()
    fixed = load.fixed_bytes + held
    # a test that fits into memory is of no use where the fit before it does not
    needed = fixed + step * max(per_voxel, FITTED * load.n_subjects)
    if budget < needed:
        raise ValueError(
            f"{budget // 2**20:,} MiB of memory are too little for {load.n_subjects:,} subjects "
            f"and {load.n_voxels:,} voxels; give at least {-(-needed // 2**20):,} MiB"
        )
    block = (budget - fixed) // per_voxel // step * step
    block = min(block, -(-load.n_voxels // step) * step)
    n_blocks = -(-load.n_voxels // block)
    # the first pass of a test of maps is for the observed one
    several = n_blocks > 1 and maps
    passes = load.maps_per_shuffle * (1 + len(cut(load.shuffles, maps))) if several else 1
    n_bytes = passes * 4 * load.n_voxels * load.n_subjects
    peak = fixed + block * per_voxel
    return Plan(block, n_blocks, maps if n_blocks > 1 else 0, keeps_rows, passes, n_bytes, peak)


def _by_batches(engine: Engine, load: Load, per_voxel: int, budget: int) -> Plan:
    """Keep all data if that is possible; else hold as many maps as go beside smaller blocks."""
    step = engine.voxel_tile()
    per_voxel += 4 * SHUFFLE_TILE  # the part of maps that a block is about
    per_map = 4 * load.n_voxels * load.maps_per_shuffle
    few = min(SHUFFLE_TILE, len(load.shuffles))
    whole = -(-load.n_voxels // step) * step * per_voxel + few * per_map + load.tile_bytes
    left = budget - load.fixed_bytes
    if whole <= left:
        held = few * per_map + load.tile_bytes
        return _by_blocks(engine, load, per_voxel, budget, held=held, maps=few)
    block = max(step, int(SHARE_OF_BLOCKS * left) // per_voxel // step * step)
    room = left - max(block * per_voxel, step * FITTED * load.n_subjects)
    tiles = min(room // (few * per_map + load.tile_bytes), -(-len(load.shuffles) // SHUFFLE_TILE))
    maps = tiles * SHUFFLE_TILE
    if tiles < 1:
        # batches that divide a tile cross none
        fitting = max(1, (room - load.tile_bytes) // per_map)
        maps = max(n for n in range(1, SHUFFLE_TILE + 1) if SHUFFLE_TILE % n == 0 and n <= fitting)
    held = min(maps, len(load.shuffles)) * per_map + max(1, tiles) * load.tile_bytes
    return _by_blocks(engine, load, per_voxel, budget, held=held, maps=maps)


def cut(indices: range, size: int) -> list[range]:
    """Cut a range into parts that begin at multiples of ``size``, but for the first."""
    if not indices:
        return []
    starts = range(indices.start // size * size, indices.stop, size)
    return [range(max(a, indices.start), min(a + size, indices.stop)) for a in starts]
