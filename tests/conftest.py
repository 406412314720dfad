import logging
import os
from pathlib import Path

import numpy as np
import pytest
from emulator.fixtures import cuda, cupy, emulated  # noqa: F401 -- fixtures of many tests
from hypothesis import settings

from gpustats import cli, cli_report
from gpustats.engines import resolve
from gpustats.report import Report

# the same examples in every run, and no verdict on the speed of a busy machine
settings.register_profile("gpustats", deadline=None, derandomize=True)
settings.load_profile("gpustats")

DATA_VARIABLE = "GPUSTATS_TEST_DATA"


@pytest.fixture
def rng():
    """The same numbers in every run and every order of tests."""
    return np.random.default_rng(20261122)


@pytest.fixture(params=["cpu", "cuda"])
def device(request):
    """Every kind of device: a GPU may be an emulated one."""
    if request.param == "cuda":
        request.getfixturevalue("cuda")
    return request.param


@pytest.fixture
def engine(device):
    """Every engine there is: tests of the seam hold for all of them."""
    return resolve(device)


@pytest.fixture(scope="session")
def reference_data():
    """The folder of real data and of other packages' results, where the machine has it."""
    folder = os.environ.get(DATA_VARIABLE)
    if not folder or not Path(folder).is_dir():
        pytest.skip(f"{DATA_VARIABLE} names no folder with reference data")
    return Path(folder)


@pytest.fixture
def log(caplog):
    """What the package logs."""
    caplog.set_level(logging.INFO, logger="gpustats")
    return caplog


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch):
    """Let the command line draw its reports in tests of reports only: each takes a second."""
    if "draws" not in request.keywords:
        blank = Report("<!DOCTYPE html><title>not drawn</title>", "not drawn")
        monkeypatch.setattr(cli_report, "build_report", lambda *_, **__: blank)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command line in an empty folder and return status, output and error lines."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run_command(*words):
        capsys.readouterr()
        status = cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run_command


def pytest_collection_modifyitems(items):
    """Mark what runs on a GPU, emulated or real: ``-m gpu`` chooses it."""
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if "cuda" in item.fixturenames or parameters.get("device") == "cuda":
            item.add_marker("gpu")
