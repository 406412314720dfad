"""What a spatial statistic finds in the maps of a permutation test, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpustats.contributions import Contributions
from gpustats.engines import Array, Engine, ScoreCounts
from gpustats.enhancements import Enhancer


class Scored:
    """What one spatial statistic found so far."""

    def __init__(
        self,
        engine: Engine,
        enhancer: Enhancer,
        observed: NDArray[np.float32],
        two_sided: bool,
        uncorrected: bool,
        contributions: Contributions | None,
    ) -> None:
        self.engine = engine
        self.enhancer = enhancer
        self.two_sided = two_sided
        self.contributions = contributions
        self.limits = enhancer.limits(np.abs(self.scores(observed)))
        self.reaching: ScoreCounts | None = None
        if uncorrected:
            # where nothing was observed every shuffle counts: `found` says so
            limits = np.where(self.limits > 0, self.limits, np.inf)
            counts = np.zeros(observed.size, dtype=np.int64)
            self.reaching = ScoreCounts(engine.to_device(limits), engine.to_device(counts))
        self.maxima: list[NDArray[np.float64]] = []

    def scores(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """Score a map; those of the negative side are negative."""
        scores = self.enhancer.scores(values)
        return scores - self.enhancer.scores(-values) if self.two_sided else scores

    def add(self, maps: Array) -> None:
        """Take the maxima of a batch of maps, and count; the maps are turned over and back."""
        peaks = self.enhancer.peaks(maps, self.reaching)
        if self.two_sided:
            self.engine.negate(maps)
            peaks = np.maximum(peaks, self.enhancer.peaks(maps, self.reaching))
            self._count_supply(maps, peaks)
            self.engine.negate(maps)
        self._count_supply(maps, peaks)
        self.maxima.append(peaks)

    def _count_supply(self, maps: Array, peaks: NDArray[np.float64]) -> None:
        """Count the voxels that supply the peaks, on one side, if that was asked for."""
        if self.contributions is not None:
            self.contributions.add_scores(self.enhancer, maps, peaks)

    def state(self, name: str) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yield what was found so far, by name."""
        yield f"{name}_maxima", np.concatenate([np.empty(0), *self.maxima])
        if self.reaching is not None:
            yield f"{name}_counts", self.engine.to_host(self.reaching.counts)
        if self.contributions is not None:
            yield f"{name}_contributions", self.contributions.counts

    def go_on(self, state: Mapping[str, NDArray[Any]], name: str) -> None:
        """Take what another process found, by name."""
        self.maxima = [state[f"{name}_maxima"]]
        if self.reaching is not None:
            counts = self.engine.to_device(state[f"{name}_counts"])
            self.reaching = self.reaching._replace(counts=counts)
        if self.contributions is not None:
            self.contributions.go_on(state[f"{name}_contributions"])

    def found(self, n_shuffles: int) -> tuple[NDArray[np.float64], NDArray[np.int64] | None]:
        """Return the maxima of all shuffles, and how many of them reach each observed score."""
        maxima = np.concatenate(self.maxima)
        if self.reaching is None:
            return maxima, None
        counts = self.engine.to_host(self.reaching.counts)
        return maxima, np.where(self.limits > 0, counts, n_shuffles)
