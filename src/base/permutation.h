/* A keyed pseudo-random permutation of 0..n-1, computed element by element: no table, no state. */
#ifndef BASE_PERMUTATION_H
#define BASE_PERMUTATION_H

#include <stdint.h>

/* The image of INDEX (< N) under the permutation of 0..N-1 that SEED and EPOCH choose. N >= 1.
 * A Feistel network over the next even number of bits, walked until it lands inside (Black and Rogaway, "Ciphers with
 * Arbitrary Finite Domains", CT-RSA 2002): under 4 rounds of walking on average. */
uint64_t permutation_map(uint64_t seed, uint64_t epoch, uint64_t n, uint64_t index);

#endif
