// tfce_sort.cu -- the positive voxels of many maps, from the highest down, for tfce.cu.
//
// Layout   maps: (n_maps, n_voxels), C order, finite; cells[v]: where the sweep puts voxel v;
//          weights[S] = S**E for S = 0 ... n_voxels; sums: (n_levels + 1,), the integrated heights
//          of the first levels, if heights are summed in steps.
// Result   n_positive[m] voxels of map m are at least FLT_MIN. Row m of order begins with their
//          cells, the highest voxel first, and row m of sorted with the bits of their integrated
//          heights (float64) in units of 2**-exponents[m]; what follows in both rows is undefined.
//          Voxels of equal value come in any order, which changes no score.
// Method   bucket sort on the bits of the values, which order positive floats as integers: counted
//          and scattered by the block, then every bucket is sorted by one warp (Batcher's bitonic
//          network). Buckets are narrow relative to the value, so heavy tails do no harm; only a
//          map most of whose values agree in their first nine bits, but differ, is slow.
// Launch   blockIdx.x covers maps; THREADS threads.
// Twin     gpustats/engines/cpu_tfce.py::integrate_heights; equal to the bit but for heights whose
//          exponent is none of 0 ... 4, where `pow` of the device may differ in its last bit, and
//          for sums of more than MOST_LEVELS levels.

#define ALL_LANES 0xffffffffu
#define THREADS 512
#define WARPS (THREADS / 32)

// 512 buckets an octave for the twelve octaves below the maximum, then 8 an octave for all others
#define BUCKETS 8192
#define FINE_BITS 14
#define FINE_BUCKETS (12 << (23 - FINE_BITS))
#define COARSE_BITS 20
#define BUCKETS_A_THREAD (BUCKETS / THREADS)
#define STAGED 112  // keys that a warp sorts in shared memory

#define SMALLEST_BITS 0x00800000  // of FLT_MIN: subnormal values count as zero
#define SCORE_BITS 61             // as in cpu_tfce.py, like the next two
#define MOST_EXPONENT 1022
#define LEVEL_SLACK (1.0 + 0x1p-40)
#define MOST_LEVELS (1 << 20)

// Complement of the value's bits, then the cell: ascending keys are descending values.
typedef unsigned long long Key;

__device__ __forceinline__ Key make_key(int bits, int cell)
{
    return Key(~bits) << 32 | unsigned(cell);
}

__device__ __forceinline__ int cell_of(Key key) { return int(unsigned(key)); }
__device__ __forceinline__ int bits_of(Key key) { return ~int(key >> 32); }

// How height counts: gpustats/engines/cpu_tfce.py::Height, with the sums of the first levels.
struct Height {
    double exponent, step;
    const double* sums;
    int n_levels;
};

// Products where they will do, as they round alike everywhere.
__device__ double power(double height, double exponent)
{
    if (exponent > 4.0 || exponent != int(exponent)) return pow(height, exponent);
    double product = 1.0;
    for (int factors = int(exponent); factors; --factors) product *= height;
    return product;
}

// Sums the powers of the levels up to a height. Levels beyond the table are added one by one, which
// is slow, but gives the same bits and spares the host a look at the map; absurdly many of them by
// the midpoint rule, so that the kernel ends whatever the step is.
__device__ double sum_levels(double value, const Height& height)
{
    const double reached = floor(value * LEVEL_SLACK / height.step);
    const int listed = int(min(reached, double(MOST_LEVELS)));
    double sum = height.sums[min(listed, height.n_levels)];
    for (int level = height.n_levels + 1; level <= listed; ++level)
        sum += power(level * height.step, height.exponent);
    if (reached == listed) return sum;
    const double above = power((reached + 0.5) * height.step, height.exponent + 1.0);
    const double below = power((listed + 0.5) * height.step, height.exponent + 1.0);
    return sum + (above - below) / ((height.exponent + 1.0) * height.step);
}

__device__ double integrate(int bits, const Height& height)
{
    const double value = __int_as_float(bits);
    return height.step > 0.0 ? sum_levels(value, height) : power(value, height.exponent + 1.0);
}

// The fixed point of a map whose scores, undivided, do not exceed a bound.
__device__ int score_exponent(double bound)
{
    int magnitude;
    frexp(bound, &magnitude);
    return min(SCORE_BITS - magnitude, MOST_EXPONENT);
}

__device__ __forceinline__ int bucket_of(int bits, int highest)
{
    const int below = highest - bits;
    const int fine = below >> FINE_BITS;
    if (fine < FINE_BUCKETS) return fine;
    return FINE_BUCKETS + ((below - (FINE_BUCKETS << FINE_BITS)) >> COARSE_BITS);
}

// The bits of the largest value of a map, 0 if none is positive.
__device__ int highest_bits(const float* map, int n_voxels, int* of_warps)
{
    int bits = 0;
    for (int v = threadIdx.x; v < n_voxels; v += THREADS) bits = max(bits, __float_as_int(map[v]));
    for (int lanes = 16; lanes; lanes >>= 1)
        bits = max(bits, __shfl_xor_sync(ALL_LANES, bits, lanes));
    if ((threadIdx.x & 31) == 0) of_warps[threadIdx.x / 32] = bits;
    __syncthreads();
    for (int warp = 0; warp < WARPS; ++warp) bits = max(bits, of_warps[warp]);
    __syncthreads();  // of_warps will be used again
    return bits;
}

