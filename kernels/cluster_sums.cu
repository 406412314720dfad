// cluster_sums.cu -- extents and masses of the clusters of many maps at once.
//
// Layout   maps: (n_maps, n_voxels); cells: (n_voxels,), ascending numbers of the voxels' cells in a
//          box with an empty border, fewer than 2^31; runs: (n_runs, 2), the earlier neighbours of
//          a cell as runs of cells: the largest and the smallest step back to one.
// Result   cluster_peaks raises extents[map], masses[map] to the largest of any cluster. After
//          cluster_init, the labels of label.cu, cluster_add and cluster_spread, extents and
//          masses, (n_maps, n_voxels), hold those of each voxel's cluster; 0 below the threshold.
//          A voxel whose value x is at least the positive threshold adds 1 to the extent and
//          rint((x - base) 2^24) to the mass; below 2^63, so values may sum to 5e11.
// Method   few voxels reach the threshold: cluster_peaks reads a map once and lists them in order,
//          in shared memory (16 bytes each), or in scratch when they do not fit. The list is its
//          own index: an earlier neighbour is found by bisection, which needs neither a bitmap of
//          the map (29 kB at 230,000 voxels, 113 kB at 900,000, and counts beside it) nor the
//          empty slots of a hash table. Then union-find (union_find.cuh), and sums of integers.
// Launch   cluster_peaks: blocks stride over maps; 16 x capacity bytes of shared memory, and
//          scratch of 4 x n_voxels ints per block. The others: one thread per voxel, blockIdx.x
//          covers voxels, blockIdx.y strides over maps.
// Twin     gpustats/engines/cpu_clusters.py

#include "union_find.cuh"

#define WARPS (THREADS / 32)
#define WINDOWS 16  // of 32 values, which a warp loads at a time: 2 kB in flight
#define ALL_LANES 0xffffffffu

// What a voxel adds to the mass of its cluster. In float64 as on the CPU, bit for bit: three
// operations for each of the few voxels, where integers would need the cases of its rounding.
__device__ __forceinline__ long long mass_of(float value, float base)
{
    return llrint(((double)value - (double)base) * 0x1p24);
}

// The voxels of one map that reach the threshold, in the order of the mask.
struct List {
    int *cells;      // at first numbers of voxels, at last extents
    int *parents;    // places in the list: links of union_find.cuh
    unsigned *low;   // words of the masses; at first the bits of the values
    unsigned *high;

    __device__ __forceinline__ List(int *memory, int capacity)
        : cells(memory), parents(memory + capacity),
          low((unsigned *)memory + 2LL * capacity), high((unsigned *)memory + 3LL * capacity)
    {
    }
};

struct SharedLinks {
    int *of_place;

    // an atomic that changes nothing: the compiler may keep what a plain load returned
    __device__ __forceinline__ int read(int place) const { return atomicOr(of_place + place, 0); }
    __device__ __forceinline__ int lower(int place, int to) const
    {
        return atomicMin(of_place + place, to);
    }
};

struct GlobalLinks {
    int *of_place;

    __device__ __forceinline__ int read(int place) const { return __ldcg(of_place + place); }
    __device__ __forceinline__ int lower(int place, int to) const
    {
        return atomicMin(of_place + place, to);
    }
};

