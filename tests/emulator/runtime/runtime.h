// runtime.h -- threads, warps and blocks of the launch that runs, and the state all parts share.
#pragma once
#include <setjmp.h>
#include <stdint.h>

#include <algorithm>
#include <string>
#include <vector>

#include "../include/emulator/interface.h"
#include "memory.h"

namespace emu {

typedef void (*Kernel)(void **);

// Mirrors `Options` in launch.py.
struct Options {
    uint64_t seed, budget, dynamic_bytes;
    double preempt, seconds;
    int window, random, check, flush_denormals;
};

enum class State : uint8_t { NEW, READY, AT_BARRIER, AT_COLLECTIVE, DONE };

// What a thread asks for when it arrives at a barrier or a collective.
struct Request {
    int operation = 0, argument = 0, width = 32;
    unsigned mask = 0;
    uint64_t value = 0;
};

struct Block;

struct Thread {
    void *stack_pointer;
    int stack;
    State state;
    uint32_t index;  // in its block
    uint3 position;
    Block *block;
    Request request;
    uint64_t result;

    uint32_t warp() const { return index / 32; }
    uint32_t lane() const { return index % 32; }
};

struct Warp {
    uint32_t arrived = 0, exited = 0;  // sets of lanes; lanes that do not exist count as exited
    Clock clock;
    Requests requests;
};

struct Block {
    uint3 position;
    uint32_t index;
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    std::vector<uint32_t> ready;  // threads that can run; the last runs next
    uint32_t finished, at_barrier;  // threads that left the kernel, that wait
    int barrier_operation;          // what for
    uint32_t barriers;              // passed
    std::vector<char> shared;  // its shared memory while another block runs
    std::vector<Cell> cells;   // accesses to its shared memory
};

struct Counters {
    uint64_t switches, accesses, steps, barriers, atomics, collectives[CW_COUNT];
};

// One launch runs at a time in a library: Python holds a lock.
struct Launch {
    Options options;
    Kernel kernel;
    void **arguments;
    uint32_t n_threads;
    bool running, failed;
    std::string message;
    uint64_t random_state;
    Thread *current;
    void *scheduler;  // its stack pointer while a thread runs
    Counters counters;
};
extern Launch launch;

// schedule.cpp
uint32_t random_below(uint32_t n);
bool chance(double probability);
void make_ready(Thread &thread);
void yield();
int run_launch(const unsigned *grid, const unsigned *block);

// fibers.cpp
void prepare_stacks();
bool start_fiber(Thread &thread);
void enter_fiber(Thread &thread);
void leave_fiber();  // back to the scheduler; returns when the thread runs again
void free_stack(Thread &thread);
void free_all_stacks();

// barriers.cpp, collectives.cpp: what a thread that ends does to those who wait
void release_barrier(Block &block);
void release_collectives(Block &block, uint32_t warp);
const char *collective_name(int operation);

// crashes.cpp
extern sigjmp_buf crash_exit;  // where a crash jumps to
void catch_crashes(bool on);
void check_watchdog();

// failures.cpp
std::string place_of(const Thread &thread);
std::string site_text(unsigned site);
void record_failure(const std::string &message);
[[noreturn]] void fail(const std::string &message);
void step();

}  // namespace emu
