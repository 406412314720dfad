"""Plans of what is read when use the memory there is, and no more."""

import pytest

from gpustats import memory
from gpustats.engines import SHUFFLE_TILE, resolve
from gpustats.memory import Load, cut, parse_bytes, streamed


@pytest.mark.parametrize(
    ("word", "n_bytes"),
    [("2G", 2**31), ("1.5g", 3 * 2**29), ("500 MiB", 500 * 2**20), ("7", 7), (8, 8), (None, None)],
)
def test_sizes_of_memory(word, n_bytes):
    assert parse_bytes(word) == n_bytes


def plan_of(monkeypatch, size, cores=2, **of_load):
    """The plan of a large cohort."""
    monkeypatch.setattr(memory, "n_cores", lambda: cores)
    given = {"n_voxels": 235_000, "n_subjects": 4000, "rank": 1, "shuffles": range(1000)}
    load = Load(**{**given, **of_load})
    return streamed(resolve("cpu"), load, parse_bytes(size)), load


@pytest.mark.parametrize("size", ["400M", "1G", "3G", "20G"])
@pytest.mark.parametrize("spatial", [False, True])
@pytest.mark.parametrize("n_shuffles", [20, 1000, 10_000])
def test_plans_use_the_memory_and_no_more(monkeypatch, size, spatial, n_shuffles):
    shuffles = range(n_shuffles)
    plan, load = plan_of(monkeypatch, size, spatial=spatial, shuffles=shuffles)
    budget = parse_bytes(size)
    assert plan.peak_bytes <= budget
    assert plan.block_voxels % 1024 == 0
    assert (plan.n_blocks - 1) * plan.block_voxels < 235_000 <= plan.n_blocks * plan.block_voxels
    assert plan.bytes_read == plan.passes * 4 * 235_000 * 4000
    if plan.n_blocks == 1:
        assert (plan.passes, plan.maps) == (1, 0)
        return
    assert plan.peak_bytes + 8 * 4000 * 1024 + 4 * SHUFFLE_TILE * 1024 > budget
    if not spatial:
        assert plan.passes == 1
        return
    assert plan.maps % SHUFFLE_TILE == 0 or SHUFFLE_TILE % plan.maps == 0
    assert plan.passes == 1 + len(cut(shuffles, plan.maps))
    held = plan.maps * 4 * load.n_voxels
    assert min(held, 4 * load.n_voxels * n_shuffles) < budget - load.fixed_bytes


def test_more_memory_takes_fewer_passes(monkeypatch):
    plans = [
        plan_of(monkeypatch, size, spatial=True, shuffles=range(10_000))[0]
        for size in ("300M", "500M", "1G", "2G", "5G", "20G")
    ]
    passes = [plan.passes for plan in plans]
    assert passes == sorted(passes, reverse=True)
    assert passes[0] > passes[2] > passes[4] > passes[5] == 1
    assert "10 shuffles" not in plans[0].describe()
    assert f"{plans[1].maps:,} shuffles at a time" in plans[1].describe()
    assert f"{plans[1].passes:,} passes over the data" in plans[1].describe()
    assert "all voxels at once" in plans[5].describe()


@pytest.mark.parametrize("start", [0, 5, 190, 192, 193, 384])
@pytest.mark.parametrize("length", [0, 1, 2, 187, 192, 500])
@pytest.mark.parametrize("size", [1, 7, 192, 384])
def test_ranges_are_cut_at_multiples(start, length, size):
    parts = cut(range(start, start + length), size)
    assert [i for part in parts for i in part] == list(range(start, start + length))
    assert all(len(part) > 0 for part in parts)
    assert all(part.start % size == 0 for part in parts[1:])
    assert len({part.start // size for part in parts}) == len(parts)
