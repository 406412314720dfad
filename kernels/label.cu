// label.cu -- connected components of many maps at once.
//
// Layout   above, labels: (n_maps, n_voxels). The voxels lie in a box with an empty border, whose
//          cells are numbered in C order: voxel v in cells[v]; voxel_at[cell] is 1 + the number of
//          the voxel, 0 outside the mask; cell - backward_steps[...] are the earlier neighbours.
//          Boxes have fewer than 2^31 cells; maps x voxels may be more.
// Result   labels[v] = 1 + smallest voxel number in v's component; 0 where above[v] is false.
// Method   union-find with atomicMin (union_find.cuh) in three launches: every voxel its own root
//          (label_init), united with its earlier neighbours (label_merge), and linked to its root
//          (label_flatten). A label is 1 + the number of the voxel that is linked to.
// Launch   one thread per voxel: blockIdx.x covers voxels, blockIdx.y strides over maps.
// Twin     gpustats/engines/cpu.py::label

#include "union_find.cuh"

struct Labels {
    int *of_voxel;

    // a plain load could be answered by the first-level cache, which does not see other blocks
    __device__ __forceinline__ int read(int node) const { return __ldcg(of_voxel + node - 1); }
    __device__ __forceinline__ int lower(int node, int to) const
    {
        return atomicMin(of_voxel + node - 1, to);
    }
};

extern "C" __global__ void __launch_bounds__(THREADS)
label_init(const bool *__restrict__ above, int n_maps, int n_voxels, int *labels)
{
    const int v = blockIdx.x * THREADS + threadIdx.x;
    if (v >= n_voxels) return;
    for (int map = blockIdx.y; map < n_maps; map += gridDim.y) {
        const long long at = (long long)map * n_voxels + v;
        labels[at] = above[at] ? v + 1 : 0;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
label_merge(const int *__restrict__ cells, const int *__restrict__ voxel_at,
            const int *__restrict__ backward_steps, int n_steps, int n_maps, int n_voxels,
            int *labels)
{
    const int v = blockIdx.x * THREADS + threadIdx.x;
    if (v >= n_voxels) return;
    for (int map = blockIdx.y; map < n_maps; map += gridDim.y) {
        const Labels links = {labels + (long long)map * n_voxels};
        if (links.read(v + 1) == 0) continue;
        for (int step = 0; step < n_steps; ++step) {
            const int neighbour = voxel_at[cells[v] - backward_steps[step]];
            if (neighbour != 0 && links.read(neighbour) != 0) unite(links, v + 1, neighbour);
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
label_flatten(int n_maps, int n_voxels, int *labels)
{
    const int v = blockIdx.x * THREADS + threadIdx.x;
    if (v >= n_voxels) return;
    for (int map = blockIdx.y; map < n_maps; map += gridDim.y) {
        const Labels links = {labels + (long long)map * n_voxels};
        // other threads pass through this link: any smaller node of the set does for them
        if (links.read(v + 1) != 0) links.lower(v + 1, find(links, v + 1));
    }
}
