"""Plain definitions that the package is compared with: slow, short, and independent of it."""

from itertools import product

import numpy as np
from scipy import stats


def least_squares(values, design, contrast):
    """Effect, variance, statistic, and error df of every voxel, in float64 by pseudo-inverse."""
    y, x = np.asarray(values, float).T, np.asarray(design, float)
    c = np.atleast_2d(np.asarray(contrast, float))
    inverse = np.linalg.pinv(x.T @ x)
    estimate = c @ inverse @ x.T @ y
    df = x.shape[0] - np.linalg.matrix_rank(x)
    mean_square = ((y - x @ inverse @ x.T @ y) ** 2).sum(0) / df
    if len(c) == 1:
        variance = (c @ inverse @ c.T).item() * mean_square
        return estimate[0], variance, estimate[0] / np.sqrt(variance), df
    covariance = np.linalg.pinv(c @ inverse @ c.T)
    rank = np.linalg.matrix_rank(c @ inverse @ c.T)
    f = np.einsum("iv,ij,jv->v", estimate, covariance, estimate) / rank / mean_square
    return estimate, mean_square, f, df


def components(above, connectivity):
    """Label the true voxels of a volume by 1 + the smallest C-order number among its component."""
    reach = {6: 1, 18: 2, 26: 3}[connectivity]
    steps = [s for s in product((-1, 0, 1), repeat=3) if 0 < np.abs(s).sum() <= reach]
    places = [tuple(place) for place in np.argwhere(above)]
    number = {place: v for v, place in enumerate(places)}
    labels = np.zeros(len(places), int)
    for v, place in enumerate(places):
        if labels[v]:
            continue
        reached = [place]
        labels[v] = v + 1
        while reached:
            here = reached.pop()
            for step in steps:
                there = tuple(np.add(here, step))
                if there in number and not labels[number[there]]:
                    labels[number[there]] = v + 1
                    reached.append(there)
    return labels


def benjamini_hochberg(p, alpha):
    """Which hypotheses Benjamini and Hochberg reject, by their definition."""
    order = np.argsort(p)
    ranks = [k for k, i in enumerate(order, start=1) if p[i] <= alpha * k / len(p)]
    rejected = np.zeros(len(p), bool)
    rejected[order[: max(ranks, default=0)]] = True
    return rejected


def upper_tail_p(statistic, df):
    """One-sided p of t."""
    return stats.t.sf(statistic, df)


def induced(permutation, here):
    """What a permutation does to those who are here: its cycles without the others."""
    met = []
    for subject in np.flatnonzero(here):
        row = permutation[subject]
        while not here[row]:
            row = permutation[row]
        met.append(row)
    return np.array(met)


def statistic_to_z(statistic, df, dimension=None):
    """z of the same upper tail as t, or as F of a dimension."""
    if dimension is None:
        return np.sign(statistic) * stats.norm.isf(stats.t.sf(np.abs(statistic), df))
    return stats.norm.isf(stats.f.sf(statistic, dimension, df))
