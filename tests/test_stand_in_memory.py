"""Memory of the pretended devices is counted and limited, and no device sees another's."""

import sys

import numpy as np
import pytest
from emulator import stand_in

pytestmark = pytest.mark.usefixtures("emulated")


def test_fresh_memory_is_poisoned_and_aligned(cupy):
    assert np.isnan(cupy.empty((3, 5), np.float32).get()).all()
    assert (cupy.empty(5, np.int32).get() == np.int32(0xA5A5A5A5 - 2**32)).all()
    assert cupy.empty(5, np.bool_).get().all()
    assert all(cupy.empty(n, np.uint8).data.ptr % 512 == 0 for n in (1, 700, 3))


def test_memory_is_counted_kept_by_the_pool_and_limited(cuda, cupy):
    pool, total = cupy.get_default_memory_pool(), cupy.cuda.Device().mem_info[1]
    array = cupy.empty(1000, np.uint8)
    view = array[10:]
    assert pool.used_bytes() == 1024
    del array
    assert pool.used_bytes() == 1024
    del view
    assert (pool.used_bytes(), pool.free_bytes(), pool.total_bytes()) == (0, 1024, 1024)
    assert cupy.cuda.runtime.memGetInfo() == (total - 1024, total)
    pool.free_all_blocks()
    assert cupy.cuda.runtime.memGetInfo() == (total, total)
    with cuda.limited(4096):
        kept = cupy.zeros(3000, np.uint8)
        told = r"allocating 1,536 bytes \(allocated so far: 3,072 bytes\)"
        with pytest.raises(cupy.cuda.memory.OutOfMemoryError, match=told) as refused:
            kept[:1100].copy()
        assert isinstance(refused.value, MemoryError)
        kept[:1000].copy()
        assert cupy.cuda.Device().mem_info == (4096 - 3072 - 1024, 4096)
        # CuPy lays an array out anew on the device before it copies it to the host
        fortran = kept.reshape(3, 1000).T
        with pytest.raises(MemoryError):
            fortran.get()
        assert fortran.get(order="A").flags.f_contiguous
    assert cupy.cuda.Device().mem_info[1] == total
    pool.set_limit(size=2048)
    with pytest.raises(MemoryError, match="limit set to: 2,048 bytes"):
        cupy.empty(3000, np.uint8)


def test_devices_do_not_see_each_other(cupy):
    x = np.arange(24, dtype=np.float32)
    first = cupy.asarray(x)
    assert first.device == cupy.cuda.Device(0)
    with cupy.cuda.Device(1):
        message = (
            r"The device where the array resides \(0\) is different from the current device \(1\)"
            r". Peer access is unavailable between these devices."
        )
        for misuse in (lambda: first + 1, lambda: cupy.sum(first), lambda: first.fill(0)):
            with pytest.raises(ValueError, match=message):
                misuse()
        second = cupy.asarray(first)
        assert int(second.device) == cupy.cuda.runtime.getDevice() == 1
        np.testing.assert_array_equal(second.get(), x)
        np.testing.assert_array_equal(first.get(), x)
        assert cupy.get_default_memory_pool().used_bytes() == 512
        stream = cupy.cuda.Stream()
    with pytest.raises(RuntimeError, match="device that the stream is created on"), stream:
        pass
    assert cupy.cuda.runtime.getDeviceCount() == 2
    assert cupy.cuda.Device(1).attributes["MaxSharedMemoryPerBlockOptin"] == 99 << 10
    assert cupy.cuda.runtime.getDeviceProperties(0)["major"] == 8


def test_waits_of_the_host_are_counted(cuda, cupy):
    array = cupy.arange(5)
    array[1:].sum()
    assert cuda.synchronizations == []
    cupy.nonzero(array)
    array.get()
    cupy.cuda.Stream.null.synchronize()
    assert cuda.synchronizations == ["shape of nonzero", "ndarray.get", "Stream.synchronize"]


def test_the_stand_in_leaves_no_trace(cupy):
    import gpustats.cuda

    assert gpustats.cuda.cupy is cupy
    stand_in.uninstall()
    assert sys.modules.get("cupy") is not cupy
    assert "gpustats.cuda" not in sys.modules
    assert not hasattr(sys.modules["gpustats"], "cuda")
    stand_in.install()
    import gpustats.cuda as again

    assert again.cupy is sys.modules["cupy"] is cupy
