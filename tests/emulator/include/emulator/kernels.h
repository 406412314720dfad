// kernels.h -- what a compiled library tells of its kernels, and how the runtime calls them.
#pragma once
#include <stdio.h>

#include <type_traits>
#include <utility>

#include "atomics.h"

// The code of a type: ? bool, f floating, i signed, u unsigned, s struct, then its bytes; before it
// P for a pointer and K for a constant one.
template <class T> struct emu_code {
    using Plain = std::remove_cv_t<T>;
    using Pointee = std::remove_pointer_t<Plain>;
    static constexpr char letter()
    {
        if (std::is_same<Plain, bool>::value) return '?';
        if (std::is_floating_point<Plain>::value) return 'f';
        if (std::is_integral<Plain>::value) return std::is_signed<Plain>::value ? 'i' : 'u';
        return 's';
    }
    static char *put(char *end)
    {
        if constexpr (std::is_pointer<Plain>::value) {
            end += sprintf(end, std::is_const<Pointee>::value ? "PK" : "P");
            return emu_code<Pointee>::put(end);
        } else {
            return end + sprintf(end, "%c%zu", letter(), sizeof(Plain));
        }
    }
};

template <class... A> const char *emu_signature(void (*)(A...))
{
    static char codes[1024];
    char *end = codes;
    ((end = emu_code<A>::put(end), *end++ = ' '), ...);
    *end = 0;
    return codes;
}

// Arguments come as on the device: an array of pointers to the values.
template <size_t... I, class... A>
EMU_UNSEEN void emu_unpack(void (*kernel)(A...), void **arguments, std::index_sequence<I...>)
{
    kernel(*(std::remove_reference_t<A> *)arguments[I]...);
}
template <class... A> EMU_UNSEEN void emu_call(void (*kernel)(A...), void **arguments)
{
    emu_unpack(kernel, arguments, std::index_sequence_for<A...>{});
}

#define EMU_EXPORT(NAME, MAX_THREADS)                                             \
    extern "C" const char *emu_sig_##NAME() { return emu_signature(NAME); }       \
    extern "C" const int emu_bound_##NAME = (MAX_THREADS);                        \
    extern "C" EMU_UNSEEN void emu_thunk_##NAME(void **a) { emu_call(NAME, a); }
