// t_statistic.cu -- observed t statistics from the stack, and what becomes of permutation products.
//
// Layout   values: (n_subjects, 4 n_quads) float32, a block of voxels of the stack, rows end in
//          zeros; basis: (n_subjects up to a multiple of 4, columns up to a multiple of COLUMNS)
//          float64, filled up with zeros; coordinates: (rank, n_voxels) float64;
//          tiles: (n_tiles, n_subjects, VOXEL_TILE) float32;
//          products: (n_shuffles, n_rows, VOXEL_TILE) float32, tested rows before nuisance rows;
//          limits, counts: (n_voxels,); upper, lower: (n_shuffles,); maps: (n_shuffles, n_voxels).
//          A block or tile holds voxels start, start + 1, ... of n_voxels.
// Result   project      coordinates = Q'y
//          residual_ss  residual_ss = ||y - Q Q'y||^2, residuals formed before they are squared
//          unit         tiles = (y - Q Q'y) / ||y - Q Q'y||
//          contrast     effect = a'q, variance = a'a rss / df, t = effect / sqrt(variance)
//          values       what is compared of the first shuffle: r, R^2, t or F
//          peaks        upper, lower = largest value and negated value, as integers of the same
//                       order; counts += shuffles whose value reaches the limit; maps = t or F
// Method   Freedman & Lane (1983); Winkler et al. (2014), NeuroImage 92, 381-397; the table of
//          cases is in cpu_sweep.py. Sums over subjects in float64, in a fixed order; values in
//          float32, in the twin's order of operations and with its bits (denormals aside, which
//          are flushed to zero).
// Launch   project, residual_ss, unit, peaks: THREADS a block, blockIdx.x covers SPAN voxels; a
//          lane has 4 voxels, a warp takes every 16th subject (or four of them, or shuffle).
//          project: blockIdx.y covers COLUMNS columns of the basis.
//          contrast: one thread per voxel; values: one thread per 4 voxels; 256 a block.
// Reads    bytes per voxel, n subjects, k rows: project 4n for every COLUMNS columns; residual_ss
//          and unit 4n, and 8 rank for every 4 subjects from the L1 cache; contrast 8 (rank + 1);
//          values and peaks 4k a shuffle.
// Macros   COLUMNS, SHUFFLE_TILE (most shuffles of a product), VOXEL_TILE
// Twin     gpustats/engines/cpu.py::regress, contrast, unit_tiles;
//          gpustats/engines/cpu_sweep.py::_write_values, _reduce

constexpr int WARPS = 16;
constexpr int THREADS = 32 * WARPS;
constexpr int SPAN = 4 * 32;       // voxels of a block
constexpr int SUBJECTS = 4;        // whose residuals are formed at a time
constexpr int TILE_QUADS = VOXEL_TILE / 4;
constexpr int LEAST = -2147483647 - 1;
constexpr float SMALLEST_RESIDUAL = 1.0f / (1 << 24);

__device__ void load(const float4* __restrict__ quad, float (&four)[4])
{
    const float4 loaded = *quad;
    four[0] = loaded.x, four[1] = loaded.y, four[2] = loaded.z, four[3] = loaded.w;
}

// ---- the observed maps ---------------------------------------------------------------------

// Sum what the warps hold of the block's voxels, in the order of the warps. Thread i < SPAN
// returns the sum at voxel i, the others nothing of use.
__device__ double over_warps(const double (&mine)[4])
{
    __shared__ double held[WARPS][SPAN];
    for (int i = 0; i < 4; ++i)
        held[threadIdx.x / 32][4 * (threadIdx.x % 32) + i] = mine[i];
    __syncthreads();
    double sum = 0;
    if (threadIdx.x < SPAN)
        for (int warp = 0; warp < WARPS; ++warp)
            sum += held[warp][threadIdx.x];
    __syncthreads(); // the next call writes again
    return sum;
}

