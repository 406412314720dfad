"""The rows of a tile of shuffles (CUDA): random ones are drawn there, the others on the host.

Nothing here waits for the device: what is sent to it, CuPy copies to pinned memory first.
"""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np
from numpy.typing import NDArray

from gpustats import cuda
from gpustats.engines import SHUFFLE_TILE, Array
from gpustats.exchangeability import Sampling
from gpustats.shuffles import PERMUTATION_STREAM, SIGN_STREAM, Shuffles

THREADS = 256


def shuffled_rows(plan: Shuffles, columns: NDArray[np.float64], indices: range) -> Array:
    """Shuffle ``(k, n)`` columns into a tile ``(192, k, n)``: shuffle i is at i mod 192."""
    permutation, signs = draw(plan, indices)
    n_columns, n_subjects = columns.shape
    tile = cupy.zeros((SHUFFLE_TILE, n_columns, n_subjects), dtype=np.float32)
    _launch(
        "shuffles_rows",
        (n_subjects, len(indices)),
        cupy.asarray(np.ascontiguousarray(columns, dtype=np.float32)),
        permutation,
        signs,
        n_columns,
        n_subjects,
        indices.start % SHUFFLE_TILE,
        tile,
    )
    return tile


def draw(plan: Shuffles, indices: range) -> tuple[Array, Array]:
    """Draw shuffles as `Shuffles.draw` does, into ``(b, n_subjects)`` arrays of the device.

    Parameters
    ----------
    plan
        The shuffles.
    indices
        Which of them, in steps of one, 65,535 at most.

    Returns
    -------
    permutation : cupy.ndarray
        Design row of every subject, int32.
    signs : cupy.ndarray
        1 or -1 for every subject, int8.
    """
    if plan.exhaustive:
        permutation, signs = map(np.ascontiguousarray, plan.draw(indices))
        return cupy.asarray(permutation), cupy.asarray(signs)
    permutation, signs = _permutation(plan, indices), _signs(plan, indices)
    if indices.start == 0:
        permutation[0] = cupy.arange(plan.n_subjects, dtype=np.int32)
        signs[0] = 1
    return permutation, signs


def random_words(seed: int, indices: range, stream: int, n_words: int) -> Array:
    """Draw the words of `gpustats.philox.random_words`, ``(b, n_words)``, and up to 3 more each."""
    n_fours = -(-n_words // 4)
    drawn = cupy.empty((len(indices), 4 * n_fours), dtype=np.uint32)
    shape = (n_fours, len(indices))
    _launch("shuffles_words", shape, seed, indices.start, stream, n_fours, drawn)
    return drawn


def order(keys: Array, sampling: Sampling) -> Array:
    """Give the source of every unit: the stable argsort of the keys inside each set.

    Parameters
    ----------
    keys
        ``(b, at least n_units)`` uint64 of the device, uniform.
    sampling
        Which units are exchanged with one another.

    Returns
    -------
    cupy.ndarray
        ``(b, n_units)`` int32.
    """
    n_shuffles, n_keys = keys.shape
    n_units = sampling.places.size
    sets = cupy.asarray(np.stack([sampling.places, sampling.set_start, sampling.set_size]))
    ends, dealt, units = (cupy.empty((n_shuffles, n_units), dtype=np.int32) for _ in range(3))
    arguments = (keys, n_keys, sets[0], sets[1], sets[2], n_units, ends, dealt, units)
    _kernels().launch("shuffles_order", n_shuffles, THREADS, *arguments)
    return units


def _permutation(plan: Shuffles, indices: range) -> Array:
    """Draw the design row of every subject."""
    sampling, shape = plan.sampling, (len(indices), plan.n_subjects)
    n_units = sampling.places.size
    if n_units == 0:
        still = cupy.empty(shape, dtype=np.int32)
        still[:] = cupy.arange(plan.n_subjects, dtype=np.int32)
        return still
    keys = random_words(plan.seed, indices, PERMUTATION_STREAM, 2 * n_units).view(np.uint64)
    units = order(keys, sampling)
    if sampling.blocks is None:
        return units
    permutation = cupy.empty(shape, dtype=np.int32)
    block_size = sampling.blocks.shape[1]
    blocks = cupy.asarray(sampling.blocks)
    arguments = (units, n_units, blocks, block_size, plan.n_subjects, permutation)
    _launch("shuffles_blocks", shape[::-1], *arguments)
    return permutation


def _signs(plan: Shuffles, indices: range) -> Array:
    """Draw the sign of every subject."""
    sampling, shape = plan.sampling, (len(indices), plan.n_subjects)
    if sampling.n_sign_units == 0:
        return cupy.ones(shape, dtype=np.int8)
    bits = random_words(plan.seed, indices, SIGN_STREAM, -(-sampling.n_sign_units // 32))
    signs = cupy.empty(shape, dtype=np.int8)
    sign_unit = cupy.asarray(sampling.sign_unit)
    arguments = (bits, bits.shape[1], sign_unit, plan.n_subjects, signs)
    _launch("shuffles_signs", shape[::-1], *arguments)
    return signs


def _launch(name: str, shape: tuple[int, int], *arguments: Any) -> None:
    """Launch a kernel with a thread for every element of the rows of every shuffle."""
    size, n_shuffles = shape
    _kernels().launch(name, (-(-size // THREADS), n_shuffles), THREADS, *arguments)


def _kernels() -> cuda.Kernels:
    """Return the kernels of ``shuffles.cu``."""
    return cuda.kernels("shuffles", THREADS=THREADS)
