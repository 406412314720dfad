"""The PTX front end of the emulator: every class of instructions against its definition."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from emulator import HostModule, KernelError, RaceError, Schedule, nvrtc
from emulator.ptx import PtxModule
from emulator.ptx_opcodes import UnsupportedError
from ptx_cases import ARITHMETIC, CONVERSIONS, DTYPES, FLOATS, INTEGERS, operands_for, text_of
from scipy import special

pytestmark = pytest.mark.skipif(
    not nvrtc.installed(), reason="NVRTC is not installed: pip install nvidia-cuda-nvrtc"
)
HEAD = ".version 8.0\n.target sm_80\n.address_size 64\n"
N_VALUES = 256
TABLES = {
    "integers": INTEGERS,
    "arithmetic": ARITHMETIC,
    "conversions": CONVERSIONS,
    "floats": FLOATS,
}


@cache
def module_with(table):
    """Compile a kernel for each instruction of a table."""
    return PtxModule(HEAD + "".join(map(text_of, TABLES[table])))


@pytest.mark.parametrize(
    ("table", "case"),
    [pytest.param(table, case, id=case.name) for table, cases in TABLES.items() for case in cases],
)
def test_an_instruction_gives_what_its_definition_says(table, case, rng):
    operands = operands_for(case, N_VALUES, rng)
    dtype = DTYPES[case.result]
    result = np.empty(N_VALUES, dtype)
    module_with(table).kernel(case.name)((N_VALUES // 64,), (64,), (*operands, result))
    n_checked = 0
    for got, *values in zip(result, *(array.tolist() for array in operands), strict=True):
        expected = case.expected(*values)
        if expected is None:
            continue
        n_checked += 1
        if dtype.kind != "f":
            expected = int(expected) % 2 ** (8 * dtype.itemsize)
            assert int(got) % 2 ** (8 * dtype.itemsize) == expected, values
        elif np.isnan(expected):
            assert np.isnan(got), values
        else:
            assert got.tobytes() == dtype.type(expected).tobytes(), (values, got, expected)
    assert n_checked > N_VALUES // 10


# ---- both front ends on CUDA C++ -----------------------------------------------------------------

OPTIONS = ("-std=c++17", "--fmad=false")
SOURCE = (Path(__file__).parent / "emulator_examples.cu").read_text()
FRONTS = {
    "source": HostModule,
    "ptx": lambda code, options=(), mode="fast": PtxModule(nvrtc.to_ptx(code, 80, options), mode),
}
ALL_LANES = 2**32 - 1


@cache
def examples(front, mode="fast"):
    return FRONTS[front](SOURCE, OPTIONS, mode)


@cache
def examples_for(architecture):
    return PtxModule(nvrtc.to_ptx(SOURCE, architecture, OPTIONS))


def numbers(rng, dtype, n):
    """Numbers of all sizes that float32 has, zeros and numbers below its normal range included."""
    values = rng.standard_normal(n) * 2.0 ** rng.integers(-140, 40, n)
    values[::17] = 0
    return values.astype(dtype)


@pytest.mark.parametrize("architecture", [75, 120])
@pytest.mark.parametrize(
    ("kernel", "dtype", "n_results"),
    [("arithmetic_float", np.float32, 10), ("arithmetic_double", np.float64, 8)],
)
def test_both_front_ends_agree_bit_for_bit(kernel, dtype, n_results, architecture, rng):
    n = 1000
    a, b = numbers(rng, dtype, n), numbers(rng, dtype, n)
    results = []
    for module in (examples("source"), examples_for(architecture)):
        result = np.empty((n, n_results), dtype)
        module.kernel(kernel)((16,), (64,), (a, b, result, np.int32(n)))
        results.append(result)
    first, second = results
    assert np.array_equal(np.isnan(first), np.isnan(second))
    assert (
        np.where(np.isnan(first), 0, first).tobytes()
        == np.where(np.isnan(second), 0, second).tobytes()
    )


def test_the_mathematical_functions_of_the_compiler(rng):
    x = rng.uniform(-5, 5, 300)
    result = np.empty((len(x), 6))
    examples("ptx").kernel("mathematics")((5,), (64,), (x, result, np.int32(len(x))))
    expected = [
        np.exp(x),
        np.log1p(np.abs(x)),
        special.gammaln(np.abs(x) + 0.5),
        special.erfcx(x),
        special.ndtr(x),
        np.sin(1000 * x),
    ]
    np.testing.assert_allclose(result, np.transpose(expected), rtol=2e-14, atol=1e-15)


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("schedule", [Schedule(), Schedule.shuffled(3)], ids=["in turn", "random"])
def test_collectives(front, schedule, rng):
    x = rng.integers(0, 100, 64, dtype=np.int32)
    result = np.empty((64, 12), np.uint32)
    examples(front).kernel("collectives")((1,), (64,), (x, result), schedule=schedule)
    lane, first = np.arange(64) % 32, np.arange(64) // 32 * 32
    ballots = [sum(int(v & 1) << k for k, v in enumerate(warp)) for warp in x.reshape(2, 32)]
    alike = x[:, None] % 5 == x % 5
    matches = [sum(int(alike[i, first[i] + k]) << k for k in range(32)) for i in range(64)]
    down = np.where(lane % 8 + 5 < 8, lane + 5, lane)
    expected = [
        x[first + (lane * 7 + 3) % 32],
        x[first + np.where(lane >= 3, lane - 3, lane)],
        x[first + down],
        x[first + (lane ^ 6)],
        x[first + lane // 8 * 8 + 5],
        np.repeat(ballots, 32),
        np.repeat([2 * (warp > 90).any() + 1 for warp in x.reshape(2, 32)], 32),
        matches,
        np.full(64, np.count_nonzero(x & 2)),
        np.full(64, 2 * (x < 95).all() + (x > 98).any()),
        [int(v).bit_count() + 100 * (32 - int(v).bit_length()) + 10000 * _lowest(v) for v in x],
        x[first + 1] * 2,
    ]
    for k, values in enumerate(expected):
        assert np.array_equal(result[:, k], values), k


def _lowest(value):
    """Position of the lowest set bit, counted from 1; 0 if there is none."""
    return (int(value) & -int(value)).bit_length()


@pytest.mark.parametrize("front", FRONTS)
def test_reductions_of_a_warp(front, rng):
    x = rng.integers(-(2**31), 2**31, 32, dtype=np.int32)
    result = np.empty((32, 6), np.int32)
    examples(front).kernel("reductions")((1,), (32,), (x, result))
    words = x.view(np.uint32)
    expected = [
        x.sum(dtype=np.int32),
        x.min(),
        x.max(),
        words.max().view(np.int32),
        np.bitwise_and.reduce(x),
        np.bitwise_or.reduce(x) ^ np.bitwise_xor.reduce(x),
    ]
    assert result.tolist() == [list(map(int, expected))] * 32


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("mode", ["fast", "check"])
def test_atomics(front, mode, rng):
    n = 150
    x = rng.integers(1, 1000, n, dtype=np.int32)
    narrow = np.array([0, 1000, 0, -1, 0, 0, 0, 1000], np.int32)
    wide = np.array([0, 0, 2**63, 5, 0], np.uint64)
    tickets = np.empty(n, np.int32)
    kernel = examples(front, mode).kernel("atomics")
    arguments = (x, narrow, wide, tickets, np.int32(n))
    kernel((3,), (64,), arguments, schedule=Schedule.shuffled(1))
    assert sorted(tickets) == list(range(n))
    everything = [np.bitwise_and.reduce(x), np.bitwise_or.reduce(x), np.bitwise_xor.reduce(x)]
    assert narrow.tolist() == [n, x.min(), x.max(), *everything, n % 7, x.min()]
    total, least, most = (int(value) for value in (x.sum(), x.min(), x.max()))
    assert wide.tolist() == [total << 40, most << 40, least << 40, 5 + total, total]


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("mode", ["fast", "check"])
def test_memory_of_all_kinds(front, mode, rng):
    quads = rng.standard_normal((64, 4)).astype(np.float32)
    octets = rng.integers(0, 4, 64, dtype=np.uint8)
    octets[octets == 0] = 2
    shorts = rng.integers(-300, 300, 64, dtype=np.int16)
    pair = np.array((0.5, 3), [("scale", np.float32), ("shift", np.int32)])[()]
    result, whole = np.empty(64, np.float32), np.empty(64, np.int64)
    scalars = (np.bool_(True), np.uint8(200), np.int16(-7), np.int64(10**12))
    arguments = (quads, octets, shorts, pair, *scalars, result, whole)
    if front == "source":
        arguments = (quads.ravel(), *arguments[1:])
    examples(front, mode).kernel("memory")((1,), (64,), arguments, shared_mem=256)
    i = np.arange(64)
    x, y, z, w = quads.T
    weights = ((i + 3) % 8).astype(np.float32) * x + y
    table = np.array([1, 0.5, 0.25, 0.125], np.float32)[i % 4]
    blended = weights * np.float32(0.5) + np.where(octets & 1, z, w) + table
    assert np.array_equal(result, 2 * blended + np.float32(2.5))
    base = 10**12 + shorts.astype(np.int64)
    choices = [base + 7, base * 3, base - 11, base << 5, base // 3, -base, base % 5, base % 5]
    assert np.array_equal(whole, np.choose(i % 8, choices) + 207)


@pytest.mark.parametrize("architecture", [75, 80, 90, 100, 120])
def test_every_architecture(architecture, rng):
    a, b = rng.standard_normal((2, 100)).astype(np.float32)
    result = np.empty(100, np.float32)
    module = examples_for(architecture)
    module.kernel("scaled_sum")((2,), (64,), (a, b, result, np.int32(100)))
    assert np.array_equal(result, np.float32(3) * a + b)


def test_products_are_fused_only_where_the_compiler_may(rng):
    a, b = (rng.integers(1, 2**24, 64).astype(np.float32) for _ in range(2))
    code = """extern "C" __global__ void product(const float *a, const float *b, float *result)
    { result[threadIdx.x] = a[threadIdx.x] * a[threadIdx.x] + b[threadIdx.x]; }"""
    fused, apart = np.empty(64, np.float32), np.empty(64, np.float32)
    FRONTS["ptx"](code).kernel("product")((1,), (64,), (a, b, fused))
    FRONTS["ptx"](code, OPTIONS).kernel("product")((1,), (64,), (a, b, apart))
    assert np.array_equal(apart, a * a + b)
    exact = a.astype(np.float64) ** 2 + b
    assert np.array_equal(fused, exact.astype(np.float32))


# ---- what PTX has and C++ has not ----------------------------------------------------------------


def run_ptx(body, result, *others):
    """Run statements in a kernel whose parameters are addresses, ``%a0`` the result."""
    names = range(1 + len(others))
    parameters = ", ".join(f".param .u64 p{k}" for k in names)
    loads = "\n".join(f"ld.param.u64 %a{k}, [p{k}];" for k in names)
    text = f"{HEAD}.visible .entry k({parameters})\n{{\n.reg .b64 %a<9>;\n{loads}\n{body}\nret;\n}}"
    module = PtxModule(text)
    module.kernel("k")((1,), (1,), (result, *others))
    return module


def test_names_end_with_their_scope():
    body = """
    .reg .b32 %x, %sum;
    mov.u32 %x, 1; mov.u32 %sum, 0;
    { .reg .b64 %x; .reg .pred p; mov.u64 %x, 8589934592; setp.eq.u64 p, %x, 0;
      @p bra DONE; shr.u64 %x, %x, 32; cvt.u32.u64 %sum, %x;
      DONE: }
    { .reg .pred p; .reg .b16 %x; mov.u16 %x, 5; setp.eq.u16 p, %x, 5;
      @!p bra DONE; add.u32 %sum, %sum, 10;
      DONE:
      { .reg .b32 %x; mov.u32 %x, 100; add.u32 %sum, %sum, %x; } }
    add.u32 %sum, %sum, %x;
    st.global.u32 [%a0], %sum;"""
    result = np.zeros(1, np.uint32)
    run_ptx(body, result)
    assert result[0] == 2 + 10 + 100 + 1


def test_a_jump_table():
    body = """
    .reg .b32 %x, %y;
    ld.global.u32 %x, [%a1];
    TABLE: .branchtargets FIRST, SECOND, THIRD;
    brx.idx %x, TABLE;
    FIRST: mov.u32 %y, 10; bra END;
    SECOND: mov.u32 %y, 20; bra END;
    THIRD: mov.u32 %y, 30;
    END: st.global.u32 [%a0], %y;"""
    result = np.zeros(1, np.uint32)
    for choice in range(3):
        run_ptx(body, result, np.array([choice], np.uint32))
        assert result[0] == 10 * (choice + 1)


def test_carries_and_parts_of_registers():
    body = """
    .reg .b32 %x<9>; .reg .b64 %y<9>; .reg .b16 %h<3>; .reg .pred %p<3>;
    ld.global.u64 %y0, [%a1]; ld.global.u64 %y1, [%a1+8];
    mov.b64 {%x0, %x1}, %y0; mov.b64 {%x2, %x3}, %y1;
    add.cc.u32 %x4, %x0, %x2; addc.u32 %x5, %x1, %x3;
    mov.b64 %y2, {%x4, %x5}; st.global.u64 [%a0], %y2;
    sub.cc.u32 %x4, %x0, %x2; subc.u32 %x5, %x1, %x3;
    mov.b64 %y2, {%x4, %x5}; st.global.u64 [%a0+8], %y2;
    mov.b32 {%h0, %h1}, %x0; mov.b32 %x6, {%h1, %h0};
    setp.lt.and.u32 %p0|%p1, %x0, 0, %p0; selp.u32 %x7, 1, 2, %p1;
    st.global.v2.u32 [%a0+16], {%x6, %x7};"""
    values = np.array([0xFFFFFFFF_00010002, 0x00000001_FFFFFFFF], np.uint64)
    result = np.zeros(3, np.uint64)
    run_ptx(body, result, values)
    a, b = map(int, values)
    assert result.tolist() == [(a + b) % 2**64, (a - b) % 2**64, 2 << 32 | 0x00020001]


def test_generic_addresses():
    body = """
    .shared .align 4 .b8 cell[8]; .reg .b64 %g<3>; .reg .b32 %x<4>; .reg .pred %p<3>;
    mov.u64 %g0, cell; cvta.shared.u64 %g1, %g0; cvta.to.shared.u64 %g2, %g1;
    st.shared.u32 [cell+4], 7; ld.u32 %x0, [%g1+4];
    setp.eq.u64 %p0, %g0, %g2; selp.u32 %x1, 1, 0, %p0;
    isspacep.shared %p1, %g1; selp.u32 %x2, 1, 0, %p1;
    isspacep.global %p2, %a0; selp.u32 %x3, 1, 0, %p2;
    st.global.v4.u32 [%a0], {%x0, %x1, %x2, %x3};"""
    result = np.zeros(4, np.uint32)
    run_ptx(body, result)
    assert result.tolist() == [7, 1, 1, 1]


def test_zeros_and_nan_have_the_bits_of_a_gpu():
    body = """
    .reg .f32 %x<5>; .reg .f64 %y<3>;
    mov.f32 %x0, 0f00000000; mov.f32 %x1, 0f80000000;
    div.rn.f32 %x2, %x0, %x1; st.global.f32 [%a0], %x2;
    mul.rn.f32 %x2, %x1, 0f40000000; st.global.f32 [%a0+4], %x2;
    mov.f32 %x3, 0f80000100; add.ftz.f32 %x2, %x3, %x1; st.global.f32 [%a0+8], %x2;
    sqrt.rn.f32 %x2, 0fBF800000; st.global.f32 [%a0+12], %x2;"""
    result = np.zeros(4, np.uint32)
    run_ptx(body, result)
    assert [hex(word) for word in result] == [
        "0x7fffffff",
        "0x80000000",
        "0x80000000",
        "0x7fffffff",
    ]


def test_an_unknown_instruction_is_named_with_its_line():
    with pytest.raises(UnsupportedError, match=r"PTX line 8: tex\.1d.*no entry for tex"):
        run_ptx("tex.1d.v4.f32.s32 {%f0, %f1, %f2, %f3}, [t, {%r0}];", np.zeros(1))


def test_instructions_are_counted_anew_at_each_launch(rng):
    module = examples_for(80)
    a, b = rng.standard_normal((2, 100)).astype(np.float32)
    result = np.empty(100, np.float32)
    for n in (100, 40):
        module.kernel("scaled_sum")((2,), (64,), (a, b, result, np.int32(n)))
        mix = module.mix("scaled_sum")
        assert mix["st.global.f32"] == mix["add.f32"] == n
        assert mix["setp.ge.s32"] == mix["ret"] == 128


# ---- faults --------------------------------------------------------------------------------------

FAULTS = {
    "fault_bounds": (KernelError, "out of bounds.*argument 0", "FAULT bounds"),
    "fault_dynamic_bounds": (KernelError, "out of bounds: dynamic shared memory", "FAULT dynamic"),
    "fault_race": (RaceError, "argument 0", "FAULT race"),
    "fault_shared_race": (RaceError, "shared memory", "FAULT shared race"),
    "fault_unwritten": (KernelError, "no thread of the block wrote", "FAULT unwritten"),
    "fault_barrier": (KernelError, "__syncthreads", None),
    "fault_read_only": (KernelError, "write to read-only", None),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found_through_ptx(fault):
    error, message, mark = FAULTS[fault]
    result = np.zeros(64, np.int32)
    arguments = (result,)
    if fault == "fault_bounds":
        arguments = (np.zeros(64, np.int32), result, np.int32(64))
    if fault == "fault_read_only":
        result.setflags(write=False)
    kernel = examples("ptx", "check").kernel(fault)
    line = next((k for k, text in enumerate(SOURCE.split("\n"), 1) if mark and mark in text), "")
    where = rf"kernel\.cu:{line}\b" if mark else ""
    grid = (2,) if fault == "fault_bounds" else (1,)
    with pytest.raises(error, match=f"(?s){message}.*{where}"):
        kernel(grid, (64,), arguments, shared_mem=256)


# ---- the compiler --------------------------------------------------------------------------------


def test_an_error_of_the_compiler_carries_its_log():
    with pytest.raises(nvrtc.CompileError, match=r"bad\.cu\(1\): error: identifier \"x\" is und"):
        nvrtc.to_ptx("__device__ int f() { return x; }", name="bad.cu")


def test_the_compiler_knows_what_it_compiles_for():
    assert {75, 80, 86, 89, 90, 100, 120} <= set(nvrtc.architectures())
    assert nvrtc.version() >= (12, 8)


def test_machine_code_comes_with_the_log_of_the_assembler():
    code = nvrtc.to_machine_code(SOURCE, 86, OPTIONS)
    assert code.cubin.startswith(b"\x7fELF")
    assert ".target sm_86" in code.ptx
    assert "Compiling entry function 'collectives' for 'sm_86'" in code.log
