"""The permutation test: draw shuffles, compare each with what was observed, keep maxima and counts.

One loop serves every statistic. What a range of shuffles yields is its indices, its maxima and
integer counts, which merge into what one run over all of them would have given.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpustats import fingerprints
from gpustats.contrasts import Contrast
from gpustats.design import Design
from gpustats.engines import SHUFFLE_TILE, Array, Engine, Exceedances, Form, ScoreCounts
from gpustats.enhancements import (
    Enhancer,
    MapKind,
    Statistic,
    Voxelwise,
)
from gpustats.exchangeability import BlockExchange
from gpustats.glm import ContrastMaps, Fit, fit
from gpustats.maps import Maps
from gpustats.outcomes import Inference, Outcome
from gpustats.partition import Partition, Projection, Scheme, partition, projection
from gpustats.planning import (
    check_options,
    chosen_errors,
    counts_both_tails,
    named_contrasts,
    shuffle_range,
)
from gpustats.progress import counted
from gpustats.shuffles import Shard, Shuffles

logger = logging.getLogger("gpustats")


def permutation_test(  # noqa: PLR0913 -- each argument is one choice of the test
    maps: Maps,
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
) -> Inference:
    """Test contrasts at every voxel by permutation, controlling the family-wise error rate.

    The data are refitted under rearrangements that the null hypothesis leaves unchanged: sign
    flips where a mean is tested, otherwise shuffles of the residuals of the nuisance model. Each
    statistic contributes the largest value it reaches anywhere in the mask; an observed value is
    compared with that distribution of maxima.

    Parameters
    ----------
    maps
        One map per subject.
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

    Returns
    -------
    Inference
        Observed maps, corrected and uncorrected p, and null maxima of each statistic.

    Raises
    ------
    ValueError
        If maps, design, blocks or an option do not fit, a contrast is not estimable, F is to be
        two-sided, or no shuffle changes the design.
    DeviceError
        If the device is not there.

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
    fitted = fit(maps, design, device=device)
    contrasts = named_contrasts(fitted.design, contrast)
    check_options(contrasts.values(), statistics, two_sided, scheme, fitted.df)
    planned: list[tuple[Contrast, Partition, Shuffles]] = []
    for one in contrasts.values():
        parts = partition(fitted.design, one)
        plan = Shuffles(
            fitted.maps.n_subjects,
            chosen_errors(errors, parts),
            n_permutations,
            fitted.design.matrix,
            None if blocks is None else np.asarray(blocks),
            block_exchange,
            seed,
        )
        logger.info("%s: %s", one.name, plan.describe())
        planned.append((one, parts, plan))
    # nothing is computed before every range has been checked
    ranges = [shuffle_range(shuffles, plan.n_shuffles) for *_, plan in planned]
    outcomes: list[Outcome] = []
    maps_of: dict[str, ContrastMaps] = {}
    with counted(sum(map(len, ranges))) as finish:
        for (one, parts, plan), indices in zip(planned, ranges, strict=True):
            test = _Test(fitted, one, parts, plan, statistics, two_sided, scheme, uncorrected)
            outcomes += test.run(indices, finish)
            maps_of[one.name] = test.reported
    settings = {
        "seed": int(seed),
        "n_permutations": int(n_permutations),
        "scheme": scheme,
        "errors": errors,
        "two_sided": two_sided is not False,
        "uncorrected": uncorrected,
        "shuffles": {one.name: plan.describe() for one, _, plan in planned},
        # JSON has no larger integers; the line above says about how many there are
        "n_distinct": {
            one.name: plan.n_distinct if plan.n_distinct < 2**53 else None
            for one, _, plan in planned
        },
        "statistics": [repr(statistic) for statistic in statistics],
        "engine": fitted.engine.describe(),
    }
    print_ = fingerprints.fingerprint(fitted, contrasts.values(), settings, blocks, block_exchange)
    return Inference(tuple(outcomes), fitted.maps.grid, settings, print_, maps_of)


