"""Shuffles spread over the workers of a Dask cluster: same bits, whatever happens to these."""

import os
import re
import signal
import sys
import time
import weakref
from pathlib import Path
from types import SimpleNamespace

import dask
import numpy as np
import pandas as pd
import pytest
from distributed import Client, KilledWorker, LocalCluster
from hypothesis import given
from hypothesis import strategies as st
from simulate import make_maps, save_group, save_mask

from gpustats import Design, crew, distributed, stack_maps
from gpustats.engines import SHUFFLE_TILE, cpu
from gpustats.enhancements import ClusterMass, Voxelwise
from gpustats.environment import THREADS, n_cores, using_cores
from gpustats.inference import permutation_test
from gpustats.merging import merge
from gpustats.tfce import Tfce

ARRAYS = ("observed", "limits", "maxima", "null_maxima", "counts", "null_contributions")
N_WORKERS = 2


@pytest.fixture(scope="module")
def client():
    """Two processes of one thread."""
    with (
        LocalCluster(n_workers=N_WORKERS, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def maps(rng):
    return make_maps(rng, n_subjects=14)


@pytest.fixture
def table(rng):
    return pd.DataFrame({"age": rng.normal(size=14), "sex": np.arange(14) % 2, "one": 1.0})


def assert_same(one, other):
    for a, b in zip(one.outcomes, other.outcomes, strict=True):
        assert (a.statistic, a.contrast.name, a.indices, a.n_shuffles) == (
            (b.statistic, b.contrast.name, b.indices, b.n_shuffles)
        )
        for name in ARRAYS:
            x, y = getattr(a, name), getattr(b, name)
            assert (x is None) == (y is None)
            assert x is None or (x.dtype == y.dtype and x.tobytes() == y.tobytes()), name


def test_many_processes_give_the_bits_of_one(client, maps, table):
    options = {
        "design": Design(table),
        "contrast": {"age": "age", "either": "age; sex"},
        "statistics": [Tfce(), Voxelwise(), ClusterMass(connectivity=18, threshold_z=1.5)],
        "n_permutations": 1000,
        "uncorrected": True,
        "null_contributions": True,
        "device": "cpu",
    }
    for scheme in ("freedman-lane", "dekker"):
        one = permutation_test(maps, **options, scheme=scheme)
        spread = permutation_test(maps, **options, scheme=scheme, client=client)
        assert_same(one, spread)
        assert spread.fingerprint == one.fingerprint
        assert spread.settings == {**one.settings, "workers": N_WORKERS}
    smoothing = {**options, "contrast": "age", "variance_smoothing_mm": 4.0}
    assert_same(
        permutation_test(maps, **smoothing), permutation_test(maps, **smoothing, client=client)
    )
    # what is spread merges with what is not
    first = permutation_test(maps, **options, shuffles=range(250), client=client)
    assert_same(
        merge([permutation_test(maps, **options, shuffles=range(250, 1000)), first]),
        permutation_test(maps, **options),
    )


def least_memory(*arguments, **options):
    """What the refusal of too little memory says would do, and a MiB."""
    with pytest.raises(ValueError, match="too little") as refusal:
        permutation_test(*arguments, **options, memory=1)
    return f"{int(re.search(r'at least ([0-9,]+) MiB', str(refusal.value))[1]) + 1}M"


@pytest.mark.parametrize("statistics", [[Voxelwise()], [Tfce(), Voxelwise()]])
def test_workers_read_a_store(client, tmp_path, rng, statistics):
    maps = make_maps(rng, n_subjects=30, shape=(40, 40, 40))
    paths = save_group(tmp_path, maps, ending=".nii")
    cohort = stack_maps(paths, save_mask(tmp_path, maps), tmp_path / "cohort.zarr")
    options = {"statistics": statistics, "n_permutations": 600, "device": "cpu"}
    memory = least_memory(cohort, **options)
    spread = permutation_test(cohort, **options, memory=memory, client=client)
    assert spread.settings["plan"]["contrasts"]["intercept"]["n_blocks"] > 1
    assert_same(permutation_test(cohort, **options), spread)
    assert_same(permutation_test(cohort.load(), **options), spread)


def pids(client):
    return client.run(os.getpid)


@pytest.mark.parametrize("n_lost", [1, N_WORKERS])
def test_what_is_lost_with_workers_is_computed_again(client, maps, monkeypatch, n_lost):
    """With all of them, the data go too."""
    options = {"statistics": [Tfce()], "n_permutations": 5000, "device": "cpu"}
    client.wait_for_workers(N_WORKERS)
    before = set(pids(client).values())
    taken = []

    class Sum(distributed.OutcomeSum):
        def add(self, outcome, name):
            super().add(outcome, name)
            taken.append(outcome.indices)
            if len(taken) == 3:
                for pid in [*before][:n_lost]:
                    os.kill(pid, signal.SIGKILL)

    monkeypatch.setattr(distributed, "OutcomeSum", Sum)
    spread = permutation_test(maps, **options, client=client)
    assert len(taken) > 6
    client.wait_for_workers(N_WORKERS)
    assert len(before & set(pids(client).values())) == N_WORKERS - n_lost
    assert_same(permutation_test(maps, **options), spread)


class Lost:
    """A future, and the client that has it: every worker with this range was killed."""

    key = "range"
    status = "running"

    def __init__(self, error):
        self.error = error

    def result(self):
        raise self.error

    def cancelled(self):
        return False

    def scatter(self, data, **_):
        return data


@pytest.mark.parametrize("error", [KilledWorker("range", None, 3), distributed.CancelledError()])
def test_a_range_that_kills_every_worker_is_given_up(error):
    piece = distributed.Piece(0, range(192, 384), False)
    client = Lost(error)
    dispatch = distributed._Dispatch(client, [])
    dispatch.sent = Lost(error)
    if isinstance(error, distributed.CancelledError):
        for _ in range(distributed.MOST_LOSSES):
            assert dispatch._result(Lost(error), piece) is None
    with pytest.raises(ConnectionError, match=r"shuffles 192 to 384 were lost with worker after"):
        dispatch._result(Lost(error), piece)


def test_a_lost_scheduler_is_said():
    dispatch = distributed._Dispatch(Lost(distributed.CancelledError()), [])
    dispatch.client.status = "closed"
    with pytest.raises(ConnectionError, match="the Dask scheduler was lost"):
        dispatch._result(dispatch.client, distributed.Piece(0, range(192), True))


def test_an_interruption_stops_the_workers(client, rng, monkeypatch):
    maps = make_maps(rng, n_subjects=40)

    class Sum(distributed.OutcomeSum):
        def add(self, *_):
            raise KeyboardInterrupt

    monkeypatch.setattr(distributed, "OutcomeSum", Sum)
    client.wait_for_workers(N_WORKERS)
    with pytest.raises(KeyboardInterrupt, match="interrupted after 0 of 1,000,000 shuffles"):
        permutation_test(maps, n_permutations=10**6, device="cpu", client=client)
    started = time.monotonic()
    # a range of 16 tiles is left after a tile
    while any(client.run(lambda: distributed.ONE_AT_A_TIME.locked()).values()):
        assert time.monotonic() - started < 10
        time.sleep(0.05)
    assert not any(client.processing().values())


def test_machines_of_other_kinds_are_refused_or_allowed(client, maps, monkeypatch):
    options = {"n_permutations": 100, "device": "cpu"}
    one = permutation_test(maps, **options)
    theirs = cpu.fingerprint()
    monkeypatch.setattr(cpu, "fingerprint", lambda: "cpu of another make")
    with pytest.raises(ValueError, match=r"has cpu of another make, worker tcp://.* has cpu ") as e:
        permutation_test(maps, **options, client=client)
    assert theirs in str(e.value)
    assert "allow_mixed=True" in str(e.value)
    mixed = permutation_test(maps, **options, client=client, allow_mixed=True)
    assert mixed.fingerprint["engine"] == f"cpu of another make and {theirs}"
    for name in ARRAYS:  # of one kind after all
        np.testing.assert_array_equal(
            getattr(one.outcomes[0], name), getattr(mixed.outcomes[0], name)
        )


def test_workers_that_join_later_are_looked_at(client, monkeypatch):
    there = crew.Crew(client, "cpu", allow_mixed=False)
    there.check(there.own)
    other = there.own._replace(engine="cuda")
    with pytest.raises(ValueError, match="a worker that joined later has cuda"):
        there.check(other)
    crew.Crew(client, "cpu", allow_mixed=True).check(other)
    monkeypatch.setattr(crew, "version_of", lambda _: "0.0.1")
    with pytest.raises(ValueError, match=r"this process has 0.0.1, worker tcp://"):
        crew.Crew(client, "cpu", allow_mixed=True)


def test_a_worker_that_cannot_take_part_is_named(client):
    with pytest.raises(ValueError, match=r"worker tcp://.* cannot take part: device must be"):
        crew.Crew(NoGpuHere(client), "cpu", allow_mixed=False)


class NoGpuHere:
    """A client whose workers have another device than this process."""

    def __init__(self, client):
        self.client = client
        self.nthreads = client.nthreads

    def run(self, function, device, **options):
        return self.client.run(function, f"{device}-like", **options)


def test_a_worker_keeps_to_its_threads(client):
    assert client.run(n_cores) == dict.fromkeys(client.nthreads(), n_cores())
    cores = client.submit(cores_while_computing, pure=False)
    assert cores.result() == 1


def cores_while_computing():
    """What a range sees of the machine."""
    task = SimpleNamespace(of=lambda *_: None)
    test = SimpleNamespace(engine=cpu, task=task, run=lambda *_: [n_cores()])
    piece = distributed.Piece(0, range(1), True)
    return distributed._compute(piece, distributed.Shipment([test], "cpu", None)).outcomes[0]


def test_what_is_no_client_is_refused(client, maps, tmp_path):
    with pytest.raises(TypeError, match=r"must be a distributed.Client .* got str"):
        permutation_test(maps, client="tcp://127.0.0.1:8786")
    with pytest.raises(ValueError, match="give a checkpoint or a Dask client"):
        permutation_test(maps, client=client, checkpoint=tmp_path / "kept")
    assert os.listdir(tmp_path) == []


@given(
    st.integers(0, 2000),
    st.integers(1, 20000),
    st.integers(1, 300),
    st.sampled_from([1, distributed.LEAST_TILES_STREAMED]),
)
def test_ranges_are_cut_at_tiles_and_finish_together(start, length, n_workers, least):
    indices = range(start, start + length)
    pieces = [piece.indices for piece in distributed.cut_for(n_workers, 0, indices, least)]
    assert [i for piece in pieces for i in piece] == list(indices)
    assert all(piece.start % SHUFFLE_TILE == 0 for piece in pieces[1:])
    most = max(least, distributed.MOST_TILES) * SHUFFLE_TILE
    assert max(map(len, pieces)) <= most
    # no worker is left with much when the others have nothing to do
    if least == 1:
        left = length
        for piece in pieces:
            assert len(piece) <= max(SHUFFLE_TILE, left / n_workers)
            left -= len(piece)


def words(folder):
    return [
        "--n-permutations",
        "400",
        "--statistics",
        "voxelwise,tfce",
        "--device",
        "cpu",
        "--output-dir",
        folder,
    ]


def test_the_command_line_spreads_too(run, client, tmp_path, maps):
    files = save_group(tmp_path, maps)
    assert run("permute", *files, *words("alone"))[0] == 0
    address = client.scheduler.address
    for where in (["--dask", address], ["--dask-local", N_WORKERS]):
        status, _, err = run("permute", *files, *words(where[0][2:]), *where)
        assert status == 0
        assert "Traceback" not in err
    names = [path.name for path in Path("alone").iterdir() if path.suffix in (".gz", ".tsv")]
    assert len(names) > 5
    for folder in ("dask", "dask-local"):
        for name in names:
            assert Path("alone", name).read_bytes() == Path(folder, name).read_bytes()


def test_wrong_clusters_are_one_line(run, tmp_path, maps, monkeypatch):
    files = save_group(tmp_path, maps)
    too_many = n_cores() + 1
    with dask.config.set({"distributed.comm.timeouts.connect": "500ms"}):
        for where, message in [
            (["--dask-local", "0"], f"share its {n_cores()} cores: 1 to as many, got 0"),
            (["--dask-local", too_many], f"1 to as many, got {too_many}"),
            (["--dask", "tcp://127.0.0.1:9"], "tcp://127.0.0.1:9"),
            (["--dask", "nonsense"], "nonsense"),
        ]:
            status, out, err = run("permute", *files, *words("never"), *where)
            assert (status, out) == (2, "")
            assert message in err.splitlines()[-1]
    monkeypatch.setitem(sys.modules, "distributed", None)
    status, _, err = run("permute", *files, *words("never"), "--dask-local", "1")
    assert status == 2
    assert "pip install 'gpustats[distributed]'" in err.splitlines()[-1]
    assert os.listdir() == []


def test_cores_can_be_limited(monkeypatch):
    monkeypatch.delenv(THREADS, raising=False)
    there = n_cores()
    with using_cores(1):
        assert n_cores() == 1
        with using_cores(there):
            assert n_cores() == 1
    assert n_cores() == there
    assert THREADS not in os.environ
    monkeypatch.setenv(THREADS, "1000000")
    assert n_cores() == there
    for wrong in ("0", "many", "-1", "1.5"):
        monkeypatch.setenv(THREADS, wrong)
        with pytest.raises(ValueError, match=f"{THREADS} must be a number.*{re.escape(wrong)}"):
            n_cores()


def test_merging_holds_one_part_at_a_time(maps):
    alive = weakref.WeakSet()

    def parts():
        for start in range(0, 200, 20):
            part = permutation_test(
                maps, n_permutations=200, shuffles=range(start, start + 20), device="cpu"
            )
            alive.add(part)
            assert len(alive) <= 3  # the first, the one before, and this
            yield part
            del part

    assert_same(merge(parts()), permutation_test(maps, n_permutations=200, device="cpu"))
