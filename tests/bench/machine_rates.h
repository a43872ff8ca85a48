/* What the machine can do with the threads of a backend: the bandwidth of its memory and the rate of its products. */
#ifndef BENCH_MACHINE_RATES_H
#define BENCH_MACHINE_RATES_H

#include "kernels/backend.h"

struct machine_rates;

/* The medians so far, and the best: far above the median, they tell that the machine was not this program's alone. */
struct machine_speed {
    double copy, read; /* bytes a second; a copy's count as read and as written */
    double products;   /* additions and multiplications a second */
    const char *products_by;
    double best_copy, best_read, best_products;
};

/* Copies between two vectors of ELEMENTS floats, taken here, which should be several times as large as the caches. B's own
 * table must be in it: a clock around it would be measured too. */
cairn_err machine_rates_open(struct backend *b, int64_t elements, struct machine_rates **out);
void machine_rates_close(struct machine_rates *rates);

/* Measures each once more. */
cairn_err machine_rates_measure(struct machine_rates *rates);
struct machine_speed machine_rates_speed(struct machine_rates *rates);

/* A vector of the copies, for the caller to use between measurements. */
float *machine_rates_vector(struct machine_rates *rates);

/* Sorts VALUES. */
double median(double *values, int count);

#endif
