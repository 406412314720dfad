"""What PALM tests, and how: from tables and options to a design, contrasts and statistics.

The conventions are those of the source of PALM alpha119:

- t contrasts come first, then F tests; an F test of one t contrast is that t contrast.
- Without a design signs are flipped and the mean is tested, up and down; without contrasts one
  regressor is tested up and down, several together.
- ``-n`` counts the observed arrangement. If no more exist, or ``-n 0``, each is used once.
- Clusters have 26 neighbours and hold voxels whose z is at the threshold; their mass is the sum of
  z. TFCE has 6 neighbours and sums up 100 heights of z up to the maximum of every arrangement,
  times their distance.

Four things differ. Arrangements count as one where they do the same to the whole design. With
``-twotail`` the tails are enhanced apart; PALM enhances the size of z, where effects of opposite
sign share clusters. ``-demean`` costs a degree of freedom, as it takes out a mean. And fits to the
tail of a distribution (``-accel``) are those of `gpustats.tails`, for corrected p only.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpustats.contrasts import Contrast, DesignError
from gpustats.design import Design
from gpustats.enhancements import ClusterExtent, ClusterMass, Statistic, Voxelwise
from gpustats.exchangeability import Errors, Exchangeability
from gpustats.fsl_model import MOST_EXHAUSTIVE, FslModel, check_rows, is_unmoved
from gpustats.palm_files import FREE, Blocks, check_variance_groups, read_blocks, read_f_tests
from gpustats.palm_files import read_table as read
from gpustats.palm_options import PalmOptions
from gpustats.partition import partition
from gpustats.presets import CONVENTIONS
from gpustats.tfce import Tfce

logger = logging.getLogger("gpustats")

MEAN_COLUMN = "mean"
"""The regressor that takes the mean out of data and regressors."""


@dataclass(frozen=True, eq=False)
class PalmTest:
    """One contrast.

    Parameters
    ----------
    contrast
        What is tested; its name is the one of its files without the unit, ``tstat_c1``.
    title
        What the design file calls it, empty if nothing.
    kind
        How PALM's files call the statistic: ``tstat`` or ``fstat``.
    suffix
        How names of PALM's files end: ``_c1``, or nothing where there is one contrast.
    """

    contrast: Contrast
    title: str
    kind: str
    suffix: str


@dataclass(frozen=True, eq=False)
class PalmModel:
    """The design, and the tests in PALM's order.

    Parameters
    ----------
    design
        With a column for the mean where it is taken out.
    tests
        What is tested: one or more.
    blocks
        Which rows are exchanged.
    errors
        ``"ee"``, ``"ise"`` or ``"both"``.
    n_permutations
        How many arrangements are used.
    """

    design: Design
    tests: tuple[PalmTest, ...]
    blocks: Blocks
    errors: Errors
    n_permutations: int


@dataclass(frozen=True, eq=False)
class _Rows:
    """The weights of a contrast, and what the file calls it."""

    weights: NDArray[np.float64]
    title: str = ""

    @property
    def is_f(self) -> bool:
        """Whether PALM takes it for an F test."""
        return len(self.weights) > 1


def read_model(options: PalmOptions, n_maps: int) -> PalmModel:
    """Read the files of a design and decide how it is tested.

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
    matrix = np.ones((n_maps, 1)) if options.design is None else read(options.design).matrix
    check_rows(matrix, options.design, options.input, n_maps)
    blocks = FREE
    if options.blocks is not None:
        within, whole = options.within, options.whole
        blocks = read_blocks(options.blocks, n_maps, within=within, whole=whole)
    if options.variance_groups is not None:
        check_variance_groups(options.variance_groups, n_maps, blocks)
    errors: Errors = "ise" if options.design is None else options.errors
    _check_sizes(blocks, errors)
    wanted = _wanted(options, matrix.shape[1])
    design, kept = _design(matrix, wanted, demean=options.demean)
    tests = tuple(_test(options, design, kept, one, k, len(wanted)) for k, one in enumerate(wanted))
    if options.over_contrasts and len({one.is_f for one in wanted}) > 1:
        raise ValueError("-corrcon needs contrasts of one kind; choose by -tonly or -fonly")
    for test in tests:
        _check_moved(design, test.contrast, blocks, errors)
    n_used = _n_permutations(options.n_permutations, design, blocks, errors)
    return PalmModel(design, tests, blocks, errors, n_used)