// Lists numbers and values of the voxels that reach the threshold; returns how many there are.
// They are in shared memory if these are no more than its capacity, else in scratch.
__device__ __forceinline__ int collect(const float *__restrict__ map, float threshold,
                                       int n_voxels, int *shared, int capacity, int *scratch)
{
    __shared__ int counts[2][WARPS];  // of alternate tiles, so that one barrier a tile is enough
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int n_listed = 0;

    // Windows begin at multiples of 128 bytes, whatever n_voxels is: each is one line of memory.
    // No index overflows: the empty border alone has more cells than a tile has.
    int tile = -(int)((unsigned long long)map / sizeof(float) % 32);
    for (int parity = 0; tile < n_voxels; tile += THREADS * WINDOWS, parity ^= 1) {
        const int first = tile + warp * (32 * WINDOWS) + lane;
        float values[WINDOWS];
        unsigned hits[WINDOWS];
        int n_hits = 0;
#pragma unroll
        for (int k = 0; k < WINDOWS; ++k) {
            const int v = first + 32 * k;
            values[k] = (unsigned)v < (unsigned)n_voxels ? map[v] : __int_as_float(0x7fffffff);
        }
#pragma unroll
        for (int k = 0; k < WINDOWS; ++k) {
            hits[k] = __ballot_sync(ALL_LANES, values[k] >= threshold);
            n_hits += __popc(hits[k]);
        }
        if (lane == 0) counts[parity][warp] = n_hits;
        __syncthreads();

        // hits of the tile, and of the warps before this one: two sums in one word
        unsigned sums = lane < WARPS ? counts[parity][lane] : 0;
        if (lane < warp) sums |= sums << 16;
        for (int distance = 16; distance > 0; distance /= 2)
            sums += __shfl_xor_sync(ALL_LANES, sums, distance);
        const int n_before = n_listed;
        int place = n_before + (sums >> 16);
        n_listed += sums & 0xffff;
        const List in_shared(shared, capacity), in_scratch(scratch, n_voxels);
        if (n_before <= capacity && n_listed > capacity) {
            for (int i = threadIdx.x; i < n_before; i += THREADS) {
                in_scratch.cells[i] = in_shared.cells[i];
                in_scratch.low[i] = in_shared.low[i];
            }
        }
        if (n_hits == 0) continue;
        const List list = n_listed <= capacity ? in_shared : in_scratch;
#pragma unroll
        for (int k = 0; k < WINDOWS; ++k) {
            if (hits[k] == 0) continue;
            if (hits[k] >> lane & 1) {
                const int mine = place + __popc(hits[k] & ((1u << lane) - 1));
                list.cells[mine] = first + 32 * k;
                list.low[mine] = __float_as_uint(values[k]);
            }
            place += __popc(hits[k]);
        }
    }
    __syncthreads();
    return n_listed;
}

// Returns the first place in [start, stop] with at least this cell, which the one at stop has.
__device__ __forceinline__ int lower_bound(const int *cells, int start, int stop, int cell)
{
    while (start < stop) {
        const int middle = start + (stop - start) / 2;
        if (cells[middle] < cell) start = middle + 1;
        else stop = middle;
    }
    return start;
}

// Unites the voxel at a place with its earlier neighbours.
template <class Links>
__device__ __forceinline__ void unite_backwards(const int *cells, int place,
                                                const int *__restrict__ runs, int n_runs,
                                                Links links)
{
    const int cell = cells[place];
    for (int run = 0; run < n_runs; ++run) {
        const int farthest = runs[2 * run], last = cell - runs[2 * run + 1];
        // a step back of n cells is one of n places at most
        int other = lower_bound(cells, max(place - farthest, 0), place, cell - farthest);
        for (int before = -1; cells[other] <= last; before = cells[other++])
            // a neighbour of the one before it is united with that one by its own thread
            if (cells[other] != before + 1) unite(links, place, other);
    }
}

// Adds to a sum in two words: in shared memory, 64-bit atomics are loops that try again.
__device__ __forceinline__ void add(unsigned *low, unsigned *high, unsigned by_low,
                                    unsigned by_high)
{
    const unsigned carry = atomicAdd(low, by_low) + by_low < by_low;
    atomicAdd(high, by_high + carry);
}

// Unites the listed voxels and sums over clusters; all sums are then in the list, at the roots.
template <class Links>
__device__ __forceinline__ void sum_clusters(List list, int n_listed, const int *__restrict__ cells,
                                             const int *__restrict__ runs, int n_runs, float base)
{
    for (int i = threadIdx.x; i < n_listed; i += THREADS) {
        const long long mass = mass_of(__uint_as_float(list.low[i]), base);
        list.cells[i] = cells[list.cells[i]];
        list.parents[i] = i;
        list.low[i] = (unsigned)mass;
        list.high[i] = (unsigned)(mass >> 32);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < n_listed; i += THREADS)
        unite_backwards(list.cells, i, runs, n_runs, Links{list.parents});
    __syncthreads();
    int *extents = list.cells;
    for (int i = threadIdx.x; i < n_listed; i += THREADS) extents[i] = 1;
    __syncthreads();
    for (int i = threadIdx.x; i < n_listed; i += THREADS) {
        int root = list.parents[i];
        while (root != list.parents[root]) root = list.parents[root];
        if (root == i) continue;
        atomicAdd(extents + root, 1);
        add(list.low + root, list.high + root, list.low[i], list.high[i]);
    }
    __syncthreads();
}

