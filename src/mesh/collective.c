#include "mesh/collective.h"

#include <limits.h>
#include <math.h>
#include <string.h>

#include "base/trace.h"
#include "job/mpi_calls.h"
#include "mesh/tree.h"

/* MPI keeps the order of messages between two ranks, so one tag does for all calls but those that others may overtake. */
enum { TAG, SHIFT_TAG, EXCHANGE_TAG };

/* Elements of a message, whose count is an int to MPI: larger ones go in rounds. */
enum { MESSAGE = 1 << 28 };

/* Elements summed at a time: the sums stay in the first-level cache while they go over the ranks. */
enum { BLOCK = 1024 };

/* The messages of one round of a collective. */
struct messages {
    struct group *group;
    MPI_Request *requests;
    int count;
    enum dtype dtype;
    int tag;
};

static cairn_err post_receive(struct messages *m, int from, void *data, int64_t n)
{
    if (n <= 0)
        return CAIRN_OK;
    m->group->bytes_received += n * (int64_t)dtype_size(m->dtype);
    TRY_MPI(MPI_Irecv(data, (int)n, group_mpi_type(m->dtype), from, m->tag, m->group->comm, &m->requests[m->count++]));
    return CAIRN_OK;
}

static cairn_err post_send(struct messages *m, int to, const void *data, int64_t n)
{
    if (n <= 0)
        return CAIRN_OK;
    m->group->bytes_sent += n * (int64_t)dtype_size(m->dtype);
    TRY_MPI(MPI_Isend(data, (int)n, group_mpi_type(m->dtype), to, m->tag, m->group->comm, &m->requests[m->count++]));
    return CAIRN_OK;
}

/* A rank alone communicates with none. */
static uint64_t span_begin(const struct group *g)
{
    return g->size > 1 ? trace_begin() : 0;
}

/* The STEPth other rank: each begins with its right neighbour, so that none is met by all at once. */
static int other(const struct group *g, int step)
{
    return (g->rank + step) % g->size;
}

/* The elements of a share that are in round ROUND of PIECE elements; none if <= 0. */
static int64_t in_round(int64_t count, int64_t round, int64_t piece)
{
    int64_t left = count - round * piece;
    return left < piece ? left : piece;
}

static int64_t largest(const int64_t *counts, int size)
{
    int64_t most = 0;
    for (int i = 0; i < size; i++)
        if (counts[i] > most)
            most = counts[i];
    return most;
}

/* The scratch memory of a group in two halves: while one is summed, the other is filled. */
struct halves {
    int64_t piece; /* elements of each other rank in a half */
    size_t size;   /* of an element */
};

static struct halves halve(const struct group *g, enum dtype dtype)
{
    size_t size = dtype_size(dtype);
    int64_t piece = g->scratch_bytes / (2 * (g->size - 1) * (int64_t)size);
    return (struct halves){piece < MESSAGE ? piece : MESSAGE, size};
}

/* Where what RANK sent in round ROUND lies. */
static char *received_from(const struct group *g, const struct halves *h, int64_t round, int rank)
{
    int64_t index = round % 2 * (g->size - 1) + (rank < g->rank ? rank : rank - 1);
    return g->scratch + (size_t)(index * h->piece) * h->size;
}

union sums {
    double f64[BLOCK];
    float f32[BLOCK]; /* of float32 and bfloat16 */
};

/* The sum begins with rank 0's values themselves: 0 + x would lose the sign of -0. */
static void sums_begin(union sums *sums, const void *values, int64_t n, enum dtype dtype)
{
    const uint16_t *bf16s = values;
    if (dtype != DTYPE_BF16)
        memcpy(sums, values, (size_t)n * dtype_size(dtype));
    else
        for (int64_t i = 0; i < n; i++)
            sums->f32[i] = bf16_to_float(bf16s[i]);
}

static void sums_add(union sums *sums, const void *values, int64_t n, enum dtype dtype)
{
    const double *doubles = values;
    const float *floats = values;
    const uint16_t *bf16s = values;
    if (dtype == DTYPE_F64)
        for (int64_t i = 0; i < n; i++)
            sums->f64[i] += doubles[i];
    else if (dtype == DTYPE_F32)
        for (int64_t i = 0; i < n; i++)
            sums->f32[i] += floats[i];
    else
        for (int64_t i = 0; i < n; i++)
            sums->f32[i] += bf16_to_float(bf16s[i]);
}

