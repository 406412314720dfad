// barriers.cpp -- __syncthreads and its relatives.
#include "runtime.h"

namespace emu {

static int barrier_result(int operation, int count, int waiting)
{
    switch (operation) {
        case EMU_BARRIER_COUNT: return count;
        case EMU_BARRIER_AND: return count == waiting;
        case EMU_BARRIER_OR: return count > 0;
        default: return 0;
    }
}

static bool waits(const Thread &thread) { return thread.state == State::AT_BARRIER; }

// Let all threads go on once the last has arrived. A thread that has left the kernel will not
// come: some devices forgive that, CUDA does not.
void release_barrier(Block &block)
{
    if (block.at_barrier + block.finished < block.threads.size()) return;
    auto &threads = block.threads;
    if (block.finished) {
        auto waiting = std::find_if(threads.begin(), threads.end(), waits);
        record_failure(std::to_string(block.finished) +
                       " threads left the kernel before a __syncthreads at which waits " +
                       place_of(*waiting));
        return;
    }
    int count = 0;
    for (const Thread &thread : threads) count += thread.request.value != 0;
    for (Thread &thread : threads) {
        thread.result = barrier_result(thread.request.operation, count, (int)threads.size());
        make_ready(thread);
    }
    if (launch.options.check)
        for (Warp &warp : block.warps) end_requests(warp);
    block.at_barrier = 0;
    ++block.barriers;
    ++launch.counters.barriers;
}

// All who wait at one barrier wait at the same kind of it.
static void refuse_other_kind(const Block &block, int operation)
{
    for (const Thread &other : block.threads)
        if (waits(other) && other.request.operation != operation)
            fail("different kinds of __syncthreads meet: " + place_of(*launch.current) + " and " +
                 place_of(other));
}

}  // namespace emu

extern "C" void emu_block_sync(int operation, int predicate, int *result)
{
    using namespace emu;
    step();
    Thread &thread = *launch.current;
    Block &block = *thread.block;
    if (block.at_barrier++ == 0) block.barrier_operation = operation;
    if (block.barrier_operation != operation) refuse_other_kind(block, operation);
    thread.state = State::AT_BARRIER;
    thread.request = Request{operation, 0, 32, 0, (uint64_t)(predicate != 0)};
    release_barrier(block);
    leave_fiber();
    if (result) *result = (int)thread.result;
}
