#include "attention_split.h"

#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "expert_rows.h"
#include "kernels/attention_span.h"

enum { RANKS = 2, ARRAYS = 9 };

/* The arrays of one rank, or of the whole as if it were one. */
struct holder {
    struct attention *attention;
    struct attention_span span;
    int64_t columns;
    void *qkv, *kv, *out, *log_sum, *running, *d_out, *d_qkv, *d_query, *d_kv;
    size_t bytes[ARRAYS];
};

struct split {
    struct backend *backend;
    struct attention_desc desc;
    struct holder whole, ranks[RANKS];
    double *seconds[4]; /* [rounds] of each of split_times' members */
};

/* A rank has the n-th quarter and the n-th last. */
static struct attention_span span_of(int64_t context, int rank)
{
    struct attention_span s = {.segments = 2};
    for (int i = 0; i < 2; i++) {
        int64_t quarter = i == 0 ? rank : 2 * RANKS - 1 - rank;
        s.segment[i].position = context * quarter / (2 * RANKS);
        s.segment[i].length = context * (quarter + 1) / (2 * RANKS) - s.segment[i].position;
    }
    return s;
}

static void **array_of(struct holder *h, int i)
{
    void **arrays[ARRAYS] = {&h->qkv, &h->kv, &h->out, &h->log_sum, &h->running, &h->d_out, &h->d_qkv, &h->d_query, &h->d_kv};
    return arrays[i];
}

static cairn_err open_holder(struct split *s, struct holder *h, const struct attention_desc *desc)
{
    struct backend *b = s->backend;
    int64_t sums = desc->batch * h->columns * desc->heads, n = sums * desc->head_size;
    size_t act = dtype_size(b->act), acc = dtype_size(b->acc);
    const size_t bytes[ARRAYS] = {3 * n * act, 2 * n * act, n * act, sums * acc, (n + 2 * sums) * acc, n * act, 3 * n * act, n * acc,
                                  2 * n * acc};
    for (int i = 0; i < ARRAYS; i++) {
        h->bytes[i] = bytes[i];
        bool input = array_of(h, i) == &h->qkv || array_of(h, i) == &h->d_out;
        *array_of(h, i) = input ? bench_values(b, b->act, (int64_t)(bytes[i] / act)) : b->table->alloc(b, bytes[i]);
        if (!*array_of(h, i))
            return FAIL(CAIRN_ENOMEM, "no memory for attention's arrays");
    }
    return b->table->attention_create(b, desc, &h->attention);
}

static void close_holder(struct backend *b, struct holder *h)
{
    for (int i = 0; i < ARRAYS; i++)
        if (*array_of(h, i))
            b->table->free(b, *array_of(h, i), h->bytes[i]);
    if (h->attention)
        b->table->attention_destroy(h->attention);
}

/* The processor's of all threads: other programs disturb it less than the time that passes. A device's is what passes until it is
 * done. */
