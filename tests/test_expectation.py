"""How long the test of a store is expected to take: told before it starts, and of no other use."""

import json
import time
from functools import partial

import numpy as np
import pandas as pd
import pytest
from simulate import make_maps, volumes_of

from gpustats import Cohort, Design, expectation, permutation_test, stack_maps
from gpustats.engines import SHUFFLE_TILE, resolve
from gpustats.enhancements import ClusterMass, Voxelwise
from gpustats.loop import ContrastTest
from gpustats.memory import FITTED, Load
from gpustats.tfce import Tfce

N = 12
SHAPE = (22, 24, 20)
"""Of volumes whose mask takes three chunks of 1,024 voxels."""
SPATIAL = (Voxelwise(), ClusterMass(connectivity=18, threshold_p=0.1), Tfce())
CASES = {
    "voxels": ("age", {}),
    "F": (["age", "intercept"], {"errors": "ise"}),
    "dekker": ("age", {"scheme": "dekker"}),
    "maps": ("age", {"statistics": SPATIAL}),
    "maps, one-sided": ("age", {"statistics": SPATIAL, "two_sided": False}),
    "maps of F": (["age", "intercept"], {"statistics": SPATIAL, "errors": "ise"}),
    "counts": ("age", {"statistics": SPATIAL, "uncorrected": True}),
}


@pytest.fixture
def cohort(tmp_path, rng):
    maps = make_maps(rng, N, SHAPE)
    return stack_maps(volumes_of(maps), maps.grid, tmp_path / "c.zarr", subjects_per_shard=8)


@pytest.fixture
def design(rng):
    return Design(pd.DataFrame({"age": rng.normal(size=N)}), intercept=True)


@pytest.fixture
def worth_it(monkeypatch):
    """Every test is worth an estimate."""
    monkeypatch.setattr(expectation, "WORTH_MEASURING", 0)


@pytest.fixture
def small_blocks(cohort):
    """The memory that makes blocks of 1,024 voxels on a CPU."""
    load = Load(cohort.n_voxels, N, rank=2, n_rows=2)
    return load.fixed_bytes + FITTED * N * 1024 + 2 * load.tile_bytes


def seconds_of(inference):
    """What was expected of the only contrast."""
    (plan,) = inference.settings["plan"]["contrasts"].values()
    return plan["seconds"]


