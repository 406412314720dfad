"""What tests of permutation tests share: statistics, results that agree, runs that stop."""

import numpy as np

from gpustats import checkpoints
from gpustats.enhancements import ClusterExtent, ClusterMass, Voxelwise
from gpustats.simes import TrueDiscoveries
from gpustats.tfce import Tfce

EVERYTHING = (
    Voxelwise(),
    ClusterExtent(connectivity=26, threshold_t=1.5),
    ClusterMass(connectivity=18, threshold_p=0.1),
    Tfce(),
    TrueDiscoveries(),
)
ARRAYS = ("observed", "limits", "maxima", "null_maxima", "counts", "null_contributions")
CHECKPOINT = "contrast-1.checkpoint"
"""The file of the first contrast in a folder of checkpoints."""


def same(one, other):
    """Whether two results agree in every bit."""
    assert np.array_equal(one.grid.mask, other.grid.mask)
    assert list(one.maps) == list(other.maps)
    for name in one.maps:
        for kind in ("effect", "variance", "statistic", "z"):
            assert np.array_equal(getattr(one.maps[name], kind), getattr(other.maps[name], kind))
    assert len(one.outcomes) == len(other.outcomes) > 0
    for mine, theirs in zip(one.outcomes, other.outcomes, strict=True):
        assert (mine.statistic, mine.indices) == (theirs.statistic, theirs.indices)
        arrays = [*ARRAYS, "p_corrected"] if mine.is_complete else ARRAYS
        for name in arrays:
            assert np.array_equal(getattr(mine, name), getattr(theirs, name)), name
    return True


class StoppedError(Exception):
    """What stops a test in these tests."""


def stop_after(monkeypatch, n_steps):
    """Let a test take so many steps."""
    offer = checkpoints.ContrastCheckpoint.offer
    steps = []

    def counted(self, state, *, last):
        offer(self, state, last=last)
        steps.append(last)
        if len(steps) == n_steps:
            raise StoppedError

    monkeypatch.setattr(checkpoints.ContrastCheckpoint, "offer", counted)
    return steps


def finished_by_steps(run, folder, monkeypatch, n_steps=1):
    """Run a test again and again, so many steps each time; return the result and the runs."""
    for n_runs in range(1, 1000):
        with monkeypatch.context() as patched:
            stop_after(patched, n_steps)
            try:
                return run(checkpoint=folder, checkpoint_seconds=0), n_runs
            except StoppedError:
                continue
    raise AssertionError("it never ends")
