import logging
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from gpustats import cli
from gpustats.engines import resolve

# the same examples in every run, and no verdict on the speed of a busy machine
settings.register_profile("gpustats", deadline=None, derandomize=True)
settings.load_profile("gpustats")

DATA_VARIABLE = "GPUSTATS_TEST_DATA"


@pytest.fixture
def rng():
    """The same numbers in every run and every order of tests."""
    return np.random.default_rng(20261122)


@pytest.fixture(params=["cpu"])
def engine(request):
    """Every engine there is: tests of the seam hold for all of them."""
    return resolve(request.param)


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
