// memory.h -- what check mode remembers of every byte that the kernels of a launch touch.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <string>
#include <unordered_map>
#include <vector>

namespace emu {

struct Block;
struct Warp;

// When a thread did something: block-wide barriers and collectives of its warp it had passed.
struct Access {
    uint32_t block, barriers, time, site;
    uint16_t thread;
    uint8_t kind, happened;
};

// How far apart the threads are that read a cell since it was written.
enum Crowd : uint8_t { IN_A_WARP, IN_A_BLOCK, ANYWHERE };

// The last write of some bytes, and the reads since.
struct Cell {
    Access write, read;
    uint32_t lanes;  // that read, if all are IN_A_WARP
    Crowd crowd;
};

// Which collectives order what in a warp: seen[i][j] > time of an access of lane j exactly when
// that access happened before whatever lane i does now (a vector clock).
struct Clock {
    uint32_t time = 0;
    std::vector<uint32_t> seen;  // 32 x 32, empty outside check mode

    void reset(bool in_use);
    void meet(uint32_t lanes);
};

// An array that was passed to the kernel.
struct Array {
    char *begin, *end;
    int granularity;  // bytes of an element
    bool read_only;
    std::string name;
    std::vector<Cell> cells;
    std::vector<uint8_t> was_read, was_written;  // per 32-byte sector
    uint64_t bytes[2], sectors[2], atomics;      // requested: reads, writes
};
extern std::vector<Array> arrays;

struct Race {
    uint32_t first_site, second_site;
    char kind;
    std::string text;
    uint64_t count;
};
extern std::vector<Race> races;

// An instruction that accesses memory, and what its warps requested in all.
struct Site {
    uint32_t address;
    int write, bytes, shared;
    uint64_t requests, lanes, sectors, lines, ideal_sectors;
};
extern std::vector<Site> sites;

// One execution of a site by the lanes of a warp.
struct Requested {
    uint32_t site, lanes, bytes;
    Array *array;
    std::vector<uint64_t> units;  // sectors of global memory, words of shared memory
};

// The requests of a warp since its lanes last met: the k-th execution of a site by one lane belongs
// with the k-th by another.
struct Requests {
    std::unordered_map<uint64_t, uint32_t> numbers;  // (site, k) -> place in `made`
    std::vector<Requested> made;                     // its capacity is kept
    uint32_t n_made = 0;
    std::vector<std::vector<uint32_t>> occurrences;  // lane, site -> k
};

// races.cpp
void note_access(Cell &cell, bool write, int kind, uint32_t site, const std::string &what);
bool is_written(const Cell &cell);

// traffic.cpp
void note_request(char *address, int bytes, bool write, uint32_t site, Array *array);
void note_sectors(Array &array, char *address, int bytes, bool write, int kind);
void end_requests(Warp &warp);
void forget_sites();

// shared.cpp
void locate_library();
bool in_library(const char *address, int bytes);
bool in_shared(const char *address);
size_t shared_offset(const char *address);
size_t shared_size();
size_t beyond_dynamic(const char *address, int bytes);
void poison_shared(Block &block, bool resident);
void activate(Block &block);
void deactivate();

// fibers.cpp
bool on_stack(const char *address);

// memory.cpp
void access(char *address, int bytes, bool write, int kind, uint32_t site);
uint32_t site_of(void *return_address);
void forget_accesses();

}  // namespace emu
