/* Every kernel as one function of a backend and a shape that makes its inputs, runs it on outputs full of NaN, and tells
 * the results: so that backends, types, thread counts and instruction sets are compared by one loop. */
#ifndef UNIT_KERNELS_OPS_H
#define UNIT_KERNELS_OPS_H

#include "kernels/backend.h"

enum { RESULTS_MAX = 6 };

struct results {
    double *values[RESULTS_MAX];
    int64_t sizes[RESULTS_MAX];
    int count;
};

struct shape {
    int64_t rows, width;
};

struct op {
    const char *name;
    void (*run)(struct backend *, struct shape, struct results *);
    bool product; /* its bits may depend on the number of threads */
    struct shape most; /* larger shapes take too long for the reference */
};

extern const struct op ops[];
extern const int op_count;

void results_free(struct results *);

#endif
