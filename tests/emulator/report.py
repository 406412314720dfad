"""What a launch did: counters for a cost model, and data races."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

SECTOR_BYTES = 32

Where = Callable[[Sequence[int]], list[str]]
"""Turns sites (addresses of instructions) into ``file:line``."""


class Race(NamedTuple):
    """Two lines that access the same bytes in no order, one of them to write."""

    what: str
    first: str
    second: str
    times: int

    def __str__(self) -> str:
        return f"{self.what}: {self.second} against {self.first} ({self.times} times)"


class Site(NamedTuple):
    """A line that accesses memory, summed over the requests (of whole warps) that it made.

    ``sectors`` are 32-byte sectors of global memory, of which ``ideal_sectors`` would hold the
    same bytes without gaps; for shared memory they are passes, one per request if no two words
    lie in one bank.
    """

    where: str
    is_write: bool
    is_shared: bool
    bytes_per_lane: int
    requests: int
    lanes: int
    sectors: int
    lines: int
    ideal_sectors: int


class ArrayTraffic(NamedTuple):
    """What a launch moved to and from one array.

    ``bytes_*`` are asked for by threads, ``sectors_requested_*`` by warps (before any cache), and
    ``sectors_*`` are distinct: what an ideal cache would fetch and write back once.
    """

    name: str
    size_bytes: int
    bytes_read: int
    bytes_written: int
    sectors_requested_read: int
    sectors_requested_written: int
    sectors_read: int
    sectors_written: int
    atomics: int

    @property
    def dram_bytes(self) -> int:
        """Bytes that even an ideal cache must move between the processor and its memory."""
        return SECTOR_BYTES * (self.sectors_read + self.sectors_written)


@dataclass
class Report:
    """Counters of one launch; ``accesses``, ``sites``, ``arrays`` and ``races`` of check mode only.

    ``barriers`` count per block, ``collectives`` per warp, by name, ``atomics`` and ``accesses``
    per thread. ``instructions`` (PTX front end) count per thread, by opcode.
    """

    accesses: int = 0
    switches: int = 0
    barriers: int = 0
    atomics: int = 0
    collectives: dict[str, int] = field(default_factory=dict)
    instructions: dict[str, int] = field(default_factory=dict)
    arrays: tuple[ArrayTraffic, ...] = ()
    races: tuple[Race, ...] = ()
    _sites: tuple[dict[str, int], ...] = field(default=(), repr=False)
    _where: Where = field(default=lambda sites: [hex(site) for site in sites], repr=False)

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """Traffic of every line that accesses memory."""
        places = self._where([site["address"] for site in self._sites])
        return tuple(
            Site(
                place,
                bool(site["write"]),
                bool(site["shared"]),
                *(site[key] for key in ("bytes", *Site._fields[4:])),
            )
            for place, site in zip(places, self._sites, strict=True)
        )


def read_report(text: bytes, instructions: dict[str, int], where: Where) -> Report:
    """Return the report that the runtime wrote."""
    fields: dict[str, Any] = json.loads(text)
    races, sites, arrays = (fields.pop(key) for key in ("races", "sites", "arrays"))
    return Report(
        **fields,
        instructions=instructions,
        arrays=tuple(ArrayTraffic(**each) for each in arrays),
        races=tuple(_race(each, where) for each in races),
        _sites=tuple(sites),
        _where=where,
    )


def _race(fields: dict[str, Any], where: Where) -> Race:
    """Name the two lines of a race."""
    first, second = where([fields["first_site"], fields["second_site"]])
    return Race(fields["text"], first, second, fields["count"])
