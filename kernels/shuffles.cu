// shuffles.cu -- many random shuffles at once, and the rows that they make of a design.
//
// Layout   One row of each array per shuffle, C order; n_units, n_subjects to a row, and whole
//          blocks of four to a row of words, so that rows of 64-bit keys may end in a spare one.
//          What is exchanged is described as in gpustats/exchangeability.py::Sampling.
// Result   shuffles_words   word s of a sequence, as gpustats/philox.py::random_words numbers it
//          shuffles_order   source of every unit: the stable argsort of the keys of every set
//          shuffles_blocks  design row of every subject, where blocks are exchanged
//          shuffles_signs   -1 for a subject whose bit is 1, else 1
//          shuffles_rows    rows[i][j][s] = signs[i][s] * columns[j][permutation[i][s]]
// Method   Keys are uniform, so a set of m units is ordered by dealing them to m buckets by the
//          leading bits of their key and ranking inside each bucket, which holds one on average
//          (Dobosiewicz 1978, Inf. Process. Lett. 7, 1-6). Equal keys keep the order of units.
// Launch   words, blocks, signs, rows: blockIdx.x covers a row's elements, blockIdx.y the shuffles;
//          order: a thread block of THREADS per shuffle. All with THREADS threads, whole warps.
// Twin     gpustats/shuffles.py::Shuffles.draw, gpustats/engines/cpu_shuffles.py

#include "philox.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
shuffles_words(unsigned long long seed, unsigned long long first, unsigned stream, int n_fours,
               uint4* __restrict__ words)
{
    const int four = blockIdx.x * blockDim.x + threadIdx.x;
    if (four >= n_fours) return;
    const unsigned long long index = first + blockIdx.y;
    const uint4 counter = make_uint4(four, (unsigned)index, (unsigned)(index >> 32), stream);
    const uint2 key = make_uint2((unsigned)seed, (unsigned)(seed >> 32));
    words[(long long)blockIdx.y * n_fours + four] = philox(counter, key);
}

// Sum of the values of the threads up to this one; `total` becomes that of all threads.
__device__ __forceinline__ int inclusive_sum(int value, int* total)
{
    __shared__ int warp_sums[THREADS / 32];
    const int lane = threadIdx.x % 32;
    int sum = value;
    for (int step = 1; step < 32; step *= 2) {
        const int before = __shfl_up_sync(0xFFFFFFFFu, sum, step);
        if (lane >= step) sum += before;
    }
    if (lane == 31) warp_sums[threadIdx.x / 32] = sum;
    __syncthreads();
    *total = 0;
    for (int warp = 0; warp < THREADS / 32; ++warp) {
        if (warp < threadIdx.x / 32) sum += warp_sums[warp];
        *total += warp_sums[warp];
    }
    __syncthreads();  // before the next call writes the sums of the warps
    return sum;
}

// Number of the bucket of a unit: it grows with the key, and those of a set are side by side.
__device__ __forceinline__ int bucket_of(unsigned long long key, int set_start, int set_size)
{
    return set_start + __umulhi((unsigned)(key >> 32), set_size);
}

extern "C" __global__ void __launch_bounds__(THREADS)
shuffles_order(const unsigned long long* __restrict__ keys, int n_keys,
               const int* __restrict__ places, const int* __restrict__ set_start,
               const int* __restrict__ set_size, int n_units, int* ends, int* dealt,
               int* __restrict__ units)
{
    keys += (long long)blockIdx.x * n_keys;
    ends += (long long)blockIdx.x * n_units;
    dealt += (long long)blockIdx.x * n_units;
    units += (long long)blockIdx.x * n_units;

    for (int b = threadIdx.x; b < n_units; b += THREADS) ends[b] = 0;
    __syncthreads();
    for (int u = threadIdx.x; u < n_units; u += THREADS)
        atomicAdd(&ends[bucket_of(keys[u], set_start[u], set_size[u])], 1);
    __syncthreads();

    // From the count of every bucket to its start among the dealt units.
    int before = 0;
    for (int tile = 0; tile < n_units; tile += THREADS) {
        const int b = tile + threadIdx.x;
        const int count = b < n_units ? ends[b] : 0;
        int total;
        const int sum = inclusive_sum(count, &total);
        if (b < n_units) ends[b] = before + sum - count;
        before += total;
    }
    __syncthreads();

    // Dealing moves every start to the end of its bucket. The order in a bucket is any.
    for (int u = threadIdx.x; u < n_units; u += THREADS)
        dealt[atomicAdd(&ends[bucket_of(keys[u], set_start[u], set_size[u])], 1)] = u;
    __syncthreads();

    for (int u = threadIdx.x; u < n_units; u += THREADS) {
        const unsigned long long key = keys[u];
        const int bucket = bucket_of(key, set_start[u], set_size[u]);
        const int start = bucket > 0 ? ends[bucket - 1] : 0;
        int rank = start;
        for (int i = start; i < ends[bucket]; ++i) {
            const int other = dealt[i];
            rank += keys[other] < key || (keys[other] == key && other < u);
        }
        units[places[rank]] = u;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
shuffles_blocks(const int* __restrict__ units, int n_units, const int* __restrict__ blocks,
                int block_size, int n_subjects, int* __restrict__ permutation)
{
    const int place = blockIdx.x * blockDim.x + threadIdx.x;
    if (place >= n_subjects) return;
    units += (long long)blockIdx.y * n_units;
    const int n_blocks = n_subjects / block_size;
    const int block = units[place / block_size];
    const int moved = blocks[block * block_size + place % block_size];
    // Behind the blocks come their subjects, where these are exchanged too.
    const int source = n_units > n_blocks ? units[n_blocks + moved] - n_blocks : moved;
    permutation[(long long)blockIdx.y * n_subjects + blocks[place]] = source;
}

extern "C" __global__ void __launch_bounds__(THREADS)
shuffles_signs(const unsigned* __restrict__ words, int n_words, const int* __restrict__ sign_unit,
               int n_subjects, signed char* __restrict__ signs)
{
    const int subject = blockIdx.x * blockDim.x + threadIdx.x;
    if (subject >= n_subjects) return;
    const int unit = sign_unit[subject];
    const unsigned word = words[(long long)blockIdx.y * n_words + unit / 32];
    const bool flipped = word >> unit % 32 & 1;
    signs[(long long)blockIdx.y * n_subjects + subject] = flipped ? -1 : 1;
}

extern "C" __global__ void __launch_bounds__(THREADS)
shuffles_rows(const float* __restrict__ columns, const int* __restrict__ permutation,
              const signed char* __restrict__ signs, int n_columns, int n_subjects, int first_row,
              float* __restrict__ rows)
{
    const int subject = blockIdx.x * blockDim.x + threadIdx.x;
    if (subject >= n_subjects) return;
    const long long drawn = (long long)blockIdx.y * n_subjects + subject;
    const int source = permutation[drawn];
    const int sign_bit = signs[drawn] < 0 ? 0x80000000 : 0;
    rows += (long long)(first_row + blockIdx.y) * n_columns * n_subjects + subject;
    for (int column = 0; column < n_columns; ++column) {
        const long long start = (long long)column * n_subjects;
        // Turning the bit keeps the denormals that a product would flush to zero.
        rows[start] = __int_as_float(__float_as_int(columns[start + source]) ^ sign_bit);
    }
}