// Raises the extent and mass of a map to the largest in the list: no part exceeds its whole.
__device__ __forceinline__ void raise_to_largest(List list, int n_listed, long long *extent,
                                                 long long *mass)
{
    long long largest_extent = 0, largest_mass = 0;
    for (int i = threadIdx.x; i < n_listed; i += THREADS) {
        largest_extent = max(largest_extent, (long long)list.cells[i]);
        largest_mass = max(largest_mass, (long long)list.high[i] << 32 | list.low[i]);
    }
    for (int distance = 16; distance > 0; distance /= 2) {
        largest_extent = max(largest_extent, __shfl_xor_sync(ALL_LANES, largest_extent, distance));
        largest_mass = max(largest_mass, __shfl_xor_sync(ALL_LANES, largest_mass, distance));
    }
    if (threadIdx.x % 32 == 0 && largest_extent > 0) {
        atomicMax(extent, largest_extent);
        atomicMax(mass, largest_mass);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
cluster_peaks(const float *__restrict__ maps, float threshold, float base,
              const int *__restrict__ cells, const int *__restrict__ runs, int n_runs, int n_maps,
              int n_voxels, int capacity, int *scratch, long long *extents, long long *masses)
{
    extern __shared__ int memory[];
    int *my_scratch = scratch + blockIdx.x * 4LL * n_voxels;
    for (int map = blockIdx.x; map < n_maps; map += gridDim.x) {
        const float *values = maps + (long long)map * n_voxels;
        const int n_listed = collect(values, threshold, n_voxels, memory, capacity, my_scratch);
        // two branches, in which the compiler knows what kind of memory it is
        if (n_listed <= capacity) {
            const List list(memory, capacity);
            sum_clusters<SharedLinks>(list, n_listed, cells, runs, n_runs, base);
            raise_to_largest(list, n_listed, extents + map, masses + map);
        } else {
            const List list(my_scratch, n_voxels);
            sum_clusters<GlobalLinks>(list, n_listed, cells, runs, n_runs, base);
            raise_to_largest(list, n_listed, extents + map, masses + map);
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
cluster_init(const float *__restrict__ maps, float threshold, float base, int n_maps, int n_voxels,
             int *labels, long long *extents, long long *masses)
{
    const int v = blockIdx.x * THREADS + threadIdx.x;
    if (v >= n_voxels) return;
    for (int map = blockIdx.y; map < n_maps; map += gridDim.y) {
        const long long at = (long long)map * n_voxels + v;
        const bool above = maps[at] >= threshold;
        labels[at] = above ? v + 1 : 0;
        extents[at] = above;
        masses[at] = above ? mass_of(maps[at], base) : 0;
    }
}

// Sums at the roots; the rest keeps its own extent and mass.
extern "C" __global__ void __launch_bounds__(THREADS)
cluster_add(int n_maps, int n_voxels, const int *__restrict__ labels, long long *extents,
            long long *masses)
{
    const int v = blockIdx.x * THREADS + threadIdx.x;
    if (v >= n_voxels) return;
    for (int map = blockIdx.y; map < n_maps; map += gridDim.y) {
        const long long row = (long long)map * n_voxels;
        const int label = labels[row + v];
        if (label == 0 || label == v + 1) continue;
        const long long root = row + label - 1;
        atomicAdd((unsigned long long *)extents + root, 1ULL);
        atomicAdd((unsigned long long *)masses + root, (unsigned long long)masses[row + v]);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
cluster_spread(int n_maps, int n_voxels, const int *__restrict__ labels, long long *extents,
               long long *masses)
{
    const int v = blockIdx.x * THREADS + threadIdx.x;
    if (v >= n_voxels) return;
    for (int map = blockIdx.y; map < n_maps; map += gridDim.y) {
        const long long row = (long long)map * n_voxels;
        const int label = labels[row + v];
        if (label == 0 || label == v + 1) continue;
        extents[row + v] = extents[row + label - 1];
        masses[row + v] = masses[row + label - 1];
    }
}