def _check(options: PalmOptions) -> None:
    """Refuse options that contradict each other; say which ones do nothing."""
    shortcut = options.tfce_1d or options.tfce_2d
    settings = (options.tfce_height, options.tfce_extent, options.tfce_connectivity)
    wrong = {
        "-save1-p and -logp exclude each other, as in PALM; -logp tells more": (
            options.one_minus_p and options.log_p
        ),
        "-tonly and -fonly exclude each other": options.t_only and options.f_only,
        "-f names F tests as sets of the t contrasts of -t <file>; add -t": (
            options.f_tests is not None and options.contrasts is None
        ),
        "-t needs the design of its contrasts; add -d <file>": (
            options.contrasts is not None and options.design is None
        ),
        "-reversemasks needs a mask; add -m <file>": options.reverse_mask and options.mask is None,
        "-within and -whole need the blocks of -eb <file>; add -eb": (
            (options.within or options.whole) and options.blocks is None
        ),
        "-fdr adjusts uncorrected p, which -nouncorrected leaves out": (
            options.fdr and options.without_uncorrected
        ),
        "-demean takes out the mean, which is what is tested without -d": (
            options.demean and options.design is None
        ),
        "-tfce1D and -tfce2D set H, E and C; leave out -tfce_H, -tfce_E, -tfce_C": (
            shortcut and any(one is not None for one in settings)
        ),
        "-tfce1D and -tfce2D exclude each other": options.tfce_1d and options.tfce_2d,
    }
    for reason, applies in wrong.items():
        if applies:
            raise ValueError(reason)
    _note(options)


def _note(options: PalmOptions) -> None:
    """Say which options do nothing, or something else than in PALM."""
    given = (options.tfce_height, options.tfce_extent, options.tfce_connectivity, options.tfce_step)
    shaped = options.tfce_1d or options.tfce_2d or any(one is not None for one in given)
    notes = {
        "-tfce... settings do nothing without -T": shaped and not options.tfce,
        "-Cstat does nothing without -C": options.cluster_statistic != "extent"
        and options.cluster_z is None,
        "-pmethodp does nothing here: the whole design tells arrangements apart": (
            options.partition_of_permutations is not None
        ),
        "-twotail: tails are enhanced apart; in PALM effects of opposite sign share clusters": (
            options.two_tailed and (options.tfce or options.cluster_z is not None)
        ),
        "-demean: t has a degree of freedom less than in PALM, for the mean": options.demean,
        "-accel fits corrected p; uncorrected p are counts": (
            options.accelerate is not None and not options.without_uncorrected
        ),
    }
    for note, applies in notes.items():
        if applies:
            logger.warning("%s", note)


def _wanted(options: PalmOptions, n_evs: int) -> list[_Rows]:
    """Return the contrasts to test, t first."""
    if options.contrasts is None:
        one = np.ones((1, 1))
        several = [_Rows(np.eye(n_evs), "all regressors")]
        found = [_Rows(one, "up"), _Rows(-one, "down")] if n_evs == 1 else several
    else:
        table = read(options.contrasts)
        if table.matrix.shape[1] != n_evs:
            raise DesignError(
                f"{options.contrasts}: contrasts have {table.matrix.shape[1]} columns, but the "
                f"design of {options.design} has {n_evs}"
            )
        rows = zip(table.matrix, table.names, strict=True)
        found = [_Rows(row[np.newaxis], name) for row, name in rows]
        if options.f_tests is not None:
            sets = read_f_tests(options.f_tests, len(found))
            found += [_Rows(table.matrix[taken]) for taken in sets]
    unwanted = {False} if options.f_only else {True} if options.t_only else set()
    found = [one for one in found if one.is_f not in unwanted]
    if not found:
        raise ValueError("no contrast is left to test by -tonly or -fonly")
    return found


def _design(
    matrix: NDArray[np.float64], wanted: list[_Rows], *, demean: bool
) -> tuple[Design, NDArray[np.bool_]]:
    """Name the columns; take out the mean on request. Say which columns of the file are left."""
    kept = np.ones(matrix.shape[1], np.bool_)
    columns = {f"EV{k}": column for k, column in enumerate(matrix.T, start=1)}
    if demean:
        kept = np.ptp(matrix, axis=0) > 0
        if any(one.weights[:, ~kept].any() for one in wanted):
            raise DesignError("-demean takes out the constant that a contrast tests; leave it out")
        left = [name for name, stays in zip(columns, kept, strict=True) if stays]
        columns = {name: columns[name] - columns[name].mean() for name in left}
        columns[MEAN_COLUMN] = np.ones(len(matrix))
    design = Design(pd.DataFrame(columns))
    design.matched_by = "order"
    return design, kept


