// crashes.cpp -- a kernel that segfaults or computes for ever ends its launch, not the process.
#include <csignal>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "runtime.h"

namespace emu {

static const int WATCHDOG = SIGVTALRM;
static const int SIGNALS[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, WATCHDOG};
static const int N_SIGNALS = sizeof SIGNALS / sizeof *SIGNALS;

static struct sigaction previous[N_SIGNALS];
static stack_t previous_stack;
static char handler_stack[64 << 10];
static timer_t timer;
sigjmp_buf crash_exit;
static volatile sig_atomic_t time_is_up;

static std::string describe(int signal)
{
    char text[80];
    snprintf(text, sizeof text, "did not finish within %g seconds of processor time: hangs",
             launch.options.seconds);
    if (signal == WATCHDOG) return text;
    return std::string("crashed (") + strsignal(signal) + ")";
}

// The first tick of the watchdog asks the runtime to stop; only code that never calls the runtime
// is still there at the second, and can be left where it is.
static void handle(int signal)
{
    if (signal == WATCHDOG && !time_is_up) {
        time_is_up = 1;
        return;
    }
    record_failure(describe(signal) + " in " +
                   (launch.current ? place_of(*launch.current) : "the scheduler"));
    siglongjmp(crash_exit, 1);
}

void check_watchdog()
{
    if (time_is_up) fail(describe(WATCHDOG) + " in " + place_of(*launch.current));
}

// Processor time of this thread, so that a busy machine does not look like a hang.
static void start_watchdog()
{
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = WATCHDOG;
    event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer);
    double seconds = launch.options.seconds;
    itimerspec when{};
    when.it_value.tv_sec = (time_t)seconds;
    when.it_value.tv_nsec = (long)((seconds - (double)when.it_value.tv_sec) * 1e9) + 1;
    when.it_interval.tv_nsec = 50'000'000;
    timer_settime(timer, 0, &when, nullptr);
}

// A signal is handled on a stack of its own, for the thread's may be what has run out.
static void install_handlers()
{
    stack_t stack{};
    stack.ss_sp = handler_stack;
    stack.ss_size = sizeof handler_stack;
    sigaltstack(&stack, &previous_stack);
    struct sigaction action{};
    action.sa_handler = handle;
    action.sa_flags = SA_ONSTACK | SA_RESTART;
    for (int i = 0; i < N_SIGNALS; ++i) sigaction(SIGNALS[i], &action, &previous[i]);
}

static uint64_t float_control()
{
#if defined(__x86_64__)
    return _mm_getcsr();
#else
    uint64_t control;
    asm volatile("mrs %0, fpcr" : "=r"(control));
    return control;
#endif
}
static void set_float_control(uint64_t control)
{
#if defined(__x86_64__)
    _mm_setcsr((unsigned)control);
#else
    asm volatile("msr fpcr, %0" : : "r"(control));
#endif
}

// Floats are flushed to zero below their normal range, as with -ftz=true. The host's switch counts
// for doubles too: below 2.2e-308 they differ from the device's.
#if defined(__x86_64__)
static const uint64_t FLUSH_DENORMALS = 0x8040;  // results; operands
#else
static const uint64_t FLUSH_DENORMALS = 1 << 24;
#endif
static uint64_t previous_control;

void catch_crashes(bool on)
{
    if (on) {
        time_is_up = 0;
        launch.current = nullptr;
        install_handlers();
        start_watchdog();
        previous_control = float_control();
        if (launch.options.flush_denormals) set_float_control(previous_control | FLUSH_DENORMALS);
        return;
    }
    timer_delete(timer);
    for (int i = 0; i < N_SIGNALS; ++i) sigaction(SIGNALS[i], &previous[i], nullptr);
    sigaltstack(&previous_stack, nullptr);
    set_float_control(previous_control);
}

}  // namespace emu
