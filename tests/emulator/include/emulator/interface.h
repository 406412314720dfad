// interface.h -- what a compiled kernel and the runtime that executes it know of each other.
#pragma once
#include <stddef.h>
#include <stdint.h>

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// Where the thread that runs now sits: threadIdx, blockIdx, blockDim, gridDim.
struct emu_cur_t {
    uint3 tid, bid;
    dim3 bdim, gdim;
};

// Collectives of a warp: the `operation` of emu_warp_op.
enum {
    CW_SYNC,
    CW_IDX,
    CW_UP,
    CW_DOWN,
    CW_XOR,
    CW_BALLOT,
    CW_MATCH,
    CW_RADD,
    CW_RMIN,
    CW_RMAX,
    CW_RAND,
    CW_ROR,
    CW_RXOR,
    CW_COUNT
};

// Kinds of __syncthreads: the `operation` of emu_block_sync.
enum { EMU_BARRIER, EMU_BARRIER_COUNT, EMU_BARRIER_AND, EMU_BARRIER_OR };

// Kinds of memory access. Two accesses that are not EMU_PLAIN never race with each other.
enum { EMU_PLAIN, EMU_RELAXED, EMU_ATOMIC };

extern "C" {
extern emu_cur_t emu_cur __attribute__((visibility("hidden")));

// Wait for the block; *result is what __syncthreads_count, _and or _or return.
void emu_block_sync(int operation, int predicate, int *result);

// Take part in a collective of the lanes in `mask`. `argument` is the lane, delta or lane mask of
// a shuffle, or 1 for a signed reduction; `bytes` is the width of `value`.
uint64_t emu_warp_op(int operation, unsigned mask, uint64_t value, int argument, int width,
                     int bytes);

// Say that an atomic operation on `bytes` at `address` follows; another thread may run first.
void emu_atomic(const volatile void *address, int bytes);

// Say that a load or store with a cache operator follows.
void emu_plain(const volatile void *address, int bytes, int write, int relaxed);

// The same for code that names its sites itself instead of by return address.
void emu_access(void *address, int bytes, int write, int kind, unsigned site);

// Stop the launch with an error.
void emu_fail(const char *message);

// Tell the runtime where dynamic shared memory lies (inside a thread_local array).
void emu_dyn(char *begin, size_t bytes);
}