def _test(
    options: PalmOptions,
    design: Design,
    kept: NDArray[np.bool_],
    rows: _Rows,
    index: int,
    n_tests: int,
) -> PalmTest:
    """Name a contrast as PALM's files are named."""
    number = f"_c{index + 1 + options.first_number}"
    kind = "fstat" if rows.is_f else "tstat"
    weights = rows.weights[:, kept]
    weights = np.pad(weights, ((0, 0), (0, len(design.columns) - weights.shape[1])))
    name = f"{kind}{number}"
    if rows.is_f:
        contrast = design.contrast(weights, name=name, statistic="F")
    else:
        contrast = design.contrast(weights[0], name=name, statistic="t")
    if rows.is_f and np.linalg.matrix_rank(contrast.weights) == 1:
        raise DesignError(
            f"F test {contrast.name}: its t contrasts say the same, so one of them would do"
        )
    several = n_tests > 1 or options.verbose_names
    suffix = ("_m1_d1" if options.verbose_names else "") + (number if several else "")
    return PalmTest(contrast, rows.title, kind, suffix)


def _check_sizes(blocks: Blocks, errors: Errors) -> None:
    """Refuse to exchange blocks of different sizes."""
    if blocks.labels is None or blocks.exchange == "within" or errors == "ise":
        return
    sizes = sorted(set(np.unique(blocks.labels, return_counts=True)[1].tolist()))
    if len(sizes) > 1:
        raise DesignError(f"-whole needs blocks of one size, got sizes {sizes}")


def _check_moved(design: Design, contrast: Contrast, blocks: Blocks, errors: Errors) -> None:
    """Refuse permutations that change nothing that a contrast tests."""
    if errors != "ee":
        return
    model = FslModel(design, 0, (), (), blocks.labels, blocks.exchange)
    if is_unmoved(model, contrast):
        raise DesignError(
            f"{contrast.name}: no permutation changes what this contrast tests, as it is constant "
            "among the rows that are exchanged; -ise flips signs, which tests a mean"
        )
    if partition(design, contrast).tests_the_mean:
        logger.warning(
            "%s tests a mean; as in PALM rows are permuted, which cannot tell it from that of "
            "the others; -ise flips signs",
            contrast.name,
        )


def _n_permutations(asked: int, design: Design, blocks: Blocks, errors: Errors) -> int:
    """Return how many arrangements are used: all for 0."""
    scheme = Exchangeability(
        design.n_subjects, errors, design.matrix, blocks.labels, blocks.exchange
    )
    if asked == 0 and scheme.n_distinct > MOST_EXHAUSTIVE:
        raise ValueError(
            f"-n 0 asks for all arrangements, and there are about {scheme.n_distinct:.2e}; say how "
            "many are to be used, like -n 5000"
        )
    return asked or scheme.n_distinct


def statistics_of(options: PalmOptions) -> list[Statistic]:
    """Return what is compared, by PALM's conventions."""
    rules = CONVENTIONS["palm"]
    found: list[Statistic] = [Voxelwise()]
    if options.cluster_z is not None:
        made = {"extent": ClusterExtent, "mass": ClusterMass}[options.cluster_statistic]
        neighbours = rules.cluster_connectivity
        found.append(made(connectivity=neighbours, threshold_z=options.cluster_z, of_z=True))
    if options.tfce:
        found.append(_tfce(options))
    return found


def _tfce(options: PalmOptions) -> Tfce:
    """Return threshold-free cluster enhancement with its settings."""
    rules = CONVENTIONS["palm"]
    height, extent = options.tfce_height or 2.0, options.tfce_extent or 0.5
    neighbours = options.tfce_connectivity or rules.tfce_connectivity
    if options.tfce_1d:
        height, extent, neighbours = 2.0, 2.0, 6
    elif options.tfce_2d:
        height, extent, neighbours = 2.0, 1.0, 26
    if options.tfce_step is not None:
        return Tfce(extent, height, neighbours, step=options.tfce_step, times_step=True, of_z=True)
    levels = rules.tfce_levels
    own = {"own_levels": rules.own_levels, "times_step": rules.times_step, "of_z": rules.of_z}
    return Tfce(extent, height, neighbours, levels=levels, **own)
