"""What FSL's randomise tests, and how: from design files and options to designs and statistics.

The conventions are those of the source of randomise 2.9:

- A contrast flips signs if ``-1`` says so, or if it is a t contrast of one regressor, that
  regressor is constant, and all rows are in one block; otherwise rows are permuted.
- ``-n`` counts the observed arrangement. If no more exist, or ``-n 0``, each is used once.
- ``-D`` takes the mean out of data and regressors, which costs a degree of freedom.
- ``-e`` permutes, or flips, rows within blocks; ``--permuteBlocks`` exchanges blocks as wholes.
- Clusters have 26 neighbours and hold voxels at the threshold; their mass is the sum of t or F.
- ``-v`` smooths the variance of t, in every arrangement, and t is made of that; F stays as it is.
- TFCE has 6 neighbours and sums up 100 heights to the observed maximum, without their distance;
  of F it enhances z.

Two things differ. Arrangements count as one where they do the same to the whole design, not just
to the tested regressor: with nuisance there are more of them. And every voxel of the mask has
TFCE; randomise leaves out those at the border of the image.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpustats.contrasts import Contrast, DesignError
from gpustats.design import Design
from gpustats.enhancements import ClusterExtent, ClusterMass, Statistic, Voxelwise
from gpustats.exchangeability import BlockExchange, Exchangeability
from gpustats.fsl_options import RandomiseOptions
from gpustats.partition import partition
from gpustats.presets import CONVENTIONS
from gpustats.tfce import Tfce
from gpustats.vest import read_blocks, read_f_tests, read_vest

logger = logging.getLogger("gpustats")

MOST_EXHAUSTIVE = 10_000_000
"""Arrangements that ``-n 0`` goes through; more would take weeks."""

SAME_DIGITS = 10
"""Digits to which rows of a tested regressor are the same."""

MEAN_COLUMN = "mean"
"""The regressor that takes the mean out of data and regressors."""


@dataclass(frozen=True, eq=False)
class FslTest:
    """One contrast, and how it is tested.

    Parameters
    ----------
    contrast
        Its name is ``tstat1``, ``fstat2``: how FSL's files end.
    title
        What the design file calls it, empty if nothing.
    errors
        ``"ee"`` to permute, ``"ise"`` to flip signs.
    n_distinct
        How many arrangements there are, the observed one included.
    n_permutations
        How many are used.
    """

    contrast: Contrast
    title: str
    errors: Literal["ee", "ise"]
    n_distinct: int
    n_permutations: int

    @property
    def what(self) -> str:
        """What randomise calls it: ``t-test 1``."""
        name = self.contrast.name
        return f"{name[0]}-test {name.removeprefix(f'{name[0]}stat')}"

    @property
    def how(self) -> str:
        """What randomise calls its arrangements."""
        return "sign-flips" if self.errors == "ise" else "permutations"


@dataclass(frozen=True, eq=False)
class FslModel:
    """The design, and the tests in randomise's order: F first, then t.

    Parameters
    ----------
    design
        With a column for the mean where it is taken out.
    n_evs
        How many of its columns are regressors of the file, the first ones.
    contrasts
        All t contrasts of the file, whether they are tested or not.
    tests
        What is tested.
    blocks
        Block of every row; None if there is one.
    block_exchange
        How blocks move.
    """

    design: Design
    n_evs: int
    contrasts: tuple[Contrast, ...]
    tests: tuple[FslTest, ...]
    blocks: NDArray[np.int64] | None
    block_exchange: BlockExchange


def read_model(options: RandomiseOptions, n_maps: int) -> FslModel:
    """Read the files of a design and decide how each contrast is tested.

    Parameters
    ----------
    options
        What the command line says.
    n_maps
        How many volumes the data have.

    Raises
    ------
    DesignError
        If files do not fit each other or the data, a contrast is not estimable, or no
        arrangement changes it.
    ValueError
        If options contradict each other, or ``-n 0`` asks for too much.
    OSError
        If a file cannot be read.
    """
    _check(options)
    matrix, weights, titles = _files(options, n_maps)
    check_rows(matrix, options.design, options.input, n_maps)
    groups = np.ones(n_maps, np.int64)
    if options.blocks is not None:
        groups = read_blocks(options.blocks, n_maps)
    blocks = groups if groups.max() > 1 else None
    design = _design(matrix, options.demean)
    exchange: BlockExchange = "whole" if options.permute_blocks else "within"
    model = FslModel(design, matrix.shape[1], (), (), blocks, exchange)
    rows = np.pad(weights, ((0, 0), (0, len(design.columns) - matrix.shape[1])))
    contrasts = tuple(
        design.contrast(row, name=f"tstat{k}", statistic="t") for k, row in enumerate(rows, 1)
    )
    wanted: list[tuple[Contrast, str]] = []
    if options.f_tests is not None:
        for k, taken in enumerate(read_f_tests(options.f_tests, len(rows)), start=1):
            contrast = design.contrast(rows[taken], name=f"fstat{k}", statistic="F")
            wanted.append((contrast, ""))
    if not options.f_only:
        wanted += zip(contrasts, titles, strict=True)
    if options.skip_to > len(wanted):
        raise ValueError(f"--skipTo={options.skip_to} is beyond the last of {len(wanted)} tests")
    if options.skip_to:
        wanted = [wanted[options.skip_to - 1]]
    tests = tuple(_test(options, model, contrast, title) for contrast, title in wanted)
    return FslModel(design, matrix.shape[1], contrasts, tests, blocks, exchange)


def _check(options: RandomiseOptions) -> None:
    """Refuse options that contradict each other; say which ones do nothing."""
    if not options.one_sample and (options.design is None or options.contrasts is None):
        raise ValueError("a design (-d) and its t contrasts (-t) are needed, or -1 for the mean")
    if (options.design is None) is not (options.contrasts is None):
        raise ValueError("-d and -t go together: a design and its t contrasts")
    if options.one_sample and options.demean:
        raise ValueError("-1 tests the mean, which -D takes out of the data; leave out one of them")
    if options.permute_blocks and options.blocks is None:
        raise ValueError("--permuteBlocks exchanges the blocks that -e <design.grp> names; add -e")
    if options.f_only and options.f_tests is None:
        raise ValueError("--fonly does the F tests that -f <design.fts> names; add -f")
    if options.f_tests is None and (options.extent_f or options.mass_f):
        logger.warning("-F and -S form clusters of F; without -f there is none")
    powers = (options.tfce_height, options.tfce_extent, options.tfce_connectivity)
    if options.tfce_2d and any(power is not None for power in powers):
        logger.warning("--T2 sets H=2, E=1, C=26, whatever --tfce_H, --tfce_E and --tfce_C say")


def _files(
    options: RandomiseOptions, n_maps: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[str, ...]]:
    """Return the design, the weights of the t contrasts, and what they are called."""
    if options.design is None or options.contrasts is None:
        return np.ones((n_maps, 1)), np.ones((1, 1)), ("mean",)
    matrix, contrasts = read_vest(options.design).matrix, read_vest(options.contrasts)
    if contrasts.matrix.shape[1] != matrix.shape[1]:
        raise DesignError(
            f"{options.contrasts}: contrasts have {contrasts.matrix.shape[1]} columns, but the "
            f"design of {options.design} has {matrix.shape[1]}"
        )
    return matrix, contrasts.matrix, contrasts.names


def _design(matrix: NDArray[np.float64], demean: bool) -> Design:
    """Name the columns; take their mean out, and that of the data, on request."""
    columns = {f"EV{k}": column for k, column in enumerate(matrix.T, start=1)}
    if demean:
        if np.abs(matrix.sum(axis=0)).max() > 1e-4:
            logger.warning("-D takes the mean out of the regressors, too: some are not centred")
        # a constant leaves nothing, not even a rounding
        columns = {
            name: np.where(np.ptp(column) == 0, 0.0, column - column.mean())
            for name, column in columns.items()
        } | {MEAN_COLUMN: np.ones(len(matrix))}
    design = Design(pd.DataFrame(columns))
    design.matched_by = "order"
    return design


def _test(options: RandomiseOptions, model: FslModel, contrast: Contrast, title: str) -> FslTest:
    """Decide how a contrast is tested."""
    labels = _effective_rows(model, contrast)
    errors: Literal["ee", "ise"] = "ee"
    one_regressor = contrast.statistic == "t" and np.count_nonzero(contrast.weights) == 1
    if options.one_sample or (one_regressor and len(np.unique(labels, axis=0)) == 1):
        errors = "ise"
    elif is_unmoved(model, contrast):
        raise DesignError(
            f"{contrast.name}: no permutation changes what this contrast tests, as it is constant "
            "among the rows that are exchanged; -1 flips signs, which tests a mean"
        )
    elif partition(model.design, contrast).tests_the_mean:
        logger.warning(
            "%s tests a mean; as in randomise rows are permuted, which cannot tell it from that of "
            "the others; -1 flips signs",
            contrast.name,
        )
    scheme = Exchangeability(
        model.design.n_subjects, errors, model.design.matrix, model.blocks, model.block_exchange
    )
    n_distinct = scheme.n_distinct
    if options.n_permutations == 0 and n_distinct > MOST_EXHAUSTIVE:
        raise ValueError(
            f"-n 0 asks for all arrangements, and {contrast.name} has about {n_distinct:.2e}; say "
            "how many are to be used, like -n 5000"
        )
    n_used = options.n_permutations or n_distinct
    return FslTest(contrast, title, errors, n_distinct, n_used)


def check_rows(
    matrix: NDArray[np.float64], design: Path | None, data: Path | None, n_maps: int
) -> None:
    """Refuse a design of other rows than there are volumes, given the files of both.

    Raises
    ------
    DesignError
        If the numbers differ.
    """
    if len(matrix) != n_maps:
        raise DesignError(
            f"{design}: the design has {len(matrix)} rows, but {data} has {n_maps} volumes"
        )


def is_unmoved(model: FslModel, contrast: Contrast) -> bool:
    """Tell whether no permutation changes what a contrast tests.

    Parameters
    ----------
    model
        The design, and which of its rows are exchanged.
    contrast
        What is tested.

    Raises
    ------
    DesignError
        If blocks that are exchanged as wholes differ in size.
    """
    labels = _effective_rows(model, contrast)
    return all(len(np.unique(rows, axis=0)) == 1 for rows in _exchanged(model, labels))


def _effective_rows(model: FslModel, contrast: Contrast) -> NDArray[np.float64]:
    """Return what randomise tells rows apart by: the centred design times contrast, and block."""
    matrix = model.design.matrix
    effective = (matrix - matrix.mean(axis=0)) @ contrast.weights.T
    scale = np.linalg.norm(matrix, axis=0) @ np.abs(contrast.weights.T)
    effective = np.round(effective / scale, SAME_DIGITS) + 0.0  # no -0
    blocks = np.ones(len(matrix)) if model.blocks is None else model.blocks
    return np.column_stack([effective, blocks])


def _exchanged(model: FslModel, labels: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Yield the rows that are exchanged with one another."""
    if model.blocks is None or model.block_exchange == "both":
        yield labels[:, :-1]
        return
    members = [np.flatnonzero(model.blocks == block) for block in np.unique(model.blocks)]
    if model.block_exchange == "within":
        yield from (labels[rows] for rows in members)
    elif len({rows.size for rows in members}) == 1:
        yield np.array([labels[rows, :-1].ravel() for rows in members])
    else:
        sizes = sorted({int(rows.size) for rows in members})
        raise DesignError(f"--permuteBlocks needs blocks of one size, got sizes {sizes}")


