"""The emulator: what kernels may do it does as the device would."""

import numpy as np
import pytest
from emulator import Schedule
from small_kernels import MODES, TREE_SUM, integers, kernel


@pytest.mark.parametrize("mode", MODES)
def test_threads_know_their_place(mode):
    places = np.zeros((2, 3, 4, 2, 2, 2), np.int32)
    fill = """k(int *places) {
        int b = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
        int t = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
        int n = blockDim.x * blockDim.y * blockDim.z;
        places[b * n + t] = b * 1000 + t * 10 + (int)gridDim.x;
    }"""
    kernel(fill, mode)((4, 3, 2), (2, 2, 2), (places,))
    n_blocks, n_threads = 24, 8
    want = np.arange(n_blocks)[:, None] * 1000 + np.arange(n_threads) * 10 + 4
    np.testing.assert_array_equal(places.ravel(), want.ravel())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("schedule", [Schedule(), Schedule(window=3), Schedule.shuffled(1)])
def test_barriers_order_a_reduction(mode, schedule):
    x = np.arange(5 * 256, dtype=np.float32)
    sums = np.zeros(5, np.float32)
    run = kernel(TREE_SUM.replace("BARRIER", "__syncthreads();"), mode)
    run((5,), (256,), (x, sums), schedule=schedule)
    np.testing.assert_array_equal(sums, x.reshape(5, 256).sum(1))
    assert run.report.barriers == 5 * 9


def test_barriers_that_reduce():
    out = np.zeros(3, np.int32)
    text = """k(int *out) {
        int odd = threadIdx.x % 2;
        int count = __syncthreads_count(odd), all = __syncthreads_and(odd);
        int any = __syncthreads_or(odd);
        if (threadIdx.x == 0) { out[0] = count; out[1] = all; out[2] = any; }
    }"""
    kernel(text)((1,), (50,), (out,))
    assert out.tolist() == [25, 0, 1]


