"""What the functions of an engine mean, in plain words of NumPy and SciPy.

Slow, short, and independent of the engines: the self-test holds the CPU engine to these
definitions, and a GPU to the CPU engine. Voxel arrays are in the order of the mask.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats
from scipy.special import ndtri

from gpustats.engines import Form
from gpustats.shuffles import Shuffles
from gpustats.spaces import CONNECTIVITIES

LEVEL_SLACK = 1 + 2.0**-40
"""Lets a value that is a multiple of the step, rounding aside, reach its level."""


def regression(
    values: NDArray[np.float32], basis: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit every voxel by least squares: coefficients, and sums of squared residuals."""
    y = values.T.astype(np.float64)
    coefficients = np.linalg.lstsq(basis, y, rcond=None)[0]
    residuals: NDArray[np.float64] = y - basis @ coefficients
    return np.asarray(coefficients), (residuals**2).sum(axis=0)


def contrast(
    values: NDArray[np.float32], design: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Test one row of weights: c'b, s² c'(X'X)^-1 c and t of every voxel."""
    coefficients, residual_ss = regression(values, design)
    effect = weights @ coefficients
    df = len(design) - np.linalg.matrix_rank(design)
    variance = weights @ np.linalg.pinv(design.T @ design) @ weights * residual_ss / df
    return effect, variance, effect / np.sqrt(variance)


def t_to_z(t: NDArray[np.float64], df: float) -> NDArray[np.float64]:
    """Return z of the same tail, from p: for t whose p float64 can hold."""
    return np.asarray(-np.sign(t) * ndtri(stats.t.sf(np.abs(t), df)))


def f_to_z(f: NDArray[np.float64], dimension: int, df: float) -> NDArray[np.float64]:
    """Return z of the same upper tail, from the smaller of the two tails."""
    below, above = stats.f.cdf(f, dimension, df), stats.f.sf(f, dimension, df)
    return np.where(below < above, ndtri(below), -ndtri(above))


def unit_residuals(
    values: NDArray[np.float32], removed: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Take the span of the columns out of every voxel, and scale to unit length; ``(n, V)``."""
    y = values.T.astype(np.float64)
    residuals = y - removed @ np.linalg.lstsq(removed, y, rcond=None)[0]
    return np.asarray(residuals / np.linalg.norm(residuals, axis=0))


def statistic_by_refit(
    residuals: NDArray[np.float64],
    rows: NDArray[np.float64],
    form: Form,
) -> NDArray[np.float64]:
    """Fit shuffled regressors to ``(n, V)`` residuals, with and without the tested ones: t or F."""
    without = _residual_ss(rows[form.n_tested :].T, residuals)
    left = _residual_ss(rows.T, residuals)
    f = (without - left) / form.n_tested / (left / form.df)
    if form.is_f:
        return f
    slope = np.linalg.lstsq(rows.T, residuals, rcond=None)[0][0]
    return np.asarray(np.sign(slope) * np.sqrt(np.maximum(f, 0)))


def _residual_ss(columns: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum of squares that a least squares fit leaves of every voxel."""
    return np.asarray(((y - columns @ np.linalg.lstsq(columns, y, rcond=None)[0]) ** 2).sum(axis=0))


def compared(products: NDArray[np.float64], form: Form) -> NDArray[np.float64]:
    """Form what is compared from products ``(k, V)`` of rows and unit residuals."""
    shares = products**2
    tested: NDArray[np.float64] = shares[: form.n_tested].sum(axis=0) if form.is_f else products[0]
    if form.n_nuisance == 0:
        return tested
    ratio = form.df / form.n_tested / np.maximum(1 - shares.sum(axis=0), 2.0**-24)
    return np.asarray(tested * (ratio if form.is_f else np.sqrt(ratio)))


def limits(observed: NDArray[np.float64], *, is_share: bool) -> NDArray[np.float64]:
    """Return what a value must reach to tie with the observed one: r and R², or t and F."""
    sizes: NDArray[np.float64] = np.maximum(np.abs(observed), 1)
    return observed - (2.0**-19 if is_share else 1e-5 * sizes)


def shuffled(plan: Shuffles, columns: NDArray[np.float64], index: int) -> NDArray[np.float64]:
    """Shuffle ``(k, n)`` columns as the notes of `Shuffles` say; if exhaustive, flips only."""
    n = plan.n_subjects
    subjects = [np.array([subject]) for subject in range(n)]
    labels = np.zeros(n) if plan.blocks is None else plan.blocks
    blocks = [np.flatnonzero(labels == label) for label in dict.fromkeys(labels.tolist())]
    order, signs = np.arange(n), np.ones(n)
    if index == 0:
        return columns
    if plan.errors != "ee":
        units = blocks if plan.block_exchange == "whole" else subjects
        words = random_words(plan.seed, index, 0, -(-len(units) // 32))
        if plan.exhaustive:
            words = [index]
        for number, unit in enumerate(units):
            signs[unit] = 1 - 2 * (words[number // 32] >> number % 32 & 1)
    if plan.errors != "ise" and plan.block_exchange == "whole":
        sources = np.argsort(_keys(plan.seed, index, len(blocks)), kind="stable")
        order[np.concatenate(blocks)] = np.concatenate([blocks[source] for source in sources])
    elif plan.errors != "ise":
        keys = _keys(plan.seed, index, n)
        for block in blocks:
            order[block] = block[np.argsort(keys[block], kind="stable")]
    return columns[:, order] * signs


def _keys(seed: int, index: int, n_units: int) -> NDArray[np.uint64]:
    """Draw the 64-bit keys whose order is a permutation."""
    words = np.array(random_words(seed, index, 1, 2 * n_units), dtype=np.uint64)
    return words[::2] + (words[1::2] << np.uint64(32))


def random_words(seed: int, index: int, stream: int, n_words: int) -> list[int]:
    """Draw words of Philox4x32-10 under a seed, for a shuffle and a stream."""
    words: list[int] = []
    while len(words) < n_words:
        counter = [len(words) // 4, index % 2**32, index >> 32, stream]
        key = [seed % 2**32, seed >> 32]
        for _ in range(10):
            a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
            high_a, low_a = divmod(a, 2**32)
            high_b, low_b = divmod(b, 2**32)
            counter = [high_b ^ counter[1] ^ key[0], low_b, high_a ^ counter[3] ^ key[1], low_a]
            key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
        words += counter
    return words[:n_words]


def components(
    above: NDArray[np.bool_], mask: NDArray[np.bool_], connectivity: int
) -> NDArray[np.intp]:
    """Give the voxels of each component of a set a number from 1, in any order; others 0."""
    volume = np.zeros(mask.shape, dtype=bool)
    volume[mask] = above
    neighbours = ndimage.generate_binary_structure(3, CONNECTIVITIES[connectivity])
    return np.asarray(ndimage.label(volume, neighbours)[0][mask], dtype=np.intp)


def labels(
    above: NDArray[np.bool_], mask: NDArray[np.bool_], connectivity: int
) -> NDArray[np.int64]:
    """Label the components of a set of voxels by 1 + the smallest voxel number of each."""
    numbers = components(above, mask, connectivity)
    _, first, component = np.unique(numbers, return_index=True, return_inverse=True)
    return np.where(above, first[component] + 1, 0)


def cluster_sums(
    values: NDArray[np.float32],
    threshold: np.float32,
    mask: NDArray[np.bool_],
    connectivity: int,
    *,
    above: bool,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the extent and the mass, in 2**-24, of every voxel's cluster; 0 outside clusters."""
    inside = values >= threshold
    sizes = values.astype(np.float64) - (float(threshold) if above else 0.0)
    shares = np.array([inside, np.rint(sizes * 2**24) * inside]).astype(np.int64)
    sums = np.zeros((2, values.size + 1), dtype=np.int64)
    numbers = components(inside, mask, connectivity)
    np.add.at(sums.T, numbers, shares.T)
    extents, masses = sums[:, numbers]
    return extents, masses


def tfce(
    values: NDArray[np.float32],
    mask: NDArray[np.bool_],
    connectivity: int,
    extent: float,
    height: float,
    step: float,
) -> NDArray[np.float64]:
    """Integrate extent**E height**H up to each voxel's value, or sum it over levels of a step."""
    reached = values.astype(np.float64) * LEVEL_SLACK
    scores = np.zeros(values.size)
    for level, weight in _levels(values, height, step):
        above = reached >= level
        numbers = components(above, mask, connectivity)
        extents = np.bincount(numbers)[numbers]
        scores += np.where(above, extents, 0) ** extent * weight
    return scores


def _levels(
    values: NDArray[np.float32], height: float, step: float
) -> Iterator[tuple[float, float]]:
    """Yield the heights at which clusters are looked at, and what each one weighs."""
    if step:
        for number in range(1, int(max(values.max(), 0.0) * LEVEL_SLACK / step) + 1):
            yield number * step, (number * step) ** height
        return
    below = 0.0
    for level in np.unique(values[values > 0]).astype(np.float64):
        yield level, (level ** (height + 1) - below ** (height + 1)) / (height + 1)
        below = level
