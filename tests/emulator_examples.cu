// emulator_examples.cu -- one kernel for each thing that the emulator must know; see
// test_emulator_ptx.py for what each of them must give.

struct Pair {
    float scale;
    int shift;
};

__device__ float table[4] = {1.0f, 0.5f, 0.25f, 0.125f};
__constant__ double offset = 2.5;
__device__ unsigned n_calls;

extern "C" __global__ void __launch_bounds__(64)
arithmetic_float(const float *a, const float *b, float *result, int n)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const float x = a[i], y = b[i];
    float *r = result + 10 * i;
    r[0] = x + y * x;
    r[1] = x - y;
    r[2] = x * y;
    r[3] = x / y;
    r[4] = sqrtf(fabsf(x));
    r[5] = __fmaf_rn(x, y, x);
    r[6] = fminf(x, y) + 0.0f;  // of two zeros C++ returns either
    r[7] = fmaxf(x, -y) + 0.0f;
    r[8] = (float)(int)fminf(fmaxf(x, -2e9f), 2e9f) + (float)(long long)y;
    r[9] = floorf(x) + rintf(y) + truncf(x);
}

extern "C" __global__ void __launch_bounds__(64)
arithmetic_double(const double *a, const double *b, double *result, int n)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const double x = a[i], y = b[i];
    double *r = result + 8 * i;
    r[0] = x + y * x;
    r[1] = x - y;
    r[2] = x / y;
    r[3] = sqrt(fabs(x));
    r[4] = fma(x, y, x);
    r[5] = (double)(float)x;
    r[6] = (double)(long long)rint(x) + floor(y);
    r[7] = fmin(x, y) - fmax(x, y);
}

extern "C" __global__ void __launch_bounds__(64)
mathematics(const double *a, double *result, int n)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const double x = a[i];
    double *r = result + 6 * i;
    r[0] = exp(x);
    r[1] = log1p(fabs(x));
    r[2] = lgamma(fabs(x) + 0.5);
    r[3] = erfcx(x);
    r[4] = normcdf(x);
    r[5] = sin(1000 * x);
}

// One block of whole warps; every lane writes what each collective gives it.
extern "C" __global__ void __launch_bounds__(64)
collectives(const int *values, unsigned *result)
{
    const unsigned all = 0xffffffffu;
    const int i = threadIdx.x, lane = i & 31, x = values[i];
    unsigned *r = result + 12 * i;
    r[0] = __shfl_sync(all, x, lane * 7 + 3);
    r[1] = __shfl_up_sync(all, x, 3);
    r[2] = __shfl_down_sync(all, x, 5, 8);
    r[3] = __shfl_xor_sync(all, x, 6, 16);
    r[4] = __shfl_sync(all, x, 5, 8);
    r[5] = __ballot_sync(all, x & 1);
    r[6] = __any_sync(all, x > 90) << 1 | __all_sync(all, x >= 0);
    r[7] = __match_any_sync(all, x % 5);
    r[8] = __syncthreads_count(x & 2);
    r[9] = __syncthreads_and(x < 95) << 1 | __syncthreads_or(x > 98);
    r[10] = __popc(x) + 100 * __clz(x) + 10000 * __ffs(x);
    r[11] = (unsigned)(__shfl_sync(all, (long long)x << 33, 1) >> 32);
}

#if __CUDA_ARCH__ >= 800
extern "C" __global__ void __launch_bounds__(32) reductions(const int *values, int *result)
{
    const unsigned all = 0xffffffffu;
    const int x = values[threadIdx.x];
    int *r = result + 6 * threadIdx.x;
    r[0] = __reduce_add_sync(all, x);
    r[1] = __reduce_min_sync(all, x);
    r[2] = __reduce_max_sync(all, x);
    r[3] = __reduce_max_sync(all, (unsigned)x);
    r[4] = __reduce_and_sync(all, (unsigned)x);
    r[5] = __reduce_or_sync(all, (unsigned)x) ^ __reduce_xor_sync(all, (unsigned)x);
}
#endif

