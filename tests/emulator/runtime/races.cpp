// races.cpp -- data races by CUDA's happens-before, whether or not the schedule lets them show.
//
// Two accesses to the same bytes by different threads, one of them a write, race unless both are
// atomic or relaxed, or one happened before the other: a barrier of their block lies between, or
// collectives of their warp in which both took part. Order made by fences and flags is not seen.
// A cell remembers the last write and a summary of the reads since; what the summary leaves out
// can hide a race, and never invents one.
#include "runtime.h"

namespace emu {

std::vector<Race> races;
static const size_t MOST_RACES = 64;

// ---- order -----------------------------------------------------------------------------------

void Clock::reset(bool in_use)
{
    time = 0;
    seen.assign(in_use ? 32 * 32 : 0, 0);
}

void Clock::meet(uint32_t lanes)
{
    uint32_t joined[32] = {};
    for (int i = 0; i < 32; ++i)
        if (lanes >> i & 1)
            for (int j = 0; j < 32; ++j) joined[j] = std::max(joined[j], seen[i * 32 + j]);
    ++time;
    for (int i = 0; i < 32; ++i)
        if (lanes >> i & 1) joined[i] = time;
    for (int i = 0; i < 32; ++i)
        if (lanes >> i & 1) std::copy(joined, joined + 32, &seen[i * 32]);
}

// Did something that lanes of a warp did at some time happen before what this thread does now?
static bool before_in_warp(uint32_t warp, uint32_t lanes, uint32_t time)
{
    const Thread &me = *launch.current;
    if (warp != me.warp()) return false;
    const Clock &clock = me.block->warps[warp].clock;
    for (uint32_t left = lanes & ~(1u << me.lane()); left; left &= left - 1)
        if (time >= clock.seen[me.lane() * 32 + __builtin_ctz(left)]) return false;
    return true;
}

static bool before_barrier(const Access &access)
{
    return access.barriers < launch.current->block->barriers;
}

static bool write_is_ordered(const Cell &cell)
{
    const Access &write = cell.write;
    if (write.block != launch.current->block->index) return false;
    return before_barrier(write) ||
           before_in_warp(write.thread / 32, 1u << write.thread % 32, write.time);
}

static bool reads_are_ordered(const Cell &cell)
{
    const Access &read = cell.read;
    if (cell.crowd == ANYWHERE || read.block != launch.current->block->index) return false;
    if (before_barrier(read)) return true;
    return cell.crowd == IN_A_WARP && before_in_warp(read.thread / 32, cell.lanes, read.time);
}

// ---- reports ---------------------------------------------------------------------------------

static void report(const Access &first, uint32_t site, char kind, const std::string &what)
{
    for (Race &race : races)
        if (race.first_site == first.site && race.second_site == site && race.kind == kind) {
            ++race.count;
            return;
        }
    if (races.size() == MOST_RACES) return;
    std::string other = " with block #" + std::to_string(first.block) + " thread #" +
                        std::to_string(first.thread);
    races.push_back({first.site, site, kind, what + ": " + place_of(*launch.current) + other, 1});
}

static bool both_concurrent(int kind, const Access &earlier)
{
    return kind != EMU_PLAIN && earlier.kind != EMU_PLAIN;
}

// ---- cells -----------------------------------------------------------------------------------

static Access access_now(int kind, uint32_t site)
{
    const Thread &me = *launch.current;
    uint32_t time = me.block->warps[me.warp()].clock.time;
    return {me.block->index, me.block->barriers, time, site, (uint16_t)me.index, (uint8_t)kind, 1};
}

// The same thread, with nothing in between that orders it against others.
static bool same_moment(const Access &a, const Access &b)
{
    return a.happened && a.block == b.block && a.thread == b.thread &&
           a.barriers == b.barriers && a.time == b.time;
}

bool is_written(const Cell &cell)
{
    return cell.write.happened && cell.write.block == launch.current->block->index;
}

// Of several accesses that count as one, the plain ones decide: they are what can race.
static void note_write(Cell &cell, Access now, const std::string &what)
{
    if (cell.read.happened && !both_concurrent(now.kind, cell.read) && !reads_are_ordered(cell))
        report(cell.read, now.site, 'A', "write after read of " + what);
    if (same_moment(cell.write, now)) now.kind = std::min(now.kind, cell.write.kind);
    cell.write = now;
    cell.read.happened = 0;
}

static void join_readers(Cell &cell, Access now)
{
    Crowd spread = IN_A_WARP;
    if (cell.read.block != now.block) spread = ANYWHERE;
    else if (cell.read.thread / 32 != now.thread / 32) spread = IN_A_BLOCK;
    cell.crowd = std::max(cell.crowd, spread);
    cell.lanes |= 1u << now.thread % 32;
    now.kind = std::min(now.kind, cell.read.kind);
    now.time = std::min(now.time, cell.read.time);
    cell.read = now;
}

static void note_read(Cell &cell, const Access &now)
{
    bool alone = !cell.read.happened || (reads_are_ordered(cell) && !same_moment(cell.read, now));
    if (!alone) return join_readers(cell, now);
    cell.read = now;
    cell.lanes = 1u << now.thread % 32;
    cell.crowd = IN_A_WARP;
}

void note_access(Cell &cell, bool write, int kind, uint32_t site, const std::string &what)
{
    const Access &last = cell.write;
    if (last.happened && !both_concurrent(kind, last) && !write_is_ordered(cell))
        report(last, site, write ? 'W' : 'R',
               (write ? "write after write of " : "read after write of ") + what);
    if (write) note_write(cell, access_now(kind, site), what);
    else note_read(cell, access_now(kind, site));
}

}  // namespace emu