@pytest.mark.parametrize("case", CASES)
def test_an_estimate_changes_nothing_else(cohort, design, device, case, monkeypatch, log):
    contrast, options = CASES[case]
    run = partial(permutation_test, cohort, design, contrast, device=device, memory="1G", **options)
    plain = run(n_permutations=30)
    assert seconds_of(plain) is None
    assert "expected to take" not in log.text
    monkeypatch.setattr(expectation, "WORTH_MEASURING", 0)
    timed = run(n_permutations=30)
    assert 0 <= seconds_of(timed) < 600
    assert "expected to take about" in log.text
    assert timed.fingerprint == plain.fingerprint
    for one, other in zip(timed.outcomes, plain.outcomes, strict=True):
        for name in ("observed", "limits", "maxima", "counts"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name
    settings = [json.loads(json.dumps(each.settings)) for each in (timed, plain)]
    for each in settings:
        for plan in each["plan"]["contrasts"].values():
            del plan["seconds"]
    assert settings[0] == settings[1]


@pytest.mark.usefixtures("worth_it")
def test_it_is_told_before_the_test_starts(cohort, log, monkeypatch):
    messages = []

    def stop(*_):
        messages.extend(log.messages)
        raise KeyboardInterrupt

    monkeypatch.setattr(ContrastTest, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        permutation_test(cohort, device="cpu")
    assert sum(line.startswith("expected to take about") for line in messages) == 1


def test_small_tests_and_those_in_memory_are_not_measured(cohort, monkeypatch, log):
    monkeypatch.setattr(expectation, "_pace", None)
    assert seconds_of(permutation_test(cohort, n_permutations=20, device="cpu")) is None
    monkeypatch.setattr(expectation, "WORTH_MEASURING", 0)
    found = permutation_test(cohort.load(), n_permutations=20, device="cpu")
    assert "plan" not in found.settings
    assert "expected to take" not in log.text


@pytest.mark.usefixtures("worth_it")
@pytest.mark.parametrize("n_permutations", [100, 4000])
def test_what_is_counted_for_voxels(cohort, design, small_blocks, monkeypatch, n_permutations):
    monkeypatch.setattr(expectation, "_pace", lambda *_: expectation.Pace(1e-2, 1e-4))
    monkeypatch.setattr(expectation, "_drawing", lambda *_: 1e3)
    found = permutation_test(
        cohort, design, "age", n_permutations=n_permutations, memory=small_blocks, device="cpu"
    )
    plan = found.settings["plan"]["contrasts"]["age"]
    assert plan["n_blocks"] == 3
    n_values = cohort.n_voxels * N
    # rows of all shuffles are kept, or drawn for each block
    draws = n_permutations * (1 if plan["keeps_rows"] else 3)
    expected = n_values * (1e-2 + 1e-4 * n_permutations) + 1e3 * draws
    assert plan["seconds"] == pytest.approx(expected, abs=0.1)


@pytest.mark.usefixtures("worth_it")
def test_what_is_counted_for_maps(cohort, monkeypatch):
    monkeypatch.setattr(expectation, "_pace", lambda *_: expectation.Pace(1e-2, 1e-4))
    monkeypatch.setattr(expectation, "_drawing", lambda *_: 10.0)
    monkeypatch.setattr(expectation, "_scoring", lambda *_: 500.0)
    load = Load(cohort.n_voxels, N, 1, spatial=True)
    size = load.fixed_bytes + load.tile_bytes + 1024 * (8 * N + 4 * SHUFFLE_TILE)
    size += 8 * 4 * cohort.n_voxels + FITTED * N * 1024
    run = partial(permutation_test, statistics=(Tfce(),), shuffles=range(8, 32), device="cpu")
    plan = run(cohort, memory=size).settings["plan"]["contrasts"]["intercept"]
    assert plan["passes"] > 2
    n_values = cohort.n_voxels * N
    expected = n_values * (1e-2 * plan["passes"] + 1e-4 * 24) + 24 * (10 + 500)
    assert plan["seconds"] == pytest.approx(expected, abs=0.1)


@pytest.mark.usefixtures("worth_it")
@pytest.mark.parametrize("slow", ["sweep", "read", "rows", "scores"])
def test_what_takes_long_is_measured(cohort, design, small_blocks, monkeypatch, slow):
    """What is made to wait is nearly all of the time, on a busy machine too."""
    engine = resolve("cpu")
    options = {"memory": small_blocks, "n_permutations": 3 * SHUFFLE_TILE}
    monkeypatch.setattr(expectation, "n_cores", lambda: 1)
    waits = {
        "sweep": (engine, "sweep", lambda *_, **__: 0.05),
        # so much a map
        "scores": (engine, "tfce_peaks", lambda maps, *_, **__: 0.02 * len(maps)),
        "read": (Cohort, "read", lambda *_: 0.1),
        "rows": (engine, "shuffled_rows", lambda _, __, part: 0.002 * len(part)),
    }
    if slow == "scores":
        options = {"memory": "1G", "n_permutations": 30, "statistics": (Tfce(),)}
    owner, name, seconds = waits[slow]
    work = getattr(owner, name)

    def waiting(*words, **more):
        time.sleep(seconds(*words, **more))
        return work(*words, **more)

    permutation_test(cohort, design, "age", device="cpu", **options)  # compiles
    monkeypatch.setattr(owner, name, waiting)
    began = []
    run = ContrastTest.run
    monkeypatch.setattr(
        ContrastTest, "run", lambda *words: began.append(time.perf_counter()) or run(*words)
    )
    found = permutation_test(cohort, design, "age", device="cpu", **options)
    took = time.perf_counter() - began[0]
    assert seconds_of(found) / 3 < took < 3 * seconds_of(found)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        ([0.01], "about 1 s"),
        ([42.4], "about 42 s"),
        ([60.0, 40.0], "about 2 min"),
        ([3599.0], "about 1 h 0 min"),
        ([7e5, None], "about 194 h 27 min"),
        ([None, None], None),
        ([], None),
    ],
)
def test_times_in_words(seconds, words):
    assert expectation.in_words(seconds) == words
