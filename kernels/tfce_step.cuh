// tfce_step.cuh -- one step of the sweep of tfce.cu: 32 voxels come in, in the order of the lanes.
//
// Every voxel must see exactly those that come before it. Most are alone with one component around
// them and join it together (`append`); those with none around them begin new ones (`begin`). A
// voxel between components, or beside one that comes before it in the same step, is taken alone,
// after all lanes before it (`link`).
//
// Blocks are single warps. Labels are unsigned short or unsigned. NEIGHBOURS is 6, 18 or 26; FULL
// is 1 to leave the score of every voxel, otherwise 0.

#define ALL_LANES 0xffffffffu
#define ROW (NEIGHBOURS == 6 ? 2 : NEIGHBOURS == 18 ? 6 : 8)  // words of 128 bits; whole sectors

// A component, or what is left of one that another has taken in. It fills one sector of memory, so
// that to look `integral` up by the number of a voxel would save nothing and cost a round trip.
struct alignas(32) Component {
    double integral;  // the integrated height at which its size last changed
    long long score;  // what its first voxel has scored down to there
    long long lead;   // by how much that was ahead of the component that has taken it in
    int size;
};

// What a block knows of its map.
template <class Label>
struct Sweep {
    static constexpr unsigned NONE = Label(~0u);       // nobody has come to this cell, no component
    static constexpr unsigned FIRST_TAG = NONE - 255;  // plus a lane: its voxel comes in this step
    const double* integrals;
    const int* order;
    int n_positive;
    int n_voxels;
    const int4* neighbours;
    const double* weights;
    Label* labels;   // of every cell: a component that its voxel is part of
    Label* parents;  // of every component: the one that has taken it in, or itself
    Component* components;
    int capacity;
    int n_components;
    long long* gained;
};

// A voxel that waits to come in; after the last one, the cell that nobody takes.
struct Voxel {
    double integral;
    int cell;
};

// What a voxel sees when it comes in.
struct Around {
    unsigned components[NEIGHBOURS];
    unsigned earlier;  // lanes with a neighbour that comes before it in this step, a bit for each
};

// The component that a voxel comes into, by its number at that time, and its score then.
struct Entry {
    unsigned component;
    long long score;
};

__device__ __forceinline__ int lane_id() { return threadIdx.x; }

__device__ __forceinline__ bool has(unsigned lanes, int lane) { return lanes >> lane & 1; }

__device__ __forceinline__ unsigned lanes_before(int lane) { return (1u << lane) - 1; }

// What a component of this size scores between two integrated heights.
__device__ __forceinline__ long long increment(
    const double* weights, int size, double above, double below)
{
    return llrint(weights[size] * (above - below));
}

template <class Label>
__device__ __forceinline__ unsigned find(const Label* parents, unsigned component)
{
    unsigned parent;
    while ((parent = parents[component]) != component) component = parent;
    return component;
}

// Writes all of a component but its lead, which means nothing yet.
__device__ __forceinline__ void store(
    Component& component, double integral, long long score, int size)
{
    component.integral = integral;
    component.score = score;
    component.size = size;
}

__device__ __forceinline__ void load_row(const int4* neighbours, int cell, int* cells)
{
    const int4* row = neighbours + size_t(cell) * ROW;
#pragma unroll
    for (int k = 0; k < NEIGHBOURS; k += 4) {
        const int4 four = row[k / 4];
        cells[k] = four.x;
        cells[k + 1] = four.y;
        if (k + 2 < NEIGHBOURS) cells[k + 2] = four.z;
        if (k + 3 < NEIGHBOURS) cells[k + 3] = four.w;
    }
}

