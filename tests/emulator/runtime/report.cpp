// report.cpp -- the entry points for Python: launch a kernel, then ask what it did.
#include <stdio.h>

#include "runtime.h"

namespace emu {

typedef std::vector<std::pair<const char *, uint64_t>> Fields;

static std::string json_numbers(const Fields &fields)
{
    std::string text;
    for (auto &field : fields) {
        if (!text.empty()) text += ", ";
        text += '"' + std::string(field.first) + "\": " + std::to_string(field.second);
    }
    return text;
}

static std::string json_string(const char *name, const std::string &value)
{
    return '"' + std::string(name) + "\": \"" + value + "\", ";
}

template <class T, class F> static std::string json_list(const std::vector<T> &items, F write)
{
    std::string text;
    for (const T &item : items) text += (text.empty() ? "{" : ", {") + write(item) + "}";
    return "[" + text + "]";
}

static std::string json_race(const Race &race)
{
    return json_string("text", race.text) + json_numbers({{"first_site", race.first_site},
                                                          {"second_site", race.second_site},
                                                          {"count", race.count}});
}

static std::string json_site(const Site &s)
{
    return json_numbers({{"address", s.address},
                         {"write", s.write},
                         {"bytes", s.bytes},
                         {"shared", s.shared},
                         {"requests", s.requests},
                         {"lanes", s.lanes},
                         {"sectors", s.sectors},
                         {"lines", s.lines},
                         {"ideal_sectors", s.ideal_sectors}});
}

static uint64_t total(const std::vector<uint8_t> &flags)
{
    return (uint64_t)std::count(flags.begin(), flags.end(), 1);
}

static std::string json_array(const Array &a)
{
    return json_string("name", a.name) +
           json_numbers({{"size_bytes", (uint64_t)(a.end - a.begin)},
                         {"bytes_read", a.bytes[0]},
                         {"bytes_written", a.bytes[1]},
                         {"sectors_requested_read", a.sectors[0]},
                         {"sectors_requested_written", a.sectors[1]},
                         {"sectors_read", total(a.was_read)},
                         {"sectors_written", total(a.was_written)},
                         {"atomics", a.atomics}});
}

static std::string json_collectives()
{
    Fields fields;
    for (int i = 0; i < CW_COUNT; ++i)
        if (launch.counters.collectives[i])
            fields.push_back({collective_name(i), launch.counters.collectives[i]});
    return "{" + json_numbers(fields) + "}";
}

static std::string json_report()
{
    const Counters &c = launch.counters;
    return "{" +
           json_numbers({{"accesses", c.accesses},
                         {"switches", c.switches},
                         {"barriers", c.barriers},
                         {"atomics", c.atomics}}) +
           ", \"collectives\": " + json_collectives() +
           ", \"races\": " + json_list(races, json_race) +
           ", \"sites\": " + json_list(sites, json_site) +
           ", \"arrays\": " + json_list(arrays, json_array) + "}";
}

}  // namespace emu

// Returns 0, or 1 with the reason in `error`.
extern "C" int emu_launch(emu::Kernel kernel, const unsigned *grid, const unsigned *block,
                          void **arguments, const emu::Options *options, char *error,
                          size_t error_bytes)
{
    using namespace emu;
    launch = Launch{};
    launch.options = *options;
    launch.kernel = kernel;
    launch.arguments = arguments;
    races.clear();
    forget_sites();
    prepare_stacks();
    locate_library();
    run_launch(grid, block);
    snprintf(error, error_bytes, "%s", launch.message.c_str());
    return launch.failed;
}

extern "C" const char *emu_report()
{
    static std::string text;
    text = emu::json_report();
    return text.c_str();
}
