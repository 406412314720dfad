"""The emulator refuses launches that the device would refuse or misread."""

import numpy as np
import pytest
from emulator import HostModule, KernelError
from small_kernels import ENTRY, MODES, kernel

FILL = """__launch_bounds__(2 * 64) k(float *x, int n, const float4 *v, bool flag) {
    if (n < 0) x[0] = v->x + flag;
}"""
ARGUMENTS = (np.zeros(8, np.float32), np.int32(3), np.zeros(4, np.float32), np.bool_(1))


def launch_fill(grid=(1,), block=(1,), arguments=ARGUMENTS, shared_mem=0):
    """Launch a kernel that has ``__launch_bounds__`` and parameters of several types."""
    HostModule(ENTRY + FILL).kernel("k")(grid, block, arguments, shared_mem=shared_mem)


@pytest.mark.parametrize(
    ("launch", "reason"),
    [
        ({"block": (129,)}, "128 threads of a block, by __launch_bounds__, got 129"),
        ({"block": (1025,)}, "1024 threads of a block, got 1025"),
        ({"block": (1, 1, 65)}, "64 threads of a block in z"),
        ({"block": (0,)}, "threads of a block, got 0"),
        ({"grid": (0,)}, "blocks of a grid, got 0"),
        ({"grid": (1, 65536)}, "65535 blocks of a grid, got 65536"),
        ({"shared_mem": 49153}, "49152 bytes of dynamic shared memory at most, got 49153"),
    ],
)
def test_limits_of_a_launch(launch, reason):
    launch_fill()
    with pytest.raises(KernelError, match=reason):
        launch_fill(**launch)


@pytest.mark.parametrize(
    ("position", "value", "reason"),
    [
        (0, np.zeros(8), "argument 0 is an array of float64; .* pointer to float32"),
        (0, np.zeros((8, 2), np.float32)[:, 0], "must be contiguous"),
        (0, np.float32(1), "argument 0 is float32; .* pointer"),
        (1, 3, "argument 1 is a Python int: wrap it"),
        (1, np.int64(3), "argument 1 is int64; .* int32"),
        (1, np.uint32(3), "argument 1 is uint32"),
        (1, np.zeros(1, np.int32), "argument 1 is an array"),
        (2, np.zeros(9, np.float32)[1:], "argument 2 is an array"),
        (3, np.int8(1), "argument 3 is int8"),
    ],
)
def test_arguments_are_held_against_parameters(position, value, reason):
    arguments = (*ARGUMENTS[:position], value, *ARGUMENTS[position + 1 :])
    with pytest.raises(KernelError, match=reason):
        launch_fill(arguments=arguments)


def test_number_of_arguments():
    with pytest.raises(KernelError, match="3 arguments for 4 parameters"):
        launch_fill(arguments=ARGUMENTS[:3])


def test_arrays_in_fortran_order_are_passed_as_they_lie():
    x = np.zeros((4, 3), np.float32, order="F")
    kernel("k(float *x) { x[threadIdx.x] = threadIdx.x; }")((1,), (12,), (x,))
    np.testing.assert_array_equal(x.ravel(order="F"), np.arange(12))


def test_more_shared_memory_on_request():
    text = """k(int *out, int n) {
        extern __shared__ int words[];
        for (int i = threadIdx.x; i < n; i += blockDim.x) words[i] = i;
        __syncthreads();
        if (threadIdx.x == 0) out[0] = words[n - 1];
    }"""
    out, n = np.zeros(1, np.int32), 227 * 256
    for mode in MODES:
        run = kernel(text, mode)
        run.max_dynamic_shared_size_bytes = 4 * n
        run((1,), (64,), (out, np.int32(n)), shared_mem=4 * n)
        assert out[0] == n - 1
        with pytest.raises(KernelError, match="no device has them"):
            run.max_dynamic_shared_size_bytes = 4 * n + 1


def test_what_does_not_compile_is_reported_with_its_line():
    with pytest.raises(KernelError, match=r"kernel.cu:2.*nonsense"):
        HostModule("\nnonsense x;")


def test_a_kernel_that_is_not_there():
    with pytest.raises(KernelError, match="no kernel 'other' here, only k"):
        kernel("k() {}").module.kernel("other")