// Every thread applies its value to one cell of each kind.
extern "C" __global__ void __launch_bounds__(64)
atomics(const int *values, int *narrow, unsigned long long *wide, int *tickets, int n)
{
    __shared__ unsigned long long total;
    __shared__ int least;
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (threadIdx.x == 0) {
        total = 0;
        least = 1 << 30;
    }
    __syncthreads();
    if (i < n) {
        const int x = values[i];
        tickets[i] = atomicAdd(narrow + 0, 1);
        atomicMin(narrow + 1, x);
        atomicMax(narrow + 2, x);
        atomicAnd(narrow + 3, x);
        atomicOr(narrow + 4, x);
        atomicXor(narrow + 5, x);
        atomicInc((unsigned *)narrow + 6, 6);
        atomicAdd(wide + 0, (unsigned long long)x << 40);
        atomicMax((long long *)wide + 1, (long long)x << 40);
        atomicMin(wide + 2, (unsigned long long)x << 40);
        unsigned long long seen = __ldcg(wide + 3), before;
        do {
            before = seen;
            seen = atomicCAS(wide + 3, before, before + x);
        } while (seen != before);
        atomicAdd(&total, (unsigned long long)x);
        atomicMin(&least, x);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        atomicAdd(wide + 4, total);
        atomicMin(narrow + 7, least);
    }
}

__device__ __noinline__ float blended(const float *weights, Pair pair, int i)
{
    atomicAdd(&n_calls, 1);
    return weights[(i + pair.shift) & 7] * pair.scale;
}

__device__ __noinline__ long long chosen(int which, long long x)
{
    switch (which) {
        case 0: return x + 7;
        case 1: return x * 3;
        case 2: return x - 11;
        case 3: return x << 5;
        case 4: return x / 3;
        case 5: return -x;
        default: return x % 5;
    }
}

// Parameters of all widths, vectors, arrays of a thread, variables of the module, static and
// dynamic shared memory, pointers to any of these, calls, a jump table.
extern "C" __global__ void __launch_bounds__(64)
memory(const float4 *quads, const unsigned char *octets, const short *shorts, Pair pair,
       bool doubled, unsigned char low, short high, long long wide, float *result, long long *whole)
{
    extern __shared__ float dynamic[];
    __shared__ float fixed[64];
    const int i = threadIdx.x;
    const float4 quad = quads[i];
    float weights[8];
    for (int k = 0; k < 8; ++k) weights[k] = k * quad.x + quad.y;
    fixed[i] = quad.z;
    dynamic[i] = quad.w;
    __syncthreads();
    const float *either = octets[i] & 1 ? fixed : octets[i] & 2 ? dynamic : result;
    result[i] = blended(weights, pair, i) + either[octets[i] & 4 ? 0 : i] + table[i & 3];
    if (doubled) result[i] = 2 * result[i] + (float)offset;
    whole[i] = chosen(i & 7, wide + shorts[i]) + low - high;
}

extern "C" __global__ void __launch_bounds__(64)
scaled_sum(const float *a, const float *b, float *result, int n)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) result[i] = 3.0f * a[i] + b[i];
}

// ---- faults ----------------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(64) fault_bounds(const int *values, int *result, int n)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i <= n) result[i] = values[i];  // FAULT bounds
}

extern "C" __global__ void __launch_bounds__(64) fault_dynamic_bounds(int *result)
{
    extern __shared__ int cells[];
    cells[threadIdx.x + 1] = 1;  // FAULT dynamic
    result[threadIdx.x] = cells[threadIdx.x + 1];
}

extern "C" __global__ void __launch_bounds__(64) fault_race(int *total)
{
    *total = *total + 1;  // FAULT race
}

extern "C" __global__ void __launch_bounds__(64) fault_shared_race(int *result)
{
    __shared__ int cells[64];
    cells[threadIdx.x] = 0;
    __syncthreads();
    cells[threadIdx.x] = threadIdx.x;
    result[threadIdx.x] = cells[63 - threadIdx.x];  // FAULT shared race
}

extern "C" __global__ void __launch_bounds__(64) fault_unwritten(int *result)
{
    __shared__ int cells[64];
    if (threadIdx.x & 1) cells[threadIdx.x] = 1;
    __syncthreads();
    result[threadIdx.x] = cells[threadIdx.x];  // FAULT unwritten
}

extern "C" __global__ void __launch_bounds__(64) fault_barrier(int *result)
{
    if (threadIdx.x < 32) __syncthreads();
    if (threadIdx.x >= 32) __syncwarp();
    result[threadIdx.x] = 1;
}

extern "C" __global__ void __launch_bounds__(64) fault_read_only(int *result) { result[threadIdx.x] = 1; }