extern "C" __global__ void __launch_bounds__(THREADS) t_statistic_project(
    const float4* __restrict__ values, int n_subjects, int n_quads,
    const double* __restrict__ basis, int rank, int start, int n_voxels,
    double* __restrict__ coordinates)
{
    const int quad = 32 * blockIdx.x + threadIdx.x % 32;
    const int first = COLUMNS * blockIdx.y, n_columns = COLUMNS * gridDim.y;
    double sums[COLUMNS][4] = {};
    if (quad < n_quads) {
        #pragma unroll 4
        for (int subject = threadIdx.x / 32; subject < n_subjects; subject += WARPS) {
            float y[4];
            load(values + (long long)subject * n_quads + quad, y);
            for (int k = 0; k < COLUMNS; ++k) {
                const double weight = basis[(long long)subject * n_columns + first + k];
                for (int i = 0; i < 4; ++i)
                    sums[k][i] = fma(weight, (double)y[i], sums[k][i]);
            }
        }
    }
    const int voxel = start + SPAN * blockIdx.x + threadIdx.x;
    #pragma unroll
    for (int k = 0; k < COLUMNS; ++k) {
        const double sum = over_warps(sums[k]);
        if (threadIdx.x < SPAN && voxel < n_voxels && first + k < rank)
            coordinates[(long long)(first + k) * n_voxels + voxel] = sum;
    }
}

// A block of voxels, the fit, and the four voxels of a thread.
struct Fitted {
    const float4* __restrict__ values;
    int n_subjects, n_quads;
    const double* __restrict__ basis;
    int n_columns, rank;
    const double* __restrict__ coordinates;
    int n_voxels, quad, voxel;
};