static void sums_end(const union sums *sums, void *out, int64_t n, enum dtype dtype)
{
    uint16_t *bf16s = out;
    if (dtype != DTYPE_BF16)
        memcpy(out, sums, (size_t)n * dtype_size(dtype));
    else
        for (int64_t i = 0; i < n; i++)
            bf16s[i] = bf16_from_float(sums->f32[i]);
}

/* OUT = the sum of N elements of all ranks: OWN, and what was received in ROUND. */
static void sum_round(const struct group *g, const struct halves *h, int64_t round, char *out, const char *own, int64_t n,
                      enum dtype dtype)
{
    union sums sums;
    for (int64_t at = 0; at < n; at += BLOCK) {
        int64_t length = n - at < BLOCK ? n - at : BLOCK;
        size_t offset = (size_t)at * h->size;
        for (int r = 0; r < g->size; r++) {
            const char *values = (r == g->rank ? own : received_from(g, h, round, r)) + offset;
            r ? sums_add(&sums, values, length, dtype) : sums_begin(&sums, values, length, dtype);
        }
        sums_end(&sums, out + offset, length, dtype);
    }
}

/* Starts a round of a reduce-scatter, in its half of the scratch memory and of the requests; returns their number in *COUNT. */
static cairn_err start_round(struct group *g, const struct halves *h, int64_t round, const char *in, const int64_t *begins,
                             const int64_t *counts, enum dtype dtype, int *count)
{
    struct messages m = {g, g->requests + round % 2 * 2 * g->size, 0, dtype, TAG};
    for (int step = 1; step < g->size; step++) {
        int from = other(g, g->size - step);
        TRY(post_receive(&m, from, received_from(g, h, round, from), in_round(counts[g->rank], round, h->piece)));
    }
    for (int step = 1; step < g->size; step++) {
        int to = other(g, step);
        TRY(post_send(&m, to, in + (size_t)(begins[to] + round * h->piece) * h->size, in_round(counts[to], round, h->piece)));
    }
    *count = m.count;
    return CAIRN_OK;
}

cairn_err group_reduce_scatter(struct group *g, void *out, const void *in, const int64_t *begins, const int64_t *counts,
                               enum dtype dtype)
{
    const char *own = (const char *)in + (size_t)begins[g->rank] * dtype_size(dtype);
    if (dtype == DTYPE_I32)
        return FAIL(CAIRN_EUNSUPPORTED, "sums of %s over ranks", dtype_name(dtype));
    if (g->size == 1) {
        memmove(out, own, (size_t)counts[0] * dtype_size(dtype));
        return CAIRN_OK;
    }
    uint64_t begun = trace_begin();
    const struct halves h = halve(g, dtype);
    int64_t rounds = (largest(counts, g->size) + h.piece - 1) / h.piece;
    int messages[2] = {0};
    if (rounds)
        TRY(start_round(g, &h, 0, in, begins, counts, dtype, &messages[0]));
    for (int64_t round = 0; round < rounds; round++) {
        if (round + 1 < rounds)
            TRY(start_round(g, &h, round + 1, in, begins, counts, dtype, &messages[(round + 1) % 2]));
        TRY(group_wait(g, g->requests + round % 2 * 2 * g->size, messages[round % 2], "summing over ranks"));
        size_t done = (size_t)(round * h.piece) * h.size;
        sum_round(g, &h, round, (char *)out + done, own + done, in_round(counts[g->rank], round, h.piece), dtype);
    }
    trace_end(begun, TRACE_COMMUNICATION, "reduce-scatter", -1);
    return CAIRN_OK;
}

