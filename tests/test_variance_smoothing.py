"""Pseudo-t: variances are smoothed in every shuffle, as its definition says."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from oracles import least_squares
from permuting import EVERYTHING, finished_by_steps, same
from scipy.ndimage import gaussian_filter
from simulate import make_incomplete, make_maps, save_group
from stores import make_store

from gpustats import Design, merge
from gpustats.archives import load_inference, save_inference
from gpustats.engines import cpu as cpu_engine
from gpustats.enhancements import ClusterExtent, ClusterMass, Tfce, Voxelwise
from gpustats.inference import permutation_test
from gpustats.maps import Maps
from gpustats.shuffles import Shuffles
from gpustats.smoothing import Blur

SIGMA_MM = 4.5
N = 9
TABLE = pd.DataFrame(
    {
        "patient": [1.0, 1, 1, 1, 0, 0, 0, 0, 0],
        "control": [0.0, 0, 0, 0, 1, 1, 1, 1, 1],
        "age": [31.0, 54, 42, 25, 67, 38, 49, 58, 33],
    }
)
MEAN = pd.DataFrame({"mean": np.ones(N)})
TESTS = {
    "one-sample": (MEAN, [1]),
    "two-sample": (TABLE[["patient", "control"]], [1, -1]),
    "adjusted": (TABLE, [1, -1, 0]),
    "slope": (TABLE, [0, 0, 1]),
}


def smoothed(values, grid, sigma_mm=SIGMA_MM):
    """Smooth values inside a mask by SciPy's filter with FSL's radii, zeros outside."""
    sigmas = sigma_mm / grid.voxel_sizes_mm
    blur = partial(
        gaussian_filter,
        sigma=sigmas,
        radius=[2 * int(sigma - 0.001) + 3 for sigma in sigmas],
        mode="constant",
    )
    return (blur(grid.unmask(values)) / np.maximum(blur(1.0 * grid.mask), 1e-300))[grid.mask]


def pseudo_t(values, design, contrast, grid):
    """Fit, smooth the variance, divide."""
    effect, variance, *_ = least_squares(values, design, contrast)
    return effect / np.sqrt(smoothed(variance, grid))


def shuffled_fits(maps, table, weights, shuffles, scheme):
    """Pseudo-t of every shuffle, each refitted from the start; ``(n_shuffles, n_voxels)``."""
    y, x, c = maps.values.astype(float), table.to_numpy(), np.atleast_2d(weights)
    null = x @ np.linalg.svd(c)[2][1:].T
    without_null = np.eye(N) - null @ np.linalg.pinv(null)
    found = []
    for permutation, signs in zip(*shuffles.draw(range(shuffles.n_shuffles)), strict=True):
        matrix = np.zeros((N, N))
        matrix[permutation, np.arange(N)] = signs
        if scheme == "dekker":
            tested = (
                without_null
                @ matrix.T
                @ without_null
                @ x
                @ np.linalg.pinv(x)[:, :]
                @ (np.linalg.pinv(x).T @ c.T)
            )
            design = np.column_stack([tested, null])
            found.append(pseudo_t(y, design, [1] + [0] * null.shape[1], maps.grid))
        else:
            data = y @ without_null if scheme == "freedman-lane" else y
            found.append(pseudo_t(data @ matrix.T, x, weights, maps.grid))
    return np.array(found)


@pytest.mark.parametrize("scheme", ["freedman-lane", "dekker", "manly"])
@pytest.mark.parametrize("question", TESTS)
def test_every_shuffle_is_a_fit_with_a_smoothed_variance(device, rng, question, scheme):
    table, weights = TESTS[question]
    maps = make_maps(rng, N)
    result = permutation_test(
        maps,
        Design(table),
        weights,
        n_permutations=60,
        scheme=scheme,
        variance_smoothing_mm=SIGMA_MM,
        device=device,
    )["voxelwise"]
    errors = "ise" if question == "one-sample" else "ee"
    shuffles = Shuffles(N, errors, 60, Design(table).matrix)
    expected = shuffled_fits(maps, table, weights, shuffles, scheme)
    assert np.allclose(result.observed, expected[0], rtol=1e-9)
    assert np.allclose(result.null_maxima, np.abs(expected).max(axis=1), rtol=2e-6)
    reach = np.abs(expected[0]) * (1 - 1e-6)
    assert np.array_equal(result.counts, (np.abs(expected) >= reach).sum(axis=0))
    assert result.scale == "pseudo-t"