static double seconds_now(struct split *s)
{
    struct timespec t;
    if (!s->backend->table->host_memory) {
        s->backend->table->finish(s->backend);
        return clock_seconds();
    }
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void run_whole(struct split *s, long round, const struct dropout *none)
{
    const struct backend_table *t = s->backend->table;
    struct holder *h = &s->whole;
    double begin = seconds_now(s);
    t->attention_forward(h->attention, h->out, h->log_sum, h->qkv, none);
    double middle = seconds_now(s);
    t->attention_backward(h->attention, h->d_qkv, h->d_out, h->out, h->qkv, h->log_sum, none);
    s->seconds[0][round] = middle - begin;
    s->seconds[1][round] = seconds_now(s) - middle;
}

static void rank_forward(struct split *s, int rank, const struct dropout *none)
{
    const struct backend_table *t = s->backend->table;
    struct holder *h = &s->ranks[rank];
    t->attention_pieces_begin(h->attention, h->running, h->columns);
    for (int turn = 0; turn < RANKS; turn++) {
        const struct holder *from = &s->ranks[(rank + turn) % RANKS];
        const struct attention_piece piece = {h->span, from->span};
        t->attention_piece_forward(h->attention, h->running, h->qkv, from->kv, &piece, none);
    }
    t->attention_pieces_end(h->attention, h->out, h->log_sum, h->running, h->columns);
}

static void rank_backward(struct split *s, int rank, const struct dropout *none)
{
    const struct backend_table *t = s->backend->table;
    struct holder *h = &s->ranks[rank];
    for (int turn = 0; turn < RANKS; turn++) {
        struct holder *from = &s->ranks[(rank + turn) % RANKS];
        const struct attention_piece piece = {h->span, from->span};
        t->attention_piece_backward(h->attention, h->d_query, from->d_kv, h->d_out, h->out, h->qkv, from->kv, h->log_sum, &piece, none);
    }
}

static void run_split(struct split *s, long round, const struct dropout *none)
{
    const struct backend_table *t = s->backend->table;
    struct holder *ranks = s->ranks;
    double begin = seconds_now(s);
    for (int r = 0; r < RANKS; r++)
        t->attention_keys_values(ranks[r].attention, ranks[r].kv, ranks[r].qkv, ranks[r].columns);
    for (int r = 0; r < RANKS; r++)
        rank_forward(s, r, none);
    double middle = seconds_now(s);
    for (int r = 0; r < RANKS; r++)
        t->attention_pieces_backward_begin(ranks[r].attention, ranks[r].d_query, ranks[r].d_kv, ranks[r].columns);
    for (int r = 0; r < RANKS; r++)
        rank_backward(s, r, none);
    for (int r = 0; r < RANKS; r++)
        t->attention_pieces_backward_end(ranks[r].attention, ranks[r].d_qkv, ranks[r].d_query, ranks[r].d_kv, ranks[r].columns);
    s->seconds[2][round] = middle - begin;
    s->seconds[3][round] = seconds_now(s) - middle;
}

static cairn_err open_split(struct split *s, long rounds)
{
    for (int i = 0; i < 4; i++) {
        s->seconds[i] = calloc((size_t)rounds, sizeof(double));
        if (!s->seconds[i])
            return FAIL(CAIRN_ENOMEM, "no memory for times");
    }
    s->whole.columns = s->desc.context;
    TRY(open_holder(s, &s->whole, &s->desc));
    for (int r = 0; r < RANKS; r++) {
        s->ranks[r].span = span_of(s->desc.context, r);
        s->ranks[r].columns = span_columns(&s->ranks[r].span);
    }
    struct attention_desc desc = s->desc;
    desc.columns = s->ranks[0].columns > s->ranks[1].columns ? s->ranks[0].columns : s->ranks[1].columns;
    for (int r = 0; r < RANKS; r++)
        TRY(open_holder(s, &s->ranks[r], &desc));
    return CAIRN_OK;
}

static void close_split(struct split *s)
{
    close_holder(s->backend, &s->whole);
    for (int r = 0; r < RANKS; r++)
        close_holder(s->backend, &s->ranks[r]);
    for (int i = 0; i < 4; i++)
        free(s->seconds[i]);
}

static double shortest(const double *seconds, long rounds)
{
    double least = seconds[0];
    for (long i = 1; i < rounds; i++)
        least = seconds[i] < least ? seconds[i] : least;
    return least;
}

cairn_err attention_split_measure(struct backend *b, const struct attention_desc *desc, long rounds, struct split_times *times)
{
    const struct dropout none = {0};
    struct split s = {.backend = b, .desc = *desc};
    cairn_err err;
    TRY_GOTO(err, open_split(&s, rounds), done);
    for (long round = -1; round < rounds; round++) { /* the first meets its memory and is overwritten */
        run_whole(&s, round < 0 ? 0 : round, &none);
        run_split(&s, round < 0 ? 0 : round, &none);
    }
    *times = (struct split_times){shortest(s.seconds[0], rounds), shortest(s.seconds[1], rounds), shortest(s.seconds[2], rounds),
                                  shortest(s.seconds[3], rounds)};
done:
    close_split(&s);
    return err;
}
