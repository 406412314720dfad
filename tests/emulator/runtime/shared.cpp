// shared.cpp -- shared memory: the thread-local storage of the library, one copy for every block.
#include <link.h>
#include <string.h>

#include "runtime.h"

namespace emu {

static thread_local char anchor;  // touching it makes the loader allocate the storage
static char *library_begin, *library_end;
static char *shared_begin, *shared_end;
static char *dynamic_begin, *dynamic_end;
static Block *active;  // whose shared memory lies in place

// Of the whole storage two pieces are in use: up to what the launch asked for of dynamic shared
// memory, and what follows that.
struct Piece {
    char *begin;
    size_t bytes;
};
static Piece pieces[2];

static bool holds(const dl_phdr_info &info, const void *address)
{
    for (int i = 0; i < info.dlpi_phnum; ++i) {
        const auto &segment = info.dlpi_phdr[i];
        const char *begin = (const char *)info.dlpi_addr + segment.p_vaddr;
        if (segment.p_type == PT_LOAD && address >= begin && address < begin + segment.p_memsz)
            return true;
    }
    return false;
}

static int find_segments(dl_phdr_info *info, size_t, void *)
{
    if (!holds(*info, &emu_cur)) return 0;
    library_begin = library_end = (char *)info->dlpi_addr;
    for (int i = 0; i < info->dlpi_phnum; ++i) {
        const auto &segment = info->dlpi_phdr[i];
        char *end = (char *)info->dlpi_addr + segment.p_vaddr + segment.p_memsz;
        if (segment.p_type == PT_LOAD) library_end = std::max(library_end, end);
        if (segment.p_type != PT_TLS) continue;
        shared_begin = (char *)info->dlpi_tls_data;
        shared_end = shared_begin + segment.p_memsz;
    }
    return 1;
}

// Where the constants of the library and its shared memory lie, in the host thread that launches.
// A launch may ask for dynamic shared memory that the kernel does not use.
void locate_library()
{
    *(volatile char *)&anchor = 0;
    dl_iterate_phdr(find_segments, nullptr);
    size_t used = std::min<size_t>(launch.options.dynamic_bytes, dynamic_end - dynamic_begin);
    char *used_end = dynamic_begin ? dynamic_begin + used : shared_end;
    char *rest = dynamic_begin ? dynamic_end : shared_end;
    pieces[0] = {shared_begin, (size_t)(used_end - shared_begin)};
    pieces[1] = {rest, (size_t)(shared_end - rest)};
}

bool in_library(const char *address, int bytes)
{
    return address >= library_begin && address + bytes <= library_end;
}

bool in_shared(const char *address) { return address >= shared_begin && address < shared_end; }

size_t shared_offset(const char *address) { return (size_t)(address - shared_begin); }

size_t shared_size() { return (size_t)(shared_end - shared_begin); }

// How far an access reaches into the dynamic region if that is beyond what the launch asked for.
size_t beyond_dynamic(const char *address, int bytes)
{
    bool dynamic = dynamic_begin && address >= dynamic_begin && address < dynamic_end;
    size_t end = dynamic ? (size_t)(address - dynamic_begin) + bytes : 0;
    return end > launch.options.dynamic_bytes ? end : 0;
}

// Nothing in shared memory is 0 by chance: bytes that no thread wrote are 0xff (NaN, -1).
void poison_shared(Block &block, bool shares_place)
{
    if (shares_place) {
        block.shared.assign(pieces[0].bytes + pieces[1].bytes, (char)0xff);
        return;
    }
    for (const Piece &piece : pieces) memset(piece.begin, 0xff, piece.bytes);
    active = &block;
}

void deactivate() { active = nullptr; }

void activate(Block &block)
{
    if (active == &block) return;
    size_t offset = 0;
    for (const Piece &piece : pieces) {
        if (active) memcpy(active->shared.data() + offset, piece.begin, piece.bytes);
        memcpy(piece.begin, block.shared.data() + offset, piece.bytes);
        offset += piece.bytes;
    }
    active = &block;
}

static void set_dynamic(char *begin, size_t bytes)
{
    dynamic_begin = bytes ? begin : nullptr;
    dynamic_end = begin + bytes;
}

}  // namespace emu

extern "C" void emu_dyn(char *begin, size_t bytes) { emu::set_dynamic(begin, bytes); }
