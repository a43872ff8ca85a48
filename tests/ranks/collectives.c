/* Collectives of groups of 1 to 8 ranks: sums against the sum in the order of the ranks, bit by bit; what is moved against what was
 * meant for whom; the bytes sent and received against their closed formulas. TAP from rank 0. */
#include <math.h>
#include <mpi.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/philox.h"
#include "mesh/collective.h"
#include "mesh/tree.h"
#include "tests/ranks/tap.h"

enum { RANKS = 8, MOST = 6000 /* elements */ };

static const enum dtype sum_types[] = {DTYPE_F32, DTYPE_F64, DTYPE_BF16};
static const int64_t lengths[] = {0, 1, 3, 8, 1000, 1031, MOST};
/* With the first, sums go in many rounds of 64 doubles a rank. */
static const int64_t scratches[] = {0, 1 << 20};

/* Element I of rank RANK: of magnitudes so different that each order of a sum has other bits. */
static double value(int rank, int64_t i)
{
    uint32_t random[4];
    philox4x32((struct philox_key){{17, 4}}, (uint64_t)rank, (uint64_t)i, random);
    return ((double)random[0] / 4294967296.0 - 0.5) * (double)(1 << random[1] % 12);
}

static void set(void *data, int64_t i, double v, enum dtype dtype)
{
    if (dtype == DTYPE_F64)
        ((double *)data)[i] = v;
    else if (dtype == DTYPE_F32)
        ((float *)data)[i] = (float)v;
    else if (dtype == DTYPE_BF16)
        ((uint16_t *)data)[i] = bf16_from_float((float)v);
    else
        ((int32_t *)data)[i] = (int32_t)(v * 1000);
}

static void fill(void *data, int rank, int64_t first, int64_t n, enum dtype dtype)
{
    for (int64_t i = 0; i < n; i++)
        set(data, i, value(rank, first + i), dtype);
}

/* The sum over SIZE ranks, rank 0 first. */
static void expect_sum(void *out, int size, int64_t n, enum dtype dtype)
{
    for (int64_t i = 0; i < n; i++) {
        double sum = 0;
        float narrow = 0;
        for (int r = 0; r < size; r++) {
            double v = value(r, i);
            float f = dtype == DTYPE_BF16 ? bf16_to_float(bf16_from_float((float)v)) : (float)v;
            sum = r ? sum + v : v;
            narrow = r ? narrow + f : f;
        }
        set(out, i, dtype == DTYPE_F64 ? sum : (double)narrow, dtype);
    }
}

static bool same(const char *what, const void *a, const void *b, int64_t n, enum dtype dtype)
{
    if (memcmp(a, b, (size_t)n * dtype_size(dtype)) == 0)
        return true;
    error_set(CAIRN_EINVAL, "%s of %lld %s: other values", what, (long long)n, dtype_name(dtype));
    return false;
}

/* Whether the group's counters stand at these numbers of elements; begins them anew. */
static bool counted(struct group *g, const char *what, int64_t sent, int64_t received, enum dtype dtype)
{
    int64_t size = (int64_t)dtype_size(dtype), out = g->bytes_sent, in = g->bytes_received;
    g->bytes_sent = g->bytes_received = 0;
    if (out == sent * size && in == received * size)
        return true;
    error_set(CAIRN_EINVAL, "%s of %s: %lld bytes sent, %lld received, not %lld and %lld", what, dtype_name(dtype), (long long)out,
              (long long)in, (long long)(sent * size), (long long)(received * size));
    return false;
}

/* Uneven shares of N elements with some of none, of every rank. */
static void share(int size, int64_t n, int64_t *begins, int64_t *counts)
{
    int64_t left = n;
    for (int r = 0; r < size; r++) {
        begins[r] = n - left;
        counts[r] = r == size - 1 ? left : r % 3 == 1 ? 0 : left / 2;
        left -= counts[r];
    }
}

static void *room(int64_t n)
{
    return malloc((size_t)n * 8 + 8);
}

static bool all_reduce(struct group *g, int64_t n, enum dtype dtype)
{
    void *data = room(n), *expected = room(n);
    int64_t begin, own, R = g->size;
    tree_share(n, g->size, g->rank, &begin, &own);
    fill(data, g->rank, 0, n, dtype);
    expect_sum(expected, g->size, n, dtype);
    bool good = group_all_reduce(g, data, n, dtype) == CAIRN_OK && same("all-reduce", data, expected, n, dtype) &&
                counted(g, "all-reduce", n - own + (R - 1) * own, (R - 1) * own + n - own, dtype);
    free(data);
    free(expected);
    return good;
}