class _Test:
    """One contrast: its data in tiles, its shuffles, and what each statistic found so far."""

    def __init__(
        self,
        fitted: Fit,
        contrast: Contrast,
        parts: Partition,
        plan: Shuffles,
        statistics: Sequence[Statistic],
        two_sided: bool | None,
        scheme: Scheme,
        uncorrected: bool,
    ) -> None:
        self.engine: Engine = fitted.engine
        self.contrast = contrast
        self.plan = plan
        self.two_sided = counts_both_tails(contrast, two_sided)
        self.uncorrected = uncorrected
        self.rule: Projection = projection(parts, scheme, plan.unmoved)
        self.form = Form(
            self.rule.n_tested,
            self.rule.n_rows - self.rule.n_tested,
            float(self.rule.df),
            contrast.statistic == "F",
        )
        self.grid = fitted.maps.grid
        self.statistics = statistics
        self.reported = fitted.contrast(contrast)
        self.units = self.engine.unit_tiles(fitted.maps.values, self.rule.removed)

    def run(self, indices: range, finish: Callable[[int], None]) -> list[Outcome]:
        """Compute a range of shuffles, telling ``finish`` how many more are finished."""
        values = self.engine.values_of(self._tile(range(1))[0], self.units, self.form)
        exceeding = self.engine.exceedances(values, self.form, two_sided=self.two_sided)
        spatial = self._spatial(self._map_of(values))
        room = None
        if spatial:
            room = self.engine.empty_maps(len(indices), self.units.n_voxels)
        voxel_maxima = np.empty(len(indices), dtype=np.float32)
        for batch in _cut(indices, SHUFFLE_TILE if room is None else len(room)):
            maps = None if room is None else room[: len(batch)]
            place = slice(batch.start - indices.start, batch.stop - indices.start)
            voxel_maxima[place] = self._sweep(batch, exceeding, maps)
            for scored in spatial.values():
                scored.add(maps)
            finish(len(batch))
        return [
            self._voxelwise(indices, voxel_maxima, exceeding)
            if name == "voxelwise"
            else spatial[name].outcome(self, name, indices)
            for name in [statistic.name for statistic in self.statistics]
        ]

    def _spatial(self, observed: NDArray[np.float32]) -> dict[str, _Scored]:
        """Prepare every statistic but the voxels' own value, given the observed map."""
        peak = float(np.abs(observed).max() if self.two_sided else observed.max())
        kind = MapKind(self.contrast.statistic, self.form.df, self.two_sided, peak)
        enhancers = {s.name: s.enhancer(self.engine, self.grid, kind) for s in self.statistics}
        return {
            name: _Scored(self.engine, enhancer, observed, self.two_sided, self.uncorrected)
            for name, enhancer in enhancers.items()
            if enhancer is not None
        }

    def _sweep(
        self, batch: range, exceeding: Exceedances, maps: Array | None
    ) -> NDArray[np.float32]:
        """Compute a batch of shuffles: fill their maps, count, return the voxels' maxima."""
        found = []
        for part in _cut(batch, SHUFFLE_TILE):
            start = part.start % SHUFFLE_TILE
            first = part.start - batch.start
            peaks = self.engine.sweep(
                self._tile(part),
                self.units,
                self.form,
                shuffles=range(start, start + len(part)),
                exceeding=exceeding,
                maps=None if maps is None else maps[first : first + len(part)],
            )
            found.append(peaks)
        if maps is not None and self.contrast.statistic == "F":
            self.engine.f_maps_to_z(maps, self.form.n_tested, self.form.df)
        upper = np.concatenate([self.engine.to_host(peaks.upper) for peaks in found])
        if not self.two_sided:
            return upper
        lower = np.concatenate([self.engine.to_host(peaks.lower) for peaks in found])
        return np.asarray(np.maximum(upper, lower))

    def _tile(self, part: range) -> Array:
        """Return the rows of a whole tile, on the device, in which each shuffle has its place."""
        if self.rule.refit is None:
            return self.engine.shuffled_rows(self.plan, self.rule.columns, part)
        rows = self.rule.rows(self.plan, part)
        tile = np.zeros((SHUFFLE_TILE, *rows.shape[1:]), dtype=np.float32)
        start = part.start % SHUFFLE_TILE
        tile[start : start + len(part)] = rows
        return self.engine.to_device(tile)

    def _map_of(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the map that spatial statistics look at, from what `sweep` compares."""
        one = self.engine.statistic_of(values, self.form)
        if self.contrast.statistic == "t":
            return one
        f = one.astype(np.float64)
        return self.engine.f_to_z(f, self.form.n_tested, self.form.df).astype(np.float32)

    def _voxelwise(
        self,
        indices: range,
        maxima: NDArray[np.float32],
        exceeding: Exceedances,
    ) -> Outcome:
        """Collect what was found of the voxels' own values."""
        return Outcome(
            statistic="voxelwise",
            contrast=self.contrast,
            observed=self.reported.statistic,
            limits=self.engine.to_host(exceeding.limits).astype(np.float64),
            indices=indices,
            n_shuffles=self.plan.n_shuffles,
            two_sided=self.two_sided,
            maxima=maxima.astype(np.float64),
            null_maxima=self.engine.statistic_of(maxima, self.form).astype(np.float64),
            counts=self.engine.to_host(exceeding.counts),
        )


class _Scored:
    """What one spatial statistic found so far."""

    def __init__(
        self,
        engine: Engine,
        enhancer: Enhancer,
        observed: NDArray[np.float32],
        two_sided: bool,
        uncorrected: bool,
    ) -> None:
        self.engine = engine
        self.enhancer = enhancer
        self.two_sided = two_sided
        self.compared = self._scores(observed)
        self.limits = enhancer.limits(np.abs(self.compared))
        self.reaching: ScoreCounts | None = None
        if uncorrected:
            # where nothing was observed every shuffle counts: `outcome` says so
            limits = np.where(self.limits > 0, self.limits, np.inf)
            counts = np.zeros(observed.size, dtype=np.int64)
            self.reaching = ScoreCounts(engine.to_device(limits), engine.to_device(counts))
        self.maxima: list[NDArray[np.float64]] = []

    def _scores(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """Score a map; those of the negative side are negative."""
        scores = self.enhancer.scores(values)
        return scores - self.enhancer.scores(-values) if self.two_sided else scores

    def add(self, maps: Array) -> None:
        """Take the maxima of a batch of maps, and count; the maps are turned over and back."""
        peaks = self.enhancer.peaks(maps, self.reaching)
        if self.two_sided:
            self.engine.negate(maps)
            peaks = np.maximum(peaks, self.enhancer.peaks(maps, self.reaching))
            self.engine.negate(maps)
        self.maxima.append(peaks)

    def _counts(self, n_shuffles: int) -> NDArray[np.int64] | None:
        """Return how many of the shuffles reach each observed score."""
        if self.reaching is None:
            return None
        counts = self.engine.to_host(self.reaching.counts)
        return np.where(self.limits > 0, counts, n_shuffles)

    def outcome(self, test: _Test, name: str, indices: range) -> Outcome:
        """Collect what was found."""
        maxima = np.concatenate(self.maxima)
        reported = test.reported.z if test.contrast.statistic == "F" else test.reported.statistic
        return Outcome(
            statistic=name,
            contrast=test.contrast,
            observed=self._scores(reported.astype(np.float32)),
            limits=self.limits,
            indices=indices,
            n_shuffles=test.plan.n_shuffles,
            two_sided=self.two_sided,
            maxima=maxima,
            null_maxima=maxima,
            counts=self._counts(len(indices)),
        )


def _cut(indices: range, size: int) -> list[range]:
    """Cut a range into parts that begin at multiples of ``size``, but for the first."""
    starts = [indices.start, *range((indices.start // size + 1) * size, indices.stop, size)]
    stops = [*starts[1:], indices.stop]
    return [range(*ends) for ends in zip(starts, stops, strict=True)]
