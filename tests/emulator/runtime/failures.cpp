// failures.cpp -- how a launch ends early, and what is said about it.
#include <stdio.h>

#include "runtime.h"

namespace emu {

std::string place_of(const Thread &thread)
{
    const uint3 &b = thread.block->position, &t = thread.position;
    char text[128];
    snprintf(text, sizeof text, "block (%u,%u,%u) thread (%u,%u,%u)", b.x, b.y, b.z, t.x, t.y, t.z);
    return text;
}

// Python puts file and line in its place.
std::string site_text(unsigned site)
{
    char text[32];
    snprintf(text, sizeof text, "[site %u]", site);
    return text;
}

void record_failure(const std::string &message)
{
    if (launch.failed) return;
    launch.failed = true;
    launch.message = message;
}

// The thread that failed is never run again.
void fail(const std::string &message)
{
    record_failure(message);
    for (;;) leave_fiber();
}

// Whatever a thread can do for ever without computing goes through here.
void step()
{
    check_watchdog();
    if (++launch.counters.steps > launch.options.budget)
        fail("did not finish within the budget of " + std::to_string(launch.options.budget) +
             " memory accesses, atomics and collectives: hangs in " + place_of(*launch.current));
}

}  // namespace emu

extern "C" void emu_fail(const char *message)
{
    using namespace emu;
    unsigned site = site_of(__builtin_return_address(0));
    fail(message + (" in " + place_of(*launch.current)) + " " + site_text(site));
}
