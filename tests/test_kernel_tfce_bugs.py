"""Deliberate bugs in the kernels of TFCE, each of which the tests must notice."""

from functools import partial

import numpy as np
import pytest
from planted import Bug, caught
from tfce_cases import SMALL, on_cpu, small_maps

from gpustats.engines import cpu_tfce
from gpustats.spaces import Lattice

FIRST, AGAIN = 4096, 3


def scores(tfce, capacity):
    """Compare the scores of all small maps with the CPU's."""
    import cupy

    tfce.CAPACITY = capacity
    for name in SMALL:
        mask, maps = small_maps(name, seed=7)
        form = Lattice(mask, 6), 0.5, 2.0, 0.0
        found = tfce.tfce_scores(cupy.asarray(maps), *form).get()
        np.testing.assert_array_equal(found, on_cpu(maps, *form))


def peaks(tfce):
    """Compare the peaks of small maps with the CPU's."""
    import cupy

    mask, maps = small_maps("white", seed=7, n_maps=6)
    form = Lattice(mask, 6), 0.5, 2.0, 0.0
    found = tfce.tfce_peaks(cupy.asarray(maps), *form).get()
    np.testing.assert_array_equal(found, on_cpu(maps, *form).max(axis=1))


def ranks(tfce, values):
    """Rank the values of a column and compare with a sort."""
    import cupy

    layout = tfce._layout(Lattice(np.ones((1, 1, values.size), bool), 6))
    weights, form = tfce._weights(values.size, 0.0), cpu_tfce.Height(0.0)
    ranked = tfce._rank(cupy.asarray(values[None]), layout.cells, weights, form)
    n = int(ranked.n_positive.get()[0])
    listed = layout.voxels.get()[ranked.order.get()[0, :n]]
    expected = np.sort(values[values >= np.finfo(np.float32).smallest_normal])[::-1]
    np.testing.assert_array_equal(values[listed], expected)


def many_in_a_bucket(tfce):
    rng = np.random.default_rng(2)
    for n in (90, 300):
        ranks(tfce, (1.5 + rng.permutation(n) * 2.0**-23).astype(np.float32))


def counts(tfce):
    """Count where no voxel reaches the first level, which scores 0 and must not count."""
    import cupy

    lattice, maps = Lattice(np.ones((1, 1, 2), bool), 6), np.ones((4, 2), np.float32)
    maps[:, 1] = 9.0
    limits, found = cupy.zeros(2), cupy.zeros(2, dtype=np.int64)
    tfce.tfce_counts(cupy.asarray(maps), lattice, 0.5, 2.0, 5.0, limits, found)
    np.testing.assert_array_equal(found.get(), [0, 4])


first, again = partial(scores, capacity=FIRST), partial(scores, capacity=AGAIN)

BUGS = [
    (first, Bug("tfce", "if (other < lane_id())", "if (other > lane_id())", "later lanes")),
    (first, Bug("tfce", "component.size + __popc(before)", "component.size", "size in a group")),
    (
        first,
        Bug(
            "tfce",
            "entry.component = find(sweep.parents, entry.component);",
            ";",
            "appends to a component that was taken in",
        ),
    ),
    (first, Bug("tfce", "if (wins) joint.score = score;", "", "score of the other component")),
    (first, Bug("tfce", "root == joint.component", "false", "links a component to itself")),
    (first, Bug("tfce", "c <= sweep.n_voxels", "c < sweep.n_voxels", "the last cell")),
    (
        again,
        Bug(
            "tfce",
            "queue[1 + atomicAdd(queue, 1)] = m",
            "queue[1 + queue[0]++] = m, queue[1] = m",
            "one place in the queue for all",
        ),
    ),
    (
        peaks,
        Bug("tfce", "max(joint.score, score);", "score;", "of two first voxels the wrong one"),
    ),
    (
        many_in_a_bucket,
        Bug("tfce_sort", "? run - 1 : distance", "? distance : distance", "no mirrored step"),
    ),
    (counts, Bug("tfce_scores", "score > 0.0 && ", "", "scores of 0 are counted")),
    (first, Bug("tfce", "__syncwarp();  // the tags can be read", "", "tags")),
    (first, Bug("tfce", "__syncwarp();  // parents have been read and may change", "", "find")),
    (first, Bug("tfce", "__syncwarp();  // parents and the component can be read", "", "link")),
    (again, Bug("tfce", "+ __popc(lanes) > sweep.capacity", "> sweep.capacity + 1", "bound")),
    (
        many_in_a_bucket,
        Bug(
            "tfce_sort",
            "keys[atomicAdd(&begins[bucket_of(bits, highest)], 1)]",
            "keys[begins[bucket_of(bits, highest)]++]",
            "two voxels in one place",
        ),
    ),
    (
        counts,
        Bug(
            "tfce_scores",
            "atomicAdd(reinterpret_cast<unsigned long long*>(counts) + v, 1ull)",
            "++counts[v]",
            "lost counts",
        ),
    ),
]


@pytest.mark.parametrize("look", [first, again, peaks, many_in_a_bucket, counts])
def test_without_a_bug_nothing_is_noticed(emulated, monkeypatch, look):
    from gpustats.engines import gpu_tfce

    monkeypatch.setattr(gpu_tfce, "CAPACITY", FIRST)
    with emulated.executed(mode="check", seed=3):
        look(gpu_tfce)


@pytest.mark.parametrize(("look", "bug"), BUGS, ids=[bug.why for _, bug in BUGS])
def test_a_bug_is_noticed(emulated, monkeypatch, look, bug):
    from gpustats.engines import gpu_tfce

    monkeypatch.setattr(gpu_tfce, "CAPACITY", FIRST)
    # with all checks: some of these write anywhere or never end
    with emulated.executed(mode="check", seed=3):
        assert caught(bug, partial(look, gpu_tfce), monkeypatch)
