// sanitizers.cpp -- what g++ calls in code compiled with -fsanitize=thread,undefined.
//
// Their own libraries are not linked: the instrumentation alone tells of every access and of every
// operation that C++ leaves undefined.
#include <stdlib.h>

#include "runtime.h"

using emu::launch;

static void hook(void *address, int bytes, bool write, int kind, void *return_address)
{
    if (launch.running)
        emu::access((char *)address, bytes, write, kind, emu::site_of(return_address));
}

#define HOOK(NAME, BYTES, WRITE, KIND)                                                \
    extern "C" void __tsan_##NAME(void *address)                                      \
    {                                                                                 \
        hook(address, BYTES, WRITE, KIND, __builtin_return_address(0));               \
    }
#define HOOKS(BYTES)                                                                  \
    HOOK(read##BYTES, BYTES, false, EMU_PLAIN)                                        \
    HOOK(write##BYTES, BYTES, true, EMU_PLAIN)                                        \
    HOOK(unaligned_read##BYTES, BYTES, false, EMU_PLAIN)                              \
    HOOK(unaligned_write##BYTES, BYTES, true, EMU_PLAIN)                              \
    HOOK(volatile_read##BYTES, BYTES, false, EMU_RELAXED)                             \
    HOOK(volatile_write##BYTES, BYTES, true, EMU_RELAXED)                             \
    HOOK(unaligned_volatile_read##BYTES, BYTES, false, EMU_RELAXED)                   \
    HOOK(unaligned_volatile_write##BYTES, BYTES, true, EMU_RELAXED)
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

extern "C" void __tsan_read_range(void *address, size_t bytes)
{
    hook(address, (int)bytes, false, EMU_PLAIN, __builtin_return_address(0));
}
extern "C" void __tsan_write_range(void *address, size_t bytes)
{
    hook(address, (int)bytes, true, EMU_PLAIN, __builtin_return_address(0));
}
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void *) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_vptr_update(void *, void *) {}

// Every descriptor of undefined behaviour begins with its place in the source.
struct Place {
    const char *file;
    uint32_t line, column;
};
static void undefined(const char *what, const Place *place)
{
    if (!launch.running) abort();
    std::string line = std::string(place->file) + ":" + std::to_string(place->line);
    emu::fail(std::string(what) + " at " + line + " in " + emu::place_of(*launch.current));
}

#define HANDLER(NAME, TEXT)                                                           \
    extern "C" void __ubsan_handle_##NAME(Place *place, ...) { undefined(TEXT, place); }
#define UNDEFINED(NAME, TEXT) HANDLER(NAME, TEXT) HANDLER(NAME##_abort, TEXT)
UNDEFINED(add_overflow, "signed overflow in +")
UNDEFINED(sub_overflow, "signed overflow in -")
UNDEFINED(mul_overflow, "signed overflow in *")
UNDEFINED(negate_overflow, "signed overflow in negation")
UNDEFINED(divrem_overflow, "integer division by zero or overflow")
UNDEFINED(shift_out_of_bounds, "shift out of range")
UNDEFINED(out_of_bounds, "array index out of range")
UNDEFINED(type_mismatch_v1, "null or misaligned pointer, or one beyond its object")
UNDEFINED(float_cast_overflow, "floating-point number out of the range of an integer")
UNDEFINED(load_invalid_value, "invalid value of a bool or enum")
UNDEFINED(pointer_overflow, "pointer overflow")
UNDEFINED(missing_return, "end of a function without return")
UNDEFINED(builtin_unreachable, "unreachable code reached")
UNDEFINED(vla_bound_not_positive, "array bound that is not positive")
UNDEFINED(nonnull_arg, "null argument")
