"""Kernels are launched within CUDA's limits, and work that nobody waits for shows."""

import numpy as np
import pytest
from emulator import nvrtc
from emulator.launch import KernelError, RaceError

pytestmark = pytest.mark.usefixtures("emulated")

N = 64
SEEDS = range(20)

KERNELS = r"""
extern "C" __global__ void __launch_bounds__(128) shift(
    const float* __restrict__ x, float* y, float by, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n + EXTRA) y[i] = x[i] + by;
}
extern "C" __global__ void __launch_bounds__(128) increase(int* total)
{
    int before = __ldcg(total);
    __stcg(total, before + 1);
}
extern "C" __global__ void __launch_bounds__(128) overwrite(int* total)
{
    *total = threadIdx.x;
}
extern "C" __global__ void __launch_bounds__(128) turn(float* y)
{
    extern __shared__ float line[];
    line[threadIdx.x] = y[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = line[blockDim.x - 1 - threadIdx.x];
}
"""
FRONTS = [
    "source",
    pytest.param(
        "ptx", marks=pytest.mark.skipif(not nvrtc.installed(), reason="NVRTC is not installed")
    ),
]


@pytest.fixture
def kernel(cupy):
    """Return a kernel of the source above."""

    def found(name, extra=0):
        options = ("-std=c++17", "--fmad=false", f"-DEXTRA={extra}")
        return cupy.RawModule(code=KERNELS, options=options).get_function(name)

    return found


@pytest.fixture
def shifted(cupy, kernel):
    """Launch ``y = x + 1`` over whole arrays."""

    def launch(x, extra=0, **options):
        y = cupy.empty_like(x)
        kernel("shift", extra)((1,), (N,), (x, y, np.float32(1), np.int32(x.size)), **options)
        return y

    return launch


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("mode", ["fast", "check"])
def test_kernels_run_by_every_front_end_in_every_mode(cuda, cupy, shifted, front, mode):
    x = cupy.arange(N - 3, dtype=np.float32)
    with cuda.executed(front, mode, seed=5):
        np.testing.assert_array_equal(shifted(x).get(), np.arange(N - 3, dtype=np.float32) + 1)
    (launch,) = cuda.launches
    described = ("float32 (61,)", "float32 (61,)", "float32 1.0", "int32 61")
    assert (launch.kernel, launch.grid, launch.block) == ("shift", (1, 1, 1), (N, 1, 1))
    assert (launch.shared_bytes, launch.arguments) == (0, described)
    if mode == "check":
        assert launch.report.accesses == 2 * 61


@pytest.mark.parametrize("front", FRONTS)
def test_check_mode_finds_what_the_kernel_does_wrong(cuda, cupy, kernel, shifted, front):
    with cuda.executed(front, "check"):
        with pytest.raises(KernelError, match="bounds"):
            shifted(cupy.zeros(N - 3, np.float32), extra=1)
        with pytest.raises(RaceError, match="argument 0"):
            kernel("overwrite")((1,), (64,), (cupy.zeros(1, np.int32),))


def test_seeds_find_another_order_of_threads(cuda, cupy, kernel):
    totals = set()
    for seed in SEEDS:
        with cuda.executed(seed=seed):
            total = cupy.zeros(1, np.int32)
            kernel("increase")((8,), (32,), (total,))
            totals.add(total.item())
    assert len(totals) > 3


@pytest.mark.parametrize(
    ("grid", "block", "shared_bytes", "what"),
    [
        ((2**31,), (32,), 0, "2147483648 blocks of a grid, the most is 2147483647"),
        ((1, 65536), (32,), 0, "65536 blocks of a grid, the most is 65535"),
        ((1, 1, 65536), (32,), 0, "65536 blocks of a grid, the most is 65535"),
        ((1,), (1025,), 0, "1025 threads of a block, the most is 1024"),
        ((1,), (1, 1, 65), 0, "65 threads of a block, the most is 64"),
        ((1,), (129,), 0, "129 threads of a block in all, the most is 128"),
        ((1,), (32,), 49153, "49153 bytes of dynamic shared memory, the most is 49152"),
    ],
)
def test_launches_beyond_the_limits_are_refused(cupy, kernel, grid, block, shared_bytes, what):
    with pytest.raises(cupy.cuda.driver.CUDADriverError, match=what) as refused:
        kernel("turn")(grid, block, (cupy.zeros(32, np.float32),), shared_mem=shared_bytes)
    assert str(refused.value).startswith("CUDA_ERROR_INVALID_VALUE: invalid argument")
    assert refused.value.status == 1


