// traffic.cpp -- what the accesses of a warp cost: sectors of global memory, conflicts in shared.
//
// A request is one execution of a site by the lanes of a warp. Lanes run one after the other here,
// so requests are put together afterwards: since all lanes of the warp last met, the k-th execution
// by one lane belongs with the k-th by another. In code between two meetings whose lanes repeat a
// site for different reasons this is a guess; sectors that are distinct are always exact.
#include "runtime.h"

namespace emu {

std::vector<Site> sites;
static std::unordered_map<uint32_t, uint32_t> site_numbers;
static const uintptr_t SECTOR = 32, WORD = 4, SECTORS_IN_LINE = 4, BANKS = 32;

static uint32_t site_number(uint32_t address, int bytes, bool write, bool shared)
{
    auto found = site_numbers.find(address);
    if (found != site_numbers.end()) return found->second;
    Site site{};
    site.address = address;
    site.write = write;
    site.bytes = bytes;
    site.shared = shared;
    sites.push_back(site);
    return site_numbers[address] = (uint32_t)sites.size() - 1;
}

static uint32_t next_occurrence(Requests &requests, uint32_t lane, uint32_t site)
{
    if (requests.occurrences.empty()) requests.occurrences.resize(32);
    auto &counts = requests.occurrences[lane];
    if (counts.size() <= site) counts.resize(sites.size());
    return counts[site]++;
}

static Requested &find_request(Requests &requests, uint32_t lane, uint32_t site, Array *array)
{
    uint64_t key = (uint64_t)site << 32 | next_occurrence(requests, lane, site);
    auto inserted = requests.numbers.emplace(key, requests.n_made);
    if (!inserted.second) return requests.made[inserted.first->second];
    if (requests.made.size() == requests.n_made) requests.made.emplace_back();
    Requested &request = requests.made[requests.n_made++];
    request.site = site;
    request.array = array;
    request.lanes = request.bytes = 0;
    request.units.clear();
    return request;
}

void note_request(char *address, int bytes, bool write, uint32_t site, Array *array)
{
    Thread &me = *launch.current;
    uint32_t number = site_number(site, bytes, write, !array);
    Requests &requests = me.block->warps[me.warp()].requests;
    Requested &request = find_request(requests, me.lane(), number, array);
    const uintptr_t unit = array ? SECTOR : WORD, begin = (uintptr_t)address;
    for (uintptr_t u = begin / unit; u <= (begin + bytes - 1) / unit; ++u)
        request.units.push_back(u);
    ++request.lanes;
    request.bytes += bytes;
}

// Sectors that a launch touches at all: what an ideal cache would fetch from memory once.
void note_sectors(Array &array, char *address, int bytes, bool write, int kind)
{
    const uintptr_t first = (uintptr_t)array.begin / SECTOR, begin = (uintptr_t)address;
    for (uintptr_t s = begin / SECTOR; s <= (begin + bytes - 1) / SECTOR; ++s) {
        if (write) array.was_written[s - first] = 1;
        if (!write || kind == EMU_ATOMIC) array.was_read[s - first] = 1;
    }
    array.bytes[write] += bytes;
    array.atomics += kind == EMU_ATOMIC;
}

static uint64_t count_lines(const std::vector<uint64_t> &sectors)
{
    uint64_t lines = 0, previous = ~0ull;
    for (uint64_t sector : sectors) {
        lines += sector / SECTORS_IN_LINE != previous;
        previous = sector / SECTORS_IN_LINE;
    }
    return lines;
}

// Different words in one bank are read one after the other.
static uint64_t count_passes(const std::vector<uint64_t> &words)
{
    uint64_t in_bank[BANKS] = {}, most = 0;
    for (uint64_t word : words) most = std::max(most, ++in_bank[word % BANKS]);
    return most;
}

static void end_request(Requested &request)
{
    auto &units = request.units;
    std::sort(units.begin(), units.end());
    units.erase(std::unique(units.begin(), units.end()), units.end());
    Site &site = sites[request.site];
    ++site.requests;
    site.lanes += request.lanes;
    if (!request.array) {
        site.sectors += count_passes(units);
        site.ideal_sectors += 1;
        return;
    }
    site.sectors += units.size();
    site.lines += count_lines(units);
    site.ideal_sectors += (request.bytes + SECTOR - 1) / SECTOR;
    request.array->sectors[site.write] += units.size();
}

void end_requests(Warp &warp)
{
    Requests &requests = warp.requests;
    for (uint32_t i = 0; i < requests.n_made; ++i) end_request(requests.made[i]);
    requests.n_made = 0;
    requests.numbers.clear();
    for (auto &counts : requests.occurrences) counts.assign(counts.size(), 0);
}

void forget_sites()
{
    sites.clear();
    site_numbers.clear();
}

}  // namespace emu