def statistics_of(options: RandomiseOptions, kind: Literal["t", "F"]) -> list[Statistic]:
    """Return what is compared of contrasts of t or F, by FSL's conventions."""
    rules = CONVENTIONS["fsl"]
    extent, mass = options.extent_t, options.mass_t
    unit = "threshold_t"
    if kind == "F":
        extent, mass, unit = options.extent_f, options.mass_f, "threshold_f"
    found: list[Statistic] = []
    if options.voxelwise:
        found.append(Voxelwise())
    if extent is not None:
        found.append(_clusters(ClusterExtent, unit, extent))
    if mass is not None:
        found.append(_clusters(ClusterMass, unit, mass, mass=rules.mass))
    if options.tfce or options.tfce_2d:
        found.append(_tfce(options))
    return found


def _clusters(made: Any, unit: str, threshold: float, **others: Any) -> Statistic:
    """Return a statistic of clusters."""
    statistic: Statistic = made(
        connectivity=CONVENTIONS["fsl"].cluster_connectivity, **{unit: threshold}, **others
    )
    return statistic


def _tfce(options: RandomiseOptions) -> Tfce:
    """Return threshold-free cluster enhancement with its settings."""
    rules = CONVENTIONS["fsl"]
    exponents: dict[str, Any] = {
        "height": options.tfce_height or 2.0,
        "extent": options.tfce_extent or 0.5,
        "connectivity": options.tfce_connectivity or rules.tfce_connectivity,
    }
    if options.tfce_2d:
        exponents = {"height": 2.0, "extent": 1.0, "connectivity": rules.tfce_2d_connectivity}
    if options.tfce_step is not None:
        return Tfce(**exponents, step=options.tfce_step)
    return Tfce(**exponents, levels=rules.tfce_levels)


def image_path(path: Path) -> Path:
    """Return the file of an image that FSL's users name without its ending."""
    if path.exists():
        return path
    for ending in (".nii.gz", ".nii", ".img", ".hdr"):
        candidate = path.with_name(path.name + ending)
        if candidate.exists():
            return candidate
    return path