cairn_err group_all_gather(struct group *g, void *whole, const int64_t *begins, const int64_t *counts, enum dtype dtype)
{
    size_t size = dtype_size(dtype);
    uint64_t begun = span_begin(g);
    for (int64_t round = 0, most = g->size > 1 ? largest(counts, g->size) : 0; round * MESSAGE < most; round++) {
        struct messages m = {g, g->requests, 0, dtype, TAG};
        for (int step = 1; step < g->size; step++) {
            int from = other(g, g->size - step);
            TRY(post_receive(&m, from, (char *)whole + (size_t)(begins[from] + round * MESSAGE) * size,
                             in_round(counts[from], round, MESSAGE)));
        }
        const char *own = (const char *)whole + (size_t)(begins[g->rank] + round * MESSAGE) * size;
        for (int step = 1; step < g->size; step++)
            TRY(post_send(&m, other(g, step), own, in_round(counts[g->rank], round, MESSAGE)));
        TRY(group_wait(g, m.requests, m.count, "gathering over ranks"));
    }
    trace_end(begun, TRACE_COMMUNICATION, "all-gather", -1);
    return CAIRN_OK;
}

cairn_err group_all_reduce(struct group *g, void *data, int64_t n, enum dtype dtype)
{
    if (g->size == 1)
        return CAIRN_OK;
    int64_t *begins = g->shares, *counts = g->shares + g->size;
    for (int r = 0; r < g->size; r++)
        tree_share(n, g->size, r, &begins[r], &counts[r]);
    TRY(group_reduce_scatter(g, (char *)data + (size_t)begins[g->rank] * dtype_size(dtype), data, begins, counts, dtype));
    return group_all_gather(g, data, begins, counts, dtype);
}

/* The most elements that any two ranks exchange, which sets the rounds for all, is only known of this rank's pairs: rounds
 * are counted pair by pair, and a pair that is done sends nothing more. */
cairn_err group_all_to_all(struct group *g, const void *in, const int64_t *in_begins, const int64_t *in_counts, void *out,
                           const int64_t *out_begins, const int64_t *out_counts, enum dtype dtype)
{
    size_t size = dtype_size(dtype);
    uint64_t begun = span_begin(g);
    int64_t sent = largest(in_counts, g->size), received = largest(out_counts, g->size), most = sent > received ? sent : received;
    memcpy((char *)out + (size_t)out_begins[g->rank] * size, (const char *)in + (size_t)in_begins[g->rank] * size,
           (size_t)in_counts[g->rank] * size);
    for (int64_t round = 0; g->size > 1 && round * MESSAGE < most; round++) {
        struct messages m = {g, g->requests, 0, dtype, TAG};
        for (int step = 1; step < g->size; step++) {
            int from = other(g, g->size - step);
            TRY(post_receive(&m, from, (char *)out + (size_t)(out_begins[from] + round * MESSAGE) * size,
                             in_round(out_counts[from], round, MESSAGE)));
        }
        for (int step = 1; step < g->size; step++) {
            int to = other(g, step);
            TRY(post_send(&m, to, (const char *)in + (size_t)(in_begins[to] + round * MESSAGE) * size,
                          in_round(in_counts[to], round, MESSAGE)));
        }
        TRY(group_wait(g, m.requests, m.count, "exchanging between ranks"));
    }
    trace_end(begun, TRACE_COMMUNICATION, "all-to-all", -1);
    return CAIRN_OK;
}

cairn_err group_exchange_start(struct group *g, struct group_exchange *x, const void *in, const int64_t *in_begins,
                               const int64_t *in_counts, void *out, const int64_t *out_begins, const int64_t *out_counts, enum dtype dtype)
{
    size_t size = dtype_size(dtype);
    struct messages m = {.group = g, .requests = x->requests, .dtype = dtype, .tag = EXCHANGE_TAG};
    x->count = x->done = 0;
    if (largest(in_counts, g->size) > INT_MAX || largest(out_counts, g->size) > INT_MAX)
        return FAIL(CAIRN_EINVAL, "an exchange of more than %d elements with a rank", INT_MAX);
    if (in != out)
        memcpy((char *)out + (size_t)out_begins[g->rank] * size, (const char *)in + (size_t)in_begins[g->rank] * size,
               (size_t)in_counts[g->rank] * size);
    for (int step = 1; step < g->size; step++) {
        int from = other(g, g->size - step);
        TRY(post_receive(&m, from, (char *)out + (size_t)out_begins[from] * size, out_counts[from]));
    }
    for (int step = 1; step < g->size; step++) {
        int to = other(g, step);
        TRY(post_send(&m, to, (const char *)in + (size_t)in_begins[to] * size, in_counts[to]));
    }
    x->count = m.count;
    return CAIRN_OK;
}

