"""What a shuffle of all subjects does to some of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpustats.jit import kernel

NOT_HERE = -1


def induced_rows(
    permutation: NDArray[np.int32],
    signs: NDArray[np.int8],
    columns: NDArray[np.float64],
    subjects: NDArray[np.intp],
    dtype: type[np.floating] = np.float64,
) -> NDArray[Any]:
    """Shuffle columns of some subjects by the shuffles that are induced on these.

    Subject k meets the row that the permutation gives it or, if that one's subject is not here,
    the row that the permutation gives to *that* subject, and so on. Thus a cycle of the permutation
    loses the subjects that are not here, and the others follow each other as before. Where the
    permutation is uniform so is what it induces [1]_, inside blocks and of whole blocks too.

    As few rows change as can: k missing subjects change those of k others at most. Voxels that lack
    different subjects are thus shuffled almost alike, and null maps are as smooth as the observed
    one where such voxels meet.

    Parameters
    ----------
    permutation, signs
        As `Shuffles.draw` gives them, ``(b, n_subjects)``.
    columns
        ``(k, n)``: those of the subjects that are here.
    subjects
        ``(n,)``: who is here.
    dtype
        Type of the result.

    Returns
    -------
    ndarray
        ``(b, k, n)``.

    References
    ----------
    .. [1] Pitman (2006), Combinatorial Stochastic Processes, Springer, section 3.1.

    Examples
    --------
    >>> order, signs = np.array([[1, 2, 0, 3]], np.int32), np.ones((1, 4), np.int8)
    >>> induced_rows(order, signs, np.array([[10.0, 12, 13]]), np.array([0, 2, 3]))
    array([[[12., 10., 13.]]])
    """
    rows = np.empty((len(permutation), *columns.shape), dtype=dtype)
    place_of = np.full(permutation.shape[1], NOT_HERE)
    place_of[subjects] = np.arange(subjects.size)
    _write_rows(permutation, signs, np.ascontiguousarray(columns), subjects, place_of, rows)
    return rows


@kernel
def _write_rows(
    permutation: NDArray[np.int32],
    signs: NDArray[np.int8],
    columns: NDArray[np.float64],
    subjects: NDArray[np.intp],
    place_of: NDArray[np.intp],
    rows: NDArray[Any],
) -> None:
    """Follow each subject's cycle to the next one who is here, and take that one's columns."""
    met = np.empty(subjects.size, dtype=np.intp)
    for shuffle in range(permutation.shape[0]):
        for place in range(subjects.size):
            subject = permutation[shuffle, subjects[place]]
            while place_of[subject] == NOT_HERE:
                subject = permutation[shuffle, subject]
            met[place] = place_of[subject]
        for column in range(columns.shape[0]):
            for place in range(subjects.size):
                sign = signs[shuffle, subjects[place]]
                rows[shuffle, column, place] = sign * columns[column, met[place]]
