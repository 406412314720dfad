"""Where a store lies: a local folder, or whatever fsspec reaches, by one name."""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias

from gpustats import images
from gpustats.environment import n_cores

logger = logging.getLogger("gpustats")

Part: TypeAlias = Any
"""Bytes or an array whose memory is written as it is."""

URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/+(?P<rest>.*)")
"""A path object turns ``s3://`` into ``s3:/``, so that one slash must do; ``C:/`` is no URL."""

LOCK = "values/.writer"
PARTIAL = ".partial-"
"""How `images.whole_file` names what is not whole yet."""
REMOTE_READS = 16
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class Place(Protocol):
    """A folder of files that appear whole or not at all."""

    @property
    def name(self) -> str:
        """How messages call it."""
        ...

    @property
    def n_threads(self) -> int:
        """How many reads at a time are best."""
        ...

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return a file or a stretch of it, which is short where the file ends."""
        ...

    def write(self, key: str, parts: Iterable[Part]) -> None:
        """Make or replace a file."""
        ...

    def write_beside(self, ending: str, text: str) -> str:
        """Write a text beside the folder, and return its name."""
        ...

    def names(self) -> Iterator[str]:
        """Yield the names of all files that are whole."""
        ...

    def exclusive(self) -> AbstractContextManager[None]:
        """Keep other writers away."""
        ...


def find_place(path: str | os.PathLike[str]) -> Place:
    """Return the place that a path or a URL names; nothing needs to be there.

    Raises
    ------
    ImportError
        If it is a URL, and fsspec or what fsspec needs for it is not installed.
    """
    text = os.fspath(path)
    url = URL.fullmatch(text)
    if url is None:
        return Folder(Path(text))
    if url["scheme"] == "file":
        return Folder(Path("/", url["rest"]))
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise ImportError(f"{text}: URLs need fsspec: pip install 'gpustats[large]'") from error
    system, root = url_to_fs(f"{url['scheme']}://{url['rest']}")
    return Remote(f"{url['scheme']}://{url['rest']}", system, root)


@dataclass(frozen=True)
class Folder:
    """A local folder."""

    path: Path

    @property
    def name(self) -> str:
        """The path as it was given."""
        return str(self.path)

    @property
    def n_threads(self) -> int:
        """One read per core: the checksums are the work."""
        return n_cores()

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return a file or a stretch of it."""
        # unbuffered: a stretch is read at once, and nothing beyond it
        with (self.path / key).open("rb", buffering=0) as file:
            file.seek(start)
            return _read_all(file, length)

    def write(self, key: str, parts: Iterable[Part]) -> None:
        """Write beside the file, then rename."""
        path = self.path / key
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with images.whole_file(path) as partial, partial.open("wb", buffering=0) as file:
                for part in parts:
                    _write_all(file, part)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error

    def write_beside(self, ending: str, text: str) -> str:
        """Write ``<name><ending>``."""
        path = self.path.with_name(self.path.name + ending)
        with images.whole_file(path) as partial:
            partial.write_text(text, encoding="utf-8")
        return str(path)

    def names(self) -> Iterator[str]:
        """Yield the names of all files that are whole."""
        for found in self.path.rglob("*"):
            if found.is_file() and not found.name.startswith(PARTIAL):
                yield found.relative_to(self.path).as_posix()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold a lock that the system drops with the process, however that ends.

        Raises
        ------
        BlockingIOError
            If another process holds it.
        """
        path = self.path / LOCK
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            _lock(file, self.name)
            for left in self.path.rglob(f"{PARTIAL}*"):
                left.unlink()
            yield


def _read_all(file: IO[bytes], length: int | None) -> bytes:
    """Read so many bytes, or all; one call of the system reads 2 GiB at most."""
    if length is None:
        return file.read()
    first = file.read(length)
    if len(first) == length or not first:
        return first
    return first + _read_all(file, length - len(first))


def _write_all(file: IO[bytes], part: Part) -> None:
    """Write a part to its last byte: a nearly full disk takes some of it."""
    rest = memoryview(part).cast("B")
    while rest:
        rest = rest[file.write(rest) :]


def _lock(file: IO[bytes], name: str) -> None:
    """Lock a file until it is closed."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise _occupied(name, "wait until it has ended") from error
        logger.warning("%s: no locks on this file system; see that nothing else writes to it", name)


def _occupied(name: str, remedy: str) -> BlockingIOError:
    """Return the error for a store that another process writes to."""
    return BlockingIOError(errno.EAGAIN, f"another process is writing to it; {remedy}", name)


@dataclass(frozen=True)
class Remote:
    """A folder of an object store, or of another file system of fsspec."""

    name: str
    system: Any
    root: str

    @property
    def n_threads(self) -> int:
        """More reads than cores: most of the time is waiting."""
        return max(REMOTE_READS, n_cores())

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Fetch an object or a range of it."""
        end = None if length is None else start + length
        content: bytes = self.system.cat_file(self._path(key), start=start, end=end)
        return content

    def write(self, key: str, parts: Iterable[Part]) -> None:
        """Put an object: object stores do so whole or not at all."""
        self.system.makedirs(os.path.dirname(self._path(key)), exist_ok=True)  # noqa: PTH120
        self.system.pipe_file(self._path(key), b"".join(map(memoryview, parts)))

    def write_beside(self, ending: str, text: str) -> str:
        """Put ``<name><ending>``."""
        self.system.pipe_file(self.root.rstrip("/") + ending, text.encode())
        return self.name.rstrip("/") + ending

    def names(self) -> Iterator[str]:
        """Yield the names of all objects."""
        for found in self.system.find(self.root):
            yield found.removeprefix(self._path(""))

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold a lock that stays behind if the process is killed.

        Raises
        ------
        BlockingIOError
            If there is one.
        """
        lock = self._path(LOCK)
        self.system.makedirs(os.path.dirname(lock), exist_ok=True)  # noqa: PTH120
        try:
            self.system.pipe_file(lock, f"process {os.getpid()}".encode(), mode="create")
        except FileExistsError as error:
            remedy = f"if it was killed, remove {LOCK} in it and give the same command again"
            raise _occupied(self.name, remedy) from error
        try:
            yield
        finally:
            self.system.rm_file(lock)

    def _path(self, key: str) -> str:
        """Return the path of an object as its file system writes it."""
        return f"{self.root.rstrip('/')}/{key}"
