/* Arrays of a backend filled from doubles and read back, for tests of kernels. */
#ifndef UNIT_KERNELS_SUPPORT_H
#define UNIT_KERNELS_SUPPORT_H

#include "kernels/backend.h"

/* Opens it or fails the test. */
struct backend *open_backend(const char *name, enum dtype act, int threads, const char *instruction_set);

/* N values about SCALE large, the same for the same SEED, that bfloat16 holds exactly. Freed by free. */
double *random_values(int64_t n, uint64_t seed, double scale);

size_t array_bytes(enum dtype, int64_t n);
/* An array of the backend, from VALUES; of NaN where VALUES is NULL. Freed by free_array. */
void *make_array(struct backend *, enum dtype, const double *values, int64_t n);
void free_array(struct backend *, enum dtype, void *, int64_t n);
double array_value(enum dtype, const void *, int64_t i);
void set_array_value(enum dtype, void *, int64_t i, double);
/* Its values, freed by free. */
double *array_values(enum dtype, const void *, int64_t n);

/* |a - b| / |b| in the Frobenius norm; infinite where either has a NaN. */
double relative_error(const double *a, const double *b, int64_t n);

#endif
