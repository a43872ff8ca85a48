/* The reference backend: the kernels' meaning in plain loops, for float32 and float64. It is what the other backends
 * are tested against, so nothing in it is clever; act and acc are one type. */
#ifndef REFERENCE_REFERENCE_H
#define REFERENCE_REFERENCE_H

#include "kernels/backend.h"

extern const struct backend_table reference_table_f32, reference_table_f64;

void reference_close(struct backend *);
void *reference_alloc(struct backend *, size_t bytes);
void reference_free(struct backend *, void *, size_t bytes);
const char *reference_signature(struct backend *);

#endif
