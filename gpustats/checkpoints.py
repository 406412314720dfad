"""Runs that survive: what a permutation test knows, on disk, so that it can go on after a kill."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpustats import images
from gpustats.sweeping import State

MARK = b"gpustats checkpoint 1\n"
"""What a file begins with; a digest of all that follows comes next."""
DIGEST_BYTES = 16
IDENTITY = "identity"
"""The array that says what test a file belongs to."""


class Checkpoint:
    """Keep the states of a test's contrasts in a folder.

    Parameters
    ----------
    folder
        Where; made if it is not there.
    identity
        What must be equal in the test that goes on, as JSON can hold it: data, design, options,
        version, device.
    seconds
        A state is written when the last one is this old. 0 writes after every step.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], seconds: float) -> None:
        self.folder = folder
        self.identity: dict[str, Any] = json.loads(json.dumps(identity))
        self.seconds = seconds
        self.written = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        _remove_unfinished(folder)

    def of(self, number: int) -> ContrastCheckpoint:
        """Return what keeps the state of one contrast.

        Raises
        ------
        ValueError
            If the file is damaged, or of another test; the message says in what they differ.
        """
        return ContrastCheckpoint(self, _path(self.folder, number))


class ContrastCheckpoint:
    """Keep the state of one contrast."""

    def __init__(self, whole: Checkpoint, path: Path) -> None:
        self.whole = whole
        self.path = path
        self.state = _read(path, whole.identity) if path.exists() else None

    def resumed(self) -> State | None:
        """Return the state to go on from; None to begin."""
        return self.state

    def offer(self, state: Callable[[], State], *, last: bool) -> None:
        """Write the state after a step if the last one is old enough, whole or not at all.

        Raises
        ------
        OSError
            If it cannot be written; the one before is still there.
        """
        if not last and time.monotonic() - self.whole.written < self.whole.seconds:
            return
        content = BytesIO()
        arrays: dict[str, Any] = {IDENTITY: np.array(json.dumps(self.whole.identity)), **state()}
        np.savez(content, **arrays)
        try:
            with images.whole_file(self.path) as beside, beside.open("wb") as file:
                file.write(MARK + _digest(content.getbuffer()))
                file.write(content.getbuffer())
                file.flush()
                # on the disk before the name is: a machine may go down as well
                os.fsync(file.fileno())
        except OSError as error:
            kept = "the checkpoint before it is whole" if self.path.exists() else "none is there"
            reason = f"{error.strerror} while writing a checkpoint; {kept}"
            raise OSError(error.errno, reason, str(self.path)) from error
        self.whole.written = time.monotonic()


class Nowhere:
    """Keep nothing."""

    def resumed(self) -> None:
        """Begin anew."""

    def offer(self, state: Callable[[], State], *, last: bool) -> None:
        """Let the state go."""
        del state, last


def remove_checkpoint(folder: str | os.PathLike[str]) -> None:
    """Delete the checkpoint of a test whose result has been saved.

    Parameters
    ----------
    folder
        Where it is; the folder goes too if nothing else is in it.
    """
    _remove_unfinished(Path(folder))
    number = 0
    while (path := _path(Path(folder), number)).exists():
        path.unlink()
        number += 1
    if Path(folder).is_dir() and not any(Path(folder).iterdir()):
        Path(folder).rmdir()


def _remove_unfinished(folder: Path) -> None:
    """Delete what runs that were killed while they wrote a checkpoint have left."""
    for path in folder.glob(".partial-*-contrast-*.checkpoint"):
        path.unlink()


def _path(folder: Path, number: int) -> Path:
    """Return the file of a contrast."""
    return folder / f"contrast-{number + 1}.checkpoint"


def _read(path: Path, identity: Mapping[str, Any]) -> State:
    """Read a state, and refuse one that is damaged or of another test."""
    content = memoryview(path.read_bytes())
    start = len(MARK) + DIGEST_BYTES
    if content[:start] != MARK + _digest(content[start:]):
        raise ValueError(
            f"{path}: the checkpoint is damaged, or not one of this version; delete it to begin "
            "anew"
        )
    with np.load(BytesIO(content[start:]), allow_pickle=False) as file:
        arrays: dict[str, NDArray[Any]] = {name: file[name] for name in file.files}
    of = json.loads(str(arrays.pop(IDENTITY)))
    different = [
        f"{key} ({of.get(key)}, now {identity.get(key)})"
        for key in sorted({*of, *identity})
        if of.get(key) != identity.get(key)
    ]
    if different:
        raise ValueError(
            f"{path}: the checkpoint is of a test with other {', '.join(different)}; give the "
            "options of that test, or another folder"
        )
    return arrays


def _digest(content: memoryview) -> bytes:
    """Return a digest of bytes."""
    return blake2b(content, digest_size=DIGEST_BYTES).digest()
