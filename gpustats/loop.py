"""The loop of a permutation test: batches of shuffles, and what each statistic finds in them.

What is known between two steps is a `State`, arrays by name: a test can stop there, and be
continued by another process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpustats.complete_sweeping import Complete
from gpustats.contributions import Contributions
from gpustats.engines import SHUFFLE_TILE, Array, Engine, resolve
from gpustats.enhancements import MapKind, Statistic, looks_at_z
from gpustats.fits import Fit, PairwiseFit
from gpustats.maps import Maps
from gpustats.memory import cut
from gpustats.outcomes import Outcome
from gpustats.pairwise_sweeping import Pairwise, parts_of
from gpustats.planning import Task
from gpustats.scored import Scored
from gpustats.smoothed_sweeping import Smoothed
from gpustats.smoothing import Blur
from gpustats.sweeping import Finish, Keeper, Scale, State, Swept, filling, rooms_for


class ContrastTest:
    """One contrast: its voxels, its shuffles, and what each statistic looks at.

    Parameters
    ----------
    fitted
        The data.
    task
        What is to be done.
    statistics
        What is compared.
    uncorrected
        Whether scores of voxels are counted.
    null_contributions
        Whether it is counted which voxels supply the maxima.
    """

    def __init__(
        self,
        fitted: Fit,
        task: Task,
        statistics: Sequence[Statistic],
        uncorrected: bool,
        null_contributions: bool = False,
    ) -> None:
        self.device = fitted.device
        self.maps = fitted.maps
        self.parts = parts_of(fitted, task) if isinstance(fitted, PairwiseFit) else None
        self.task = task
        self.two_sided = task.two_sided
        self.statistics = statistics
        self.uncorrected = uncorrected
        self.null_contributions = null_contributions
        self.reported = fitted.contrast(task.contrast)
        self.blur, self.sum_of_squares = None, None
        if task.variance_smoothing_mm is not None:
            self.blur = Blur(self.maps.grid, task.variance_smoothing_mm)
            self.sum_of_squares = fitted.sum_of_squares(task.rule.removed)

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what belongs to this process and its device, and is made anew elsewhere."""
        made_here = ("engine", "voxels")
        return {name: value for name, value in self.__dict__.items() if name not in made_here}

    @cached_property
    def engine(self) -> Engine:
        """The engine of the device."""
        return resolve(self.device)

    @cached_property
    def voxels(self) -> Complete | Pairwise | Smoothed:
        """The data, as they are compared."""
        if self.parts is not None and isinstance(self.maps, Maps):
            return Pairwise(self.engine, self.maps, self.parts, self.task)
        complete = Complete(self.engine, self.maps, self.task)
        if self.blur is None or self.sum_of_squares is None:
            return complete
        return Smoothed(complete, self.blur, self.sum_of_squares)

    def let_go(self) -> None:
        """Let go of the data; they come again when they are asked for."""
        self.__dict__.pop("voxels", None)

    def run(self, finish: Finish, keeper: Keeper) -> list[Outcome]:
        """Compute the shuffles of the task."""
        voxels = self.voxels
        voxels.begin(self.task)
        if isinstance(voxels, Complete) and not self.task.load.spatial:
            return [self._voxelwise(voxels, *voxels.block_by_block(finish, keeper))]
        return self._by_shuffles(voxels, finish, keeper)

    def _by_shuffles(self, voxels: Swept, finish: Finish, keeper: Keeper) -> list[Outcome]:
        """Take batches of shuffles one by one, all voxels inside: whole maps can be scored."""
        indices = self.task.indices
        spatial = self.scored(lambda: voxels.observed, voxels.observed_statistic, voxels.df)
        with_voxels = any(statistic.name == "voxelwise" for statistic in self.statistics)
        supply = self._supply(voxels.n_voxels) if with_voxels else None
        rooms = self._rooms(voxels.n_voxels) if self.task.load.spatial else []
        maxima, done = np.empty(len(indices)), 0
        if (resumed := keeper.resumed()) is not None:
            done = int(resumed["done"])
            maxima[:done] = resumed["maxima"]
            voxels.go_on(resumed["counts"])
            for name, scored in spatial.items():
                scored.go_on(resumed, name)
            if supply is not None:
                supply.go_on(resumed["contributions"])
            finish(done)

        def state() -> State:
            return {
                "done": np.array(done),
                "maxima": maxima[:done],
                "counts": voxels.counts,
                **({} if supply is None else {"contributions": supply.counts}),
                **{k: v for name, scored in spatial.items() for k, v in scored.state(name)},
            }

        at_a_time = sum(map(len, rooms)) or SHUFFLE_TILE
        for batch in cut(range(indices.start + done, indices.stop), at_a_time):
            place = slice(batch.start - indices.start, batch.stop - indices.start)
            maps = filling(rooms, len(batch))
            maxima[place] = voxels.sweep(batch, maps, finish)
            if supply is not None:
                for some in maps:
                    supply.add_values(some)
            self._score(voxels, spatial, maps)
            done = place.stop
            keeper.offer(state, last=done == len(indices))
        return [
            self._voxelwise(voxels, maxima, voxels.limits, voxels.counts, supply)
            if statistic.name == "voxelwise"
            else self._of_scores(voxels, statistic, spatial[statistic.name])
            for statistic in self.statistics
        ]

    def _score(self, voxels: Swept, spatial: dict[str, Scored], maps: Sequence[Array]) -> None:
        """Let every statistic see the maps of a batch: those of t or F first, then those of z."""
        of_z = {one.name for one in self.statistics if self._looks_at_z(one)}
        for on_z in (False, True):
            if on_z and of_z & spatial.keys():
                voxels.to_z(maps)
            for name, scored in spatial.items():
                if (name in of_z) is on_z:
                    for some in maps:
                        scored.add(some)

    def _looks_at_z(self, statistic: Statistic) -> bool:
        """Tell whether a statistic looks at the z of the contrast's maps."""
        return looks_at_z(statistic, self.task.contrast.statistic)

    def scored(
        self,
        z: Callable[[], NDArray[np.float32]],
        statistic: NDArray[np.float32],
        df: float | None,
    ) -> dict[str, Scored]:
        """Prepare every statistic but the voxels' own value, given the observed map.

        Parameters
        ----------
        z
            Computes the observed map, ``(n_voxels,)``, for what looks at its z.
        statistic
            The same as t or F, for what looks at that.
        df
            Of maps of t; None where maps are z.
        """
        prepared = {}
        of_z = z() if any(map(self._looks_at_z, self.statistics)) else statistic
        for one in self.statistics:
            seen, its_df = (of_z, None) if self._looks_at_z(one) else (statistic, df)
            peak = float(np.abs(seen).max() if self.two_sided else seen.max())
            kind = MapKind(self.task.contrast.statistic, its_df, self.two_sided, peak)
            if (enhancer := one.enhancer(self.engine, self.maps.grid, kind)) is not None:
                prepared[one.name] = Scored(
                    self.engine,
                    enhancer,
                    seen,
                    self.two_sided,
                    self.uncorrected,
                    self._supply(statistic.size),
                )
        return prepared

    def _supply(self, n_voxels: int) -> Contributions | None:
        """Return what counts the voxels that supply maxima; None if that was not asked for."""
        if not self.null_contributions:
            return None
        return Contributions(self.engine, n_voxels, self.two_sided)

    def _rooms(self, n_voxels: int) -> list[Array]:
        """Return room for the maps of a batch: as many as pay off, or as were planned."""
        most, plan = len(self.task.indices), self.task.plan
        if not plan or not plan.maps:
            return [self.engine.empty_maps(most, n_voxels)]
        return rooms_for(self.engine, min(most, plan.maps), n_voxels)

    def _voxelwise(
        self,
        voxels: Swept,
        maxima: NDArray[np.float64],
        limits: NDArray[np.float64],
        counts: NDArray[np.int64],
        supply: Contributions | None = None,
    ) -> Outcome:
        """Collect what was found of the voxels' own values."""
        return Outcome(
            statistic="voxelwise",
            contrast=self.task.contrast,
            observed=self._reported_as(voxels.scale),
            limits=limits,
            indices=self.task.indices,
            n_shuffles=self.task.shuffles.n_shuffles,
            two_sided=self.two_sided,
            maxima=maxima,
            null_maxima=voxels.null_maxima(maxima),
            counts=counts,
            scale=voxels.scale,
            null_contributions=None if supply is None else supply.counts,
        )

    def _reported_as(self, scale: Scale) -> NDArray[np.float64]:
        """Return the reported map in the scale in which maps are compared, ``(n_voxels,)``."""
        reported = self.reported
        if scale == "pseudo-t" and self.blur is not None:
            return np.asarray(reported.effect / np.sqrt(self.blur(reported.variance)))
        return reported.z if scale == "z" else reported.statistic

    def _of_scores(self, voxels: Swept, statistic: Statistic, scored: Scored) -> Outcome:
        """Collect what was found of a spatial statistic."""
        observed = self._reported_as("z" if self._looks_at_z(statistic) else voxels.scale)
        maxima, counts = scored.found(len(self.task.indices))
        supply = scored.contributions
        return Outcome(
            statistic=statistic.name,
            contrast=self.task.contrast,
            observed=scored.scores(observed.astype(np.float32)),
            limits=scored.limits,
            indices=self.task.indices,
            n_shuffles=self.task.shuffles.n_shuffles,
            two_sided=self.two_sided,
            maxima=maxima,
            null_maxima=maxima,
            counts=counts,
            null_contributions=None if supply is None else supply.counts,
        )
