#include "graph/staging.h"

#include <stdlib.h>

#include "mesh/device_collective.h"

#define MEMORY(s) ((s)->backend->table)

static bool is_host(const struct staging *s, const struct group *g)
{
    return MEMORY(s)->host_memory || g->size == 1;
}

/* Room for BYTES in a buffer; what it had is lost. */
static cairn_err room(void **data, size_t *have, size_t bytes)
{
    if (bytes <= *have)
        return CAIRN_OK;
    free(*data);
    *have = 0;
    *data = malloc(bytes);
    if (!*data)
        return FAIL(CAIRN_ENOMEM, "no memory for %.1f MB on their way between a device and other ranks", (double)bytes * 1e-6);
    *have = bytes;
    return CAIRN_OK;
}

static cairn_err room_out(struct staging *s, size_t bytes)
{
    return room(&s->out.data, &s->out.bytes, bytes);
}

static cairn_err room_in(struct staging *s, size_t bytes)
{
    return room(&s->in.data, &s->in.bytes, bytes);
}

void staging_close(struct staging *s)
{
    free(s->out.data);
    free(s->in.data);
    if (s->shifted)
        MEMORY(s)->mark_destroy(s->shifted);
    *s = (struct staging){.backend = s->backend};
}

/* Elements of all shares together, which follow one another from 0 on in some order. */
static int64_t whole_of(const struct group *g, const int64_t *begins, const int64_t *counts)
{
    int64_t end = 0;
    for (int r = 0; r < g->size; r++)
        if (begins[r] + counts[r] > end)
            end = begins[r] + counts[r];
    return end;
}

cairn_err staged_all_reduce(struct staging *s, struct group *g, void *data, int64_t n, enum dtype dtype)
{
    size_t bytes = (size_t)n * dtype_size(dtype);
    if (is_host(s, g))
        return group_all_reduce(g, data, n, dtype);
    if (g->device)
        return device_all_reduce(g, data, n, dtype);
    TRY(room_out(s, bytes));
    MEMORY(s)->download(s->backend, s->out.data, data, bytes);
    TRY(group_all_reduce(g, s->out.data, n, dtype));
    MEMORY(s)->upload(s->backend, data, s->out.data, bytes);
    return CAIRN_OK;
}

cairn_err staged_reduce_scatter(struct staging *s, struct group *g, void *out, const void *in, const int64_t *begins,
                                const int64_t *counts, enum dtype dtype)
{
    size_t size = dtype_size(dtype), bytes = (size_t)whole_of(g, begins, counts) * size;
    if (MEMORY(s)->host_memory)
        return group_reduce_scatter(g, out, in, begins, counts, dtype);
    if (g->device)
        return device_reduce_scatter(g, out, in, begins, counts, dtype);
    TRY(room_out(s, bytes));
    MEMORY(s)->download(s->backend, s->out.data, in, bytes);
    char *own = (char *)s->out.data + (size_t)begins[g->rank] * size;
    TRY(group_reduce_scatter(g, own, s->out.data, begins, counts, dtype));
    MEMORY(s)->upload(s->backend, out, own, (size_t)counts[g->rank] * size);
    return CAIRN_OK;
}

cairn_err staged_all_gather(struct staging *s, struct group *g, void *whole, const int64_t *begins, const int64_t *counts, enum dtype dtype)
{
    size_t size = dtype_size(dtype), bytes = (size_t)whole_of(g, begins, counts) * size, at = (size_t)begins[g->rank] * size;
    if (is_host(s, g))
        return group_all_gather(g, whole, begins, counts, dtype);
    if (g->device)
        return device_all_gather(g, whole, begins, counts, dtype);
    TRY(room_out(s, bytes));
    MEMORY(s)->download(s->backend, (char *)s->out.data + at, (char *)whole + at, (size_t)counts[g->rank] * size);
    TRY(group_all_gather(g, s->out.data, begins, counts, dtype));
    for (int r = 0; r < g->size; r++)
        if (r != g->rank)
            MEMORY(s)->upload(s->backend, (char *)whole + (size_t)begins[r] * size, (char *)s->out.data + (size_t)begins[r] * size,
                              (size_t)counts[r] * size);
    return CAIRN_OK;
}

cairn_err staged_all_to_all(struct staging *s, struct group *g, const void *in, void *out, const int64_t *begins,
                            const int64_t *counts, enum dtype dtype)
{
    size_t bytes = (size_t)whole_of(g, begins, counts) * dtype_size(dtype);
    if (MEMORY(s)->host_memory)
        return group_all_to_all(g, in, begins, counts, out, begins, counts, dtype);
    if (g->device)
        return device_all_to_all(g, in, out, begins, counts, dtype);
    TRY(room_out(s, bytes));
    TRY(room_in(s, bytes));
    MEMORY(s)->download(s->backend, s->out.data, in, bytes);
    TRY(group_all_to_all(g, s->out.data, begins, counts, s->in.data, begins, counts, dtype));
    MEMORY(s)->upload(s->backend, out, s->in.data, bytes);
    return CAIRN_OK;
}

static cairn_err linked_shift(struct staging *s, struct group *g, const void *out, int64_t out_count, void *in, int64_t in_count,
                              enum dtype dtype)
{
    if (!s->shifted)
        s->shifted = MEMORY(s)->mark_create(s->backend);
    if (!s->shifted)
        return device_gave_nothing(s->backend, "a shift between devices");
    return device_shift_start(g, out, out_count, in, in_count, dtype, s->shifted);
}

cairn_err staged_shift_start(struct staging *s, struct group *g, struct staged_shift *shift, const void *out, int64_t out_count, void *in,
                             int64_t in_count, enum dtype dtype)
{
    size_t size = dtype_size(dtype), out_bytes = (size_t)out_count * size;
    *shift = (struct staged_shift){.in = in, .in_bytes = (size_t)in_count * size};
    if (MEMORY(s)->host_memory)
        return group_shift_start(g, &shift->shift, out, out_count, in, in_count, dtype);
    if (g->device)
        return linked_shift(s, g, out, out_count, in, in_count, dtype);
    TRY(room_out(s, out_bytes));
    TRY(room_in(s, shift->in_bytes));
    MEMORY(s)->download(s->backend, s->out.data, out, out_bytes);
    return group_shift_start(g, &shift->shift, s->out.data, out_count, s->in.data, in_count, dtype);
}

cairn_err staged_shift_finish(struct staging *s, struct group *g, struct staged_shift *shift)
{
    if (g->device) {
        MEMORY(s)->mark_wait(s->shifted);
        return CAIRN_OK;
    }
    TRY(group_shift_finish(g, &shift->shift));
    if (!MEMORY(s)->host_memory)
        MEMORY(s)->upload(s->backend, shift->in, s->in.data, shift->in_bytes);
    return CAIRN_OK;
}

cairn_err staged_shift(struct staging *s, struct group *g, const void *out, int64_t out_count, void *in, int64_t in_count, enum dtype dtype)
{
    struct staged_shift shift;
    TRY(staged_shift_start(s, g, &shift, out, out_count, in, in_count, dtype));
    return staged_shift_finish(s, g, &shift);
}
