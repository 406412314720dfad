// integers.h -- bits, reinterpretation, and conversion between integers and floating point.
#pragma once
#include <math.h>
#include <string.h>

#include <cmath>
#include <limits>
#include <type_traits>

#include "interface.h"

template <class To, class From> inline To emu_bits(From from)
{
    static_assert(sizeof(To) == sizeof(From), "a reinterpretation keeps the size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
inline int __float_as_int(float x) { return emu_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return emu_bits<unsigned>(x); }
inline float __int_as_float(int x) { return emu_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return emu_bits<float>(x); }
inline long long __double_as_longlong(double x) { return emu_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return emu_bits<double>(x); }
inline int __double2hiint(double x) { return (int)(emu_bits<uint64_t>(x) >> 32); }
inline int __double2loint(double x) { return (int)(uint32_t)emu_bits<uint64_t>(x); }
inline double __hiloint2double(int high, int low)
{
    return emu_bits<double>((uint64_t)(unsigned)high << 32 | (unsigned)low);
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
inline unsigned long long __brevll(unsigned long long x)
{
    unsigned long long reversed = 0;
    for (int i = 0; i < 64; ++i) reversed |= (x >> i & 1) << (63 - i);
    return reversed;
}
inline unsigned __brev(unsigned x) { return (unsigned)(__brevll(x) >> 32); }
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector)
{
    uint64_t bytes = (uint64_t)y << 32 | x;
    unsigned result = 0;
    for (int i = 0; i < 4; ++i) {
        unsigned byte = selector >> (4 * i) & 7;
        result |= (unsigned)(bytes >> (8 * byte) & 255) << (8 * i);
    }
    return result;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift)
{
    return (unsigned)(((uint64_t)high << 32 | low) << (shift & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift)
{
    return (unsigned)(((uint64_t)high << 32 | low) >> (shift & 31));
}
inline int __mulhi(int a, int b) { return (int)((int64_t)a * b >> 32); }
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
inline long long __mul64hi(long long a, long long b) { return (long long)((__int128)a * b >> 64); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
inline int __mul24(int a, int b)
{
    return (int)((int64_t)((int)((unsigned)a << 8) >> 8) * ((int)((unsigned)b << 8) >> 8));
}

// min and max take every mix of arithmetic types; of two floating-point numbers, the one that is
// not NaN.
template <class A, class B>
using emu_common = std::enable_if_t<std::is_arithmetic<A>::value && std::is_arithmetic<B>::value,
                                    std::common_type_t<A, B>>;
template <class A, class B> inline emu_common<A, B> min(A a, B b)
{
    using C = emu_common<A, B>;
    if constexpr (std::is_same<C, float>::value) return fminf(a, b);
    else if constexpr (std::is_floating_point<C>::value) return fmin((C)a, (C)b);
    else return (C)b < (C)a ? (C)b : (C)a;
}
template <class A, class B> inline emu_common<A, B> max(A a, B b)
{
    using C = emu_common<A, B>;
    if constexpr (std::is_same<C, float>::value) return fmaxf(a, b);
    else if constexpr (std::is_floating_point<C>::value) return fmax((C)a, (C)b);
    else return (C)a < (C)b ? (C)b : (C)a;
}

// The device saturates where C++ leaves the result open; NaN becomes 0, in 64 bits the top bit.
template <class I, class F> inline I emu_saturated(F whole)
{
    using Limits = std::numeric_limits<I>;
    if (whole != whole) return sizeof(I) == 8 ? (I)(1ull << 63) : 0;
    if (whole <= (F)Limits::min()) return Limits::min();
    if (whole >= (F)Limits::max()) return Limits::max();
    return (I)whole;
}
#define EMU_TO_INTEGER(F, I, NAME)                                                \
    inline I NAME##_rn(F x) { return emu_saturated<I>(std::nearbyint(x)); }       \
    inline I NAME##_rz(F x) { return emu_saturated<I>(std::trunc(x)); }           \
    inline I NAME##_rd(F x) { return emu_saturated<I>(std::floor(x)); }           \
    inline I NAME##_ru(F x) { return emu_saturated<I>(std::ceil(x)); }
EMU_TO_INTEGER(float, int, __float2int)
EMU_TO_INTEGER(float, unsigned, __float2uint)
EMU_TO_INTEGER(float, long long, __float2ll)
EMU_TO_INTEGER(float, unsigned long long, __float2ull)
EMU_TO_INTEGER(double, int, __double2int)
EMU_TO_INTEGER(double, unsigned, __double2uint)
EMU_TO_INTEGER(double, long long, __double2ll)
EMU_TO_INTEGER(double, unsigned long long, __double2ull)

inline float __int2float_rn(int x) { return (float)x; }
inline float __uint2float_rn(unsigned x) { return (float)x; }
inline float __ll2float_rn(long long x) { return (float)x; }
inline float __ull2float_rn(unsigned long long x) { return (float)x; }
inline double __int2double_rn(int x) { return (double)x; }
inline double __uint2double_rn(unsigned x) { return (double)x; }
inline double __ll2double_rn(long long x) { return (double)x; }
inline double __ull2double_rn(unsigned long long x) { return (double)x; }

inline float __double2float_rn(double x) { return (float)x; }
inline float __double2float_rd(double x)
{
    float nearest = (float)x;
    return nearest > x ? nextafterf(nearest, -HUGE_VALF) : nearest;
}
inline float __double2float_ru(double x)
{
    float nearest = (float)x;
    return nearest < x ? nextafterf(nearest, HUGE_VALF) : nearest;
}
inline float __double2float_rz(double x)
{
    return x < 0 ? __double2float_ru(x) : __double2float_rd(x);
}