/* Into own memory or in place, and then gathered. */
static bool reduce_scatter_gather(struct group *g, int64_t n, enum dtype dtype, bool in_place)
{
    void *data = room(n), *expected = room(n), *other = room(n);
    int64_t begins[RANKS], counts[RANKS], R = g->size;
    share(g->size, n, begins, counts);
    int64_t own = counts[g->rank], size = (int64_t)dtype_size(dtype);
    fill(data, g->rank, 0, n, dtype);
    expect_sum(expected, g->size, n, dtype);
    char *place = (char *)data + begins[g->rank] * size, *out = in_place ? place : other;
    bool good = group_reduce_scatter(g, out, data, begins, counts, dtype) == CAIRN_OK &&
                same("reduce-scatter", out, (char *)expected + begins[g->rank] * size, own, dtype) &&
                counted(g, "reduce-scatter", n - own, (R - 1) * own, dtype);
    memmove(place, out, (size_t)(own * size));
    good = group_all_gather(g, data, begins, counts, dtype) == CAIRN_OK && same("all-gather", data, expected, n, dtype) &&
           counted(g, "all-gather", (R - 1) * own, n - own, dtype) && good;
    free(data);
    free(expected);
    free(other);
    return good;
}

/* Elements that rank FROM sends to rank TO, some pairs none. */
static int64_t pair_count(int from, int to, int64_t n)
{
    return (from + to) % 3 == 1 ? 0 : (n * (from + 1) + to) / (RANKS * RANKS);
}

static bool all_to_all(struct group *g, int64_t n, enum dtype dtype)
{
    void *in = room(2 * n + RANKS), *out = room(2 * n + RANKS), *expected = room(2 * n + RANKS);
    int64_t in_begins[RANKS], in_counts[RANKS], out_begins[RANKS], out_counts[RANKS], sent = 0, received = 0;
    size_t size = dtype_size(dtype);
    for (int r = 0; r < g->size; r++) { /* what rank a sends to b begins at b's number in a's row of values */
        in_begins[r] = sent;
        out_begins[r] = received;
        sent += in_counts[r] = pair_count(g->rank, r, n);
        received += out_counts[r] = pair_count(r, g->rank, n);
        fill((char *)in + (size_t)in_begins[r] * size, g->rank, r * n, in_counts[r], dtype);
        fill((char *)expected + (size_t)out_begins[r] * size, r, g->rank * n, out_counts[r], dtype);
    }
    int64_t kept = in_counts[g->rank];
    bool good = group_all_to_all(g, in, in_begins, in_counts, out, out_begins, out_counts, dtype) == CAIRN_OK &&
                same("all-to-all", out, expected, received, dtype) && counted(g, "all-to-all", sent - kept, received - kept, dtype);
    free(in);
    free(out);
    free(expected);
    return good;
}

/* Two shifts under way, an all-reduce between their start and their end. Rank r's messages have n - r elements. */
static bool shift(struct group *g, int64_t n, enum dtype dtype)
{
    int left = (g->rank + g->size - 1) % g->size;
    int64_t out_count = n > g->rank ? n - g->rank : 0, in_count = n > left ? n - left : 0;
    void *out = room(n), *in = room(n), *expected = room(n), *in2 = room(n);
    struct group_shift first, second;
    fill(out, g->rank, 0, out_count, dtype);
    fill(expected, left, 0, in_count, dtype);
    bool good = group_shift_start(g, &first, out, out_count, in, in_count, dtype) == CAIRN_OK &&
                group_shift_start(g, &second, out, out_count, in2, in_count, dtype) == CAIRN_OK;
    int64_t moves = g->size > 1;
    good = counted(g, "shift", 2 * moves * out_count, 2 * moves * in_count, dtype) && good;
    good = all_reduce(g, n / 3, DTYPE_F32) && group_shift_progress(&first) == CAIRN_OK && good;
    good = group_shift_finish(g, &first) == CAIRN_OK && group_shift_finish(g, &second) == CAIRN_OK && good &&
           same("shift", in, expected, in_count, dtype) && same("second shift", in2, expected, in_count, dtype);
    good = group_shift(g, out, out_count, in2, in_count, dtype) == CAIRN_OK && same("whole shift", in2, expected, in_count, dtype) && good;
    g->bytes_sent = g->bytes_received = 0;
    free(out);
    free(in);
    free(in2);
    free(expected);
    return good;
}

