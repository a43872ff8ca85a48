/* What all backends must agree on about attention where sequences are split (backend.h defines it). */
#ifndef KERNELS_ATTENTION_SPAN_H
#define KERNELS_ATTENTION_SPAN_H

#include "base/device_code.h"
#include "kernels/backend.h"

DEVICE_CODE static inline int64_t span_columns(const struct attention_span *s)
{
    int64_t columns = 0;
    for (int i = 0; i < s->segments; i++)
        columns += s->segment[i].length;
    return columns;
}

/* COLUMN's place in the whole sequence. */
DEVICE_CODE static inline int64_t span_position(const struct attention_span *s, int64_t column)
{
    int i = 0;
    for (; i + 1 < s->segments && column >= s->segment[i].length; i++)
        column -= s->segment[i].length;
    return s->segment[i].position + column;
}

/* How many keys of segment I a query at POSITION sees: those up to its own position. */
DEVICE_CODE static inline int64_t segment_seen(const struct attention_span *keys, int i, int64_t position)
{
    int64_t seen = position + 1 - keys->segment[i].position;
    return seen < 0 ? 0 : seen < keys->segment[i].length ? seen : keys->segment[i].length;
}

/* How many columns of KEYS it sees: the first ones, as positions ascend. */
DEVICE_CODE static inline int64_t span_seen(const struct attention_span *keys, int64_t position)
{
    int64_t seen = 0;
    for (int i = 0; i < keys->segments; i++)
        seen += segment_seen(keys, i, position);
    return seen;
}

#endif
