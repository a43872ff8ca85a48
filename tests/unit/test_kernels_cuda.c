/* The cuda backend against the reference in float64, at odd sizes: on a GPU, or where there is none as the processor runs the same
 * kernels (tests/cuda_on_cpu). */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "kernels/dropout.h"
#include "kernels_ops.h"
#include "kernels_support.h"

static const struct shape shapes[] = {{1, 1}, {1, 65}, {3, 7}, {3, 768}, {130, 1}, {130, 63}, {130, 64}, {130, 65}, {33, 768}, {33, 1600}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static bool fits(const struct op *op, struct shape s)
{
    return s.rows <= op->most.rows && s.width <= op->most.width;
}

static void compare(const struct op *op, struct shape s, struct backend *cuda, struct backend *reference, double tolerance)
{
    struct results got = {.count = 0}, expected = {.count = 0};
    op->run(cuda, s, &got);
    cr_assert_eq(cuda->table->finish(cuda), CAIRN_OK, "%s: %s", op->name, cairn_err_message());
    op->run(reference, s, &expected);
    cr_assert_eq(got.count, expected.count);
    for (int i = 0; i < got.count; i++) {
        double error = relative_error(got.values[i], expected.values[i], got.sizes[i]);
        cr_expect_lt(error, tolerance, "%s, rows %d, width %d, result %d: relative error %g (%s)", op->name, (int)s.rows, (int)s.width, i,
                     error, cuda->table->signature(cuda));
    }
    results_free(&got);
    results_free(&expected);
}

static void compare_all(enum dtype act, double tolerance)
{
    struct backend *cuda = open_cuda(act), *reference = open_backend("reference", DTYPE_F64, 1, NULL);
    for (int i = 0; i < op_count * SHAPES; i++)
        if (fits(&ops[i / SHAPES], shapes[i % SHAPES]))
            compare(&ops[i / SHAPES], shapes[i % SHAPES], cuda, reference, tolerance);
    reference->table->close(reference);
    cuda->table->close(cuda);
}

Test(cuda, float32) { compare_all(DTYPE_F32, 1e-5); }
Test(cuda, bfloat16) { compare_all(DTYPE_BF16, 1e-2); }

/* Twice the same bits, products too. */
Test(cuda, bits_repeat)
{
    static const enum dtype types[] = {DTYPE_F32, DTYPE_BF16};
    struct shape s = {130, 65};
    for (int t = 0; t < 2; t++) {
        struct backend *b = open_cuda(types[t]);
        for (int i = 0; i < op_count; i++) {
            struct results first = {.count = 0}, second = {.count = 0};
            if (!fits(&ops[i], s))
                continue;
            ops[i].run(b, s, &first);
            ops[i].run(b, s, &second);
            for (int r = 0; r < first.count; r++)
                cr_expect(memcmp(first.values[r], second.values[r], (size_t)first.sizes[r] * sizeof(double)) == 0,
                          "%s, result %d: other bits the second time", ops[i].name, r);
            results_free(&first);
            results_free(&second);
        }
        b->table->close(b);
    }
}

Test(cuda, moves_memory)
{
    enum { N = 3 << 20 }; /* larger than a piece that goes through pinned memory */
    struct backend *b = open_cuda(DTYPE_F32);
    const struct backend_table *t = b->table;
    unsigned char *here = malloc(N), *back = malloc(N);
    void *there = t->alloc(b, N), *copy = t->alloc(b, N);
    for (int i = 0; i < N; i++)
        here[i] = (unsigned char)(i * 31 + i / 4099);
    t->upload(b, there, here, N);
    memset(here, 0, 100); /* it may change at once */
    t->copy(b, (char *)copy + 16, there, N - 16);
    t->zero(b, (char *)copy + 1000, 7);
    t->download(b, back, copy, N);
    for (int i = 0; i < N; i++) {
        unsigned char expected = i < 16 || (i >= 1000 && i < 1007) ? 0 : (unsigned char)((i - 16) * 31 + (i - 16) / 4099);
        cr_assert_eq(back[i], expected, "byte %d is %d, not %d", i, back[i], expected);
    }
    struct backend_mark *from = t->mark_create(b), *to = t->mark_create(b);
    t->mark_set(from);
    t->zero(b, copy, N);
    t->mark_set(to);
    double seconds = t->mark_seconds(from, to);
    cr_expect(seconds >= 0 && seconds < 60, "a clear of 3 MB took %g s", seconds);
    t->mark_destroy(from);
    t->mark_destroy(to);
    t->free(b, there, N);
    t->free(b, copy, N);
    cr_expect_eq(t->finish(b), CAIRN_OK, "%s", cairn_err_message());
    free(here);
    free(back);
    t->close(b);
}

Test(cuda, refuses_what_it_has_not)
{
    struct backend *b = open_cuda(DTYPE_F32);
    b->table->close(b);
    cr_expect_eq(backend_open("cuda", &(struct backend_options){.act = DTYPE_F64}, &b), CAIRN_EUNSUPPORTED);
    cr_expect_null(b);
    setenv("CAIRN_PLUGIN_DIR", "/nonexistent", 1);
    cr_expect_eq(backend_open("cuda", &(struct backend_options){.act = DTYPE_F32}, &b), CAIRN_EUNSUPPORTED);
    cr_expect_not_null(strstr(cairn_err_message(), "--with-cuda"), "%s", cairn_err_message());
}

/* Of NUMBER slices of N values, in their order, rounded once. */
static void check_slices(struct backend *b, enum dtype type, int number, int64_t n)
{
    double *values = random_values(number * n, (uint64_t)(number * n), 1);
    void *slices = make_array(b, type, values, number * n), *sum = make_array(b, type, NULL, n);
    b->table->sum_slices(b, type, sum, slices, number, n);
    double *got = array_values(b, type, sum, n);
    for (int64_t i = 0; i < n; i++) {
        float expected = (float)values[i];
        for (int s = 1; s < number; s++)
            expected += (float)values[s * n + i];
        if (type == DTYPE_BF16)
            expected = bf16_to_float(bf16_from_float(expected));
        cr_assert_eq((float)got[i], expected, "%d slices of %d, element %d", number, (int)n, (int)i);
    }
    free(got);
    free_array(b, type, sum, n);
    free_array(b, type, slices, number * n);
    free(values);
}

Test(cuda, sums_of_slices)
{
    static const int64_t sizes[] = {1, 63, 64, 1000};
    struct backend *b = open_cuda(DTYPE_BF16);
    for (int i = 0; i < 4; i++)
        for (int number = 1; number <= 5; number += 2) {
            check_slices(b, DTYPE_BF16, number, sizes[i]);
            check_slices(b, DTYPE_F32, number, sizes[i]);
        }
    cr_assert_eq(b->table->finish(b), CAIRN_OK);
    b->table->close(b);
}

/* Calls of two lanes: three of computing, then one of a link, which waits for them. */
static void call_four(struct backend *b, struct backend_mark *mark, void *p, size_t bytes)
{
    const struct backend_table *t = b->table;
    t->zero(b, p, bytes);
    t->add(b, p, p, p, (int64_t)(bytes / sizeof(float)));
    t->copy(b, p, (char *)p + bytes / 2, bytes / 2);
    t->mark_set(mark);
    t->lane(b, LANE_LINK);
    t->mark_wait(mark);
    t->zero(b, p, bytes);
    t->lane(b, LANE_COMPUTE);
}

static uint64_t now(void)
{
    return (uint64_t)(clock_seconds() * 1e9);
}

static void check_four(struct backend *b, struct backend_mark *mark, void *p, size_t bytes)
{
    static const char *const names[] = {"the clearing of memory", "a sum of gradients", "a copy within the GPU", "the clearing of memory"};
    enum { CLOCK = 20000 }; /* nanoseconds that the two clocks may be apart */
    int64_t count, lost;
    uint64_t before = now();
    call_four(b, mark, p, bytes);
    const struct backend_span *spans = b->table->spans_take(b, &count, &lost);
    uint64_t after = now();
    cr_assert_eq(count, 4, "%d spans", (int)count);
    cr_assert_eq(lost, 0);
    for (int i = 0; i < 4; i++) {
        cr_assert_str_eq(spans[i].name, names[i]);
        cr_assert_eq(spans[i].lane, i < 3 ? LANE_COMPUTE : LANE_LINK);
        cr_assert_geq(spans[i].ended, spans[i].begun + (i == 1 ? 1000 : 0), "a megabyte is not added up in a microsecond");
        cr_assert_geq(spans[i].begun, (i > 0 ? spans[i - 1].ended : before) - CLOCK, "span %d begins too early", i);
        cr_assert_leq(spans[i].ended, after + CLOCK);
        if (i > 0 && i < 3)
            cr_assert_geq(spans[i].begun, spans[i - 1].ended);
    }
}

Test(cuda, spans)
{
    enum { BYTES = 1 << 20 };
    int64_t count, lost;
    struct backend *b = open_cuda(DTYPE_F32);
    const struct backend_table *t = b->table;
    void *p = t->alloc(b, BYTES);
    struct backend_mark *mark = t->mark_create(b);
    call_four(b, mark, p, BYTES);
    t->spans_take(b, &count, &lost);
    cr_assert_eq(count, 0, "nobody asked for spans, and there are %d", (int)count);
    cr_assert_eq(t->spans_open(b, 10), CAIRN_OK, "%s", cairn_err_message());
    check_four(b, mark, p, BYTES);
    check_four(b, mark, p, BYTES);
    t->spans_take(b, &count, &lost);
    cr_assert_eq(count + lost, 0, "spans that were taken are there again");
    for (int i = 0; i < 3; i++)
        call_four(b, mark, p, BYTES);
    t->spans_take(b, &count, &lost);
    cr_assert_eq(count, 10);
    cr_assert_eq(lost, 2);
    check_four(b, mark, p, BYTES);
    cr_assert_eq(t->finish(b), CAIRN_OK, "%s", cairn_err_message());
    t->mark_destroy(mark);
    t->free(b, p, BYTES);
    t->close(b);
}

/* What one lane computes, the other goes on with, and back. */
Test(cuda, lanes)
{
    enum { N = 100000, ROUNDS = 20 };
    struct backend *b = open_cuda(DTYPE_F32);
    const struct backend_table *t = b->table;
    double *ones = malloc(N * sizeof *ones);
    for (int i = 0; i < N; i++)
        ones[i] = 1;
    void *x = make_array(b, DTYPE_F32, ones, N), *y = make_array(b, DTYPE_F32, NULL, N);
    struct backend_mark *computed = t->mark_create(b), *linked = t->mark_create(b);
    cr_assert(computed && linked);
    for (int i = 0; i < ROUNDS; i++) {
        t->add(b, y, x, x, N); /* y = 2 x */
        t->mark_set(computed);
        t->lane(b, LANE_LINK);
        t->mark_wait(computed);
        t->add(b, x, y, x, N); /* x = 3 x */
        t->mark_set(linked);
        t->lane(b, LANE_COMPUTE);
        t->mark_wait(linked);
        t->zero(b, y, N * sizeof(float));
        t->add(b, y, y, x, N);
        t->copy(b, x, y, N * sizeof(float));
    }
    double *got = array_values(b, DTYPE_F32, x, N), expected = 1;
    cr_assert_eq(t->finish(b), CAIRN_OK);
    for (int i = 0; i < ROUNDS; i++)
        expected = (float)(3 * expected);
    for (int i = 0; i < N; i++)
        cr_assert_eq((float)got[i], (float)expected, "element %d", i);
    t->mark_destroy(computed);
    t->mark_destroy(linked);
    free(got);
    free_array(b, DTYPE_F32, x, N);
    free_array(b, DTYPE_F32, y, N);
    free(ones);
    t->close(b);
}

struct norm {
    bool rms; /* an RMS norm, without mean and bias */
    int64_t rows, width;
    void *x, *dy, *gain, *mean, *rstd;
};

/* TO: dx, added to, d_gain, d_bias. */
static void find_gradients(struct backend *b, const struct norm *n, void *const to[3], bool at_once)
{
    const struct backend_table *t = b->table;
    if (n->rms && at_once) {
        t->rms_norm_backward(b, to[0], to[1], n->dy, n->x, n->gain, n->rstd, n->rows, n->width, true);
    } else if (n->rms) {
        t->rms_norm_backward_input(b, to[0], n->dy, n->x, n->gain, n->rstd, n->rows, n->width, true);
        t->rms_norm_backward_weight(b, to[1], n->dy, n->x, n->rstd, n->rows, n->width);
    } else if (at_once) {
        t->layer_norm_backward(b, to[0], to[1], to[2], n->dy, n->x, n->gain, n->mean, n->rstd, n->rows, n->width, true);
    } else {
        t->layer_norm_backward_input(b, to[0], n->dy, n->x, n->gain, n->mean, n->rstd, n->rows, n->width, true);
        t->layer_norm_backward_weight(b, to[1], to[2], n->dy, n->x, n->mean, n->rstd, n->rows, n->width);
    }
}

/* Schedules and ways to share memory find a norm's gradients at once or apart: to the same bits. */
static void check_norm_gradients(enum dtype act, bool rms, int64_t rows, int64_t width)
{
    struct backend *b = open_cuda(act);
    const struct backend_table *t = b->table;
    int64_t n = rows * width;
    double *values = random_values(4 * n, 5, 1);
    void *x = make_array(b, act, values, n), *dy = make_array(b, act, values + n, n), *gain = make_array(b, act, values + 2 * n, width);
    void *mean = make_array(b, DTYPE_F32, values, rows), *rstd = make_array(b, DTYPE_F32, values + n, rows), *y = make_array(b, act, NULL, n);
    void *results[2][3];
    const struct norm norm = {rms, rows, width, x, dy, gain, mean, rstd};
    if (rms)
        t->rms_norm_forward(b, y, rstd, x, gain, rows, width, 1e-5);
    else
        t->layer_norm_forward(b, y, mean, rstd, x, gain, gain, rows, width, 1e-5);
    for (int i = 0; i < 2; i++) {
        results[i][0] = make_array(b, act, values + 3 * n, n);
        results[i][1] = make_array(b, DTYPE_F32, NULL, width);
        results[i][2] = make_array(b, DTYPE_F32, NULL, width);
    }
    find_gradients(b, &norm, results[0], true);
    find_gradients(b, &norm, results[1], false);
    for (int k = 0; k < 3; k++) {
        int64_t count = k == 0 ? n : width;
        enum dtype type = k == 0 ? act : DTYPE_F32;
        double *at_once = array_values(b, type, results[0][k], count), *apart = array_values(b, type, results[1][k], count);
        for (int64_t i = 0; i < count && !(rms && k == 2); i++)
            cr_assert_eq(at_once[i], apart[i], "result %d of %d x %d, element %d: %.9g and %.9g", k, (int)rows, (int)width, (int)i, at_once[i], apart[i]);
        free(at_once);
        free(apart);
        free_array(b, type, results[0][k], count);
        free_array(b, type, results[1][k], count);
    }
    void *inputs[] = {x, dy, y};
    for (int i = 0; i < 3; i++)
        free_array(b, act, inputs[i], n);
    free_array(b, act, gain, width);
    free_array(b, DTYPE_F32, mean, rows);
    free_array(b, DTYPE_F32, rstd, rows);
    free(values);
    cr_assert_eq(t->finish(b), CAIRN_OK);
    t->close(b);
}

Test(cuda, norms_gradients_at_once)
{
    static const enum dtype types[] = {DTYPE_F32, DTYPE_BF16};
    for (int i = 0; i < 4; i++) {
        check_norm_gradients(types[i / 2], i % 2, 37, 64);
        check_norm_gradients(types[i / 2], i % 2, 2500, 33); /* all parts of the rows */
        check_norm_gradients(types[i / 2], i % 2, 9, 1600);
    }
}

/* Rows that a block keeps, and rows that it reads again, aligned and not. */
static void compare_wide(enum dtype act, double tolerance)
{
    static const struct shape wide[] = {{3, 6144}, {3, 6152}, {2, 6147}, {2, 12297}, {2, 12304}};
    struct backend *cuda = open_cuda(act), *reference = open_backend("reference", DTYPE_F64, 1, NULL);
    for (int i = 0; i < op_count; i++)
        for (size_t s = 0; s < sizeof wide / sizeof *wide && strstr(ops[i].name, "norm"); s++)
            compare(&ops[i], wide[s], cuda, reference, tolerance);
    reference->table->close(reference);
    cuda->table->close(cuda);
}

Test(cuda, wide_norms_in_float32) { compare_wide(DTYPE_F32, 1e-5); }
Test(cuda, wide_norms_in_bfloat16) { compare_wide(DTYPE_BF16, 1e-2); }

/* What of N ones is left when recorded calls are carried out at MOMENT. */
static void replay_at(struct backend *b, struct backend_recording *r, struct dropout_moment *at, struct dropout_moment moment, float *left,
                      const void *y, int64_t n)
{
    b->table->upload(b, at, &moment, sizeof moment);
    b->table->replay(r);
    b->table->download(b, left, y, (size_t)n * sizeof *left);
}

/* Recorded calls are carried out when they are replayed and not before, and draw what the moment in the device's memory says. */
Test(cuda, recorded_calls)
{
    enum { N = 5000, BYTES = N * sizeof(float), FIRST = 40, STRIDE = 8192 };
    struct backend *b = open_cuda(DTYPE_F32);
    const struct backend_table *t = b->table;
    float *ones = malloc(BYTES), *left = malloc(BYTES);
    void *x = t->alloc(b, BYTES), *y = t->alloc(b, BYTES);
    struct dropout_moment *at = t->alloc(b, sizeof *at);
    struct dropout d = {.rate = 0.3f, .key = philox_key_make(9, STREAM_DROPOUT, 1), .step = 5, .first = FIRST, .moment = at, .stride = STRIDE};
    for (int i = 0; i < N; i++)
        ones[i] = 1;
    t->add(b, x, x, x, N);
    t->add_dropout_forward(b, y, NULL, x, N, &d);
    t->upload(b, x, ones, BYTES);
    t->zero(b, y, BYTES);
    cr_assert(t->record_begin(b));
    t->add_dropout_forward(b, y, NULL, x, N, &d);
    t->add(b, x, x, x, N);
    struct backend_recording *r = t->record_end(b);
    cr_assert_not_null(r);
    t->download(b, left, y, BYTES);
    cr_assert_eq(left[0] + left[1] + left[N - 1], 0, "what was recorded was carried out too");
    for (int round = 0; round < 3; round++) {
        struct dropout_moment moment = {(uint64_t)round, (uint64_t)(2 * round)};
        struct dropout now = {.rate = d.rate, .key = d.key, .step = d.step + moment.step, .first = d.first + moment.microbatch * STRIDE};
        replay_at(b, r, at, moment, left, y, N);
        for (int i = 0; i < N; i++)
            cr_assert_float_eq(left[i], dropout_keeps(&now, now.first + (uint64_t)i) ? (float)(1 << round) / 0.7f : 0, 1e-5, "round %d, %d", round, i);
    }
    t->recording_destroy(r);
    cr_assert_eq(t->finish(b), CAIRN_OK, "%s", cairn_err_message());
    t->free(b, x, BYTES);
    t->free(b, y, BYTES);
    t->free(b, at, sizeof *at);
    free(ones);
    free(left);
    t->close(b);
}

/* A call that cannot be recorded ends the recording, and is no failure. */
Test(cuda, a_download_is_not_recorded)
{
    struct backend *b = open_cuda(DTYPE_F32);
    const struct backend_table *t = b->table;
    float x[4] = {1, 2, 3, 4}, got[4];
    void *p = t->alloc(b, sizeof x);
    t->add(b, p, p, p, 4);
    t->upload(b, p, x, sizeof x);
    cr_assert(t->record_begin(b));
    t->add(b, p, p, p, 4);
    t->download(b, got, p, sizeof got);
    cr_assert_null(t->record_end(b));
    cr_assert_not(t->record_begin(b), "it would fail again");
    t->download(b, got, p, sizeof got);
    cr_assert_arr_eq(got, x, sizeof x);
    cr_assert_eq(t->finish(b), CAIRN_OK, "%s", cairn_err_message());
    t->free(b, p, sizeof x);
    t->close(b);
}