static bool small(struct group *g)
{
    double sum[GROUP_SMALL], max[GROUP_SMALL], expected[GROUP_SMALL];
    int64_t moved = (g->size - 1) * GROUP_SMALL;
    fill(sum, g->rank, 0, GROUP_SMALL, DTYPE_F64);
    memcpy(max, sum, sizeof max);
    expect_sum(expected, g->size, GROUP_SMALL, DTYPE_F64);
    bool good = group_sum(g, sum, GROUP_SMALL) == CAIRN_OK && same("sum", sum, expected, GROUP_SMALL, DTYPE_F64) &&
                counted(g, "sum", moved, moved, DTYPE_F64);
    if (g->rank == g->size / 2)
        max[3] = NAN;
    for (int i = 0; i < GROUP_SMALL; i++) {
        expected[i] = value(0, i);
        for (int r = 1; r < g->size; r++)
            expected[i] = fmax(expected[i], value(r, i));
    }
    good = group_max(g, max, GROUP_SMALL) == CAIRN_OK && isnan(max[3]) && good;
    max[3] = expected[3];
    return same("max", max, expected, GROUP_SMALL, DTYPE_F64) && good &&
           group_max(g, max, GROUP_SMALL + 1) == CAIRN_EINVAL && group_all_reduce(g, max, 0, DTYPE_F64) == CAIRN_OK;
}

/* What the progress of rank 0 does: lets the last rank go. */
struct let_go {
    MPI_Comm outside;
    int last, calls;
};

static cairn_err let_last_go(void *context)
{
    struct let_go *l = context;
    if (l->calls++ == 0)
        MPI_Send(NULL, 0, MPI_INT, l->last, 0, l->outside);
    return CAIRN_OK;
}

static cairn_err fail(void *context)
{
    return FAIL(CAIRN_ESYS, "%s", (const char *)context);
}

/* The last rank takes part in a sum only once it heard, outside the group, that rank 0 calls its progress while it waits. */
static bool progress(struct group *g, MPI_Comm outside)
{
    struct let_go l = {outside, g->size - 1, 0};
    double sum = g->rank;
    if (g->size == 1)
        return true;
    if (g->rank == 0) {
        g->progress = let_last_go;
        g->progress_context = &l;
    } else if (g->rank == l.last) {
        MPI_Recv(NULL, 0, MPI_INT, 0, 0, outside, MPI_STATUS_IGNORE);
    }
    bool good = group_sum(g, &sum, 1) == CAIRN_OK && sum == g->size * (g->size - 1) / 2;
    MPI_Request never; /* nobody sends */
    MPI_Irecv(&sum, 1, MPI_DOUBLE, g->rank, 99, g->comm, &never);
    g->progress = fail;
    g->progress_context = "other work failed";
    good = group_wait(g, &never, 1, "test") == CAIRN_ESYS && good && (g->rank || l.calls) && g->seconds_waited > 0;
    MPI_Cancel(&never);
    MPI_Wait(&never, MPI_STATUS_IGNORE);
    g->progress = NULL;
    g->bytes_sent = g->bytes_received = 0;
    return good;
}

/* All of them, by the first SIZE ranks; the others only agree. */
static void check_size(int size)
{
    MPI_Comm comm;
    bool inside = tap_rank() < size;
    MPI_Comm_split(MPI_COMM_WORLD, inside ? 0 : MPI_UNDEFINED, 0, &comm);
    for (int s = 0; s < 2; s++) {
        struct group g = {0};
        bool good = !inside || group_open(&g, comm, scratches[s]) == CAIRN_OK;
        for (int t = 0; inside && t < 3; t++)
            for (int l = 0; l < (int)(sizeof lengths / sizeof *lengths); l++) {
                good = all_reduce(&g, lengths[l], sum_types[t]) && good;
                good = reduce_scatter_gather(&g, lengths[l], sum_types[t], l % 2) && good;
            }
        tap_ok(good, "%d ranks, %lld bytes of scratch: sums", size, (long long)scratches[s]);
        for (int t = 0; inside && t < 3; t++)
            for (int l = 0; l < (int)(sizeof lengths / sizeof *lengths); l++) {
                good = all_to_all(&g, lengths[l], t ? sum_types[t] : DTYPE_I32) && good;
                good = shift(&g, lengths[l], t ? sum_types[t] : DTYPE_I32) && good;
            }
        tap_ok(good, "%d ranks, %lld bytes of scratch: exchanges", size, (long long)scratches[s]);
        tap_ok(!inside || small(&g), "%d ranks: sums and maxima of some doubles", size);
        if (inside)
            group_close(&g);
    }
    struct group g = {0};
    bool good = !inside || (group_open(&g, comm, 0) == CAIRN_OK && progress(&g, MPI_COMM_WORLD));
    tap_ok(good, "%d ranks: other work goes on while one waits", size);
    if (inside) {
        group_close(&g);
        MPI_Comm_free(&comm);
    }
}

int main(int argc, char **argv)
{
    if (tap_asked_for_ranks(argc, argv, RANKS))
        return 0;
    tap_begin(argc, argv, RANKS);
    for (int size = 1; size <= RANKS; size++)
        check_size(size);
    return tap_end();
}
