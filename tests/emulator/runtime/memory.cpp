// memory.cpp -- every access of check mode: is it in bounds, aligned, allowed; who else must know.
#include <stdio.h>

#include "runtime.h"

namespace emu {

std::vector<Array> arrays;
static Array *latest;

uint32_t site_of(void *return_address)
{
    extern char library_base __asm__("__ehdr_start") __attribute__((visibility("hidden")));
    return (uint32_t)((char *)return_address - &library_base);
}

static Array *find_array(const char *address)
{
    if (latest && address >= latest->begin && address < latest->end) return latest;
    for (Array &array : arrays)
        if (address >= array.begin && address < array.end) return latest = &array;
    return nullptr;
}

static std::string here(uint32_t site)
{
    return ", " + place_of(*launch.current) + " " + site_text(site);
}

static void fail_out_of_bounds(const char *address, int bytes, bool write, uint32_t site)
{
    const Array *nearest = nullptr;
    ptrdiff_t least = PTRDIFF_MAX;
    for (const Array &array : arrays) {
        ptrdiff_t distance = address < array.begin ? array.begin - address : address - array.end;
        if (distance < least) least = distance, nearest = &array;
    }
    char text[160] = "no array was passed";
    if (nearest)
        snprintf(text, sizeof text, "%s of %d bytes at byte %td of %s, which has %td",
                 write ? "write" : "read", bytes, address - nearest->begin, nearest->name.c_str(),
                 nearest->end - nearest->begin);
    fail(std::string("out of bounds: ") + text + here(site));
}

static void access_shared(char *address, int bytes, bool write, int kind, uint32_t site)
{
    if (size_t end = beyond_dynamic(address, bytes))
        fail("out of bounds: dynamic shared memory up to byte " + std::to_string(end) +
             ", the launch asked for " + std::to_string(launch.options.dynamic_bytes) + here(site));
    auto &cells = launch.current->block->cells;
    if (cells.empty()) cells.resize(shared_size());
    static const std::string name = "shared memory";
    for (int i = 0; i < bytes; ++i) {
        Cell &cell = cells[shared_offset(address) + i];
        if (!write && !is_written(cell))
            fail("read of shared memory that no thread of the block wrote" + here(site));
        if (!is_written(cell)) cell = Cell{};  // what an earlier block did here is of no concern
        note_access(cell, write, kind, site, name);
    }
    note_request(address, bytes, write, site, nullptr);
}

static void access_array(Array &array, char *address, int bytes, bool write, int kind,
                         uint32_t site)
{
    if (write && array.read_only) fail("write to read-only " + array.name + here(site));
    if (bytes <= 16 && (uintptr_t)address % bytes) fail("misaligned access" + here(site));
    size_t granularity = array.granularity, offset = address - array.begin;
    if (array.cells.empty())
        array.cells.resize((array.end - array.begin + granularity - 1) / granularity);
    for (size_t i = offset / granularity; i <= (offset + bytes - 1) / granularity; ++i)
        note_access(array.cells[i], write, kind, site, array.name);
    note_request(address, bytes, write, site, &array);
    note_sectors(array, address, bytes, write, kind);
}

// A thread's own stack and the variables of the runtime are no memory of the device.
void access(char *address, int bytes, bool write, int kind, uint32_t site)
{
    if (on_stack(address)) return;
    if (address >= (char *)&emu_cur && address < (char *)(&emu_cur + 1)) return;
    ++launch.counters.accesses;
    step();
    if (kind != EMU_ATOMIC && chance(launch.options.preempt)) yield();
    if (in_shared(address)) return access_shared(address, bytes, write, kind, site);
    Array *array = find_array(address);
    if (array && address + bytes <= array->end)
        return access_array(*array, address, bytes, write, kind, site);
    if (!in_library(address, bytes)) fail_out_of_bounds(address, bytes, write, site);
}

void forget_accesses()
{
    for (Array &array : arrays) std::vector<Cell>().swap(array.cells);
}

// With preemption half of all atomics let others go first; without it a spinning thread still must
// give way now and then.
static void give_way()
{
    const double preempt = launch.options.preempt;
    if (preempt > 0 ? random_below(2) : launch.counters.steps % 1024 == 1023) yield();
}

}  // namespace emu

using emu::launch;

extern "C" void emu_register(char *begin, size_t bytes, int granularity, int read_only,
                             const char *name)
{
    emu::Array array{};
    array.begin = begin;
    array.end = begin + bytes;
    array.granularity = granularity;
    array.read_only = read_only;
    array.name = name;
    array.was_read.resize(bytes / 32 + 2);
    array.was_written.resize(bytes / 32 + 2);
    emu::arrays.push_back(array);
}

extern "C" void emu_forget_arrays()
{
    emu::arrays.clear();
    emu::latest = nullptr;
}

extern "C" void emu_access(void *address, int bytes, int write, int kind, unsigned site)
{
    launch.counters.atomics += kind == EMU_ATOMIC;
    emu::access((char *)address, bytes, write, kind, site);
}

extern "C" void emu_plain(const volatile void *address, int bytes, int write, int relaxed)
{
    unsigned site = emu::site_of(__builtin_return_address(0));
    int kind = relaxed ? EMU_RELAXED : EMU_PLAIN;
    if (launch.options.check) emu::access((char *)address, bytes, write, kind, site);
    else if (emu::chance(launch.options.preempt)) emu::yield();
}

extern "C" void emu_atomic(const volatile void *address, int bytes)
{
    unsigned site = emu::site_of(__builtin_return_address(0));
    emu::step();
    emu::give_way();
    launch.counters.atomics += bytes > 0;
    if (launch.options.check && bytes)
        emu::access((char *)address, bytes, true, EMU_ATOMIC, site);
}
