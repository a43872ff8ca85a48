/* Attention over sequences split over ranks, unevenly too, against attention over whole ones. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "kernels/attention_span.h"
#include "kernels_support.h"

enum { RANKS_MAX = 3, BATCH = 2 };

struct layout {
    int64_t context, heads, size;
    int ranks;
    float rate;
};

/* What a rank holds: the R-th and the R-th last of 2 RANKS chunks whose lengths differ where context is not a multiple. */
static struct attention_span span_of(const struct layout *l, int rank)
{
    int chunks[2] = {rank, 2 * l->ranks - 1 - rank};
    struct attention_span s = {.segments = 2};
    for (int i = 0; i < 2; i++) {
        s.segment[i].position = l->context * chunks[i] / (2 * l->ranks);
        s.segment[i].length = l->context * (chunks[i] + 1) / (2 * l->ranks) - s.segment[i].position;
    }
    return s;
}

/* One rank's arrays. */
struct rank {
    struct attention_span span;
    int64_t columns;
    struct attention *attention;
    void *qkv, *kv, *out, *log_sum, *running, *d_out, *d_qkv, *d_query, *d_kv;
};

static int64_t width_of(const struct layout *l)
{
    return l->heads * l->size;
}

static struct dropout dropout_of(const struct layout *l)
{
    return (struct dropout){.rate = l->rate, .key = philox_key_make(5, STREAM_DROPOUT, 3), .step = 11, .first = 40};
}

/* Heads 1.. of one more than there are, so that slices of heads are met too. */
static struct attention *create(struct backend *b, const struct layout *l, int64_t columns)
{
    struct attention_desc desc = {.batch = BATCH, .context = l->context, .heads = l->heads, .heads_all = l->heads + 1, .head_first = 1,
                                  .head_size = l->size, .columns = columns, .dropout_rate = l->rate};
    struct attention *a;
    cr_assert_eq(b->table->attention_create(b, &desc, &a), CAIRN_OK, "%s", cairn_err_message());
    return a;
}

/* For each of the rank's columns the WIDTH values of the whole's, to it or, BACK, from it. */
static void copy_columns(const struct layout *l, const struct rank *r, double *of_rank, double *whole, int64_t width, bool back)
{
    for (int64_t at = 0; at < BATCH * r->columns; at++) {
        int64_t column = at / r->columns * l->context + span_position(&r->span, at % r->columns);
        for (int64_t i = 0; i < width; i++)
            *(back ? &whole[column * width + i] : &of_rank[at * width + i]) = back ? of_rank[at * width + i] : whole[column * width + i];
    }
}

static void *part_of(struct backend *b, const struct layout *l, const struct rank *r, double *whole, int64_t width)
{
    int64_t n = BATCH * r->columns * width;
    double *values = malloc((size_t)n * sizeof *values);
    copy_columns(l, r, values, whole, width, false);
    void *p = make_array(b, b->act, values, n);
    free(values);
    return p;
}

static void put_back(struct backend *b, const struct layout *l, const struct rank *r, const void *part, double *whole, int64_t width)
{
    double *values = array_values(b, b->act, part, BATCH * r->columns * width);
    copy_columns(l, r, values, whole, width, true);
    free(values);
}

static struct rank rank_open(struct backend *b, const struct layout *l, int rank, double *qkv, double *d_out)
{
    struct rank r = {.span = span_of(l, rank)};
    int64_t most = 0, width = width_of(l);
    for (int i = 0; i < l->ranks; i++) {
        struct attention_span s = span_of(l, i);
        most = span_columns(&s) > most ? span_columns(&s) : most;
    }
    r.columns = span_columns(&r.span);
    r.attention = create(b, l, most);
    int64_t rows = BATCH * r.columns;
    r.qkv = part_of(b, l, &r, qkv, 3 * width);
    r.d_out = part_of(b, l, &r, d_out, width);
    r.kv = make_array(b, b->act, NULL, 2 * rows * width);
    r.out = make_array(b, b->act, NULL, rows * width);
    r.log_sum = make_array(b, b->acc, NULL, rows * l->heads);
    r.running = make_array(b, b->acc, NULL, rows * l->heads * (l->size + 2));
    r.d_qkv = make_array(b, b->act, NULL, 3 * rows * width);
    r.d_query = make_array(b, b->acc, NULL, rows * width);
    r.d_kv = make_array(b, b->acc, NULL, 2 * rows * width);
    b->table->attention_keys_values(r.attention, r.kv, r.qkv, r.columns);
    return r;
}

