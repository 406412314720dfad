"""Check mode finds what CUDA leaves undefined; the same kernel without the fault passes."""

import numpy as np
import pytest
from emulator import HostModule, KernelError, RaceError, Schedule
from small_kernels import ENTRY, MODES, TREE_SUM, integers, kernel


def check(text: str, *arguments, block: int = 64) -> None:
    """Run a kernel in check mode."""
    kernel(text, "check")((2,), (block,), arguments)


READ_ONLY = integers(64)
READ_ONLY.flags.writeable = False
BEFORE_A_BARRIER = "__shared__ int s[64]; int t = threadIdx.x; s[t] = t; __syncthreads();"
FAULTS = {
    # name: (kernel, what makes it right, arguments, message)
    "a sum without atomics": (
        "k(int *n) { /*!*/n[0] += 1;/*:atomicAdd(&n[0], 1);*/ }",
        (integers(1),),
        r"(write|read) after write of argument 0.*kernel.cu:\d+ against kernel.cu:\d+",
    ),
    "a missing __syncthreads": (
        "k(int *n) { __shared__ int s[64]; int t = threadIdx.x; s[t] = t; "
        "/*!*//*:__syncthreads();*/ n[blockIdx.x * 64 + t] = s[t ^ 32]; }",
        (integers(128),),
        "read of shared memory that no thread|after write of shared memory",
    ),
    "a missing __syncwarp": (
        "k(int *n) { __shared__ int s[64]; int t = threadIdx.x; s[t] = t; "
        "__syncthreads(); s[t] += 1; /*!*//*:__syncwarp();*/ n[blockIdx.x * 64 + t] = s[t ^ 1]; }",
        (integers(128),),
        "read after write of shared memory",
    ),
    "a __syncwarp of other lanes": (
        "k(int *n) { __shared__ int s[64]; int t = threadIdx.x; s[t] = t; "
        "__syncwarp(/*!*/t % 32 < 16 ? 0xffffu : 0xffff0000u/*:0xffffffffu*/); "
        "n[blockIdx.x * 64 + t] = s[t ^ 16]; }",
        (integers(128),),
        "read of shared memory that no thread|read after write of shared memory",
    ),
    "a write that overtakes readers": (
        f"k(int *n) {{ {BEFORE_A_BARRIER} n[blockIdx.x * 64 + t] = s[63 - t]; "
        "/*!*//*:__syncthreads();*/ s[t] = 0; }",
        (integers(128),),
        "write after read of shared memory",
    ),
    "blocks that share a counter": (
        "k(int *n) { if (threadIdx.x == 0) n[/*!*/0/*:blockIdx.x*/] = 1; }",
        (integers(2),),
        "write after write of argument 0",
    ),
    "a plain read of what is updated by atomics": (
        "k(int *n) { atomicAdd(&n[0], 1); if (/*!*/n[0]/*:__ldcg(&n[0])*/ > 1000) n[1] = 1; }",
        (integers(2),),
        "after (write|read) of argument 0",
    ),
    "out of bounds by one": (
        "k(int *n) { n[blockIdx.x * 64 + threadIdx.x + /*!*/1/*:0*/] = 1; }",
        (integers(128),),
        "write of 4 bytes at byte 512 of argument 0, which has 512, block .1,0,0. thread .63,0,0. "
        "at kernel.cu",
    ),
    "before the beginning": (
        "k(const int *n, int *out) { out[blockIdx.x * 64 + threadIdx.x] = "
        "n[(int)threadIdx.x - /*!*/1/*:0*/]; }",
        (integers(64), integers(128)),
        "read of 4 bytes at byte -4 of argument 0",
    ),
    "beyond the shared memory asked for": (
        "k() { extern __shared__ int d[]; d[threadIdx.x + /*!*/1/*:0*/] = 1; }",
        (),
        "dynamic shared memory up to byte 260, the launch asked for 256",
    ),
    "beyond a shared array": (
        "k() { __shared__ int s[64]; s[threadIdx.x + /*!*/1/*:0*/] = 1; }",
        (),
        "array index out of range at kernel.cu",
    ),
    "shared memory that nobody wrote": (
        "k(int *n) { __shared__ int s[64]; /*!*/if (threadIdx.x > 0)/*:*/ s[threadIdx.x] = 1; "
        "n[blockIdx.x * 64 + threadIdx.x] = s[threadIdx.x]; }",
        (integers(128),),
        "read of shared memory that no thread of the block wrote.*kernel.cu",
    ),
    "a write to what is read-only": (
        "k(int *n) { if (/*!*/blockIdx.x/*:n[0]*/ == 1 && threadIdx.x == 0) n[0] = 1; }",
        (READ_ONLY,),
        "write to read-only argument 0",
    ),
    "a vector that is not aligned": (
        "k(float *x) { float4 *v = (float4 *)(x + /*!*/1/*:4*/); "
        "if (blockIdx.x + threadIdx.x == 0) *v = make_float4(1, 2, 3, 4); }",
        (np.zeros(16, np.float32),),
        "misaligned",
    ),
    "a barrier that some threads do not reach": (
        "k() { if (threadIdx.x < /*!*/32/*:64*/) __syncthreads(); else __syncwarp(); }",
        (),
        "32 threads left the kernel before a __syncthreads",
    ),
    "a barrier against a collective": (
        "k() { if (threadIdx.x % 32 < /*!*/31/*:32*/) __syncthreads(); "
        "else __shfl_sync(~0u, 1, 0); }",
        (),
        "deadlock.*waits at",
    ),
    "barriers of different kinds": (
        "k() { if (threadIdx.x < /*!*/32/*:64*/) __syncthreads(); else __syncthreads_or(1); }",
        (),
        "different kinds of __syncthreads meet",
    ),
    "a shuffle from a lane that is not there": (
        "k() { unsigned lower = 0xffffu; if (threadIdx.x % 32 < 16) "
        "__shfl_sync(lower, 1, /*!*/16/*:15*/); }",
        (),
        "reads lane 16, which does not take part",
    ),
    "a shuffle that a lane does not reach": (
        "k() { if (threadIdx.x % 32 > /*!*/0/*:-1*/) __shfl_sync(~0u, 1, 1); else __syncwarp(); }",
        (),
        "__s.* meets __s",
    ),
    "a caller outside its own mask": (
        "k() { __syncwarp(/*!*/0xffffu/*:~0u*/); }",
        (),
        "the caller is not in its own mask",
    ),
    "signed overflow": (
        "k(int *n) { int big = 0x7fffffff - /*!*/63/*:64*/ + (int)threadIdx.x; "
        "n[blockIdx.x * 64 + threadIdx.x] = big + 1; }",
        (integers(128),),
        "signed overflow in .* at kernel.cu",
    ),
    "a shift by the whole width": (
        "k(int *n) { n[blockIdx.x * 64 + threadIdx.x] = 1 << (threadIdx.x / 2 + /*!*/1/*:0*/); }",
        (integers(128),),
        "shift out of range",
    ),
    "a float that no integer holds": (
        "k(int *n) { n[blockIdx.x * 64 + threadIdx.x] = (int)(/*!*/1e10f/*:1e9f*/); }",
        (integers(128),),
        "out of the range of an integer",
    ),
    "a spin on what nobody changes": (
        "k(int *n) { while (atomicAdd(&n[blockIdx.x], 0) != /*!*/1/*:0*/) {} }",
        (integers(2),),
        "did not finish within the budget of 100000",
    ),
}


