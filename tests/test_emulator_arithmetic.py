"""The emulator's intrinsics and mathematical functions, against their definitions."""

import numpy as np
import pytest
from scipy import special
from small_kernels import kernel

INTRINSICS = {
    "__double2ll_rn(-2.5)": -2,
    "__double2int_rz(-2.5)": -2,
    "__double2int_rd(-2.5)": -3,
    "__float2int_rn(1e20f)": 2**31 - 1,
    "__float2uint_ru(0.25f)": 1,
    "__float2int_rz(__int_as_float(0x7fc00000))": 0,
    "__ll2double_rn(-(1ll << 53) - 1)": -(2.0**53),
    "__dsqrt_rn(2.0)": np.sqrt(2.0),
    "__ddiv_rn(1.0, 3.0)": 1 / 3,
    "__fsub_rn(1.0f, 0x1p-30f)": 1,
    "__dsub_rn(1.0, 0x1p-53)": 1 - 2.0**-53,
    "__fma_rn(1.0 + 0x1p-52, 1.0 - 0x1p-52, -1.0)": -(2.0**-104),
    "__hiloint2double(__double2hiint(0.1), __double2loint(0.1))": 0.1,
    "__double2float_rd(0.1) < 0.1 && __double2float_ru(0.1) > 0.1": 1,
    "__popc(0xf0u) + __popcll(1ull << 40) + __ffs(8) + __clz(1) + __clzll(1)": 4 + 1 + 4 + 31 + 63,
    "__brev(1u) == 0x80000000u && __brevll(2ull) == 1ull << 62": 1,
    "__umulhi(1u << 31, 6u) + __mulhi(-1, 1) + (int)__umul64hi(1ull << 63, 4ull)": 3 - 1 + 2,
    "__funnelshift_l(0x80000000u, 1u, 1) + __byte_perm(0x3210u, 0u, 0x0001u)": 3 + 0x10101032,
    "min(3, 4u) + max(1.5f, __int_as_float(0x7fc00000)) + max(2ll, 1)": 6.5,
    "rint(2.5) + round(2.5) + trunc(-1.5)": 4,
    "scalbn(1.5, 3) + ldexp(1.0, -1)": 12.5,
    "make_float4(1, 2, 3, 4).w + make_double2(1, 2).y + make_uint3(1, 2, 3).z": 9,
    "rsqrt(4.0) + rsqrtf(16.0f) + __fdividef(1.0f, 8.0f)": 0.875,
    "sinpi(0.5) + cospi(1.0) + log1p(0.0) + expm1(0.0)": 0,
}


def test_intrinsics():
    lines = "\n".join(f"out[{i}] = {text};" for i, text in enumerate(INTRINSICS))
    out = np.zeros(len(INTRINSICS))
    kernel(f"k(double *out) {{ {lines} }}", "check")((1,), (1,), (out,))
    assert dict(zip(INTRINSICS, out.tolist(), strict=True)) == INTRINSICS


FUNCTIONS = {
    "erfcx": (special.erfcx, np.linspace(-5, 300, 1001)),
    "normcdf": (special.ndtr, np.linspace(-37, 8, 1001)),
    "normcdfinv": (special.ndtri, np.geomspace(1e-300, 1 - 1e-9, 1001)),
    "erfinv": (special.erfinv, np.linspace(-0.999999, 0.999999, 1000)),
    "erfcinv": (special.erfcinv, np.geomspace(1e-300, 1.99, 1001)),
    "lgamma": (special.gammaln, np.geomspace(1e-3, 1e6, 1001)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_cuda(name):
    function, x = FUNCTIONS[name]
    text = f"k(const double *x, double *y) {{ y[blockIdx.x] = {name}(x[blockIdx.x]); }}"
    y = np.zeros_like(x)
    kernel(text)((x.size,), (1,), (x, y))
    np.testing.assert_allclose(y, function(x), rtol=2e-13, atol=1e-15)


def test_float32_is_flushed_as_with_ftz_and_products_are_not_fused():
    text = """k(const float *x, float *y) {
        y[0] = x[0] * 0.5f;
        y[1] = x[1] * x[1] - x[2];
    }"""
    tiny, a = np.finfo(np.float32).tiny, np.float32(1 + 2**-12)
    x, y = np.array([tiny, a, a * a], np.float32), np.ones(2, np.float32)
    kernel(text)((1,), (1,), (x, y))
    assert y.tolist() == [0, 0]
    kernel(text, options=("-ftz=false",))((1,), (1,), (x, y))
    assert y[0] == tiny / 2
    assert np.float32(tiny) * np.float32(0.5) > 0  # the host's own arithmetic is as before
