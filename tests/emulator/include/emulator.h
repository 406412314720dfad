// emulator.h -- CUDA C++ for a host compiler: included before the unmodified text of a kernel.
#pragma once

#define __EMULATOR__ 1
#define __CUDA_ARCH__ 800
#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
#define warpSize 32

// All shared arrays lie in the thread-local storage of the library; the runtime keeps one copy of
// that storage for every block and exchanges it when another block runs.
#define __shared__ thread_local

#include "emulator/interface.h"
#include "emulator/vectors.h"
#include "emulator/collectives.h"
#include "emulator/atomics.h"
#include "emulator/integers.h"
#include "emulator/mathematics.h"
#include "emulator/kernels.h"

#define threadIdx emu_cur.tid
#define blockIdx emu_cur.bid
#define blockDim emu_cur.bdim
#define gridDim emu_cur.gdim