// Form the residuals of four subjects at four voxels, so that a coordinate is read for 16 of them.
__device__ void residuals_of(
    const Fitted& fitted, int subject, double (&residuals)[SUBJECTS][4])
{
    for (int j = 0; j < SUBJECTS; ++j) {
        float y[4] = {};
        if (subject + j < fitted.n_subjects)
            load(fitted.values + (long long)(subject + j) * fitted.n_quads + fitted.quad, y);
        for (int i = 0; i < 4; ++i)
            residuals[j][i] = y[i];
    }
    for (int k = 0; k < fitted.rank; ++k) {
        const double* row = fitted.coordinates + (long long)k * fitted.n_voxels;
        double coordinate[4];
        for (int i = 0; i < 4; ++i)
            coordinate[i] = fitted.voxel + i < fitted.n_voxels ? row[fitted.voxel + i] : 0;
        for (int j = 0; j < SUBJECTS; ++j) {
            const double weight = fitted.basis[(long long)(subject + j) * fitted.n_columns + k];
            for (int i = 0; i < 4; ++i)
                residuals[j][i] = fma(-weight, coordinate[i], residuals[j][i]);
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) t_statistic_residual_ss(
    const float4* __restrict__ values, int n_subjects, int n_quads,
    const double* __restrict__ basis, int n_columns, int rank,
    const double* __restrict__ coordinates, int start, int n_voxels,
    double* __restrict__ residual_ss)
{
    const int quad = 32 * blockIdx.x + threadIdx.x % 32;
    const Fitted fitted = {
        values, n_subjects, n_quads, basis, n_columns, rank,
        coordinates, n_voxels, quad, start + 4 * quad};
    double squares[4] = {};
    if (quad < n_quads) {
        const int step = SUBJECTS * WARPS;
        for (int s = SUBJECTS * (threadIdx.x / 32); s < n_subjects; s += step) {
            double residuals[SUBJECTS][4];
            residuals_of(fitted, s, residuals);
            for (int j = 0; j < SUBJECTS; ++j)
                for (int i = 0; i < 4; ++i)
                    squares[i] = fma(residuals[j][i], residuals[j][i], squares[i]);
        }
    }
    const double sum = over_warps(squares);
    const int voxel = start + SPAN * blockIdx.x + threadIdx.x;
    if (threadIdx.x < SPAN && voxel < n_voxels)
        residual_ss[voxel] = sum;
}

// The block's coordinates and residual_ss are its own: voxel 0 is its first. It goes to place,
// place + 1, ... of the tiles.
extern "C" __global__ void __launch_bounds__(THREADS) t_statistic_unit(
    const float4* __restrict__ values, int n_subjects, int n_quads,
    const double* __restrict__ basis, int n_columns, int rank,
    const double* __restrict__ coordinates, const double* __restrict__ residual_ss,
    int n_voxels, int place, float4* __restrict__ tiles)
{
    const int quad = 32 * blockIdx.x + threadIdx.x % 32;
    if (quad >= n_quads)
        return;
    const int voxel = 4 * quad;
    const Fitted fitted = {
        values, n_subjects, n_quads, basis, n_columns, rank, coordinates, n_voxels, quad, voxel};
    // one division a voxel: float64 is slow on most GPUs
    double scale[4];
    for (int i = 0; i < 4; ++i)
        scale[i] = voxel + i < n_voxels ? 1 / sqrt(residual_ss[voxel + i]) : 0;
    const int tile = (place + voxel) / VOXEL_TILE, column = (place + voxel) % VOXEL_TILE;
    float4* written = tiles + (long long)tile * n_subjects * TILE_QUADS + column / 4;
    const int step = SUBJECTS * WARPS;
    for (int s = SUBJECTS * (threadIdx.x / 32); s < n_subjects; s += step) {
        double residuals[SUBJECTS][4];
        residuals_of(fitted, s, residuals);
        for (int j = 0; j < SUBJECTS; ++j) {
            const double(&r)[4] = residuals[j];
            if (s + j < n_subjects)
                written[(long long)(s + j) * TILE_QUADS] = make_float4(
                    r[0] * scale[0], r[1] * scale[1], r[2] * scale[2], r[3] * scale[3]);
        }
    }
}

extern "C" __global__ void __launch_bounds__(256) t_statistic_contrast(
    const double* __restrict__ coordinates, const double* __restrict__ residual_ss,
    const double* __restrict__ estimator, int rank, double estimator_ss, double df, int n_voxels,
    double* __restrict__ effect, double* __restrict__ variance, double* __restrict__ t)
{
    const int voxel = blockDim.x * blockIdx.x + threadIdx.x;
    if (voxel >= n_voxels)
        return;
    double estimate = 0;
    for (int k = 0; k < rank; ++k)
        estimate = fma(estimator[k], coordinates[(long long)k * n_voxels + voxel], estimate);
    const double its_variance = estimator_ss * (residual_ss[voxel] / df);
    effect[voxel] = estimate;
    variance[voxel] = its_variance;
    t[voxel] = estimate / sqrt(its_variance);
}

// ---- the permutation product ---------------------------------------------------------------

__device__ void add_squares(const float4* __restrict__ quad, float (&sum)[4])
{
    float product[4];
    load(quad, product);
    for (int i = 0; i < 4; ++i)
        sum[i] += product[i] * product[i];
}

// How much is explained for each degree of freedom, over what is left: t^2 or F is this times
// what the tested rows explain.
__device__ float ratio(float explained, float scale)
{
    return scale / fmaxf(1.0f - explained, SMALLEST_RESIDUAL);
}

// Form what is compared of one shuffle at four voxels, from the quads of its rows.
__device__ void compared(
    const float4* __restrict__ quads, int n_rows, int n_tested, bool is_f, float scale,
    float (&value)[4])
{
    load(quads, value);
    if (n_rows == 1 && !is_f)
        return;
    float explained[4];
    for (int i = 0; i < 4; ++i)
        explained[i] = value[i] * value[i];
    for (int row = 1; row < n_tested; ++row)
        add_squares(quads + row * TILE_QUADS, explained);
    if (is_f)
        for (int i = 0; i < 4; ++i)
            value[i] = explained[i];
    if (n_rows == n_tested)
        return;
    for (int row = n_tested; row < n_rows; ++row)
        add_squares(quads + row * TILE_QUADS, explained);
    for (int i = 0; i < 4; ++i) {
        const float factor = ratio(explained[i], scale);
        value[i] *= is_f ? factor : sqrtf(factor);
    }
}

// Turn r or R^2 into t or F.
__device__ float statistic_of(float value, bool is_f, float scale)
{
    const float factor = ratio(is_f ? value : value * value, scale);
    return value * (is_f ? factor : sqrtf(factor));
}

// Write the voxels of a thread that exist; a row of a map may begin at any multiple of 4 bytes.
__device__ void store(float* __restrict__ row, int n_left, const float (&four)[4])
{
    if (n_left >= 4 && reinterpret_cast<unsigned long long>(row) % sizeof(float4) == 0) {
        *reinterpret_cast<float4*>(row) = make_float4(four[0], four[1], four[2], four[3]);
        return;
    }
    for (int i = 0; i < min(n_left, 4); ++i)
        row[i] = four[i];
}

// Return an integer that is ordered as the number; its complement is that of the negated number.
__device__ int ordered(float value)
{
    const int bits = __float_as_int(value);
    return bits ^ ((bits >> 31) & 0x7fffffff);
}

__device__ int largest_of_warp(int mine)
{
    for (int distance = 16; distance > 0; distance /= 2)
        mine = max(mine, __shfl_xor_sync(0xffffffffu, mine, distance));
    return mine;
}

extern "C" __global__ void __launch_bounds__(256) t_statistic_values(
    const float4* __restrict__ products, int n_rows, int n_tested, bool is_f, float scale,
    int start, int n_voxels, float* __restrict__ values)
{
    const int quad = blockDim.x * blockIdx.x + threadIdx.x, voxel = start + 4 * quad;
    if (quad >= TILE_QUADS || voxel >= n_voxels)
        return;
    float value[4];
    compared(products + quad, n_rows, n_tested, is_f, scale, value);
    store(values + voxel, n_voxels - voxel, value);
}

// tails: 0 counts nothing, 1 values that reach the limit, 2 sizes that do.
extern "C" __global__ void __launch_bounds__(THREADS) t_statistic_peaks(
    const float4* __restrict__ products, int n_shuffles, int n_rows, int n_tested, bool is_f,
    float scale, int start, int n_voxels, const float* __restrict__ limits, int tails,
    long long* __restrict__ counts, int* __restrict__ upper, int* __restrict__ lower,
    float* __restrict__ maps, bool with_maps)
{
    __shared__ int peaks[2][SHUFFLE_TILE];
    __shared__ int reached_of[WARPS][SPAN];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int quad = 32 * blockIdx.x + lane, voxel = start + 4 * quad;
    float limit[4];
    for (int i = 0; i < 4; ++i)
        limit[i] = tails && voxel + i < n_voxels ? limits[voxel + i] : 0;
    int reached[4] = {};
    const bool nuisance = n_rows > n_tested;
    for (int shuffle = warp; shuffle < n_shuffles; shuffle += WARPS) {
        float value[4];
        compared(
            products + (long long)shuffle * n_rows * TILE_QUADS + quad,
            n_rows, n_tested, is_f, scale, value);
        int largest = LEAST, largest_negated = LEAST;
        for (int i = 0; i < 4; ++i) {
            if (voxel + i < n_voxels) {
                largest = max(largest, ordered(value[i]));
                largest_negated = max(largest_negated, ~ordered(value[i]));
            }
            reached[i] += (tails == 2 ? fabsf(value[i]) : value[i]) >= limit[i];
        }
        largest = largest_of_warp(largest);
        largest_negated = largest_of_warp(largest_negated);
        if (lane == 0)
            peaks[0][shuffle] = largest, peaks[1][shuffle] = largest_negated;
        if (with_maps) {
            if (!nuisance)
                for (int i = 0; i < 4; ++i)
                    value[i] = statistic_of(value[i], is_f, scale);
            store(maps + (long long)shuffle * n_voxels + voxel, n_voxels - voxel, value);
        }
    }
    for (int i = 0; i < 4; ++i)
        reached_of[warp][4 * lane + i] = reached[i];
    __syncthreads();
    // consecutive threads, consecutive shuffles: 32 maxima leave a warp at once
    for (int shuffle = threadIdx.x; shuffle < n_shuffles; shuffle += THREADS) {
        atomicMax(upper + shuffle, peaks[0][shuffle]);
        atomicMax(lower + shuffle, peaks[1][shuffle]);
    }
    const int owned = start + SPAN * blockIdx.x + threadIdx.x;
    if (tails && threadIdx.x < SPAN && owned < n_voxels) {
        int sum = 0;
        for (int w = 0; w < WARPS; ++w)
            sum += reached_of[w][threadIdx.x];
        counts[owned] += sum;
    }
}
