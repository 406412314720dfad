// collectives.cpp -- shuffles, votes, matches and reductions of the lanes of a warp.
//
// A lane that arrives waits; the last to arrive computes what every lane gets.
#include "runtime.h"

namespace emu {

const char *collective_name(int operation)
{
    static const char *const names[] = {
        "__syncwarp",         "__shfl_sync",       "__shfl_up_sync",    "__shfl_down_sync",
        "__shfl_xor_sync",    "__ballot_sync",     "__match_any_sync",  "__reduce_add_sync",
        "__reduce_min_sync",  "__reduce_max_sync", "__reduce_and_sync", "__reduce_or_sync",
        "__reduce_xor_sync"};
    return names[operation];
}

// The lanes that take part in one collective, in a warp of a block.
struct Group {
    Thread *base;  // of lane 0
    uint32_t lanes;

    bool has(int lane) const { return lane >= 0 && lane < 32 && (lanes >> lane & 1); }
    Thread &first() const { return base[__builtin_ctz(lanes)]; }
    template <class F> void each(F f) const
    {
        for (uint32_t left = lanes; left; left &= left - 1) f(base[__builtin_ctz(left)]);
    }
};

static uint64_t combine(int operation, bool is_signed, uint64_t a, uint64_t b)
{
    switch (operation) {
        case CW_RADD: return a + b;
        case CW_RAND: return a & b;
        case CW_ROR: return a | b;
        case CW_RXOR: return a ^ b;
    }
    bool less = is_signed ? (int32_t)b < (int32_t)a : b < a;
    return less == (operation == CW_RMIN) ? b : a;
}

static uint64_t reduce(const Group &group)
{
    const Request &request = group.first().request;
    uint64_t result = request.value;
    bool first = true;
    group.each([&](Thread &t) {
        if (!first)
            result = combine(request.operation, request.argument, result, t.request.value);
        first = false;
    });
    return result;
}

static uint64_t ballot(const Group &group)
{
    uint64_t lanes = 0;
    group.each([&](Thread &t) { lanes |= (t.request.value & 1) << t.lane(); });
    return lanes;
}

static uint64_t match(const Group &group, uint64_t value)
{
    uint64_t lanes = 0;
    group.each([&](Thread &t) { lanes |= (uint64_t)(t.request.value == value) << t.lane(); });
    return lanes;
}

// The lane that a lane reads from; itself where the device returns its own value.
static int source_lane(const Thread &thread)
{
    const Request &r = thread.request;
    int lane = (int)thread.lane(), begin = lane & ~(r.width - 1), end = begin + r.width;
    switch (r.operation) {
        case CW_IDX: return begin + (r.argument & (r.width - 1));
        case CW_UP: return lane - r.argument < begin ? lane : lane - r.argument;
        case CW_DOWN: return lane + r.argument >= end ? lane : lane + r.argument;
        default: return (lane ^ r.argument) >= end ? lane : lane ^ r.argument;
    }
}

// A lane that does not take part has no value: check mode refuses to read it, otherwise all bits
// are set (NaN, -1) so that a result which depends on it is wrong.
static uint64_t shuffle(const Group &group, const Thread &thread)
{
    int source = source_lane(thread);
    if (group.has(source)) return group.base[source].request.value;
    if (launch.options.check)
        record_failure(std::string(collective_name(thread.request.operation)) + ": " +
                       place_of(thread) + " reads lane " + std::to_string(source) +
                       ", which does not take part");
    return ~0ull;
}

static void compute(const Group &group)
{
    int operation = group.first().request.operation;
    if (operation == CW_SYNC) return;
    if (operation >= CW_IDX && operation <= CW_XOR)
        return group.each([&](Thread &t) { t.result = shuffle(group, t); });
    if (operation == CW_MATCH)
        return group.each([&](Thread &t) { t.result = match(group, t.request.value); });
    uint64_t result = operation == CW_BALLOT ? ballot(group) : reduce(group);
    group.each([&](Thread &t) { t.result = result; });
}

// Lanes that wait for each other wait for the same operation with the same mask.
static bool agree(const Group &group)
{
    const Thread &first = group.first();
    bool same = true;
    group.each([&](Thread &t) {
        if (!same) return;
        same = t.request.operation == first.request.operation &&
               t.request.mask == first.request.mask;
        if (!same)
            record_failure(std::string(collective_name(first.request.operation)) + " of " +
                           place_of(first) + " meets " + collective_name(t.request.operation) +
                           " of " + place_of(t) + " (or their masks differ)");
    });
    return same;
}

// In check mode, what the lanes did before a collective happened before what they do after it.
static void finish(Warp &warp, const Group &group)
{
    ++launch.counters.collectives[group.first().request.operation];
    if (launch.options.check) {
        warp.clock.meet(group.lanes);
        if ((group.lanes | warp.exited) == ~0u) end_requests(warp);
    }
    warp.arrived &= ~group.lanes;
    for (uint32_t left = group.lanes; left;) {  // the lowest lane runs first
        int lane = 31 - __builtin_clz(left);
        make_ready(group.base[lane]);
        left &= ~(1u << lane);
    }
}

static void try_collective(Block &block, uint32_t number, unsigned mask)
{
    Warp &warp = block.warps[number];
    if (mask & ~(warp.arrived | warp.exited)) return;  // some lane is still to come
    Group group{&block.threads[number * 32], mask & warp.arrived};
    if (!group.lanes || !agree(group)) return;
    compute(group);
    finish(warp, group);
}

// A lane has left the kernel: those who waited for it need not wait any longer.
void release_collectives(Block &block, uint32_t number)
{
    uint32_t waiting = block.warps[number].arrived;
    for (uint32_t lane = 0; lane < 32 && !launch.failed; ++lane)
        if (waiting >> lane & block.warps[number].arrived >> lane & 1)
            try_collective(block, number, block.threads[number * 32 + lane].request.mask);
}

}  // namespace emu

extern "C" uint64_t emu_warp_op(int operation, unsigned mask, uint64_t value, int argument,
                                int width, int)
{
    using namespace emu;
    step();
    Thread &thread = *launch.current;
    if (!(mask >> thread.lane() & 1))
        fail(std::string(collective_name(operation)) + ": the caller is not in its own mask, " +
             place_of(thread));
    thread.state = State::AT_COLLECTIVE;
    thread.request = Request{operation, argument, width, mask, value};
    thread.block->warps[thread.warp()].arrived |= 1u << thread.lane();
    try_collective(*thread.block, thread.warp(), mask);
    leave_fiber();
    return thread.result;
}
