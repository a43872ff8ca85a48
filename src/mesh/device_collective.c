#include "mesh/device_collective.h"

#include "mesh/tree.h"

/* Other ranks' parts of a sum are taken so many bytes at a time. */
enum { SCRATCH_BYTES = 1 << 26 };

static const struct backend_table *table_of(const struct group *g)
{
    return g->device->backend->table;
}

static int other(const struct group *g, int step)
{
    return (g->rank + step) % g->size;
}

/* All ranks' elements of a piece, this one's among them. */
static cairn_err take_scratch(struct group *g)
{
    struct device_link *l = g->device;
    if (l->scratch)
        return CAIRN_OK;
    l->scratch = table_of(g)->alloc(l->backend, SCRATCH_BYTES);
    l->scratch_bytes = SCRATCH_BYTES;
    return l->scratch ? CAIRN_OK : device_gave_nothing(l->backend, "sums over ranks on the device");
}

static int64_t piece_of(int64_t count, int64_t from, int64_t piece)
{
    return count - from < piece ? count - from : piece;
}

static int64_t largest(const int64_t *counts, int size)
{
    int64_t most = 0;
    for (int i = 0; i < size; i++)
        most = counts[i] > most ? counts[i] : most;
    return most;
}

/* Elements FROM.. of each rank's share, at most PIECE. */
static cairn_err sum_piece(struct group *g, void *out, const void *in, const int64_t *begins, const int64_t *counts, int64_t from,
                           int64_t piece, enum dtype dtype)
{
    struct device_link *l = g->device;
    int64_t size = (int64_t)dtype_size(dtype), n = piece_of(counts[g->rank], from, piece);
    for (int step = 1; step < g->size; step++) {
        int rank = other(g, g->size - step);
        TRY(device_link_receive(g, rank, device_at(l->scratch, rank * n, dtype), n * size));
    }
    for (int step = 1; step < g->size; step++) {
        int to = other(g, step);
        TRY(device_link_send(g, to, device_at(in, begins[to] + from, dtype), piece_of(counts[to], from, piece) * size));
    }
    if (n > 0)
        table_of(g)->copy(l->backend, device_at(l->scratch, g->rank * n, dtype), device_at(in, begins[g->rank] + from, dtype), (size_t)(n * size));
    device_link_exchange(l);
    if (n > 0)
        table_of(g)->sum_slices(l->backend, dtype, device_at(out, from, dtype), l->scratch, g->size, n);
    return CAIRN_OK;
}

cairn_err device_reduce_scatter(struct group *g, void *out, const void *in, const int64_t *begins, const int64_t *counts, enum dtype dtype)
{
    int64_t piece = SCRATCH_BYTES / ((int64_t)dtype_size(dtype) * g->size), most = largest(counts, g->size);
    TRY(take_scratch(g));
    for (int64_t from = 0; from < most; from += piece)
        TRY(sum_piece(g, out, in, begins, counts, from, piece, dtype));
    return CAIRN_OK;
}

cairn_err device_all_gather(struct group *g, void *whole, const int64_t *begins, const int64_t *counts, enum dtype dtype)
{
    int64_t size = (int64_t)dtype_size(dtype);
    for (int step = 1; step < g->size; step++) {
        int from = other(g, g->size - step);
        TRY(device_link_receive(g, from, device_at(whole, begins[from], dtype), counts[from] * size));
    }
    for (int step = 1; step < g->size; step++)
        TRY(device_link_send(g, other(g, step), device_at(whole, begins[g->rank], dtype), counts[g->rank] * size));
    device_link_exchange(g->device);
    return CAIRN_OK;
}

cairn_err device_all_reduce(struct group *g, void *data, int64_t n, enum dtype dtype)
{
    int64_t *begins = g->shares, *counts = g->shares + g->size;
    for (int r = 0; r < g->size; r++)
        tree_share(n, g->size, r, &begins[r], &counts[r]);
    TRY(device_reduce_scatter(g, device_at(data, begins[g->rank], dtype), data, begins, counts, dtype));
    return device_all_gather(g, data, begins, counts, dtype);
}

cairn_err device_all_to_all(struct group *g, const void *in, void *out, const int64_t *begins, const int64_t *counts, enum dtype dtype)
{
    int64_t size = (int64_t)dtype_size(dtype);
    for (int step = 1; step < g->size; step++) {
        int from = other(g, g->size - step);
        TRY(device_link_receive(g, from, device_at(out, begins[from], dtype), counts[from] * size));
    }
    for (int step = 1; step < g->size; step++) {
        int to = other(g, step);
        TRY(device_link_send(g, to, device_at(in, begins[to], dtype), counts[to] * size));
    }
    table_of(g)->copy(g->device->backend, device_at(out, begins[g->rank], dtype), device_at(in, begins[g->rank], dtype),
                      (size_t)(counts[g->rank] * size));
    device_link_exchange(g->device);
    return CAIRN_OK;
}

cairn_err device_shift_start(struct group *g, const void *out, int64_t out_count, void *in, int64_t in_count, enum dtype dtype,
                             struct backend_mark *done)
{
    int64_t size = (int64_t)dtype_size(dtype);
    TRY(device_link_receive(g, other(g, g->size - 1), in, in_count * size));
    TRY(device_link_send(g, other(g, 1), out, out_count * size));
    device_link_begin(g->device, LANE_SHIFT); /* not behind sums: it is waited for at once */
    device_link_exchange(g->device);
    table_of(g)->mark_set(done);
    device_link_end(g->device);
    return CAIRN_OK;
}
