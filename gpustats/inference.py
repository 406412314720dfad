"""The permutation test: draw shuffles, compare each with what was observed, keep maxima and counts.

One loop serves every statistic. What a range of shuffles yields is its indices, its maxima and
integer counts, which merge into what one run over all of them would have given.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpustats import fingerprints
from gpustats.checkpoints import Checkpoint, Nowhere
from gpustats.cohort import Cohort
from gpustats.design import Design
from gpustats.engines import resolve
from gpustats.enhancements import Statistic, Voxelwise
from gpustats.exchangeability import BlockExchange
from gpustats.glm import ContrastMaps, design_for, fit
from gpustats.loop import ContrastTest, Keeper
from gpustats.maps import Maps
from gpustats.memory import Load, parse_bytes, streamed
from gpustats.outcomes import Inference, Outcome
from gpustats.partition import Scheme, partition, projection
from gpustats.planning import (
    Task,
    check_options,
    chosen_errors,
    counts_both_tails,
    described,
    named_contrasts,
    plans_of,
    shuffle_range,
)
from gpustats.progress import counted
from gpustats.shuffles import Shard, Shuffles
from gpustats.stored import StoredMaps

logger = logging.getLogger("gpustats")


def permutation_test(  # noqa: PLR0913 -- each argument is one choice of the test
    maps: Maps | StoredMaps | Cohort,
    design: Design | None = None,
    contrast: Any = None,
    *,
    statistics: Sequence[Statistic] = (Voxelwise(),),
    n_permutations: int = 5000,
    two_sided: bool | None = None,
    seed: int = 0,
    shuffles: range | Shard | None = None,
    blocks: Sequence[int] | NDArray[Any] | None = None,
    block_exchange: BlockExchange = "within",
    errors: str = "auto",
    scheme: Scheme = "freedman-lane",
    uncorrected: bool = False,
    device: str = "auto",
    memory: str | int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 60.0,
) -> Inference:
    """Test contrasts at every voxel by permutation, controlling the family-wise error rate.

    The data are refitted under rearrangements that the null hypothesis leaves unchanged: sign
    flips where a mean is tested, otherwise shuffles of the residuals of the nuisance model. Each
    statistic contributes the largest value it reaches anywhere in the mask; an observed value is
    compared with that distribution of maxima.

    Parameters
    ----------
    maps
        One map per subject, in memory or in a store. A store is read once for all shuffles where
        only voxels are compared, else once for every batch of them.
    design
        Named regressors, rows matched to the maps by label or order; the group mean by default.
    contrast
        A `Contrast`, or what `Design.contrast` takes; or a mapping from names to them.
    statistics
        What to compare: any of `Voxelwise`, `ClusterExtent`, `ClusterMass`, `Tfce`.
    n_permutations
        Rearrangements to use, the observed one included. If no more than this many distinct
        ones exist, all of them are used once and the test is exact.
    two_sided
        Whether large negative values count too; spatial statistics then enhance both tails
        apart. True by default for t, and refused for F, which has one tail.
    seed
        Seed of the rearrangements: equal seeds give equal ones on every device.
    shuffles
        The range of rearrangements to compute, or the `Shard`, for runs that are merged later;
        all by default.
    blocks
        Integer label of each subject's exchangeability block, in the order of the maps.
    block_exchange
        ``"within"`` blocks, blocks as ``"whole"``, or ``"both"``; see `Shuffles`.
    errors
        ``"ee"`` (exchangeable: permute), ``"ise"`` (independent and symmetric: flip signs),
        ``"both"``, or ``"auto"``: flip signs where the mean is tested, else permute.
    scheme
        How shuffles meet the nuisance: ``"freedman-lane"``, ``"dekker"`` or ``"manly"``.
    uncorrected
        Whether spatial statistics get uncorrected p too, which takes every null map in full.
        Voxels always do.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:<index>"``.
    memory
        What the test of a store may take, ``"2G"`` or a number of bytes; half of what is free by
        default.
    checkpoint
        A folder in which to keep what is done. If it holds a checkpoint of this very test, the
        test goes on from there; the result has the same bits. It stays when the test is done,
        until `remove_checkpoint` is called.
    checkpoint_seconds
        How old a checkpoint must be to be replaced, after a step: some shuffles of a block of
        voxels, or a batch of maps.

    Returns
    -------
    Inference
        Observed maps, corrected and uncorrected p, and null maxima of each statistic.

    Raises
    ------
    ValueError
        If maps, design, blocks or an option do not fit, a contrast is not estimable, F is to be
        two-sided, no shuffle changes the design, the memory is too little, or the checkpoint is
        damaged or of another test.
    DeviceError
        If the device is not there.
    OSError
        If a store cannot be read, or a checkpoint cannot be written.

    Notes
    -----
    p = b / P, where b counts the P rearrangements, the observed one included, whose maximum is
    at least the observed value; so p is never 0 [3]_. Values within 2**-19 of a cosine, 1e-5 of
    t or F, or 1e-9 of a fixed-point score tie. What is compared is the value of rearrangement 0
    through the same product as the others; what is reported is the map of `fit`.

    References
    ----------
    .. [1] Freedman & Lane (1983), J. Bus. Econ. Stat. 1, 292-298.
    .. [2] Winkler et al. (2014), NeuroImage 92, 381-397.
    .. [3] Phipson & Smyth (2010), Stat. Appl. Genet. Mol. Biol. 9, 39.
    """
    engine, budget = resolve(device), parse_bytes(memory)
    design = design_for(maps, design)
    contrasts = named_contrasts(design, contrast)
    check_options(contrasts.values(), statistics, two_sided, scheme, design.df)
    spatial = any(statistic.name != "voxelwise" for statistic in statistics)
    load = Load(
        maps.n_voxels, maps.n_subjects, design.rank, len(contrasts), len(statistics), spatial
    )
    tasks: list[Task] = []
    for one in contrasts.values():
        parts = partition(design, one)
        drawn = Shuffles(
            maps.n_subjects,
            chosen_errors(errors, parts),
            n_permutations,
            design.matrix,
            None if blocks is None else np.asarray(blocks),
            block_exchange,
            seed,
        )
        logger.info("%s: %s", one.name, drawn.describe())
        rule = projection(parts, scheme, drawn.unmoved)
        indices = shuffle_range(shuffles, drawn.n_shuffles)
        its_load = replace(load, n_rows=rule.n_rows, shuffles=indices)
        plan = None if isinstance(maps, Maps) else streamed(engine, its_load, budget)
        tasks.append(Task(one, drawn, rule, counts_both_tails(one, two_sided), indices, plan))
    # all that can be refused has been
    for task in tasks:
        if task.plan is not None:
            logger.info("plan of %s: %s", task.contrast.name, task.plan.describe())
    told: dict[str, Any] = {
        "seed": int(seed),
        "n_permutations": int(n_permutations),
        "scheme": scheme,
        "errors": errors,
        "two_sided": two_sided is not False,
        "uncorrected": uncorrected,
        "statistics": [repr(statistic) for statistic in statistics],
    }
    settings = {**told, **described(tasks)}
    fitted = fit(maps, design, device=device, memory=budget)
    print_ = fingerprints.fingerprint(fitted, contrasts.values(), settings, blocks, block_exchange)
    identity = {**print_, **told, "range": [str(task.indices) for task in tasks]}
    del identity["settings"]  # each of them is told by its name
    keepers = _keepers(checkpoint, identity, checkpoint_seconds, len(tasks))
    outcomes: list[Outcome] = []
    reported: dict[str, ContrastMaps] = {}
    with counted(sum(len(task.indices) for task in tasks)) as finish:
        for task, keeper in zip(tasks, keepers, strict=True):
            test = ContrastTest(fitted, task, statistics, uncorrected)
            outcomes += test.run(finish, keeper)
            reported[task.contrast.name] = test.reported
    found = {"engine": engine.describe(), "dropped_voxels": fitted.maps.dropped}
    if fitted.plan is not None:
        found["plan"] = {"fit": fitted.plan.as_settings(), **plans_of(tasks)}
    return Inference(tuple(outcomes), fitted.maps.grid, {**settings, **found}, print_, reported)


def _keepers(
    folder: str | os.PathLike[str] | None,
    identity: Mapping[str, Any],
    seconds: float,
    n_tests: int,
) -> Sequence[Keeper]:
    """Return what keeps the state of each test; every one that goes on has been read."""
    if folder is None:
        return [Nowhere()] * n_tests
    whole = Checkpoint(Path(folder), identity, seconds)
    return [whole.of(number) for number in range(n_tests)]
