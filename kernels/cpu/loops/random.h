/* Philox4x32-10 (base/philox.h) for eight counters at once. */
#ifndef LOOPS_RANDOM_H
#define LOOPS_RANDOM_H

#include "kernels/cpu/loops/lanes.h"
#include "kernels/dropout.h"

typedef uint64_t wide_lanes __attribute__((vector_size(64)));

enum { RANDOM_WORDS = 32 };

/* The 32 words of counters (HIGH, LOW), (HIGH, LOW + 1), ... */
INLINE void random_words(uint32_t words[RANDOM_WORDS], struct philox_key key, uint64_t high, uint64_t low)
{
    const uint64_t mask = 0xffffffffu;
    wide_lanes counter = low + (wide_lanes){0, 1, 2, 3, 4, 5, 6, 7};
    wide_lanes c0 = counter & mask, c1 = counter >> 32;
    wide_lanes c2 = (high & mask) + (wide_lanes){0}, c3 = (high >> 32) + (wide_lanes){0};
    uint32_t k0 = key.k[0], k1 = key.k[1];
    for (int round = 0; round < 10; round++) {
        wide_lanes p0 = c0 * 0xD2511F53u, p1 = c2 * 0xCD9E8D57u;
        c0 = (p1 >> 32) ^ c1 ^ (uint64_t)k0;
        c1 = p1 & mask;
        c2 = (p0 >> 32) ^ c3 ^ (uint64_t)k1;
        c3 = p0 & mask;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    wide_lanes first = c0 | c1 << 32, second = c2 | c3 << 32;
    wide_lanes low_half = __builtin_shufflevector(first, second, 0, 8, 1, 9, 2, 10, 3, 11);
    wide_lanes high_half = __builtin_shufflevector(first, second, 4, 12, 5, 13, 6, 14, 7, 15);
    memcpy(words, &low_half, sizeof low_half);
    memcpy(words + LANES, &high_half, sizeof high_half);
}

/* SCALE where the word is at least THRESHOLD, else 0. */
INLINE lanes keep_factors(const uint32_t *words, uint32_t threshold, float scale)
{
    word_lanes w;
    memcpy(&w, words, sizeof w);
    return (lanes)((int_lanes)(w >= threshold) & (int_lanes)lanes_of(scale));
}

#endif
