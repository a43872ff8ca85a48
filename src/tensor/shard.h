/* A tensor knows its place in a global array: every persistent tensor (weight, moment, buffer) is a shard. */
#ifndef TENSOR_SHARD_H
#define TENSOR_SHARD_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "tensor/dtype.h"

enum { SHARD_MAX_DIMS = 4, SHARD_NAME_SIZE = 96 };

/* Memory that the processor cannot reach. READ copies from there to the processor's, WRITE the other way; what they copied is there when
 * they return. */
struct shard_memory {
    void *context;
    cairn_err (*read)(void *context, void *to, const void *from, size_t bytes);
    cairn_err (*write)(void *context, void *to, const void *from, size_t bytes);
};

struct shard {
    char name[SHARD_NAME_SIZE];       /* global name, "/"-separated, e.g. "weights/block.3.attention.qkv.weight" */
    enum dtype dtype;
    int dims;                         /* 1..SHARD_MAX_DIMS */
    int64_t shape[SHARD_MAX_DIMS];    /* of the global array */
    int64_t offset[SHARD_MAX_DIMS];   /* of this rank's slab in it */
    int64_t extent[SHARD_MAX_DIMS];   /* of this rank's slab; equal to shape where the array is whole */
    void *data;                       /* the slab, row-major, dense; not owned */
    const struct shard_memory *memory; /* where DATA is; NULL: the processor's */
};

static inline int64_t shard_elements(const struct shard *s)
{
    int64_t n = 1;
    for (int i = 0; i < s->dims; i++)
        n *= s->extent[i];
    return n;
}

static inline int64_t shard_global_elements(const struct shard *s)
{
    int64_t n = 1;
    for (int i = 0; i < s->dims; i++)
        n *= s->shape[i];
    return n;
}

static inline size_t shard_bytes(const struct shard *s)
{
    return (size_t)shard_elements(s) * dtype_size(s->dtype);
}

/* Fails with CAIRN_EINVAL and the shard's name if its slab does not lie inside its array. */
cairn_err shard_check(const struct shard *s);

#endif
