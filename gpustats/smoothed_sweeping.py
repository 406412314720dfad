"""Sweeps of shuffles whose t has a smoothed variance: the pseudo-t of every voxel.

The variance of a voxel is smoothed over its neighbours, in every shuffle anew; so whole maps of t
come first, from `Complete`, and become pseudo-t. Where shuffles fit a nuisance again, t alone does
not tell the variance: the share of the sum of squares that all rows explain makes a second map.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from gpustats.complete_sweeping import Complete
from gpustats.engines import Array, Exceedances, Form
from gpustats.engines.smoothing import Smoothing
from gpustats.planning import Task
from gpustats.smoothing import Blur
from gpustats.sweeping import Finish, Scale, filling, rooms_for


class Smoothed:
    """Sweep voxels that have data of every subject, and smooth the variance of their t.

    Parameters
    ----------
    complete
        The voxels, of a t contrast.
    blur
        How variances are smoothed.
    sum_of_squares
        ``(n_voxels,)`` of what is shuffled: the data without `Projection.removed`.
    """

    scale: Scale = "pseudo-t"

    def __init__(self, complete: Complete, blur: Blur, sum_of_squares: NDArray[np.float64]) -> None:
        self.complete = complete
        self.engine = complete.engine
        self.n_voxels = complete.n_voxels
        self.two_sided = complete.two_sided
        self.df = complete.df
        form = complete.form
        self.smoothing = Smoothing.prepared(blur, sum_of_squares, form.df, self.engine.to_device)
        # all rows as the numerator of an F of as many degrees of freedom: R² / (1 - R²)
        n_rows = form.n_tested + form.n_nuisance
        self.of_odds = Form(n_rows, 0, float(n_rows), is_f=True) if form.n_nuisance else None
        self.rooms: list[Array] = []

    def begin(self, task: Task) -> None:
        """Start counting anew, for other shuffles of the test perhaps."""
        self.complete.begin(task)
        self.__dict__.pop("_exceeding", None)

    @cached_property
    def observed(self) -> NDArray[np.float32]:
        """The pseudo-t of shuffle 0, ``(n_voxels,)``, through the products of all others."""
        [room] = rooms_for(self.engine, 1, self.n_voxels)
        self._fill(range(1), [room], None, lambda _: None)
        return np.asarray(self.engine.to_host(room)[0])

    @property
    def observed_statistic(self) -> NDArray[np.float32]:
        """The same: what is compared is what maps hold, ``(n_voxels,)``."""
        return self.observed

    @cached_property
    def _exceeding(self) -> Exceedances:
        """Counts of the shuffles so far."""
        # of t itself, whose ties are relative, whatever was compared to get there
        of_t = self.complete.form._replace(n_nuisance=1)
        return self.engine.exceedances(self.observed, of_t, two_sided=self.two_sided)

    @property
    def limits(self) -> NDArray[np.float64]:
        """What a maximum must reach to be no smaller than the observed values, ``(n_voxels,)``."""
        return self.engine.to_host(self._exceeding.limits).astype(np.float64)

    @property
    def counts(self) -> NDArray[np.int64]:
        """How many of the shuffles so far reach the observed value, ``(n_voxels,)``."""
        return self.engine.to_host(self._exceeding.counts)

    def go_on(self, counts: NDArray[np.int64]) -> None:
        """Take the counts that another process came to."""
        self._exceeding = self._exceeding._replace(counts=self.engine.to_device(counts))

    def sweep(self, batch: range, maps: Sequence[Array], finish: Finish) -> NDArray[np.float64]:
        """Compute a batch of shuffles: fill their maps, count, return what compares with limits."""
        return self._fill(batch, maps, self._exceeding, finish)

    def to_z(self, maps: Sequence[Array]) -> None:
        """Leave maps as they are: they were filled with pseudo-t."""

    def null_maxima(self, maxima: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the maxima: they are pseudo-t."""
        return maxima

    def _fill(
        self,
        batch: range,
        maps: Sequence[Array],
        exceeding: Exceedances | None,
        finish: Finish,
    ) -> NDArray[np.float64]:
        """Fill the maps of a batch with pseudo-t, and count if asked to."""
        odds = None
        if self.of_odds is not None:
            if sum(map(len, self.rooms)) < len(batch):
                self.rooms = rooms_for(self.engine, len(batch), self.n_voxels)
            of_batch = filling(self.rooms, len(batch))
            self.complete.fill(batch, of_batch, self.of_odds)
            odds = list(chain.from_iterable(of_batch))
        self.complete.fill(batch, maps, self.complete.form)
        each = list(chain.from_iterable(maps))
        peaks = self.engine.pseudo_t(each, odds, self.smoothing, exceeding)
        finish(len(batch))
        maxima = self.engine.to_host(peaks.upper)
        if self.two_sided:
            maxima = np.maximum(maxima, self.engine.to_host(peaks.lower))
        return maxima.astype(np.float64)
