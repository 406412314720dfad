"""The compile gate of the kernels, and that it sees what it must not let pass."""

import kernel_builds
import pytest
from emulator import nvrtc
from kernel_builds import BEGIN, END, Build, check, compiled, table, usages, with_table

pytestmark = pytest.mark.skipif(
    not nvrtc.installed(), reason="NVRTC is not installed: pip install nvidia-cuda-nvrtc"
)
KERNEL = 'extern "C" __global__ void __launch_bounds__(64)'
CLEAN = f"{KERNEL} add(const float *a, float *b) {{ b[threadIdx.x] += a[threadIdx.x]; }}"
FAULTY = {
    "computes in float64: add": f"{KERNEL} k(double *a) {{ *a = *a + 1; }}",
    "computes in float64: cvt": f"{KERNEL} k(double *a, float *b) {{ *b = (float)*a; }}",
    "volatile accesses": f"{KERNEL} k(volatile int *a, int *b) {{ *b = *a; }}",
    "spills": f"""{KERNEL.replace("64", "1024, 2")} k(float *a) {{
        float x[64];
        #pragma unroll
        for (int i = 0; i < 64; ++i) x[i] = a[i * 1024 + threadIdx.x];
        __syncthreads();
        #pragma unroll
        for (int i = 0; i < 64; ++i) a[i * 1024 + threadIdx.x] = x[63 - i] * x[(i * 7) % 64];
    }}""",
}
README = f"# Kernels\n{BEGIN}\nnothing yet\n{END}\nThe end.\n"


@pytest.fixture
def two_architectures(monkeypatch):
    monkeypatch.setattr(kernel_builds, "ARCHITECTURES", (75, 90))


@pytest.mark.slow
def test_every_build_of_the_engine_keeps_the_rules_and_the_table():
    differences = check(kernel_builds.README.read_text(), compiled())
    assert not differences, "\n".join(
        [*differences, "after a change: python tests/kernel_builds.py --write"]
    )


@pytest.mark.parametrize("fault", FAULTY)
@pytest.mark.usefixtures("two_architectures")
def test_faults_are_seen(fault):
    differences = check(README, compiled([Build("label")], lambda _: FAULTY[fault]))
    assert differences
    assert all(fault in difference for difference in differences)


@pytest.mark.usefixtures("two_architectures")
def test_float64_is_allowed_where_it_is_meant():
    code = FAULTY["computes in float64: add"]
    assert check(README, compiled([Build("t_to_z")], lambda _: code)) == []


@pytest.mark.parametrize(
    ("element", "is_wide"),
    [("float", False), ("float2", False), ("float4", True), ("double2", True)],
)
@pytest.mark.usefixtures("two_architectures")
def test_wide_loads_are_seen(element, is_wide):
    code = f"{KERNEL} k(const {element} *a, {element} *b) {{ b[threadIdx.x] = a[threadIdx.x]; }}"
    differences = check(README, compiled([Build("label", wide_loads=("k",))], lambda _: code))
    assert is_wide == (differences == [])
    differences = check(README, compiled([Build("label", wide_loads=("other",))], lambda _: code))
    assert "there is no kernel other" in differences[0]


@pytest.mark.usefixtures("two_architectures")
def test_the_table_is_compared_if_this_compiler_made_it():
    compilations = compiled([Build("label", (("THREADS", 64),))], lambda _: CLEAN)
    readme = with_table(README, compilations)
    assert readme.startswith("# Kernels\n")
    assert readme.endswith("The end.\n")
    assert table(compilations) in readme
    assert check(readme, compilations) == []
    registers = compilations[1].usages["add"].registers
    assert registers > 0
    changed = readme.replace(f"| {registers} |\n", f"| {registers + 1} |\n")
    assert [line.partition(":")[0] for line in check(changed, compilations)] == [
        "not in the table of the README",
        "only in the table of the README",
    ]
    of_another = changed.replace("NVRTC {}.{}".format(*nvrtc.version()), "NVRTC 12.0")
    assert check(of_another, compilations) == []


def test_spills_of_functions_that_a_kernel_calls_count():
    log = """ptxas info : Compiling entry function 'k' for 'sm_80'
    ptxas . 0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
    ptxas info : Used 40 registers, used 0 barriers, 400 bytes cmem[0]
    ptxas info : Function properties for helper
    ptxas . 16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads"""
    assert usages(log)["k"] == (40, 20, 16, 0)
