"""Fixtures of the tests of the CUDA engine, for ``conftest.py`` to import.

The fixture `cuda` makes ``import cupy`` work and says how kernels run. Modules of the CUDA engine
are imported inside of tests: they hold on to the CuPy that they find, and `cuda` hides them again.
With ``GPUSTATS_TEST_DEVICE=cuda`` the same tests run on a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import ModuleType

import pytest

from . import stand_in
from .stand_in_devices import machine
from .stand_in_modules import Launch, executed, launches
from .stand_in_streams import schedule

DEVICE_VARIABLE = "GPUSTATS_TEST_DEVICE"
IS_REAL = os.environ.get(DEVICE_VARIABLE) == "cuda"
"""Whether tests of the CUDA engine run on a GPU."""


class Emulated:
    """The pretended devices."""

    is_emulated = True

    @property
    def launches(self) -> list[Launch]:
        """What was launched in this test."""
        return launches

    @property
    def synchronizations(self) -> list[str]:
        """Why the host waited for a device in this test, each time."""
        return machine.synchronizations

    def executed(
        self, front: str = "source", mode: str = "fast", seed: int | None = None
    ) -> AbstractContextManager[None]:
        """Run launches by another front end or mode, or in the random order of a seed."""
        return executed(front, mode, seed)

    def limited(self, n_bytes: int) -> AbstractContextManager[None]:
        """Let every device have so much memory."""
        return machine.limited(n_bytes)

    def asynchronous(self, seed: int) -> AbstractContextManager[None]:
        """Put the work of streams off, in an order that the seed chooses."""
        return schedule.asynchronous(seed)


class Real:
    """A GPU: it runs kernels in its own way, and does not tell what it ran."""

    is_emulated = False

    @property
    def launches(self) -> list[Launch]:
        pytest.skip("only the emulator records launches")

    @property
    def synchronizations(self) -> list[str]:
        pytest.skip("only the emulator records synchronizations")

    def executed(self, *_: object, **__: object) -> AbstractContextManager[None]:
        return nullcontext()

    @contextmanager
    def limited(self, n_bytes: int) -> Iterator[None]:
        import cupy

        pool = cupy.get_default_memory_pool()
        pool.free_all_blocks()
        before = pool.get_limit()
        pool.set_limit(size=n_bytes)
        try:
            yield
        finally:
            pool.set_limit(size=before)

    def asynchronous(self, _: int) -> AbstractContextManager[None]:
        return nullcontext()


@pytest.fixture
def cuda() -> Iterator[Emulated | Real]:
    """Devices for CUDA, pretended or real, with nothing on them."""
    if IS_REAL:
        yield Real()
        return
    stand_in.install()
    yield Emulated()
    stand_in.uninstall()


@pytest.fixture
def cupy(cuda: Emulated | Real) -> ModuleType:  # noqa: ARG001
    """CuPy, or its stand-in."""
    import cupy

    return cupy


@pytest.fixture
def emulated(cuda: Emulated | Real) -> Emulated:
    """Pretended devices, for tests that make no sense on a GPU."""
    if not isinstance(cuda, Emulated):
        pytest.skip("tests the emulator")
    return cuda
