// schedule.cpp -- which thread of which block runs next.
//
// In order: blocks one after the other, a thread until it waits. At random: some blocks at once,
// in any order, any of their threads next; the same seed gives the same order again.
#include <climits>

#include "runtime.h"

emu_cur_t emu_cur;

namespace emu {

Launch launch;

static std::vector<Block *> resident, spare;  // blocks that run; finished ones, to be used again
static std::vector<uint32_t> order;           // of blocks, if it is not the natural one
static uint64_t n_blocks, n_started;
static const uint32_t LONGEST_BURST = 64;     // threads run before another block's turn

static uint64_t random_bits()
{
    uint64_t &x = launch.random_state;  // xorshift64, Marsaglia 2003
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return x;
}
uint32_t random_below(uint32_t n) { return (uint32_t)((random_bits() >> 32) * n >> 32); }
bool chance(double probability)
{
    return probability > 0 && (double)(random_bits() >> 11) * 0x1p-53 < probability;
}

// ---- threads ---------------------------------------------------------------------------------

void make_ready(Thread &thread)
{
    thread.state = State::READY;
    thread.block->ready.push_back(thread.index);
}

// Let others run first.
void yield()
{
    Thread &thread = *launch.current;
    auto &ready = thread.block->ready;
    thread.state = State::READY;
    if (launch.options.random) ready.push_back(thread.index);
    else ready.insert(ready.begin(), thread.index);
    leave_fiber();
}

static void end_thread(Thread &thread)
{
    Block &block = *thread.block;
    free_stack(thread);
    ++block.finished;
    block.warps[thread.warp()].exited |= 1u << thread.lane();
    if (block.at_barrier) release_barrier(block);
    if (block.warps[thread.warp()].arrived) release_collectives(block, thread.warp());
}

static void run_one_thread(Block &block)
{
    auto &ready = block.ready;
    if (launch.options.random)
        std::swap(ready[random_below((uint32_t)ready.size())], ready.back());
    Thread &thread = block.threads[ready.back()];
    ready.pop_back();
    if (thread.state == State::NEW && !start_fiber(thread))
        return record_failure("too many threads wait at once; use a smaller window of blocks");
    thread.state = State::READY;
    enter_fiber(thread);
    if (thread.state == State::DONE) end_thread(thread);
}

// ---- blocks ----------------------------------------------------------------------------------

static void make_threads(Block &block)
{
    block.threads.resize(launch.n_threads);
    for (uint32_t i = 0; i < launch.n_threads; ++i) {
        const dim3 &size = emu_cur.bdim;
        Thread &thread = block.threads[i];
        thread.index = i;
        thread.block = &block;
        thread.position = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
    }
    block.warps.resize((launch.n_threads + 31) / 32);
}

static void reset_warps(Block &block)
{
    for (Warp &warp : block.warps) {
        warp.arrived = warp.exited = 0;
        warp.clock.reset(launch.options.check);
    }
    if (launch.n_threads % 32) block.warps.back().exited = ~0u << launch.n_threads % 32;
}

static Block *new_block()
{
    if (!spare.empty()) {
        Block *block = spare.back();
        spare.pop_back();
        return block;
    }
    Block *block = new Block;
    make_threads(*block);
    return block;
}

static void start_block(uint32_t index)
{
    Block &block = *new_block();
    const dim3 &grid = emu_cur.gdim;
    block.index = index;
    block.position = {index % grid.x, index / grid.x % grid.y, index / (grid.x * grid.y)};
    block.finished = block.at_barrier = block.barriers = 0;
    reset_warps(block);
    block.ready.clear();
    for (uint32_t i = launch.n_threads; i-- > 0;) {
        block.threads[i].state = State::NEW;
        block.ready.push_back(i);
    }
    poison_shared(block, launch.options.window > 1);
    resident.push_back(&block);
}

static void retire(size_t place)
{
    Block *block = resident[place];
    if (launch.options.check)
        for (Warp &warp : block->warps) end_requests(warp);
    deactivate();
    resident.erase(resident.begin() + place);
    spare.push_back(block);
}

static std::string describe_waiting(const Block &block)
{
    std::string text;
    int n_described = 0;
    for (const Thread &thread : block.threads) {
        if (thread.state != State::AT_BARRIER && thread.state != State::AT_COLLECTIVE) continue;
        bool at_barrier = thread.state == State::AT_BARRIER;
        text += "\n  " + place_of(thread) + " waits at " +
                (at_barrier ? "__syncthreads" : collective_name(thread.request.operation));
        if (++n_described == 3) break;
    }
    return text;
}

// Run some threads of a block; with others beside it, not for long.
static void run_burst(Block &block)
{
    uint32_t left = launch.options.window == 1 ? UINT_MAX : 1 + random_below(LONGEST_BURST);
    while (left-- && !block.ready.empty() && !launch.failed) run_one_thread(block);
    if (block.ready.empty() && block.finished < launch.n_threads)
        record_failure("deadlock, a barrier or collective that not all threads reach:" +
                       describe_waiting(block));
}

// ---- the grid --------------------------------------------------------------------------------

static void shuffle_blocks()
{
    order.resize(launch.options.random ? n_blocks : 0);
    for (uint64_t i = 0; i < order.size(); ++i) order[i] = (uint32_t)i;
    for (uint64_t i = order.size(); i > 1; --i)
        std::swap(order[i - 1], order[random_below((uint32_t)i)]);
}

static void start_blocks()
{
    while (resident.size() < (size_t)launch.options.window && n_started < n_blocks) {
        start_block(order.empty() ? (uint32_t)n_started : order[n_started]);
        ++n_started;
    }
}

static void run_blocks()
{
    for (size_t turn = 0; !launch.failed; ++turn) {
        start_blocks();
        if (resident.empty()) return;
        size_t place = launch.options.random ? random_below((uint32_t)resident.size())
                                             : turn % resident.size();
        activate(*resident[place]);
        run_burst(*resident[place]);
        if (resident[place]->finished == launch.n_threads) retire(place);
    }
}

static void clear()
{
    deactivate();
    for (Block *block : resident) delete block;
    for (Block *block : spare) delete block;
    resident.clear();
    spare.clear();
    free_all_stacks();
    forget_accesses();
}

// Returns 0, or 1 after a failure.
int run_launch(const unsigned *grid, const unsigned *block)
{
    emu_cur.gdim = dim3(grid[0], grid[1], grid[2]);
    emu_cur.bdim = dim3(block[0], block[1], block[2]);
    launch.n_threads = block[0] * block[1] * block[2];
    launch.random_state = (launch.options.seed + 1) * 0x9E3779B97F4A7C15ull | 1;
    n_blocks = (uint64_t)grid[0] * grid[1] * grid[2];
    n_started = 0;
    shuffle_blocks();
    launch.running = true;
    catch_crashes(true);
    if (sigsetjmp(crash_exit, 1) == 0) run_blocks();
    catch_crashes(false);
    launch.running = false;
    clear();
    return launch.failed;
}

}  // namespace emu
