/* Arrays of a backend filled from doubles and read back, for tests of kernels. */
#ifndef UNIT_KERNELS_SUPPORT_H
#define UNIT_KERNELS_SUPPORT_H

#include "kernels/backend.h"

/* Opens it or fails the test. */
struct backend *open_backend(const char *name, enum dtype act, int threads, const char *instruction_set);

/* The GPU's, or in its place the processor's (tests/cuda_on_cpu). Skips the test, with the reason, where there is neither. */
struct backend *open_cuda(enum dtype act);

/* N values about SCALE large, the same for the same SEED, that bfloat16 holds exactly. Freed by free. */
double *random_values(int64_t n, uint64_t seed, double scale);

size_t array_bytes(enum dtype, int64_t n);
/* An array of the backend, from VALUES; of NaN, or integers of -7, where VALUES is NULL. Freed by free_array. */
void *make_array(struct backend *, enum dtype, const double *values, int64_t n);
void free_array(struct backend *, enum dtype, void *, int64_t n);
/* The backend's, a copy of VALUES; freed by free_array. */
int32_t *make_integers(struct backend *, const int32_t *values, int64_t n);
/* Of the processor's memory. */
double array_value(enum dtype, const void *, int64_t i);
void set_array_value(enum dtype, void *, int64_t i, double);
/* The values of an array of the backend, freed by free. */
double *array_values(struct backend *, enum dtype, const void *, int64_t n);

/* |a - b| / |b| in the Frobenius norm; infinite where either has a NaN. */
double relative_error(const double *a, const double *b, int64_t n);

#endif