static void rank_close(struct backend *b, const struct layout *l, struct rank *r)
{
    int64_t rows = BATCH * r->columns, width = width_of(l);
    b->table->attention_destroy(r->attention);
    free_array(b, b->act, r->qkv, 3 * rows * width);
    free_array(b, b->act, r->d_out, rows * width);
    free_array(b, b->act, r->kv, 2 * rows * width);
    free_array(b, b->act, r->out, rows * width);
    free_array(b, b->acc, r->log_sum, rows * l->heads);
    free_array(b, b->acc, r->running, rows * l->heads * (l->size + 2));
    free_array(b, b->act, r->d_qkv, 3 * rows * width);
    free_array(b, b->acc, r->d_query, rows * width);
    free_array(b, b->acc, r->d_kv, 2 * rows * width);
}

/* Each rank meets itself first, then the others in the order of a ring. */
static const struct rank *source_of(const struct rank *ranks, const struct layout *l, int rank, int turn)
{
    return &ranks[(rank - turn + l->ranks) % l->ranks];
}

static void ring_forward(struct backend *b, const struct layout *l, struct rank *ranks)
{
    struct dropout d = dropout_of(l);
    for (int i = 0; i < l->ranks; i++) {
        struct rank *r = &ranks[i];
        b->table->attention_pieces_begin(r->attention, r->running, r->columns);
        for (int turn = 0; turn < l->ranks; turn++) {
            const struct rank *from = source_of(ranks, l, i, turn);
            struct attention_piece piece = {.query = r->span, .key = from->span};
            b->table->attention_piece_forward(r->attention, r->running, r->qkv, from->kv, &piece, &d);
        }
        b->table->attention_pieces_end(r->attention, r->out, r->log_sum, r->running, r->columns);
    }
}

static void ring_backward(struct backend *b, const struct layout *l, struct rank *ranks)
{
    struct dropout d = dropout_of(l);
    for (int i = 0; i < l->ranks; i++)
        b->table->attention_pieces_backward_begin(ranks[i].attention, ranks[i].d_query, ranks[i].d_kv, ranks[i].columns);
    for (int turn = 0; turn < l->ranks; turn++) {
        for (int i = 0; i < l->ranks; i++) {
            struct rank *r = &ranks[i];
            const struct rank *from = source_of(ranks, l, i, turn);
            struct attention_piece piece = {.query = r->span, .key = from->span};
            b->table->attention_piece_backward(r->attention, r->d_query, from->d_kv, r->d_out, r->out, r->qkv, from->kv, r->log_sum,
                                               &piece, &d);
        }
    }
    for (int i = 0; i < l->ranks; i++)
        b->table->attention_pieces_backward_end(ranks[i].attention, ranks[i].d_qkv, ranks[i].d_query, ranks[i].d_kv, ranks[i].columns);
}

/* OUT and D_QKV, if it is not NULL, of the whole, computed by all ranks. */
static void attend_by_ranks(struct backend *b, const struct layout *l, double *out, double *d_qkv, double *qkv, double *d_out)
{
    struct rank ranks[RANKS_MAX];
    for (int i = 0; i < l->ranks; i++)
        ranks[i] = rank_open(b, l, i, qkv, d_out);
    ring_forward(b, l, ranks);
    if (d_qkv)
        ring_backward(b, l, ranks);
    for (int i = 0; i < l->ranks; i++) {
        put_back(b, l, &ranks[i], ranks[i].out, out, width_of(l));
        if (d_qkv)
            put_back(b, l, &ranks[i], ranks[i].d_qkv, d_qkv, 3 * width_of(l));
        rank_close(b, l, &ranks[i]);
    }
}

static void attend_whole(struct backend *b, const struct layout *l, double **out, double **d_qkv, const double *qkv, const double *d_out)
{
    int64_t rows = BATCH * l->context, n = rows * width_of(l);
    struct dropout d = dropout_of(l);
    struct attention *a = create(b, l, 0);
    void *x = make_array(b, b->act, qkv, 3 * n), *y = make_array(b, b->act, NULL, n), *dy = make_array(b, b->act, d_out, n);
    void *dx = make_array(b, b->act, NULL, 3 * n), *log_sum = make_array(b, b->acc, NULL, rows * l->heads);
    b->table->attention_forward(a, y, log_sum, x, &d);
    b->table->attention_backward(a, dx, dy, y, x, log_sum, &d);
    b->table->attention_destroy(a);
    *out = array_values(b, b->act, y, n);
    *d_qkv = array_values(b, b->act, dx, 3 * n);
    free_array(b, b->act, x, 3 * n);
    free_array(b, b->act, y, n);
    free_array(b, b->act, dy, n);
    free_array(b, b->act, dx, 3 * n);
    free_array(b, b->acc, log_sum, rows * l->heads);
}