def variants(text: str) -> tuple[str, str]:
    """Return a kernel with its fault and without: ``/*!*/fault/*:remedy*/``."""
    before, rest = text.split("/*!*/")
    fault, rest = rest.split("/*:", 1)
    remedy, after = rest.split("*/", 1)
    return before + fault + after, before + remedy + after


@pytest.fixture(scope="module")
def faults() -> HostModule:
    """All faults and their remedies, compiled at once."""
    lines = []
    for number, (text, *_) in enumerate(FAULTS.values()):
        for kind, variant in zip(("faulty", "right"), variants(text), strict=True):
            lines.append(ENTRY + variant.replace("k(", f"{kind}_{number}(", 1))
    return HostModule("\n".join(lines), mode="check")


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_found_and_their_remedies_pass(name, faults):
    _, arguments, message = FAULTS[name]
    number = list(FAULTS).index(name)
    launch = (2,), (64,), arguments
    schedule = Schedule(budget=100_000)
    faults.kernel(f"right_{number}")(*launch, shared_mem=256, schedule=schedule)
    with pytest.raises(KernelError, match=f"(?s){message}"):
        faults.kernel(f"faulty_{number}")(*launch, shared_mem=256, schedule=schedule)


def test_a_race_is_found_in_every_order_and_named():
    faulty = kernel(TREE_SUM.replace("BARRIER", ""), "check")
    x, sums = np.ones(256, np.float32), np.zeros(1, np.float32)
    for seed in range(4):
        with pytest.raises(RaceError, match=r"kernel.cu:7 against kernel.cu:7"):
            faulty((1,), (256,), (x, sums), schedule=Schedule.shuffled(seed))
        assert faulty.report.races[0].times >= 1


def test_neighbouring_bytes_and_half_words_do_not_race():
    text = """k(unsigned short *h, unsigned char *b) {
        __shared__ unsigned short halves[64];
        __shared__ bool flags[64];
        int t = threadIdx.x;
        halves[t] = t; flags[t] = t % 2;
        __syncwarp();
        h[blockIdx.x * 64 + t] = halves[t]; b[blockIdx.x * 64 + t] = flags[t];
    }"""
    check(text, np.zeros(128, np.uint16), np.zeros(128, np.uint8))


def test_many_collectives_do_not_confuse_the_clock():
    text = """k(int *n) {
        __shared__ int word;
        for (int i = 0; i < 70000; ++i) {
            if (threadIdx.x == i % 2) word = i;
            __syncwarp();
        }
        n[blockIdx.x * 2 + threadIdx.x] = word;
    }"""
    n = integers(4)
    check(text, n, block=2)
    assert n.tolist() == [69999] * 4


def test_arrays_that_share_memory_share_it_in_check_mode():
    x = integers(96)
    text = """k(const int *before, int *x) {
        if (blockIdx.x == 0) x[threadIdx.x] = before[threadIdx.x] + 1;
    }"""
    check(text, x[:64], x[32:], block=32)
    assert x.tolist() == [0] * 32 + [1] * 32 + [0] * 32


@pytest.mark.parametrize("mode", MODES)
def test_a_loop_without_end_is_left(mode):
    run = kernel(
        "k(int *n, int stop) { unsigned i = 1; while (i != stop) i += 2; n[0] = i; }", mode
    )
    n = integers(1)
    with pytest.raises(KernelError, match="did not finish within 0.2 seconds .* block .0,0,0."):
        run((1,), (1,), (n, np.int32(2)), schedule=Schedule(seconds=0.2))
    run((1,), (1,), (n, np.int32(7)), schedule=Schedule(seconds=0.2))
    assert n[0] == 7


def test_a_crash_ends_the_launch_only():
    run = kernel("k(int *n, long long i) { n[i] = 1; }")
    n = integers(1)
    with pytest.raises(KernelError, match="crashed .Segmentation fault. in block"):
        run((1,), (1,), (n, np.int64(1 << 50)))
    run((1,), (1,), (n, np.int64(0)))
    assert n[0] == 1
