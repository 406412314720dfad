// collectives.h -- barriers of a block and collectives of a warp.
#pragma once
#include <string.h>

#include <type_traits>

#include "interface.h"

inline void __syncthreads() { emu_block_sync(EMU_BARRIER, 0, nullptr); }
inline int emu_syncthreads(int operation, int predicate)
{
    int result;
    emu_block_sync(operation, predicate, &result);
    return result;
}
inline int __syncthreads_count(int p) { return emu_syncthreads(EMU_BARRIER_COUNT, p); }
inline int __syncthreads_and(int p) { return emu_syncthreads(EMU_BARRIER_AND, p); }
inline int __syncthreads_or(int p) { return emu_syncthreads(EMU_BARRIER_OR, p); }

// Threads take turns on one host thread, hence see each other's stores in order: a fence has
// nothing to do but hold the compiler back.
inline void __threadfence_block() { __asm__ volatile("" ::: "memory"); }
inline void __threadfence() { __threadfence_block(); }
inline void __threadfence_system() { __threadfence_block(); }
inline void __nanosleep(unsigned) { emu_atomic(nullptr, 0); }
inline void __trap() { emu_fail("__trap()"); }

// A value travels as the low bytes of 64 bits, whatever its type is.
template <class T> inline uint64_t emu_packed(T value)
{
    static_assert((sizeof(T) == 4 || sizeof(T) == 8) && std::is_arithmetic<T>::value,
                  "collectives of a warp take 4 or 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    return bits;
}
template <class T> inline T emu_shuffle(int operation, unsigned mask, T value, int lane, int width)
{
    uint64_t bits = emu_warp_op(operation, mask, emu_packed(value), lane, width, sizeof(T));
    memcpy(&value, &bits, sizeof value);
    return value;
}
template <class T> inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32)
{
    return emu_shuffle(CW_IDX, mask, value, lane, width);
}
template <class T> inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32)
{
    return emu_shuffle(CW_UP, mask, value, (int)delta, width);
}
template <class T> inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32)
{
    return emu_shuffle(CW_DOWN, mask, value, (int)delta, width);
}
template <class T> inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32)
{
    return emu_shuffle(CW_XOR, mask, value, lanes, width);
}

inline void __syncwarp(unsigned mask = 0xffffffffu) { emu_warp_op(CW_SYNC, mask, 0, 0, 32, 4); }
inline unsigned __ballot_sync(unsigned mask, int predicate)
{
    return (unsigned)emu_warp_op(CW_BALLOT, mask, predicate != 0, 0, 32, 4);
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }
template <class T> inline unsigned __match_any_sync(unsigned mask, T value)
{
    return (unsigned)emu_warp_op(CW_MATCH, mask, emu_packed(value), 0, 32, sizeof value);
}
template <class T> inline unsigned __match_all_sync(unsigned mask, T value, int *all)
{
    *all = __match_any_sync(mask, value) == mask;
    return *all ? mask : 0;
}

// A lane may find itself alone: the device promises no more than that.
inline unsigned __activemask()
{
    unsigned row = emu_cur.tid.z * emu_cur.bdim.y + emu_cur.tid.y;
    return 1u << ((row * emu_cur.bdim.x + emu_cur.tid.x) & 31);
}

#define EMU_REDUCE(NAME, OPERATION)                                               \
    inline unsigned NAME(unsigned mask, unsigned value)                           \
    {                                                                             \
        return (unsigned)emu_warp_op(OPERATION, mask, value, 0, 32, 4);           \
    }
#define EMU_REDUCE_SIGNED(NAME, OPERATION)                                        \
    EMU_REDUCE(NAME, OPERATION)                                                   \
    inline int NAME(unsigned mask, int value)                                     \
    {                                                                             \
        return (int)emu_warp_op(OPERATION, mask, (unsigned)value, 1, 32, 4);      \
    }
EMU_REDUCE_SIGNED(__reduce_add_sync, CW_RADD)
EMU_REDUCE_SIGNED(__reduce_min_sync, CW_RMIN)
EMU_REDUCE_SIGNED(__reduce_max_sync, CW_RMAX)
EMU_REDUCE(__reduce_and_sync, CW_RAND)
EMU_REDUCE(__reduce_or_sync, CW_ROR)
EMU_REDUCE(__reduce_xor_sync, CW_RXOR)