def test_shared_memory_beyond_the_default_must_be_asked_for(cuda, cupy, kernel):
    turn, y = kernel("turn"), cupy.arange(32, dtype=np.float32)
    with pytest.raises(cupy.cuda.driver.CUDADriverError, match="101377 bytes"):
        turn.max_dynamic_shared_size_bytes = (99 << 10) + 1
    turn.max_dynamic_shared_size_bytes = 99 << 10
    turn((1,), (32,), (y,), shared_mem=99 << 10)
    assert y.get()[0] == 31
    assert cuda.launches[0].shared_bytes == 99 << 10


def test_an_empty_grid_is_one_block_as_in_cupy(cuda, cupy, kernel):
    y = cupy.zeros(1, np.float32)
    kernel("turn")((0,), (0,), (y,), shared_mem=4)
    assert (cuda.launches[0].grid, cuda.launches[0].block) == ((1, 1, 1), (1, 1, 1))


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({0: np.zeros(N, np.float32)}, "Unsupported type <class 'numpy.ndarray'>"),
        ({0: None}, "Unsupported type <class 'NoneType'>"),
        ({2: 1.0}, "shift: CuPy passes 1.0 as 8 bytes"),
        ({3: 64}, "shift: CuPy passes 64 as 8 bytes"),
        ({3: np.int64(64)}, "argument 3 is int64; the parameter is int32"),
        ({2: np.int32(1)}, "argument 2 is int32; the parameter is float32"),
        ({3: None, 4: None}, "Unsupported type"),
    ],
)
def test_arguments_that_a_device_would_misread_are_refused(cupy, kernel, changed, what):
    fitting = {i: cupy.zeros(N, np.float32) for i in range(2)} | {2: np.float32(1), 3: np.int32(N)}
    with pytest.raises(TypeError, match=what):
        kernel("shift")((1,), (N,), tuple((fitting | changed).values()))


def test_arrays_that_a_device_would_misread_are_refused(cupy, kernel):
    y, rest = cupy.zeros(N, np.float32), (np.float32(1), np.int32(N))
    for x, what in (
        (cupy.zeros(N), "argument 0 is an array of float64; the parameter is pointer to float32"),
        (cupy.zeros((N, 2), np.float32)[:, 0], "must be contiguous"),
    ):
        with pytest.raises(TypeError, match=what):
            kernel("shift")((1,), (N,), (x, y, *rest))
    with pytest.raises(TypeError, match="3 arguments for 4 parameters"):
        kernel("shift")((1,), (N,), (y, *rest))
    with cupy.cuda.Device(1):
        elsewhere = cupy.zeros(N, np.float32)
    with pytest.raises(ValueError, match="is different from the current device"):
        kernel("shift")((1,), (N,), (elsewhere, y, *rest))
    with pytest.raises(cupy.cuda.driver.CUDADriverError, match="named symbol not found"):
        kernel("nosuch")((1,), (N,), ())


def test_a_failing_kernel_shows_when_the_host_waits(cuda, cupy, shifted):
    with cuda.executed("source", "check"), cuda.asynchronous(1):
        with cupy.cuda.Stream() as stream:
            shifted(cupy.zeros(N - 3, np.float32), extra=1)
        with pytest.raises(KernelError, match="bounds"):
            stream.synchronize()


def test_the_launcher_of_the_package_runs_unchanged(cuda, cupy, tmp_path, monkeypatch):
    import gpustats.cuda

    (tmp_path / "line.cu").write_text(KERNELS)
    monkeypatch.setattr("gpustats.sources.kernel_folder", lambda: tmp_path)
    compiled = gpustats.cuda.kernels("line", EXTRA=0)
    y = cupy.zeros(N, np.float32)
    compiled.launch("shift", 1, N, cupy.arange(N, dtype=np.float32), y, 1, N)
    compiled.launch("turn", 1, N, y, shared_bytes=60 << 10)
    np.testing.assert_array_equal(y.get(), np.arange(N, 0, -1))
    assert [launch.shared_bytes for launch in cuda.launches] == [0, 60 << 10]


def fails_in_some_order(cuda, check):
    """Return in how many orders of work a check fails."""
    n_failures = 0
    for seed in SEEDS:
        with cuda.asynchronous(seed):
            try:
                check()
            except AssertionError:
                n_failures += 1
    return n_failures


@pytest.fixture
def streamed_sum(cupy):
    """Add chunks on the device, through two pinned buffers that are filled in turn."""
    import cupyx

    def add(chunks, *, waits):
        pinned = [cupyx.empty_pinned(N, np.float32) for _ in range(2)]
        copied = [cupy.cuda.Event(disable_timing=True) for _ in range(2)]
        with cupy.cuda.Stream(non_blocking=True):
            device = [cupy.empty(N, np.float32) for _ in range(2)]
            total = cupy.zeros(N, np.float32)
            for number, chunk in enumerate(chunks):
                side = number % 2
                if waits:
                    copied[side].synchronize()
                pinned[side][...] = chunk
                device[side].set(pinned[side])
                copied[side].record()
                total += device[side]
            return total.get()

    return add


