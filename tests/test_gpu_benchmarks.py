"""The measurements on a GPU, carried out on a pretended one: that they run, not what they say."""

import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import gpu, gpu_clock, gpu_spatial, records, tables, voxelwise
from benchmarks.gpu_data import Data, Sizes
from benchmarks.harness import CheckError
from benchmarks.records import Row
from gpustats import Grid, sources

TINY = Sizes(
    subjects=(20, 120),
    nuisance_subjects=21,
    few_voxels=100,
    labelled=2,
    clustered=3,
    rough=2,
    enhanced=(1, 3),
    checked=2,
    copied_bytes=2**16,
    repeats=1,
    long_repeats=1,
    study_shuffles=20,
    study_subjects=(20, 24),
)
ROW = Row("sweep, a shuffle", "s", (2e-6, 4e-6, 3e-6), (6e-6, 1e-6, 1.5e-6), "copying as much")


@pytest.fixture
def data(emulated):
    del emulated
    x, y, z = np.ogrid[-1:1:9j, -1:1:8j, -1:1:7j]
    return Data(Grid(x**2 + y**2 + z**2 < 1, np.eye(4)), TINY)


def all_kernels():
    texts = (sources.source(path.stem) for path in sources.kernel_folder().glob("*.cu"))
    return {name for text in texts for name in sources.parameters(text)}


def test_every_kernel_is_checked_and_measured(data, capsys, tmp_path):
    result = gpu.run_all(data)
    assert capsys.readouterr().err == ""
    assert {
        row.what.rpartition(": ")[2] for row in result.rows if ": " in row.what
    } == all_kernels()
    assert all(row.ratio > 0 for row in result.rows)
    assert all(check.value < check.limit for check in result.checks)
    assert "Pretended GPU" in result.environment.gpu
    assert "Measured" in tables.markdown(result)
    assert records.load(records.save(result, tmp_path)) == result


def test_what_there_is_no_memory_for_is_left_out_and_said(data, emulated, capsys):
    many = lambda: gpu_spatial.tfce(data, 10**6)  # noqa: E731
    with emulated.limited(2**28):
        assert list(gpu.carried_out(many, data)) == []
    assert "gpu: left out: 1,000,000 maps need 1 GB of memory, 0 GB are free" in (
        capsys.readouterr().err
    )


def test_a_wrong_result_is_not_measured(data, monkeypatch):
    right = data.cpu.tfce_peaks
    monkeypatch.setattr(data.cpu, "tfce_peaks", lambda *given: 1.0 + right(*given))
    part = gpu_spatial.tfce(data, 2)
    with pytest.raises(CheckError, match="differing scores, TFCE, 6 neighbours, batch of 2 is 2"):
        list(gpu.carried_out(lambda: part, data))


def test_the_launches_of_a_kernel_are_added_up(data):
    from gpustats import cuda

    launch = cuda.Kernels.launch
    job = voxelwise.prepare(data.group(20), voxelwise.mean_design(20), data.engine)
    seconds = gpu_clock.kernel_seconds(job)
    assert cuda.Kernels.launch is launch
    assert set(seconds) == {
        "shuffles_words",
        "shuffles_signs",
        "shuffles_rows",
        "t_statistic_peaks",
    }
    twice = gpu_clock.kernel_seconds(lambda: (job(), job()))
    assert set(twice) == set(seconds)
    assert min(seconds.values()) > 0


def test_large_groups_are_small_ones_turned_over(data):
    values = data.group(120).values
    assert np.array_equal(values[:, :100], data.simulated.values)
    assert np.array_equal(np.abs(values[:, 100:]), np.abs(values[:, :20]))
    assert (values[0, 100:] == values[0, :20]).any()
    assert (values[0, 100:] == -values[0, :20]).any()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"traffic": 6e6}, "3.00 µs (2,000 GB/s)"),
        ({"operations": 1.5e8}, "3.00 µs (50.0 TFLOP/s)"),
        ({}, "3.00 µs"),
    ],
)
def test_the_rate_stands_beside_the_time(options, text):
    row = replace(ROW, **options)
    assert records.cells(row) == (ROW.what, text, "copying as much 1.50 µs", "0.500x", "")


@pytest.fixture
def without_gpu(monkeypatch):
    """Workloads of which one needs a GPU that is not there; what is kept."""
    kept = []
    module = ModuleType("toy")
    module.run = lambda quick: records.Result(f"ran, {quick=}", "", None, rows=(ROW,))
    monkeypatch.setitem(sys.modules, "toy", module)
    monkeypatch.setattr(command, "WORKLOADS", {"other": "toy", "gpu": "toy"})
    monkeypatch.setattr(command, "NEEDS", {"gpu": lambda: "CuPy is not installed; install it"})
    monkeypatch.setattr(command, "save", kept.append)
    return kept


@pytest.mark.parametrize("quick", [[], ["--quick"]])
def test_without_a_gpu_asking_for_it_is_an_error(without_gpu, capsys, quick):
    assert command.main([*quick, "gpu"]) == 2
    assert without_gpu == []
    assert capsys.readouterr().err == "gpu: not measured: CuPy is not installed; install it\n"


@pytest.mark.parametrize("quick", [True, False])
def test_without_a_gpu_all_others_are_measured(without_gpu, capsys, quick):
    assert command.main(["--quick"] if quick else []) == 0
    captured = capsys.readouterr()
    assert captured.err == "gpu: not measured: CuPy is not installed; install it\n"
    assert f"ran, quick={quick}" in captured.out
    assert len(without_gpu) == (not quick)