static void check(struct backend *b, const struct layout *l, double tolerance)
{
    int64_t n = BATCH * l->context * width_of(l);
    double *qkv = random_values(3 * n, 1, 1), *d_out = random_values(n, 2, 1), *whole, *d_whole;
    double *out = calloc((size_t)n, sizeof *out), *d_qkv = calloc((size_t)(3 * n), sizeof *d_qkv);
    attend_whole(b, l, &whole, &d_whole, qkv, d_out);
    attend_by_ranks(b, l, out, d_qkv, qkv, d_out);
    double error = relative_error(out, whole, n), d_error = relative_error(d_qkv, d_whole, 3 * n);
    cr_expect(error < tolerance && d_error < tolerance, "%s %s, %d ranks, context %d, size %d: relative errors %g, %g", b->table->name,
              dtype_name(b->act), l->ranks, (int)l->context, (int)l->size, error, d_error);
    free(qkv);
    free(d_out);
    free(whole);
    free(d_whole);
    free(out);
    free(d_qkv);
}

static const struct layout layouts[] = {
    {.context = 12, .heads = 2, .size = 7},
    {.context = 127, .heads = 2, .size = 65}, /* not a multiple of anything; several blocks of queries a segment */
    {.context = 3, .heads = 1, .size = 16},   /* segments of one column and of none */
};

static void check_on(struct backend *b, double tolerance)
{
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
        for (int ranks = 1; ranks <= RANKS_MAX; ranks++) {
            for (int dropped = 0; dropped < 2; dropped++) {
                struct layout l = layouts[i];
                l.ranks = ranks;
                l.rate = dropped ? 0.3f : 0;
                check(b, &l, tolerance);
            }
        }
    }
    b->table->close(b);
}

static void check_all(const char *name, enum dtype act, const char *set, double tolerance)
{
    check_on(open_backend(name, act, 2, set), tolerance);
}

Test(pieces, reference_float64) { check_all("reference", DTYPE_F64, NULL, 1e-12); }
Test(pieces, reference_float32) { check_all("reference", DTYPE_F32, NULL, 1e-6); }
Test(pieces, cpu_float32) { check_all("cpu", DTYPE_F32, NULL, 1e-6); }
Test(pieces, cpu_float32_baseline) { check_all("cpu", DTYPE_F32, "baseline", 1e-6); }
Test(pieces, cpu_bfloat16) { check_all("cpu", DTYPE_BF16, NULL, 1e-2); }

Test(pieces, cuda_float32) { check_on(open_cuda(DTYPE_F32), 1e-6); }
Test(pieces, cuda_bfloat16) { check_on(open_cuda(DTYPE_BF16), 1e-2); }

/* Against central differences of the ring's own forward pass. */
Test(pieces, gradients)
{
    struct backend *b = open_backend("reference", DTYPE_F64, 1, NULL);
    struct layout l = {.context = 7, .heads = 2, .size = 3, .ranks = 2, .rate = 0.3f};
    int64_t n = BATCH * l.context * width_of(&l);
    double *qkv = random_values(3 * n, 1, 1), *d_out = random_values(n, 2, 1), *out = calloc((size_t)n, sizeof *out);
    double *got = calloc((size_t)(3 * n), sizeof *got), *expected = calloc((size_t)(3 * n), sizeof *expected);
    attend_by_ranks(b, &l, out, got, qkv, d_out);
    for (int64_t i = 0; i < 3 * n; i++) {
        double value = qkv[i];
        for (int side = -1; side <= 1; side += 2) {
            qkv[i] = value + side * 1e-5;
            attend_by_ranks(b, &l, out, NULL, qkv, d_out);
            for (int64_t e = 0; e < n; e++)
                expected[i] += side * out[e] * d_out[e] / 2e-5;
        }
        qkv[i] = value;
    }
    double error = relative_error(got, expected, 3 * n);
    cr_expect_lt(error, 1e-7, "relative error %g", error);
    free(qkv);
    free(d_out);
    free(out);
    free(got);
    free(expected);
    b->table->close(b);
}
