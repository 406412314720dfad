// ptx.h -- what the C++ that ptx.py writes is made of: typed views of registers, memory that is
// checked, and every instruction that is not an operator of C++, as the PTX ISA defines it.
//
// A register is an unsigned integer of its width (bool for a predicate); an instruction reads it
// with as<type> and writes it with put<type>. Approximate instructions (ex2, lg2, sin, rsqrt ...)
// are rounded correctly here, so that their results differ from a GPU's by its own error.
#pragma once
#include <algorithm>
#include <cfenv>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "emulator/interface.h"

namespace ptx {

typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;
typedef uint8_t u8, b8;
typedef uint16_t u16, b16;
typedef uint32_t u32, b32;
typedef uint64_t u64, b64;
typedef float f32;
typedef double f64;
typedef bool pred;
typedef unsigned __int128 u128;
typedef __int128 s128;

#define INLINE inline __attribute__((always_inline))

// ---- registers -------------------------------------------------------------------------------

template <int N> struct unsigned_of;
template <> struct unsigned_of<1> { typedef u8 type; };
template <> struct unsigned_of<2> { typedef u16 type; };
template <> struct unsigned_of<4> { typedef u32 type; };
template <> struct unsigned_of<8> { typedef u64 type; };
template <class T> using bits = typename unsigned_of<sizeof(T)>::type;

template <class To, class From> INLINE To same_bits(From from)
{
    static_assert(sizeof(To) == sizeof(From), "same_bits changes no width");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

template <class T, class Register> INLINE T as(Register r)
{
    if constexpr (std::is_same<T, bool>::value) return r != 0;
    else return same_bits<T>((bits<T>)r);
}

template <class T, class Register> INLINE void put(Register &r, T value)
{
    if constexpr (std::is_floating_point<T>::value) r = (Register)same_bits<bits<T>>(value);
    else r = (Register)value;
}

// ---- memory ----------------------------------------------------------------------------------

INLINE void let_others_run() { emu_atomic(nullptr, 0); }

// Tell the runtime of an access. Fast mode knows only those at which threads may take turns.
INLINE void announce(u64 address, int n_bytes, bool is_write, int kind, unsigned site)
{
#ifdef PTX_CHECK
    if (kind == EMU_ATOMIC) let_others_run();
    emu_access((void *)address, n_bytes, is_write, kind, site);
#else
    if (kind == EMU_ATOMIC) emu_atomic((void *)address, n_bytes);
    if (kind == EMU_RELAXED) emu_plain((void *)address, n_bytes, is_write, true);
#endif
}

template <class T> INLINE T load(u64 address)
{
    T value;
    memcpy(&value, (void *)address, sizeof value);
    return value;
}

template <class T> INLINE void store(u64 address, T value)
{
    memcpy((void *)address, &value, sizeof value);
}

template <class T, class Change> INLINE T atomic(u64 address, unsigned site, Change change)
{
    announce(address, sizeof(T), true, EMU_ATOMIC, site);
    const T old = load<T>(address);
    store<T>(address, (T)change(old));
    return old;
}

// ---- floating point --------------------------------------------------------------------------

INLINE f32 flushed(f32 x) { return std::fabs(x) < FLT_MIN ? std::copysign(0.0f, x) : x; }
INLINE f64 flushed(f64 x) { return std::fabs(x) < DBL_MIN ? std::copysign(0.0, x) : x; }

// The NaN of float32 arithmetic is always the same; float64 keeps that of its operands.
INLINE f32 canonical(f32 x) { return x == x ? x : same_bits<f32>(0x7fffffffu); }
INLINE f64 canonical(f64 x) { return x; }

template <class T> INLINE T unit_clamped(T x) { return x > 0 ? (x < 1 ? x : (T)1) : (T)0; }

template <class T> INLINE T unmoved(T x)                // keeps x behind a change of rounding mode
{
    volatile T y = x;
    return y;
}

template <class T, class Compute, class... Operands>
__attribute__((noinline)) T rounded(int mode, Compute compute, Operands... operands)
{
    const int before = fegetround();
    fesetround(mode);
    const T result = unmoved<T>(compute(unmoved(operands)...));
    fesetround(before);
    return result;
}

// rcp.approx.ftz.f64 and rsqrt.approx.ftz.f64 see and give the upper halves of their numbers only.
INLINE f64 upper_half(f64 x) { return same_bits<f64>(same_bits<u64>(x) & 0xffffffff00000000ull); }

template <class T> INLINE T minimum(T a, T b)
{
    if constexpr (std::is_floating_point<T>::value) {
        if (a != a || b != b) return a != a ? b : a;
        if (a == b) return std::signbit(a) ? a : b;
    }
    return b < a ? b : a;
}

template <class T> INLINE T maximum(T a, T b)
{
    if constexpr (std::is_floating_point<T>::value) {
        if (a != a || b != b) return a != a ? b : a;
        if (a == b) return std::signbit(a) ? b : a;
    }
    return a < b ? b : a;
}

template <class T> INLINE T with_nan(T a, T b, T chosen) { return a == a && b == b ? chosen : a + b; }

// ---- conversions -----------------------------------------------------------------------------

template <class To, class From> INLINE To clamped(From x)
{
    const s128 low = std::numeric_limits<To>::min(), high = std::numeric_limits<To>::max();
    return (To)((s128)x < low ? low : (s128)x > high ? high : (s128)x);
}

template <class To, class From> INLINE To to_integer(From x)
{
    const bool wide = sizeof(From) == 8 || sizeof(To) == 8;
    if (x != x) return wide ? (To)((u64)1 << (8 * sizeof(To) - 1)) : (To)0;
    if (x <= (From)std::numeric_limits<To>::min()) return std::numeric_limits<To>::min();
    if (x >= (From)std::numeric_limits<To>::max()) return std::numeric_limits<To>::max();
    return (To)x;
}

// ---- integers --------------------------------------------------------------------------------

template <class T> INLINE T quotient(T a, T b)
{
    if (b == 0) return (T)-1;
    return std::is_signed<T>::value && b == (T)-1 ? (T)(0 - (u64)a) : (T)(a / b);
}

template <class T> INLINE T remainder(T a, T b)
{
    if (b == 0) return a;
    return std::is_signed<T>::value && b == (T)-1 ? (T)0 : (T)(a % b);
}

template <class T> INLINE T high_half(T a, T b)
{
    typedef typename std::conditional<std::is_signed<T>::value, s128, u128>::type Wide;
    return (T)((Wide)a * (Wide)b >> 8 * sizeof(T));
}

template <class T> INLINE T shl(T a, u32 n) { return n < 8 * sizeof(T) ? (T)(a << n) : (T)0; }

template <class T> INLINE T shr(T a, u32 n)
{
    return n < 8 * sizeof(T) ? (T)(a >> n) : a < 0 ? (T)-1 : (T)0;
}

template <bool is_left, bool wraps> INLINE u32 shf(u32 low, u32 high, u32 n)
{
    n = wraps ? n & 31 : n > 32 ? 32 : n;
    const u64 both = (u64)high << 32 | low;
    return is_left ? (u32)((u128)both << n >> 32) : (u32)(both >> n);
}

template <class T> INLINE u32 popc(T a) { return __builtin_popcountll(a); }

template <class T> INLINE u32 clz(T a)
{
    return a ? __builtin_clzll(a) - (64 - 8 * sizeof(T)) : 8 * sizeof(T);
}

template <class T> INLINE T brev(T a)
{
    T reversed = 0;
    for (size_t i = 0; i < 8 * sizeof(T); ++i) reversed |= (T)((a >> i & 1) << (8 * sizeof(T) - 1 - i));
    return reversed;
}

template <class T, bool as_shift> INLINE u32 bfind(T a)
{
    const bits<T> magnitude = a < 0 ? (bits<T>)~a : (bits<T>)a;
    const u32 leading = clz(magnitude);
    return magnitude == 0 ? ~0u : as_shift ? leading : (u32)(8 * sizeof(T)) - 1 - leading;
}

template <class T> INLINE T low_bits(u32 n)
{
    return n < 8 * sizeof(T) ? (T)(((T)1 << n) - 1) : (T)~(T)0;
}

template <class T> INLINE T bfe(T a, u32 position, u32 length)
{
    const u32 width = 8 * sizeof(T);
    position &= 255;
    length &= 255;
    const bits<T> kept = position < width ? low_bits<bits<T>>(std::min(length, width - position)) : 0;
    const u32 top = std::min(position + length, width) - 1;
    const bool is_negative = std::is_signed<T>::value && length && ((bits<T>)a >> top & 1);
    return (T)((shr<bits<T>>((bits<T>)a, position) & kept) | (is_negative ? ~kept : 0));
}

template <class T> INLINE T bfi(T a, T b, u32 position, u32 length)
{
    const T mask = shl<T>(low_bits<T>(length & 255), position & 255);
    return (b & ~mask) | (shl<T>(a, position & 255) & mask);
}

INLINE u32 prmt(u32 a, u32 b, u32 selectors)
{
    const u64 bytes = (u64)b << 32 | a;
    u32 result = 0;
    for (int i = 0; i < 4; ++i) {
        const u32 selector = selectors >> (4 * i);
        const u32 byte = (u32)(bytes >> (8 * (selector & 7))) & 255;
        result |= (selector & 8 ? (byte & 128 ? 255 : 0) : byte) << (8 * i);
    }
    return result;
}

INLINE u32 lop3(u32 a, u32 b, u32 c, u32 table)
{
    u32 result = 0;
    for (int i = 0; i < 8; ++i)
        if (table >> i & 1) result |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    return result;
}

INLINE u32 bmsk(u32 position, u32 length) { return shl<u32>(low_bits<u32>(length), position); }

// ---- threads and warps -----------------------------------------------------------------------

INLINE u32 thread_of_block()
{
    return (emu_cur.tid.z * emu_cur.bdim.y + emu_cur.tid.y) * emu_cur.bdim.x + emu_cur.tid.x;
}

INLINE u32 lane() { return thread_of_block() & 31; }

INLINE u64 collective(int operation, u32 mask, u64 value, int argument = 0)
{
    return emu_warp_op(operation, mask, value, argument, 32, 8);
}

enum Shuffle { UP, DOWN, BFLY, IDX };

// The lane whose value arrives, and whether it lies in the segment; PTX ISA, "shfl.sync".
template <Shuffle shuffle> INLINE u32 shfl(u32 value, u32 b, u32 c, u32 mask, bool &is_inside)
{
    const int self = lane(), segments = c >> 8 & 31, offset = b & 31;
    const int first = self & segments, last = first | ((c & 31) & ~segments);
    int source = first | (offset & ~segments);
    if (shuffle == UP) source = self - offset;
    if (shuffle == DOWN) source = self + offset;
    if (shuffle == BFLY) source = self ^ offset;
    is_inside = shuffle == UP ? source >= last : source <= last;
    return (u32)collective(CW_IDX, mask, value, is_inside ? source : self);
}

INLINE u32 ballot(u32 mask, bool vote) { return (u32)collective(CW_BALLOT, mask, vote); }

}  // namespace ptx
using namespace ptx;
