// tfce_scores.cu -- what the scores are for that tfce.cu leaves in fixed point.
//
// Layout   gained, order: (n_maps, n_voxels), of which the first n_positive[m] of row m are voxels;
//          exponents: (n_maps,), as in tfce.cu; voxels[c]: the voxel in cell c.
// Result   tfce_spread: scores[m][v], (n_maps, n_voxels), if it was zero before.
//          tfce_count: counts[v] grows by the number of maps in which the score of voxel v is
//          positive and at least limits[v].
// Launch   blockIdx.x covers the positive voxels, blockIdx.y maps; THREADS threads.
// Twin     gpustats/engines/cpu_tfce.py::tfce_map

#define THREADS 256

__device__ __forceinline__ double score_of(long long gained, int exponent, double divisor)
{
    return double(gained) * ldexp(1.0, -exponent) / divisor;
}

extern "C" __global__ void __launch_bounds__(THREADS) tfce_spread(
    const long long* __restrict__ gained, const int* __restrict__ order,
    const int* __restrict__ n_positive, const int* __restrict__ exponents,
    const int* __restrict__ voxels, double divisor, int n_voxels, double* scores)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x, m = blockIdx.y;
    if (i >= n_positive[m]) return;
    const size_t first = size_t(m) * n_voxels;
    const int v = voxels[order[first + i]];
    scores[first + v] = score_of(gained[first + i], exponents[m], divisor);
}

extern "C" __global__ void __launch_bounds__(THREADS) tfce_count(
    const long long* __restrict__ gained, const int* __restrict__ order,
    const int* __restrict__ n_positive, const int* __restrict__ exponents,
    const int* __restrict__ voxels, double divisor, int n_voxels,
    const double* __restrict__ limits, long long* counts)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x, m = blockIdx.y;
    if (i >= n_positive[m]) return;
    const size_t first = size_t(m) * n_voxels;
    const int v = voxels[order[first + i]];
    const double score = score_of(gained[first + i], exponents[m], divisor);
    // integers: in whatever order the maps come, the sum is the same
    if (score > 0.0 && score >= limits[v])
        atomicAdd(reinterpret_cast<unsigned long long*>(counts) + v, 1ull);
}
