"""Kernels that tests of the emulator hold as strings."""

import numpy as np
from emulator import HostKernel, HostModule

ENTRY = 'extern "C" __global__ void '
MODES = ("fast", "check")

TREE_SUM = """k(const float *x, float *sums) {
    __shared__ float part[256];
    int t = threadIdx.x;
    part[t] = x[blockIdx.x * blockDim.x + t];
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (t < half) part[t] += part[t + half];
        BARRIER
    }
    if (t == 0) sums[blockIdx.x] = part[0];
}"""


def kernel(text: str, mode: str = "fast", options: tuple[str, ...] = ()) -> HostKernel:
    """Compile a text with one kernel, ``k``; ENTRY is put before its name."""
    return HostModule(text.replace("k(", f"{ENTRY}k(", 1), options, mode).kernel("k")


def integers(n: int) -> np.ndarray:
    return np.zeros(n, np.int32)
