// vectors.h -- CUDA's small vector types, aligned as on the device.
#pragma once
#include "interface.h"

#define EMU_VECTORS(T, NAME, ALIGN2, ALIGN4)                                      \
    struct NAME##1 { T x; };                                                      \
    struct alignas(ALIGN2) NAME##2 { T x, y; };                                   \
    struct alignas(ALIGN4) NAME##4 { T x, y, z, w; };                             \
    inline NAME##1 make_##NAME##1(T x) { return {x}; }                            \
    inline NAME##2 make_##NAME##2(T x, T y) { return {x, y}; }                    \
    inline NAME##4 make_##NAME##4(T x, T y, T z, T w) { return {x, y, z, w}; }

#define EMU_VECTOR3(T, NAME)                                                      \
    struct NAME##3 { T x, y, z; };                                                \
    inline NAME##3 make_##NAME##3(T x, T y, T z) { return {x, y, z}; }

EMU_VECTORS(signed char, char, 2, 4)
EMU_VECTORS(unsigned char, uchar, 2, 4)
EMU_VECTORS(short, short, 4, 8)
EMU_VECTORS(unsigned short, ushort, 4, 8)
EMU_VECTORS(int, int, 8, 16)
EMU_VECTORS(unsigned, uint, 8, 16)
EMU_VECTORS(long long, longlong, 16, 16)
EMU_VECTORS(unsigned long long, ulonglong, 16, 16)
EMU_VECTORS(float, float, 8, 16)
EMU_VECTORS(double, double, 16, 16)

EMU_VECTOR3(signed char, char)
EMU_VECTOR3(unsigned char, uchar)
EMU_VECTOR3(short, short)
EMU_VECTOR3(unsigned short, ushort)
EMU_VECTOR3(int, int)
EMU_VECTOR3(long long, longlong)
EMU_VECTOR3(unsigned long long, ulonglong)
EMU_VECTOR3(float, float)
EMU_VECTOR3(double, double)
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
