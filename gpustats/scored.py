"""What a spatial statistic finds in the maps of a permutation test, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    ) -> None:
        self.engine = engine
        self.enhancer = enhancer
        self.two_sided = two_sided
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
            self.engine.negate(maps)
        self.maxima.append(peaks)

    def state(self, name: str) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yield what was found so far, by name."""
        yield f"{name}_maxima", np.concatenate([np.empty(0), *self.maxima])
        if self.reaching is not None:
            yield f"{name}_counts", self.engine.to_host(self.reaching.counts)

    def go_on(self, maxima: NDArray[np.float64], counts: NDArray[np.int64] | None) -> None:
        """Take what another process found."""
        self.maxima = [maxima]
        if self.reaching is not None and counts is not None:
            self.reaching = self.reaching._replace(counts=self.engine.to_device(counts))

    def found(self, n_shuffles: int) -> tuple[NDArray[np.float64], NDArray[np.int64] | None]:
        """Return the maxima of all shuffles, and how many of them reach each observed score."""
        maxima = np.concatenate(self.maxima)
        if self.reaching is None:
            return maxima, None
        counts = self.engine.to_host(self.reaching.counts)
        return maxima, np.where(self.limits > 0, counts, n_shuffles)
