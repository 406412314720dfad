"""The permutation test: draw shuffles, compare each with what was observed, keep maxima and counts.

One loop serves every statistic. What a range of shuffles yields is its indices, its maxima and
integer counts, which merge into what one run over all of them would have given.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpustats import distributed, expectation, fingerprints
from gpustats.checkpoints import Checkpoint, Nowhere
from gpustats.cohort import Cohort
from gpustats.contrast_maps import ContrastMaps
from gpustats.crew import crew_of
from gpustats.design import Design
from gpustats.engines import resolve
from gpustats.enhancements import Statistic, Voxelwise
from gpustats.exchangeability import BlockExchange
from gpustats.glm import design_for, fit
from gpustats.loop import ContrastTest
from gpustats.maps import Maps
from gpustats.memory import parse_bytes
from gpustats.outcomes import Inference, Outcome
from gpustats.pairwise_sweeping import testable
from gpustats.partition import Scheme
from gpustats.planning import Choices, described, described_maps, named_contrasts, plans_of
from gpustats.pooled_variance import warn_of_unequal_variances
from gpustats.progress import counted
from gpustats.shuffles import Shard
from gpustats.stored import StoredMaps
from gpustats.sweeping import Finish, Keeper

if TYPE_CHECKING:
    from distributed import Client

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
    null_contributions: bool = False,
    variance_smoothing_mm: float | None = None,
    device: str = "auto",
    memory: str | int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 60.0,
    client: Client | None = None,
    allow_mixed: bool = False,
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
        What to compare: any of `Voxelwise`, `ClusterExtent`, `ClusterMass`, `Tfce`,
        `TrueDiscoveries`.
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
    null_contributions
        Whether to count at which voxels the shuffles have their maxima, which takes every null map
        in full: it shows whether the rim of the mask, say, makes the thresholds.
    variance_smoothing_mm
        Standard deviation in mm of a Gaussian that smooths the variance, inside the mask, in the
        observed map and in every shuffle (``randomise -v``); the full width at half maximum is
        2.355 times that. What is compared is then the pseudo-t, effect / sqrt(smoothed variance)
        [4]_, of more power where subjects are few; what clusters are formed at in z or p is turned
        into t of the residual degrees of freedom all the same. ``Inference.maps`` stay those of
        `fit`. For t contrasts of data without missing values.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:<index>"``.
    memory
        What the test of a store may take, ``"2G"`` or a number of bytes; half of what is free by
        default. With a client, what each worker may.
    checkpoint
        A folder in which to keep what is done. If it holds a checkpoint of this very test, the
        test goes on from there; the result has the same bits. It stays when the test is done,
        until `remove_checkpoint` is called.
    checkpoint_seconds
        How old a checkpoint must be to be replaced, after a step: some shuffles of a block of
        voxels, or a batch of maps.

    client
        Of a Dask cluster, to spread the shuffles over its workers, each on as many cores as it
        has threads; GPUs are shared out by ``CUDA_VISIBLE_DEVICES``, as dask-cuda does. What is
        lost with a worker is computed again by another, and given up once four workers were
        lost with the same range. The result has the bits of one process's.
    allow_mixed
        Whether workers may differ in processor, libraries or device, of which the last bits
        depend: maxima then agree to 1e-5.

    Returns
    -------
    Inference
        Observed maps, corrected and uncorrected p, and null maxima of each statistic.

    Raises
    ------
    ValueError
        If maps, design, blocks or an option do not fit, a contrast is not estimable, F is to be
        two-sided, no shuffle changes the design, the memory is too little, the checkpoint is
        damaged or of another test, or workers differ.
    TypeError
        If the client is none.
    DeviceError
        If the device is not there.
    OSError
        If a store cannot be read, a checkpoint cannot be written, the scheduler of the client is
        lost, or worker after worker.

    Notes
    -----
    p = b / P, where b counts the P rearrangements, the observed one included, whose maximum is
    at least the observed value; so p is never 0 [3]_. Values within 2**-19 of a cosine, 1e-5 of
    t or F, or 1e-9 of a score in fixed point (1e-5 of one that is made of F) tie. What is compared
    is the value of rearrangement 0 through the same product as the others; what is reported is the
    map of `fit`.

    Where voxels lack subjects (`load_maps` with ``missing="pairwise"``) each is tested in those
    that it has, with their design; a shuffle acts on these by what it induces on them. Voxels
    whose subjects cannot answer all of the contrasts leave the mask and are counted. Maxima and
    maps are z, because t of unequal degrees of freedom are not comparable.

    References
    ----------
    .. [1] Freedman & Lane (1983), J. Bus. Econ. Stat. 1, 292-298.
    .. [2] Winkler et al. (2014), NeuroImage 92, 381-397.
    .. [3] Phipson & Smyth (2010), Stat. Appl. Genet. Mol. Biol. 9, 39.
    .. [4] Nichols & Holmes (2002), Human Brain Mapping 15, 1-25.
    """
    choices = Choices(
        statistics=tuple(statistics),
        n_permutations=n_permutations,
        two_sided=two_sided,
        seed=seed,
        shuffles=shuffles,
        blocks=None if blocks is None else np.asarray(blocks),
        block_exchange=block_exchange,
        errors=errors,
        scheme=scheme,
        uncorrected=uncorrected,
        null_contributions=null_contributions,
        variance_smoothing_mm=variance_smoothing_mm,
    )
    engine, budget = resolve(device), parse_bytes(memory)
    design = design_for(maps, design)
    contrasts = named_contrasts(design, contrast)
    tasks = choices.tasks(maps, design, contrasts.values(), engine, budget)
    crew = crew_of(client, device, allow_mixed=allow_mixed, alone=checkpoint is not None)
    told = choices.as_settings()
    settings = {**told, **described(tasks)}
    fitted = fit(maps, design, device=device, memory=budget)
    for task in tasks:
        fitted = testable(fitted, task.contrast, task.shuffles)
        if task.shuffles.errors == "ee":
            warn_of_unequal_variances(fitted.maps, fitted.design, task.contrast)
    print_ = fingerprints.fingerprint(fitted, contrasts.values(), settings, blocks, block_exchange)
    identity = {**print_, **told, "range": [str(task.indices) for task in tasks]}
    del identity["settings"]  # each of them is told by its name
    keepers = _keepers(checkpoint, identity, checkpoint_seconds, len(tasks))

    def tests() -> Iterator[ContrastTest]:
        asked = uncorrected, null_contributions
        return (ContrastTest(fitted, task, statistics, *asked) for task in tasks)

    streams = fitted.plan is not None and not crew
    seconds = _expected(tests()) if streams else [None] * len(tasks)
    with counted(sum(len(task.indices) for task in tasks)) as finish:
        outcomes, reported = (
            distributed.spread(crew, list(tests()), finish, memory=budget)
            if crew
            else _here(tests(), keepers, finish)
        )
    if crew:
        print_["engine"], settings["workers"] = crew.engine, crew.size
    found = {"engine": engine.describe(), **described_maps(fitted.maps)}
    if fitted.plan is not None:
        found["plan"] = {"fit": fitted.plan.as_settings(), **plans_of(tasks, seconds)}
    return Inference(tuple(outcomes), fitted.maps.grid, {**settings, **found}, print_, reported)


def _expected(tests: Iterable[ContrastTest]) -> Sequence[float | None]:
    """Estimate how long the test of each contrast of a store will take, and log the sum."""
    seconds = [expectation.expected_seconds(test) for test in tests]
    if in_all := expectation.in_words(seconds):
        logger.info("expected to take %s from the start to the end (an estimate)", in_all)
    return seconds


def _here(
    tests: Iterable[ContrastTest], keepers: Sequence[Keeper], finish: Finish
) -> tuple[list[Outcome], dict[str, ContrastMaps]]:
    """Test contrasts in this process, one after the other; the data of one at a time."""
    outcomes: list[Outcome] = []
    reported: dict[str, ContrastMaps] = {}
    for test, keeper in zip(tests, keepers, strict=True):
        outcomes += test.run(finish, keeper)
        reported[test.task.contrast.name] = test.reported
    return outcomes, reported


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