// Sum of the values of the threads before this one.
__device__ int sum_before(int value, int* of_warps)
{
    const int lane = threadIdx.x & 31;
    int sum = value;
    for (int lanes = 1; lanes < 32; lanes <<= 1) {
        const int earlier = __shfl_up_sync(ALL_LANES, sum, lanes);
        if (lane >= lanes) sum += earlier;
    }
    if (lane == 31) of_warps[threadIdx.x / 32] = sum;
    __syncthreads();
    for (int warp = 0; warp < threadIdx.x / 32; ++warp) sum += of_warps[warp];
    return sum - value;
}

// Counts the positive voxels of every bucket.
__device__ void count(const float* map, int n_voxels, int highest, int* counts)
{
    for (int b = threadIdx.x; b < BUCKETS; b += THREADS) counts[b] = 0;
    __syncthreads();
    for (int v = threadIdx.x; v < n_voxels; v += THREADS) {
        const int bits = __float_as_int(map[v]);
        if (bits >= SMALLEST_BITS) atomicAdd(&counts[bucket_of(bits, highest)], 1);
    }
    __syncthreads();
}

// Turns the counts of the buckets into where each begins.
__device__ void accumulate(int* counts, int* of_warps)
{
    int* own = counts + threadIdx.x * BUCKETS_A_THREAD;
    int total = 0;
    for (int b = 0; b < BUCKETS_A_THREAD; ++b) total += own[b];
    int begin = sum_before(total, of_warps);
    for (int b = 0; b < BUCKETS_A_THREAD; ++b) {
        const int n = own[b];
        own[b] = begin;
        begin += n;
    }
    __syncthreads();
}

// Puts the keys of the positive voxels into their buckets; begins become ends.
__device__ void scatter(
    const float* map, const int* cells, int n_voxels, int highest, int* begins, Key* keys)
{
    for (int v = threadIdx.x; v < n_voxels; v += THREADS) {
        const int bits = __float_as_int(map[v]);
        if (bits < SMALLEST_BITS) continue;
        keys[atomicAdd(&begins[bucket_of(bits, highest)], 1)] = make_key(bits, cells[v]);
    }
    __syncthreads();
}

// Sorts n keys by one warp. Every stage begins with a mirrored step, so that all comparators point
// the same way and those that reach beyond n can be left out, whatever n is.
__device__ __forceinline__ void sort_keys(Key* keys, int n)
{
    for (int run = 2; run < 2 * n; run *= 2)
        for (int distance = run / 2; distance; distance /= 2) {
            const int mirror = distance == run / 2 ? run - 1 : distance;
            for (int i = threadIdx.x & 31;; i += 32) {
                const int low = 2 * (i & ~(distance - 1)) | (i & (distance - 1));
                if (low >= n) break;
                const int high = low ^ mirror;
                if (high >= n) continue;
                const Key x = keys[low], y = keys[high];
                if (x > y) {
                    keys[low] = y;
                    keys[high] = x;
                }
            }
            __syncwarp();
        }
}

// Sorts a bucket unless its values are all the same: where it is, or in shared memory if it fits.
__device__ void sort_bucket(Key* keys, int n, Key* staged)
{
    if (n < 2) return;
    const int lane = threadIdx.x & 31;
    bool differ = false;
    for (int i = lane; i < n; i += 32) differ |= bits_of(keys[i]) != bits_of(keys[0]);
    if (!__any_sync(ALL_LANES, differ)) return;
    if (n > STAGED) {
        sort_keys(keys, n);
        return;
    }
    for (int i = lane; i < n; i += 32) staged[i] = keys[i];
    __syncwarp();
    sort_keys(staged, n);
    for (int i = lane; i < n; i += 32) keys[i] = staged[i];
}

extern "C" __global__ void __launch_bounds__(THREADS) tfce_sort(
    const float* __restrict__ maps, const int* __restrict__ cells,
    const double* __restrict__ weights, const double* __restrict__ sums, int n_levels,
    double exponent, double step, int n_voxels,
    unsigned long long* sorted, int* order, int* n_positive, int* exponents)
{
    __shared__ int ends[BUCKETS];
    __shared__ Key staged[WARPS][STAGED];
    __shared__ int of_warps[WARPS];
    __shared__ int exponent_of_map;
    const size_t first = size_t(blockIdx.x) * n_voxels;
    const float* map = maps + first;
    Key* keys = sorted + first;
    const Height height = {exponent, step, sums, n_levels};

    const int highest = highest_bits(map, n_voxels, of_warps);
    if (threadIdx.x == 0) {
        const double bound = integrate(highest, height) * weights[n_voxels];
        exponent_of_map = exponents[blockIdx.x] = score_exponent(bound);
    }
    count(map, n_voxels, highest, ends);
    accumulate(ends, of_warps);
    scatter(map, cells, n_voxels, highest, ends, keys);
    if (threadIdx.x == 0) n_positive[blockIdx.x] = ends[BUCKETS - 1];
    const double scale = ldexp(1.0, exponent_of_map);
    for (int b = threadIdx.x / 32; b < BUCKETS; b += WARPS) {
        const int begin = b ? ends[b - 1] : 0;
        sort_bucket(keys + begin, ends[b] - begin, staged[threadIdx.x / 32]);
        for (int i = begin + (threadIdx.x & 31); i < ends[b]; i += 32) {
            const Key key = keys[i];
            order[first + i] = cell_of(key);
            keys[i] = __double_as_longlong(integrate(bits_of(key), height) * scale);
        }
    }
}
