/* What backends whose memory is the processor's have in common: their part of the table (backend.h). */
#ifndef KERNELS_HOST_MEMORY_H
#define KERNELS_HOST_MEMORY_H

#include "kernels/backend.h"

/* To and from alloc's memory is a copy like any other. */
void host_memory_copy(struct backend *, void *to, const void *from, size_t bytes);
void host_memory_zero(struct backend *, void *, size_t bytes);
cairn_err host_memory_finish(struct backend *);
struct backend_mark *host_memory_mark_create(struct backend *);
void host_memory_mark_set(struct backend_mark *);
double host_memory_mark_seconds(const struct backend_mark *from, const struct backend_mark *to);
void host_memory_mark_destroy(struct backend_mark *);

/* clang-format off */
#define HOST_MEMORY_TABLE                                                                                          \
    .host_memory = true, .upload = host_memory_copy, .download = host_memory_copy, .copy = host_memory_copy,       \
    .zero = host_memory_zero, .finish = host_memory_finish, .mark_create = host_memory_mark_create,                \
    .mark_set = host_memory_mark_set, .mark_seconds = host_memory_mark_seconds, .mark_destroy = host_memory_mark_destroy
/* clang-format on */

#endif
