import sys
from types import SimpleNamespace

import numpy as np
import pytest

from gpustats import __version__
from gpustats.engines import cpu, gpu_devices
from gpustats.engines.gpu_devices import Gpu


@pytest.fixture
def no_cupy(monkeypatch):
    """A machine on which CuPy is not installed."""
    monkeypatch.setitem(sys.modules, "cupy", None)


@pytest.mark.usefixtures("no_cupy")
def test_info_says_why_there_is_no_gpu(run):
    status, out, _ = run("info")
    assert status == 0
    for word in (__version__, np.__version__, cpu.describe(), "GiB free"):
        assert word in out
    assert f"none: CuPy is not installed; {gpu_devices.INSTALL_LINE}" in out


class Device:
    """What stands in for a device of CuPy."""

    current = None

    def __init__(self, index):
        self.index = index

    def __enter__(self):
        Device.current = self.index

    def __exit__(self, *exception):
        Device.current = None


@pytest.fixture
def two_gpus(monkeypatch):
    """CuPy's account of a machine with two GPUs."""
    runtime = SimpleNamespace(
        CUDARuntimeError=RuntimeError,
        getDeviceCount=lambda: 2,
        getDeviceProperties=lambda index: {"name": b"GPU %d" % index, "major": 9, "minor": index},
        memGetInfo=lambda: ((1 + Device.current) * 2**30, 2**34),
        runtimeGetVersion=lambda: 13010,
        driverGetVersion=lambda: 12090,
    )
    library = SimpleNamespace(getVersion=None)
    cuda = SimpleNamespace(runtime=runtime, Device=Device, cublas=library, nvrtc=library)
    cupy = SimpleNamespace(cuda=cuda, __version__="14.9", is_available=lambda: True)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupy.cuda", cuda)


@pytest.mark.usefixtures("two_gpus")
def test_gpus_and_what_drives_them_are_described():
    assert gpu_devices.gpus() == (
        Gpu("GPU 0", "9.0", 2**34, 2**30),
        Gpu("GPU 1", "9.1", 2**34, 2**31),
    )
    assert gpu_devices.cuda_versions() == {
        "cupy": "14.9",
        "cuda runtime": "13.1",
        "cuda driver": "12.9",
    }


@pytest.mark.usefixtures("two_gpus")
def test_info_names_every_gpu(run, monkeypatch):
    monkeypatch.setattr("gpustats.engines._gpu", lambda _: cpu)
    status, out, _ = run("info")
    assert status == 0
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert lines["cuda:1"].endswith("GPU 1, compute capability 9.1, 16.0 GiB, 2.0 GiB free")
    assert lines["cupy"].endswith(" 14.9")
    assert "none" not in out


@pytest.mark.usefixtures("no_cupy")
def test_nothing_is_said_of_gpus_where_there_are_none():
    assert gpu_devices.gpus() == ()
    assert gpu_devices.cuda_versions() == {}
