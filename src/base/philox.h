/* Philox4x32-10, the counter-based generator of Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (SC11).
 *
 * Everything random in Cairn is a function of a position: a key from (seed, stream) and a counter from
 * (step, element). There is no generator state to save. */
#ifndef BASE_PHILOX_H
#define BASE_PHILOX_H

#include <stdint.h>

#include "base/device_code.h"

struct philox_key {
    uint32_t k[2];
};

/* What random numbers are for. Two uses never share a stream. */
enum philox_stream {
    STREAM_WEIGHTS = 1,  /* + a hash of the tensor's name in the counter's high half */
    STREAM_DROPOUT = 2,  /* + the operation's number */
    STREAM_ORDER = 3,    /* the permutation of samples */
    STREAM_GENERATE = 4, /* sampling of text */
    STREAM_FACTORS = 5,  /* the first factors of a gradient's compression; + the bucket's number */
    STREAM_ROUNDING = 6, /* of weights, stochastic; + 32 bits of a hash of the tensor's name */
};

static inline struct philox_key philox_key_make(uint64_t seed, enum philox_stream stream, uint32_t substream)
{
    /* Seeds that differ in one bit, or streams of one seed, must not give related keys: mix them (splitmix64's
     * finaliser, Steele et al., OOPSLA 2014). */
    uint64_t z = seed + 0x9e3779b97f4a7c15u * (((uint64_t)stream << 32 | substream) + 1);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (struct philox_key){{(uint32_t)z, (uint32_t)(z >> 32)}};
}

/* Four random words for counter (HIGH, LOW), each 64 bits. */
DEVICE_CODE static inline void philox4x32(struct philox_key key, uint64_t high, uint64_t low, uint32_t out[4])
{
    uint32_t c0 = (uint32_t)low, c1 = (uint32_t)(low >> 32), c2 = (uint32_t)high, c3 = (uint32_t)(high >> 32);
    uint32_t k0 = key.k[0], k1 = key.k[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* A float in (0, 1): never 0, so that its logarithm exists. 24 bits, exactly representable. */
DEVICE_CODE static inline float philox_uniform(uint32_t word)
{
    return ((float)(word >> 8) + 0.5f) * 0x1p-24f;
}

#endif