// Reads the labels around this lane's voxel. Voxels of this step are known by their tags: those of
// lanes before this one are here already, the others are not.
template <class Label>
__device__ __forceinline__ Around look_around(
    const Sweep<Label>& sweep, int cell, const int* cells)
{
    if (cell < sweep.n_voxels) sweep.labels[cell] = sweep.FIRST_TAG + lane_id();
    __syncwarp();  // the tags can be read
    Around around;
    around.earlier = 0;
#pragma unroll
    for (int k = 0; k < NEIGHBOURS; ++k) around.components[k] = sweep.labels[cells[k]];
#pragma unroll
    for (int k = 0; k < NEIGHBOURS; ++k) {
        const unsigned label = around.components[k];
        if (label < sweep.FIRST_TAG || label == sweep.NONE) continue;
        const int other = label - sweep.FIRST_TAG;
        if (other < lane_id()) around.earlier |= 1u << other;
        around.components[k] = sweep.NONE;
    }
    return around;
}

// Follows all labels around a voxel at once to the components that they are part of by now.
template <class Label>
__device__ __forceinline__ void climb(const Sweep<Label>& sweep, Around& around)
{
    for (bool climbing = true; climbing;) {
        climbing = false;
#pragma unroll
        for (int k = 0; k < NEIGHBOURS; ++k) {
            const unsigned component = around.components[k];
            if (component == sweep.NONE) continue;
            const unsigned parent = sweep.parents[component];
            climbing |= parent != component;
            around.components[k] = parent;
        }
    }
    __syncwarp();  // labels and parents have been read and may change
}

__device__ __forceinline__ unsigned lowest(const Around& around)
{
    unsigned component = around.components[0];
#pragma unroll
    for (int k = 1; k < NEIGHBOURS; ++k) component = min(component, around.components[k]);
    return component;
}

// Whether there is another component than this one.
__device__ __forceinline__ bool several(const Around& around, unsigned component, unsigned none)
{
    bool others = false;
#pragma unroll
    for (int k = 0; k < NEIGHBOURS; ++k)
        others |= around.components[k] != component && around.components[k] != none;
    return others;
}

__device__ __forceinline__ void forget(Around& around, unsigned component, unsigned none)
{
#pragma unroll
    for (int k = 0; k < NEIGHBOURS; ++k)
        if (around.components[k] == component) around.components[k] = none;
}

// Begins a component with each voxel that has none around it; false if the tables are full.
template <class Label>
__device__ __forceinline__ bool begin(
    Sweep<Label>& sweep, bool begins, double integral, Entry& entry)
{
    const unsigned lanes = __ballot_sync(ALL_LANES, begins);
    if (!lanes) return true;
    if (sweep.n_components + __popc(lanes) > sweep.capacity) return false;
    if (begins) {
        entry.component = sweep.n_components + __popc(lanes & lanes_before(lane_id()));
        sweep.parents[entry.component] = entry.component;
        store(sweep.components[entry.component], integral, 0, 1);
    }
    sweep.n_components += __popc(lanes);
    __syncwarp();  // the new components can be read
    return true;
}

// Adds up a number over a group of lanes as far as this one. Each lane but the first of a group
// knows the one before it; every round reaches back twice as far.
__device__ __forceinline__ long long sum_in_group(long long number, int previous)
{
    while (__any_sync(ALL_LANES, previous >= 0)) {
        const int from = previous >= 0 ? previous : lane_id();
        const long long before = __shfl_sync(ALL_LANES, number, from);
        const int further = __shfl_sync(ALL_LANES, previous, from);
        if (previous >= 0) {
            number += before;
            previous = further;
        }
    }
    return number;
}