cairn_err group_shift_start(struct group *g, struct group_shift *shift, const void *out, int64_t out_count, void *in,
                            int64_t in_count, enum dtype dtype)
{
    int64_t size = (int64_t)dtype_size(dtype);
    *shift = (struct group_shift){.begun = span_begin(g)};
    if (out_count > INT_MAX || in_count > INT_MAX)
        return FAIL(CAIRN_EINVAL, "a shift of %lld elements: at most %d", (long long)out_count, INT_MAX);
    if (g->size == 1) {
        memcpy(in, out, (size_t)(out_count * size));
        return CAIRN_OK;
    }
    int right = other(g, 1), left = other(g, g->size - 1);
    TRY_MPI(MPI_Irecv(in, (int)in_count, group_mpi_type(dtype), left, SHIFT_TAG, g->comm, &shift->requests[shift->count++]));
    TRY_MPI(MPI_Isend(out, (int)out_count, group_mpi_type(dtype), right, SHIFT_TAG, g->comm, &shift->requests[shift->count++]));
    g->bytes_sent += out_count * size;
    g->bytes_received += in_count * size;
    return CAIRN_OK;
}

cairn_err group_shift_progress(struct group_shift *shift)
{
    return group_test(shift->requests, shift->count, &shift->done, "shifting along a ring of ranks");
}

cairn_err group_shift_finish(struct group *g, struct group_shift *shift)
{
    int left = shift->count - shift->done;
    MPI_Request *requests = shift->requests + shift->done;
    shift->done = shift->count;
    TRY(group_wait(g, requests, left, "shifting along a ring of ranks"));
    trace_end(shift->begun, TRACE_COMMUNICATION, "shift along a ring", -1);
    return CAIRN_OK;
}

cairn_err group_shift(struct group *g, const void *out, int64_t out_count, void *in, int64_t in_count, enum dtype dtype)
{
    struct group_shift shift;
    TRY(group_shift_start(g, &shift, out, out_count, in, in_count, dtype));
    return group_shift_finish(g, &shift);
}

typedef double combine(double a, double b);

static double plus(double a, double b)
{
    return a + b;
}

/* Unlike fmax, does not pass over a NaN. */
static double larger(double a, double b)
{
    return isnan(a) || a > b ? a : b;
}

static cairn_err combine_all(struct group *g, double *values, int count, combine *both)
{
    if (count > GROUP_SMALL)
        return FAIL(CAIRN_EINVAL, "%d values to combine over ranks: at most %d", count, GROUP_SMALL);
    if (g->size == 1)
        return CAIRN_OK;
    uint64_t begun = trace_begin();
    double *received = (double *)g->scratch; /* has at least GROUP_SMALL for each other rank */
    struct messages m = {g, g->requests, 0, DTYPE_F64, TAG};
    for (int r = 0, at = 0; r < g->size; r++)
        if (r != g->rank)
            TRY(post_receive(&m, r, received + at++ * count, count));
    for (int step = 1; step < g->size; step++)
        TRY(post_send(&m, other(g, step), values, count));
    TRY(group_wait(g, m.requests, m.count, "combining over ranks"));
    trace_end(begun, TRACE_COMMUNICATION, "combination of values", -1);
    for (int i = 0; i < count; i++) {
        double own = values[i];
        for (int r = 0, at = 0; r < g->size; r++) {
            double value = r == g->rank ? own : received[at++ * count + i];
            values[i] = r ? both(values[i], value) : value;
        }
    }
    return CAIRN_OK;
}

cairn_err group_sum(struct group *g, double *values, int count)
{
    return combine_all(g, values, count, plus);
}

cairn_err group_max(struct group *g, double *values, int count)
{
    return combine_all(g, values, count, larger);
}
