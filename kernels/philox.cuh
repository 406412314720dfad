// philox.cuh -- Philox4x32-10, the counter-based generator behind every shuffle.
//
// Result   four random 32-bit words, a function of a counter of four words and a key of two.
// Method   Salmon, Moraes, Dror & Shaw (2011), Parallel random numbers: as easy as 1, 2, 3, SC'11.
// Twin     gpustats/philox.py::philox_block

#pragma once

__device__ __forceinline__ uint4 philox(uint4 counter, uint2 key)
{
    for (int round = 0; round < 10; ++round) {
        const unsigned high_0 = __umulhi(0xD2511F53u, counter.x);
        const unsigned high_1 = __umulhi(0xCD9E8D57u, counter.z);
        const unsigned low_0 = 0xD2511F53u * counter.x;
        const unsigned low_1 = 0xCD9E8D57u * counter.z;
        counter = make_uint4(high_1 ^ counter.y ^ key.x, low_1, high_0 ^ counter.w ^ key.y, low_0);
        key.x += 0x9E3779B9u;
        key.y += 0xBB67AE85u;
    }
    return counter;
}
