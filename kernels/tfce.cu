// tfce.cu -- exact threshold-free cluster enhancement of many maps, one warp a map.
//
// Layout   order, integrals, n_positive, exponents: what tfce_sort.cu leaves, in rows of n_voxels.
//          Cells number the voxels so that neighbours are close in memory; no voxel ever takes the
//          last cell, n_voxels. neighbours: (n_voxels + 1, ROW), the cells around every cell, the
//          last one where there is none. weights[S] = S**E for S = 0 ... n_voxels.
//          Scratch, for every map or, in tfce_redo, for every block: components (2 * capacity,),
//          labels (n_voxels + 1,), and in tfce_redo parents (capacity,).
// Result   peaks[m]: the largest score of map m. With FULL also gained[m][i]: the score in fixed
//          point of the voxel in cell order[m][i]; tfce_scores.cu goes on from there.
// Method   Voxels come in from the highest down, 32 in a step, one to a lane; tfce_step.cuh has the
//          step. A voxel is labelled once, by a component around it, and union-find joins
//          components, not voxels: there are a hundred times fewer, so that the parents of most
//          maps fit into shared memory. Scores are integers, so no sum depends on an order.
//          cpu_tfce.py states the rule of the increments, cpu_sweeps.py how scores are kept.
// Launch   tfce_sweep: a block of one warp a map, 2 * capacity bytes of shared memory. A map with
//          more than `capacity` components, at most 65280, is put into the queue, which holds the
//          number of such maps, then which. tfce_redo: blocks of one warp share the queue out;
//          `capacity` must be enough for any map.
// Twin     gpustats/engines/cpu_tfce.py; equal to the bit, given the same integrals.

#include "tfce_step.cuh"

template <class Label>
__device__ __forceinline__ Voxel voxel_at(const Sweep<Label>& sweep, int position)
{
    if (position >= sweep.n_positive) return {0.0, sweep.n_voxels};
    return {sweep.integrals[position], sweep.order[position]};
}

// Lets all voxels in; false if the tables are full. What comes next is loaded while a step waits
// for the labels around it: the voxels two steps ahead, their neighbours one.
template <class Label>
__device__ __forceinline__ bool let_all_in(Sweep<Label>& sweep)
{
    const int lane = lane_id();
    int cells[NEIGHBOURS];
    Voxel next = voxel_at(sweep, lane), following = voxel_at(sweep, lane + 32);
    load_row(sweep.neighbours, next.cell, cells);
    for (int first = 0; first < sweep.n_positive; first += 32) {
        const Voxel voxel = next;
        Around around = look_around(sweep, voxel.cell, cells);
        next = following;
        load_row(sweep.neighbours, next.cell, cells);
        following = voxel_at(sweep, first + 64 + lane);
        climb(sweep, around);
        if (!let_in(sweep, voxel, around, first + lane)) return false;
    }
    return true;
}

// Brings all components to height 0, leaves in each the score of its first voxel, and returns the
// largest.
template <class Label>
__device__ __forceinline__ long long settle_roots(const Sweep<Label>& sweep)
{
    long long peak = 0;
    for (int c = lane_id(); c < sweep.n_components; c += 32) {
        if (sweep.parents[c] != c) continue;
        const Component root = sweep.components[c];
        const long long score =
            root.score + increment(sweep.weights, root.size, root.integral, 0.0);
        sweep.components[c].score = score;
        peak = max(peak, score);
    }
    __syncwarp();  // the scores can be read
    return peak;
}

// Does the same for the components that were taken in: ahead of the root's by all leads on the way.
template <class Label>
__device__ __forceinline__ long long settle_others(const Sweep<Label>& sweep)
{
    long long peak = 0;
    for (int c = lane_id(); c < sweep.n_components; c += 32) {
        long long lead = 0;
        unsigned at = c;
        for (; sweep.parents[at] != at; at = sweep.parents[at]) lead += sweep.components[at].lead;
        if (at == c) continue;
        const long long score = sweep.components[at].score + lead;
        sweep.components[c].score = score;
        peak = max(peak, score);
    }
    __syncwarp();  // the scores can be read
    return peak;
}

// A voxel has scored what the first voxel of its component has, but for what that had before it.
template <class Label>
__device__ __forceinline__ void settle_voxels(const Sweep<Label>& sweep)
{
    for (int i = lane_id(); i < sweep.n_positive; i += 32) {
        const unsigned component = sweep.labels[sweep.order[i]];
        sweep.gained[i] = sweep.components[component].score - sweep.gained[i];
    }
}

__device__ __forceinline__ long long maximum_of_lanes(long long number)
{
    for (int lanes = 16; lanes; lanes >>= 1)
        number = max(number, __shfl_xor_sync(ALL_LANES, number, lanes));
    return number;
}

// Scores a map, beginning with empty labels; false if it has more components than the tables hold.
template <class Label>
__device__ __forceinline__ bool enhance(
    Sweep<Label>& sweep, int exponent, double divisor, double* peak)
{
    for (int c = lane_id(); c <= sweep.n_voxels; c += 32) sweep.labels[c] = sweep.NONE;
    __syncwarp();  // all cells are empty
    if (!let_all_in(sweep)) return false;
    long long largest = settle_roots(sweep);
#if FULL
    largest = max(largest, settle_others(sweep));
    settle_voxels(sweep);
#endif
    largest = maximum_of_lanes(largest);
    if (lane_id() == 0) *peak = double(largest) * ldexp(1.0, -exponent) / divisor;
    return true;
}

extern "C" __global__ void __launch_bounds__(32, 16) tfce_sweep(
    const double* __restrict__ integrals, const int* __restrict__ order,
    const int* __restrict__ n_positive, const int* __restrict__ exponents,
    const int4* __restrict__ neighbours, const double* __restrict__ weights, double divisor,
    int n_voxels, int capacity, int4* components, unsigned short* labels, int* queue,
    long long* gained, double* peaks)
{
    extern __shared__ unsigned short parents[];
    const size_t m = blockIdx.x, first = m * n_voxels;
    Sweep<unsigned short> sweep = {
        integrals + first, order + first, n_positive[m], n_voxels, neighbours, weights,
        labels + m * (n_voxels + 1), parents,
        reinterpret_cast<Component*>(components) + m * capacity, capacity, 0,
        gained + FULL * first};
    const bool done = enhance(sweep, exponents[m], divisor, peaks + m);
    if (!done && lane_id() == 0) queue[1 + atomicAdd(queue, 1)] = m;
}

extern "C" __global__ void __launch_bounds__(32, 16) tfce_redo(
    const double* __restrict__ integrals, const int* __restrict__ order,
    const int* __restrict__ n_positive, const int* __restrict__ exponents,
    const int4* __restrict__ neighbours, const double* __restrict__ weights, double divisor,
    int n_voxels, int capacity, int4* components, unsigned* parents, unsigned* labels,
    const int* __restrict__ queue, long long* gained, double* peaks)
{
    const size_t block = blockIdx.x;
    for (int i = block; i < queue[0]; i += gridDim.x) {
        const size_t m = queue[1 + i], first = m * n_voxels;
        Sweep<unsigned> sweep = {
            integrals + first, order + first, n_positive[m], n_voxels, neighbours, weights,
            labels + block * (n_voxels + 1), parents + block * capacity,
            reinterpret_cast<Component*>(components) + block * capacity, capacity, 0,
            gained + FULL * first};
        enhance(sweep, exponents[m], divisor, peaks + m);
        __syncwarp();  // all lanes have done with this map
    }
}
