#include "tensor/shard.h"

cairn_err shard_check(const struct shard *s)
{
    if (s->dims < 1 || s->dims > SHARD_MAX_DIMS)
        return FAIL(CAIRN_EINVAL, "array %s has %d dimensions; 1 to %d can be stored", s->name, s->dims, SHARD_MAX_DIMS);
    for (int i = 0; i < s->dims; i++)
        if (s->offset[i] < 0 || s->extent[i] < 0 || s->offset[i] + s->extent[i] > s->shape[i])
            return FAIL(CAIRN_EINVAL, "array %s: slab %lld+%lld lies outside dimension %d of %lld", s->name,
                        (long long)s->offset[i], (long long)s->extent[i], i, (long long)s->shape[i]);
    return CAIRN_OK;
}
