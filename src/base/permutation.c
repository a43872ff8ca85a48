#include "base/permutation.h"

#include "base/philox.h"

/* Each round is ten rounds of Philox: far more mixing than a shuffle needs, and 4 Feistel rounds make it a
 * strong permutation (Luby and Rackoff, 1988); 6 leave a margin. */
enum { FEISTEL_ROUNDS = 6 };

static unsigned half_bits(uint64_t n)
{
    unsigned bits = 1;
    while (bits < 32 && ((uint64_t)1 << (2 * bits)) < n)
        bits++;
    return bits;
}

static uint64_t feistel(struct philox_key key, uint64_t epoch, unsigned half, uint64_t x)
{
    uint64_t mask = ((uint64_t)1 << half) - 1;
    uint64_t left = x >> half, right = x & mask;
    for (uint64_t round = 0; round < FEISTEL_ROUNDS; round++) {
        uint32_t word[4];
        philox4x32(key, epoch, right | round << 32, word);
        uint64_t next = left ^ (word[0] & mask);
        left = right;
        right = next;
    }
    return left << half | right;
}

uint64_t permutation_map(uint64_t seed, uint64_t epoch, uint64_t n, uint64_t index)
{
    struct philox_key key = philox_key_make(seed, STREAM_ORDER, 0);
    unsigned half = half_bits(n);
    uint64_t x = index;
    do {
        x = feistel(key, epoch, half, x);
    } while (x >= n);
    return x;
}
