// fibers.cpp -- every GPU thread is a fiber: a stack of its own on the one host thread.
#include <string.h>
#include <sys/mman.h>

#include "runtime.h"

// Save the registers that a callee must keep on the stack that is left, take them from the other.
extern "C" void emu_switch(void **left_stack_pointer, void *stack_pointer);

#if defined(__x86_64__)
asm(R"(
    .text
    .globl emu_switch
    .hidden emu_switch
    .type emu_switch, @function
emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emu_switch, .-emu_switch
)");
// What emu_switch finds on a new stack: six registers, where to return to, and nothing above.
static void *new_stack(char *top, void (*entry)())
{
    void **slots = (void **)top - 8;
    memset(slots, 0, 8 * sizeof *slots);
    slots[6] = (void *)entry;
    return slots;
}
#elif defined(__aarch64__)
asm(R"(
    .text
    .globl emu_switch
    .hidden emu_switch
    .type emu_switch, %function
emu_switch:
    sub sp, sp, #160
    stp x19, x20, [sp]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size emu_switch, .-emu_switch
)");
// What emu_switch finds on a new stack: twenty registers, of which x30 says where to return to.
static void *new_stack(char *top, void (*entry)())
{
    void **slots = (void **)top - 20;
    memset(slots, 0, 20 * sizeof *slots);
    slots[11] = (void *)entry;
    return slots;
}
#else
#error "the emulator knows x86-64 and aarch64 only"
#endif

namespace emu {

static const size_t STACK_BYTES = 64 << 10, PAGE = 4096;
static const int MAX_STACKS = 16 << 10;
static char *stacks;
static std::vector<int> free_stacks;
static int stacks_used;

// Address space only: a page takes memory once a thread has touched it.
void prepare_stacks()
{
    if (stacks) return;
    stacks = (char *)mmap(nullptr, MAX_STACKS * STACK_BYTES, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

bool on_stack(const char *address)
{
    return address >= stacks && address < stacks + MAX_STACKS * STACK_BYTES;
}

static void run_kernel()
{
    launch.kernel(launch.arguments);
    launch.current->state = State::DONE;
    leave_fiber();
}

// The lowest page of a stack is left unreadable, so that running over its end is noticed.
static int take_stack()
{
    if (!free_stacks.empty()) {
        int stack = free_stacks.back();
        free_stacks.pop_back();
        return stack;
    }
    if (stacks_used == MAX_STACKS) return -1;
    mprotect(stacks + stacks_used * STACK_BYTES, PAGE, PROT_NONE);
    return stacks_used++;
}

// Stacks begin at different offsets, or all of them would compete for the same lines of the cache.
bool start_fiber(Thread &thread)
{
    thread.stack = take_stack();
    if (thread.stack < 0) return false;
    char *top = stacks + (thread.stack + 1) * STACK_BYTES - thread.stack % 64 * 448;
    thread.stack_pointer = new_stack(top, run_kernel);
    return true;
}

void enter_fiber(Thread &thread)
{
    launch.current = &thread;
    emu_cur.tid = thread.position;
    emu_cur.bid = thread.block->position;
    emu_switch(&launch.scheduler, thread.stack_pointer);
}

void leave_fiber()
{
    ++launch.counters.switches;
    emu_switch(&launch.current->stack_pointer, launch.scheduler);
}

void free_stack(Thread &thread) { free_stacks.push_back(thread.stack); }

void free_all_stacks()
{
    free_stacks.clear();
    for (int i = stacks_used; i-- > 0;) free_stacks.push_back(i);
}

}  // namespace emu

// Every guard page splits the address space, and a process may have only so many pieces of it.
extern "C" void emu_release_stacks()
{
    if (emu::stacks) munmap(emu::stacks, emu::MAX_STACKS * emu::STACK_BYTES);
    emu::stacks = nullptr;
    emu::stacks_used = 0;
    emu::free_stacks.clear();
}
