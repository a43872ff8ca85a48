/* The exact sum of any number of doubles, rounded once: no order of additions, and no way of sharing them among ranks, changes a
 * bit of it. The sum is held as one long integer in units of 2^-1074, the smallest subnormal, cut into limbs of 32 bits that are kept
 * in 64, so that many additions and carries fit before any limb must pass its carry on (R. Neal, "Fast exact summation using
 * small and large superaccumulators", arXiv 1505.05571, 2015: its small one). */
#ifndef BASE_EXACT_SUM_H
#define BASE_EXACT_SUM_H

#include <stdint.h>

/* Finite doubles span 2098 bits, of 2^63 of them the sum has 2161: 68 limbs of 32 bits. Then the numbers of +inf, -inf and NaN. */
enum { EXACT_SUM_LIMBS = 68, EXACT_SUM_WORDS = EXACT_SUM_LIMBS + 3 };

/* Zeroed, it is the empty sum. */
struct exact_sum {
    int64_t words[EXACT_SUM_WORDS];
    int64_t pending; /* additions since the carries were passed on */
};

void exact_sum_add(struct exact_sum *sum, const double *values, int64_t n);

/* Passes all carries on. The words of up to 2^31 - 1 normalized sums may be added as integers, one by one (MPI_Allreduce
 * with MPI_SUM of EXACT_SUM_WORDS MPI_INT64_T, over any ranks in any order): they are the sum of all, to be normalized before
 * more is added. */
void exact_sum_normalize(struct exact_sum *sum);

/* The double nearest to the sum, ties to even; +0 for zero; an infinity where it is too large. Infinities among the values
 * give the infinity, those of both signs, and NaN, give NaN. */
double exact_sum_round(const struct exact_sum *sum);

#endif