SHUFFLES = """k(const double *x, double *out) {
    const unsigned all = 0xffffffffu;
    int t = threadIdx.x;
    double v = x[t];
    out[t] = __shfl_sync(all, v, t + 3);
    out[t + 32] = __shfl_up_sync(all, v, 2);
    out[t + 64] = __shfl_down_sync(all, v, 1, 8);
    out[t + 96] = __shfl_xor_sync(all, v, 5);
    out[t + 128] = __shfl_sync(all, (float)v, 1, 16);
    out[t + 160] = (double)__shfl_sync(all, (long long)v, 31);
}"""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_shuffles(mode, seed):
    x, out = np.arange(32) * 1.5, np.zeros((6, 32))
    schedule = Schedule() if seed is None else Schedule.shuffled(seed)
    run = kernel(SHUFFLES, mode)
    run((1,), (32,), (x, out), schedule=schedule)
    lane = np.arange(32)
    np.testing.assert_array_equal(out[0], x[(lane + 3) % 32])
    np.testing.assert_array_equal(out[1], x[np.where(lane < 2, lane, lane - 2)])
    np.testing.assert_array_equal(out[2], x[np.where(lane % 8 == 7, lane, lane + 1)])
    np.testing.assert_array_equal(out[3], x[lane ^ 5])
    np.testing.assert_array_equal(out[4], x[lane // 16 * 16 + 1])
    np.testing.assert_array_equal(out[5], int(x[31]))
    assert run.report.collectives == {
        "__shfl_sync": 3,
        "__shfl_up_sync": 1,
        "__shfl_down_sync": 1,
        "__shfl_xor_sync": 1,
    }


def test_votes_matches_and_reductions_of_a_part_of_a_warp():
    x, out = np.arange(32, dtype=np.int32) % 5 - 2, np.zeros((8, 32), np.int64)
    text = """k(const int *x, long long *out) {
        int t = threadIdx.x, v = x[t], all;
        unsigned half = t < 16 ? 0xffffu : 0xffff0000u;
        out[t] = __ballot_sync(half, v > 0);
        out[t + 32] = __any_sync(half, v > 1) + 2 * __all_sync(half, v > -3);
        out[t + 64] = __match_any_sync(half, v);
        out[t + 96] = __reduce_add_sync(half, v);
        out[t + 128] = __reduce_min_sync(half, v);
        out[t + 160] = __reduce_max_sync(half, (unsigned)v);
        out[t + 192] = __reduce_xor_sync(half, (unsigned)t);
        out[t + 224] = __match_all_sync(half, t / 16, &all) + all;
    }"""
    kernel(text, "check")((1,), (32,), (x, out), schedule=Schedule.shuffled(3))
    for half in (slice(0, 16), slice(16, 32)):
        v, lanes = x[half], 2 ** np.arange(32, dtype=np.int64)[half]
        assert set(out[0, half]) == {lanes[v > 0].sum()}
        assert set(out[1, half]) == {3}
        np.testing.assert_array_equal(out[2, half], [lanes[v == each].sum() for each in v])
        assert set(out[3, half]) == {v.sum()}
        assert set(out[4, half]) == {v.min()}
        assert set(out[5, half]) == {v.astype(np.uint32).max()}
        assert set(out[6, half]) == {np.bitwise_xor.reduce(np.arange(32)[half])}
        assert set(out[7, half]) == {lanes.sum() + 1}


ATOMICS = """k(int *i, unsigned *u, unsigned long long *w, long long *s, float *f) {
    int t = threadIdx.x;
    atomicAdd(&i[0], t); atomicSub(&i[1], t); atomicMin(&i[2], -t); atomicMax(&i[3], t);
    atomicAdd(&i[4], 0x7fffffff);
    atomicAnd(&u[0], ~(1u << t)); atomicOr(&u[1], 1u << t); atomicXor(&u[2], 1u << t);
    atomicInc(&u[3], 9); atomicDec(&u[4], 9);
    atomicAdd(&w[0], 1ull << 40); atomicMax(&w[1], (unsigned long long)t << 40);
    atomicMin(&s[0], -((long long)t << 40)); atomicMax(&s[1], (long long)t << 40);
    atomicAdd(&f[0], 0.5f);
    if (atomicCAS(&u[5], 0u, t + 1u) == 0) atomicExch(&u[6], 77u);
}"""


@pytest.mark.parametrize("mode", MODES)
def test_atomics(mode):
    i, u = np.zeros(5, np.int32), np.array([2**32 - 1, 0, 0, 0, 0, 0, 0], np.uint32)
    w, s, f = np.zeros(2, np.uint64), np.zeros(2, np.int64), np.zeros(1, np.float32)
    run = kernel(ATOMICS, mode)
    run((1,), (32,), (i, u, w, s, f), schedule=Schedule.shuffled(5))
    assert i.tolist() == [496, -496, -31, 31, -32]
    assert u[:5].tolist() == [0, 2**32 - 1, 2**32 - 1, 2, 8]
    assert 1 <= u[5] <= 32
    assert u[6] == 77
    assert w.tolist() == [32 << 40, 31 << 40]
    assert s.tolist() == [-(31 << 40), 31 << 40]
    assert f[0] == 16
    assert run.report.atomics == 16 * 32 + 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("window", [1, 4])
def test_dynamic_shared_memory_belongs_to_a_block(mode, window):
    text = """k(int *out) {
        extern __shared__ int words[];
        __shared__ int offset;
        if (threadIdx.x == 0) offset = blockIdx.x;
        words[threadIdx.x] = threadIdx.x;
        __syncthreads();
        out[blockIdx.x * 64 + threadIdx.x] = words[63 - threadIdx.x] + offset;
    }"""
    out = np.zeros((6, 64), np.int32)
    schedule = Schedule(seed=1, window=window, random=True)
    kernel(text, mode)((6,), (64,), (out,), shared_mem=256, schedule=schedule)
    np.testing.assert_array_equal(out, np.arange(63, -1, -1) + np.arange(6)[:, None])


def test_names_of_dynamic_shared_memory_mean_one_region():
    text = """__device__ double first() { extern __shared__ double d[]; return d[0]; }
    k(double *out) {
        extern __shared__ long long bits[];
        bits[0] = 0x4000000000000000;
        out[0] = first();
    }"""
    out = np.zeros(1)
    kernel(text)((1,), (1,), (out,), shared_mem=8)
    assert out[0] == 2


@pytest.mark.parametrize("mode", MODES)
def test_equal_seeds_give_equal_orders_and_others_do_not(mode):
    run = kernel(
        "k(int *n, int *order) { order[atomicAdd(n, 1)] = blockIdx.x * 32 + threadIdx.x; }", mode
    )

    def order(schedule):
        n, result = integers(1), integers(256)
        run((8,), (32,), (n, result), schedule=schedule)
        assert sorted(result) == list(range(256))
        return result.tolist()

    assert order(Schedule()) == list(range(256))
    assert order(Schedule.shuffled(1)) == order(Schedule.shuffled(1))
    assert len({tuple(order(Schedule.shuffled(seed))) for seed in range(8)}) == 8


def test_lost_updates_show_in_random_schedules():
    run = kernel("k(int *n) { int old = __ldcg(n); __stcg(n, old + 1); }")
    totals = []
    for seed in range(5):
        n = integers(1)
        run((4,), (32,), (n,), schedule=Schedule.shuffled(seed, preempt=0.5))
        totals.append(n[0])
    assert max(totals) < 128


STRIDED = "k(const float *x, float *y, int s) { y[threadIdx.x] = x[threadIdx.x * s]; }"


@pytest.mark.parametrize(("stride", "sectors"), [(1, 4), (2, 8), (8, 32), (64, 32)])
def test_traffic_of_strided_reads(stride, sectors):
    memory = np.zeros(32 * 64 + 1024, np.float32)
    x = memory[-memory.ctypes.data // 4 % 256 :][: 32 * 64]  # aligned as by CuPy
    y = memory[-memory.ctypes.data // 4 % 256 + 32 * 64 :][:32]
    run = kernel(STRIDED, "check")
    run((1,), (32,), (x, y, np.int32(stride)))
    report = run.report
    read, written = report.arrays
    assert (read.sectors_read, read.sectors_requested_read, read.bytes_read) == (
        sectors,
        sectors,
        128,
    )
    assert (written.sectors_written, written.bytes_written) == (4, 128)
    assert (read.dram_bytes, written.dram_bytes) == (32 * sectors, 128)
    (load,) = (site for site in report.sites if not site.is_write)
    assert (load.where, load.requests, load.lanes) == ("kernel.cu:1", 1, 32)
    assert (load.sectors, load.ideal_sectors) == (sectors, 4)
    assert report.accesses == 64


def test_requests_after_divergence_are_put_together_again():
    text = """k(const int *x, int *out) {
        int sum = 0;
        for (unsigned i = 0; i < threadIdx.x % 4; ++i) {
            sum += x[i];
        }
        for (int i = 0; i < 3; ++i) {
            __syncwarp();
            sum += x[threadIdx.x + i];
        }
        out[blockIdx.x * 32 + threadIdx.x] = sum;
    }"""
    run = kernel(text, "check")
    run((1,), (32,), (integers(64), integers(32)))
    requests = {site.where: site.requests for site in run.report.sites if not site.is_write}
    assert requests == {"kernel.cu:4": 3, "kernel.cu:8": 3}


@pytest.mark.parametrize(("stride", "passes"), [(1, 1), (2, 2), (32, 32), (33, 1)])
def test_conflicts_in_shared_memory(stride, passes):
    text = """k(int *out, int stride) {
        __shared__ int s[33 * 32];
        s[threadIdx.x * stride] = threadIdx.x;
        out[blockIdx.x * 32 + threadIdx.x] = stride;
    }"""
    run = kernel(text, "check")
    run((1,), (32,), (integers(32), np.int32(stride)))
    (site,) = (site for site in run.report.sites if site.is_shared)
    assert (site.requests, site.sectors) == (1, passes)