// Appends the voxels of these lanes, each to its one component. Lanes with the same component form
// a group: sizes count up and heights descend from one lane to the next, and the last one stores.
template <class Label>
__device__ __forceinline__ void append(
    const Sweep<Label>& sweep, unsigned lanes, double integral, Entry& entry)
{
    if (!lanes) return;
    const int lane = lane_id();
    const bool appends = has(lanes, lane);
    const unsigned nobody_elses = sweep.FIRST_TAG + lane;
    const unsigned group = __match_any_sync(ALL_LANES, appends ? entry.component : nobody_elses);
    const unsigned before = group & lanes_before(lane);
    const int previous = before ? 31 - __clz(before) : -1;
    Component component = {};
    if (appends) component = sweep.components[entry.component];
    const double at_previous = __shfl_sync(ALL_LANES, integral, previous >= 0 ? previous : lane);
    const double above = previous >= 0 ? at_previous : component.integral;
    const int size = component.size + __popc(before);
    const long long scored = appends ? increment(sweep.weights, size, above, integral) : 0;
    const long long score = component.score + sum_in_group(scored, previous);
    __syncwarp();  // all lanes of a group have read its component
    if (appends) {
        entry.score = score;
        const bool last = !(group >> lane >> 1);
        if (last) store(sweep.components[entry.component], integral, score, size + 1);
    }
    __syncwarp();  // the components can be read
}

// Brings a component to this height and links it to the joint: the smaller of the two to the other.
template <class Label>
__device__ __forceinline__ void unite(
    const Sweep<Label>& sweep, unsigned component, double integral, Entry& joint, int& size)
{
    const unsigned root = find(sweep.parents, component);
    if (root == joint.component) return;
    const Component other = sweep.components[root];
    const long long score =
        other.score + increment(sweep.weights, other.size, other.integral, integral);
    if (joint.component == sweep.NONE) {
        joint = {root, score};
        size = other.size;
        return;
    }
    const bool wins = other.size > size;
    const unsigned loser = wins ? joint.component : root;
    if (wins) joint.component = root;
    sweep.parents[loser] = joint.component;
    size += other.size;
#if FULL
    sweep.components[loser].lead = wins ? joint.score - score : score - joint.score;
    if (wins) joint.score = score;
#else
    joint.score = max(joint.score, score);  // of the two first voxels, the one that is ahead
#endif
}

// Links all components around the voxel of one lane, which joins them.
template <class Label>
__device__ __forceinline__ void link(
    const Sweep<Label>& sweep, int lane, double integral, Around& around, Entry& entry)
{
    const bool links = lane == lane_id();
    Entry joint = {sweep.NONE, 0};
    int size = 0;
    while (links) {
        const unsigned next = lowest(around);
        if (next == sweep.NONE) break;
        forget(around, next, sweep.NONE);
        unite(sweep, next, integral, joint, size);
    }
    unsigned earlier = __shfl_sync(ALL_LANES, around.earlier, lane);
    for (; earlier; earlier &= earlier - 1) {
        const unsigned next = __shfl_sync(ALL_LANES, entry.component, __ffs(earlier) - 1);
        if (links) unite(sweep, next, integral, joint, size);
    }
    if (links) {
        store(sweep.components[joint.component], integral, joint.score, size + 1);
        entry = joint;
    }
    __syncwarp();  // parents and the component can be read
}

// Lets the voxels of a step in; false if the tables are full.
template <class Label>
__device__ __forceinline__ bool let_in(
    Sweep<Label>& sweep, const Voxel& voxel, Around& around, int position)
{
    const bool comes = voxel.cell < sweep.n_voxels;
    Entry entry = {lowest(around), 0};
    const bool links = around.earlier || several(around, entry.component, sweep.NONE);
    const bool begins = comes && !links && entry.component == sweep.NONE;
    if (!begin(sweep, begins, voxel.integral, entry)) return false;
    unsigned appending = __ballot_sync(ALL_LANES, comes && !links && !begins);
    unsigned linking = __ballot_sync(ALL_LANES, links);
    while (linking) {
        const int next = __ffs(linking) - 1;
        append(sweep, appending & lanes_before(next), voxel.integral, entry);
        link(sweep, next, voxel.integral, around, entry);
        appending &= ~lanes_before(next);
        linking &= linking - 1;
        if (has(appending, lane_id())) entry.component = find(sweep.parents, entry.component);
        __syncwarp();  // parents have been read and may change
    }
    append(sweep, appending, voxel.integral, entry);
    if (comes) {
        sweep.labels[voxel.cell] = entry.component;
#if FULL
        sweep.gained[position] = entry.score;
#endif
    }
    return true;
}
