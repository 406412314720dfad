"""t and F to z in float64, by the formulas of `gpustats.distributions` (CUDA)."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np
from numpy.typing import NDArray

from gpustats import cuda, distributions
from gpustats.engines import Array

THREADS = 128


def t_to_z(t: NDArray[np.floating], df: float) -> NDArray[np.float64]:
    """Turn t values, any shape, into z values of the same upper tail."""
    return _of_each("t_to_z", t, df, *_table(df))


def f_to_z(f: NDArray[np.floating], dimension: int, df: float) -> NDArray[np.float64]:
    """Turn F values, any shape, into z values of the same upper tail."""
    return _of_each("f_to_z", f, dimension, df, _log_beta(dimension, df))


def t_maps_to_z(maps: Array, df: float) -> None:
    """Turn maps of t, float32 on the device, into z in place; nothing waits for it."""
    maps[...] = _on_device("t_to_z", maps.astype(np.float64), df, *_table(df)).astype(np.float32)


def f_maps_to_z(maps: Array, dimension: int, df: float) -> None:
    """Turn maps of F, float32 on the device, into z in place; nothing waits for it."""
    n_blocks = -(-maps.size // THREADS)
    arguments = (maps, maps.size, dimension, df, _log_beta(dimension, df))
    _kernels().launch("f_to_z_maps", n_blocks, THREADS, *arguments)


def _of_each(kernel: str, statistic: NDArray[np.floating], *parameters: Any) -> NDArray[np.float64]:
    """Send a statistic to the device, turn each value into z there and fetch them."""
    values = cupy.asarray(np.ravel(statistic), dtype=np.float64)
    fetched: NDArray[np.float64] = _on_device(kernel, values, *parameters).get()
    return fetched.reshape(statistic.shape)


def _on_device(kernel: str, values: Array, *parameters: Any) -> Array:
    """Turn each value, float64 on the device, into z there."""
    z = cupy.empty(values.shape, dtype=np.float64)
    n_blocks = -(-z.size // THREADS)
    _kernels().launch(kernel, n_blocks, THREADS, values, z.size, *parameters, z)
    return z


def _table(df: float) -> tuple[Any, ...]:
    """Return the table of t to z on the device, its shape and the width of its segments."""
    table = distributions.t_to_z_table(df)
    return cupy.asarray(table), *table.shape, distributions.SEGMENT_WIDTH


def _log_beta(dimension: int, df: float) -> float:
    """Compute the constant of F, as `gpustats.distributions.f_to_z` does."""
    return distributions.log_beta(0.5 * df, 0.5 * dimension)


def _kernels() -> cuda.Kernels:
    """Return the kernels of ``t_to_z.cu``."""
    return cuda.kernels("t_to_z", THREADS=THREADS)