@pytest.mark.parametrize("waits", [True, False])
def test_a_pinned_buffer_that_is_refilled_too_early_shows(cuda, streamed_sum, waits):
    chunks = [np.full(N, 10.0**power, np.float32) for power in range(6)]

    def check():
        np.testing.assert_array_equal(streamed_sum(chunks, waits=waits), np.float32(111111))

    check()
    n_failures = fails_in_some_order(cuda, check)
    assert n_failures == 0 if waits else n_failures > 10


@pytest.mark.parametrize("waits", [True, False])
def test_a_missing_event_between_streams_shows(cuda, cupy, shifted, waits):
    def check():
        ahead, behind = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
        with ahead:
            x = shifted(cupy.zeros(N, np.float32))
            event = ahead.record()
        if waits:
            behind.wait_event(event)
        with behind:
            assert (shifted(x).get() == 2).all()
        ahead.synchronize()

    check()
    n_failures = fails_in_some_order(cuda, check)
    assert n_failures == 0 if waits else n_failures > 5


@pytest.mark.parametrize("non_blocking", [True, False])
def test_the_null_stream_waits_for_blocking_streams_only(cuda, cupy, shifted, non_blocking):
    def check():
        x = cupy.zeros(N, np.float32)
        with cupy.cuda.Stream(non_blocking=non_blocking):
            y = shifted(x)
        assert ((y + 1).get() == 2).all()
        cupy.cuda.Device().synchronize()

    n_failures = fails_in_some_order(cuda, check)
    assert n_failures > 5 if non_blocking else n_failures == 0


@pytest.mark.parametrize("keeps", [True, False])
def test_memory_that_is_freed_before_another_stream_has_read_it_shows(cuda, cupy, shifted, keeps):
    def check():
        reader = cupy.cuda.Stream(non_blocking=True)
        x = cupy.zeros(N, np.float32)
        reader.wait_event(cupy.cuda.Stream.null.record())
        with reader:
            y = shifted(x)
        kept = x if keeps else None
        del x
        cupy.cuda.Device().synchronize()
        assert (y.get() == 1).all(), kept

    n_failures = fails_in_some_order(cuda, check)
    assert n_failures == 0 if keeps else n_failures > 2


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("pooled", [True, False])
def test_pinned_memory_that_is_freed_before_it_is_read_shows(cuda, cupy, keeps, pooled):
    def check():
        if pooled:
            memory = cupy.cuda.alloc_pinned_memory(4 * N + 600)
        else:
            memory = cupy.cuda.PinnedMemoryPointer(cupy.cuda.PinnedMemory(4 * N + 4), 4)
        assert memory.size() == (1024 if pooled else 4 * N)
        host = np.frombuffer(memory, np.float32, N)
        host[...] = 1
        x = cupy.empty(N, np.float32)
        x.set(host)
        kept = host if keeps else None
        del host, memory
        assert (x.get() == 1).all(), kept

    n_failures = fails_in_some_order(cuda, check)
    assert n_failures == 0 if keeps else n_failures > 5


def test_ordinary_memory_may_change_after_the_copy_was_asked_for(cuda, cupy):
    def check():
        host = np.ones(N, np.float32)
        x, y = cupy.empty(N, np.float32), cupy.asarray(host)
        x.set(host)
        host[...] = 0
        assert ((x + y).get() == 2).all()

    assert fails_in_some_order(cuda, check) == 0


@pytest.mark.parametrize("waits", [True, False])
def test_a_result_that_is_read_before_it_arrived_shows(cuda, cupy, waits):
    import cupyx

    def check():
        into = cupyx.zeros_pinned(N, np.float32)
        stream = cupy.cuda.Stream()
        (cupy.zeros(N, np.float32) + 1).get(out=into, stream=stream, blocking=False)
        if waits:
            stream.synchronize()
        assert (into == 1).all()

    n_failures = fails_in_some_order(cuda, check)
    assert n_failures == 0 if waits else n_failures > 5


def test_events_tell_when_they_are_done_and_how_long_it_took(cuda, cupy):
    with cuda.asynchronous(0):
        stream = cupy.cuda.Stream()
        first, last = stream.record(), stream.record()
        last.synchronize()
        assert first.done
        assert stream.done
        assert cupy.cuda.get_elapsed_time(first, last) >= 0
        assert cupy.cuda.get_current_stream() == cupy.cuda.Stream.null
        with stream:
            assert cupy.cuda.get_current_stream() == stream
