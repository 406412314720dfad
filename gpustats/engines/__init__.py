"""The seam: the few functions that a device must have, and how a device is chosen.

An engine is a module. `gpustats.engines.cpu` (NumPy and Numba) is one; above this package no
code knows which one it works with.
"""

from __future__ import annotations

import logging
from functools import cache
from types import ModuleType
from typing import NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from gpustats.spaces import Lattice

logger = logging.getLogger("gpustats")


class DeviceError(RuntimeError):
    """A device that was asked for by name is not there."""


class Regression(NamedTuple):
    """Sufficient statistics of a least squares fit at every voxel.

    Parameters
    ----------
    coordinates
        ``(rank, n_voxels)`` float64, Q'y for an orthonormal basis Q of the design.
    residual_ss
        ``(n_voxels,)`` float64, the sum of squared residuals.
    """

    coordinates: NDArray[np.float64]
    residual_ss: NDArray[np.float64]


class Engine(Protocol):
    """List what every engine module provides.

    Arguments are contiguous, finite and not empty unless a function says otherwise: the callers
    in `maps`, `design` and `glm` establish that once, engines check nothing.
    """

    @property
    def xp(self) -> ModuleType:
        """The array library of the device: plain array algebra needs no engine function."""
        ...

    def describe(self) -> str:
        """Return one line that names libraries, versions and the device."""
        ...

    def free_bytes(self) -> int:
        """Return how much memory can still be used."""
        ...

    def to_host(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return a NumPy array of a device array."""
        ...

    def regress(self, values: NDArray[np.float32], basis: NDArray[np.float64]) -> Regression:
        """Fit every voxel of ``(n_voxels, n_subjects)`` values, in float64 and two passes."""
        ...

    def t_to_z(self, t: NDArray[np.float64], df: float) -> NDArray[np.float64]:
        """Turn t values, any shape, into z values of the same upper tail."""
        ...

    def f_to_z(self, f: NDArray[np.float64], dimension: int, df: float) -> NDArray[np.float64]:
        """Turn F values, any shape, into z values of the same upper tail."""
        ...

    def label(self, above: NDArray[np.bool_], lattice: Lattice) -> NDArray[np.int32]:
        """Label connected voxels of ``(n_maps, n_voxels)`` by 1 + their smallest voxel number."""
        ...


def resolve(device: str = "auto") -> Engine:
    """Choose the engine for a device.

    Parameters
    ----------
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:<index>"``.

    Raises
    ------
    DeviceError
        If a GPU is asked for: this version has no CUDA engine.
    ValueError
        If ``device`` is no device's name.
    """
    name, _, index = device.partition(":")
    if name == "cuda" and (index == "" or index.isdecimal()) and device != "cuda:":
        raise DeviceError(
            f"device {device!r}: this version of gpustats has no CUDA engine yet; "
            "use device='cpu' or 'auto'"
        )
    if device not in ("auto", "cpu"):
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:<index>', got {device!r}")
    # Numba is imported by the first computation, not by `import gpustats`
    from gpustats.engines import cpu

    engine = cast(Engine, cpu)
    if device == "auto":
        _announce(engine.describe())
    return engine


@cache
def _announce(description: str) -> None:
    """Say once what ``"auto"`` took."""
    logger.info("device 'auto' took the CPU: %s", description)
