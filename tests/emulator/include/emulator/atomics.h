// atomics.h -- atomic operations, and loads and stores with a cache operator.
//
// One host thread runs all threads of a grid and changes between them only inside the runtime, so
// that a plain read-modify-write is atomic. The call that announces an access is inlined into the
// kernel, where its return address names a line; the access itself is not instrumented again.
#pragma once
#include "interface.h"

#define EMU_UNSEEN __attribute__((no_sanitize("thread", "undefined")))

#define EMU_ATOMIC(NAME, T, NEW)                                                  \
    EMU_UNSEEN inline T emu_##NAME(T *address, T value)                           \
    {                                                                             \
        T old = *(volatile T *)address;                                           \
        *(volatile T *)address = (T)(NEW);                                        \
        return old;                                                               \
    }                                                                             \
    __forceinline__ T NAME(T *address, T value)                                   \
    {                                                                             \
        emu_atomic(address, sizeof(T));                                           \
        return emu_##NAME(address, value);                                        \
    }                                                                             \
    __forceinline__ T NAME##_block(T *address, T value) { return NAME(address, value); }

#define EMU_ATOMIC_32_64(NAME, NEW)                                               \
    EMU_ATOMIC(NAME, int, NEW)                                                    \
    EMU_ATOMIC(NAME, unsigned, NEW)                                               \
    EMU_ATOMIC(NAME, unsigned long long, NEW)

EMU_ATOMIC(atomicAdd, int, (unsigned)old + (unsigned)value)  // wraps around, as on the device
EMU_ATOMIC(atomicAdd, unsigned, old + value)
EMU_ATOMIC(atomicAdd, unsigned long long, old + value)
EMU_ATOMIC(atomicAdd, float, old + value)
EMU_ATOMIC(atomicAdd, double, old + value)
EMU_ATOMIC(atomicSub, int, (unsigned)old - (unsigned)value)
EMU_ATOMIC(atomicSub, unsigned, old - value)
EMU_ATOMIC_32_64(atomicMin, value < old ? value : old)
EMU_ATOMIC(atomicMin, long long, value < old ? value : old)
EMU_ATOMIC_32_64(atomicMax, old < value ? value : old)
EMU_ATOMIC(atomicMax, long long, old < value ? value : old)
EMU_ATOMIC_32_64(atomicAnd, old & value)
EMU_ATOMIC(atomicAnd, long long, old & value)
EMU_ATOMIC_32_64(atomicOr, old | value)
EMU_ATOMIC(atomicOr, long long, old | value)
EMU_ATOMIC_32_64(atomicXor, old ^ value)
EMU_ATOMIC(atomicXor, long long, old ^ value)
EMU_ATOMIC_32_64(atomicExch, value)
EMU_ATOMIC(atomicExch, float, value)
EMU_ATOMIC(atomicInc, unsigned, old >= value ? 0u : old + 1)
EMU_ATOMIC(atomicDec, unsigned, old == 0 || old > value ? value : old - 1)

#define EMU_COMPARE_AND_SWAP(T)                                                   \
    EMU_UNSEEN inline T emu_atomicCAS(T *address, T expected, T value)            \
    {                                                                             \
        T old = *(volatile T *)address;                                           \
        if (old == expected) *(volatile T *)address = value;                      \
        return old;                                                               \
    }                                                                             \
    __forceinline__ T atomicCAS(T *address, T expected, T value)                  \
    {                                                                             \
        emu_atomic(address, sizeof(T));                                           \
        return emu_atomicCAS(address, expected, value);                           \
    }                                                                             \
    __forceinline__ T atomicCAS_block(T *address, T expected, T value)            \
    {                                                                             \
        return atomicCAS(address, expected, value);                               \
    }
EMU_COMPARE_AND_SWAP(int)
EMU_COMPARE_AND_SWAP(unsigned)
EMU_COMPARE_AND_SWAP(unsigned long long)
EMU_COMPARE_AND_SWAP(unsigned short)

// .cg and .cv reach the L2 cache, where all threads meet: such accesses may be concurrent.
template <class T> EMU_UNSEEN inline T emu_load(const T *address) { return *address; }
template <class T> EMU_UNSEEN inline void emu_store(T *address, T value) { *address = value; }
template <class T> __forceinline__ T __ldcg(const T *address)
{
    emu_plain(address, sizeof(T), 0, 1);
    return emu_load(address);
}
template <class T> __forceinline__ T __ldcv(const T *address) { return __ldcg(address); }
template <class T> __forceinline__ void __stcg(T *address, T value)
{
    emu_plain(address, sizeof(T), 1, 1);
    emu_store(address, value);
}
template <class T> __forceinline__ void __stwt(T *address, T value) { __stcg(address, value); }

template <class T> __forceinline__ T __ldg(const T *address) { return *address; }
template <class T> __forceinline__ T __ldca(const T *address) { return *address; }
template <class T> __forceinline__ T __ldcs(const T *address) { return *address; }
template <class T> __forceinline__ T __ldlu(const T *address) { return *address; }
template <class T> __forceinline__ void __stcs(T *address, T value) { *address = value; }
template <class T> __forceinline__ void __stwb(T *address, T value) { *address = value; }
