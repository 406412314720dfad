"""How the values of options are read, where the options are those of another package."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from gpustats.vest import NUMBER

Convert: TypeAlias = Callable[[str], Any]


class Option(NamedTuple):
    """Say how an option is written, whose field it is, and what it takes; None for a switch."""

    word: str
    field: str
    metavar: str
    convert: Convert | None
    help: str


def path(word: str) -> Path:
    """Read the name of a file."""
    if not word:
        raise ValueError("needs the name of a file")
    return Path(word)


def root(word: str) -> Path:
    """Read what names of files begin with."""
    if word.endswith("/") or not Path(word).name:
        raise ValueError("needs what names of files begin with, not a folder")
    return Path(word)


def whole(word: str) -> int:
    """Read a whole number, 0 or more."""
    if not re.fullmatch(r"\+?[0-9]{1,15}", word):
        raise ValueError("needs a whole number, 0 or more")
    return int(word)


def positive(word: str) -> float:
    """Read a number above 0."""
    value = float(word) if NUMBER.fullmatch(word) else 0.0
    if not 0 < value < float("inf"):
        raise ValueError("needs a number above 0")
    return value


def neighbours(word: str) -> int:
    """Read how many neighbours a voxel has."""
    if word not in ("6", "18", "26"):
        raise ValueError("needs 6, 18 or 26")
    return int(word)
