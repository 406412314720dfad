"""How much memory this process can still get: what the machine has, and what its container lets it.

Batch systems and containers bound a process by control groups of Linux, one inside the other, each
with a limit of its own. A process that exceeds the limit of any of them is killed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

MEMORY_OF_MACHINE = "proc/meminfo"
GROUPS_OF_PROCESS = "proc/self/cgroup"


class Accounts(NamedTuple):
    """Name the files in which a version of control groups keeps account of memory."""

    mount: str
    limit: str
    usage: str
    cache: str
    """The line of ``memory.stat`` with the cache of files that nothing else is made to wait for."""


UNIFIED = Accounts("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")
BY_CONTROLLER = Accounts(
    "sys/fs/cgroup/memory",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "total_inactive_file",
)


def free_bytes(root: Path = Path("/")) -> int:
    """Return how much memory this process can still get.

    Parameters
    ----------
    root
        Where the file systems of the kernel are.

    Returns
    -------
    int
        The least of what the machine has free and what each control group leaves. Files that a
        group has in its cache and has not used again count as free: they go when room is needed.
    """
    return max(0, min([_free_of_machine(root), *_left_in_groups(root)]))


def _free_of_machine(root: Path) -> int:
    """Return what the operating system can still give."""
    for name, value in _pairs(root / MEMORY_OF_MACHINE):
        if name == "MemAvailable:":
            return int(value) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _left_in_groups(root: Path) -> Iterator[int]:
    """Yield what is left in each control group around this process that has a limit."""
    for line in _lines(root / GROUPS_OF_PROCESS):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            accounts = UNIFIED
        elif "memory" in controllers.split(","):
            accounts = BY_CONTROLLER
        else:
            continue
        # a container may see its own group as the root, under the name that it has outside
        names = [name for name in PurePosixPath(path).parts if name not in ("/", "..")]
        for depth in range(len(names) + 1):
            left = _left_in(root.joinpath(accounts.mount, *names[:depth]), accounts)
            if left is not None:
                yield left


def _left_in(group: Path, accounts: Accounts) -> int | None:
    """Return what is left in a control group; None if it has no limit, or is not to be seen."""
    limit, usage = (_number(group / name) for name in (accounts.limit, accounts.usage))
    if limit is None or usage is None:
        return None
    cache = dict(_pairs(group / "memory.stat")).get(accounts.cache, "0")
    return limit - usage + int(cache)


def _number(path: Path) -> int | None:
    """Read a number; None where there is none, or the word for no limit."""
    word = "".join(_lines(path)).strip()
    return int(word) if word.isdecimal() else None


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the first two words of each line that has two."""
    for words in map(str.split, _lines(path)):
        if len(words) > 1:
            yield words[0], words[1]


def _lines(path: Path) -> list[str]:
    """Read a file of the kernel; nothing where there is none."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
