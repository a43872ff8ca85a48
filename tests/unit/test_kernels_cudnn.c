/* Attention of the cuda backend by cuDNN's plans: what goes through them, and that they are right. On a GPU, or as the processor runs
 * kernels and an emulation of cuDNN runs its graphs (tests/cuda_on_cpu). */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels_support.h"

enum { RESULTS = 3 };

/* The arrays that kernels may find unaligned: an element beyond where alloc begins. */
enum array { QKV = 1, OUT = 2, D_OUT = 4, D_QKV = 8 };

/* The arrays of one attention; UNALIGNED: those of them that are. */
struct run {
    struct attention_desc desc;
    struct attention *attention;
    int64_t vectors, sums; /* elements of out, of log_sum */
    void *qkv, *out, *log_sum, *d_out, *d_qkv;
    unsigned unaligned;
};

static const struct dropout no_dropout;

static struct attention_desc shape(int64_t batch, int64_t context, int64_t heads, int64_t head_size)
{
    return (struct attention_desc){.batch = batch, .context = context, .heads = heads, .head_size = head_size};
}

static bool signed_by_cudnn(struct backend *b)
{
    return strstr(b->table->signature(b), " cuDNN ") != NULL;
}

/* Skips the test on a GPU that has no cuDNN, or not the capability for it; the emulation has both. */
static void need_cudnn(struct backend *b)
{
    struct attention_desc d = shape(1, 128, 1, 64);
    struct attention *a;
    cr_assert_eq(b->table->attention_create(b, &d, &a), CAIRN_OK, "%s", cairn_err_message());
    b->table->attention_destroy(a);
    if (!signed_by_cudnn(b) && strstr(b->table->signature(b), "CUDA on the processor") == NULL)
        cr_skip_test("cuDNN is not used on this GPU");
}

static int64_t offset_of(const struct run *r, enum array which)
{
    return (r->unaligned & which) != 0;
}

static void *input(struct backend *b, const struct run *r, enum array which, int64_t n)
{
    int64_t offset = offset_of(r, which);
    double *values = random_values(n + offset, which, 1);
    memmove(values + offset, values, (size_t)n * sizeof *values);
    void *p = make_array(b, b->act, values, n + offset);
    free(values);
    return p;
}

static void begin(struct backend *b, const struct attention_desc *d, unsigned unaligned, struct run *r)
{
    *r = (struct run){.desc = *d, .unaligned = unaligned};
    cr_assert_eq(b->table->attention_create(b, d, &r->attention), CAIRN_OK, "%s", cairn_err_message());
    r->vectors = d->batch * d->context * d->heads * d->head_size;
    r->sums = d->batch * d->context * d->heads;
    r->qkv = input(b, r, QKV, 3 * r->vectors);
    r->d_out = input(b, r, D_OUT, r->vectors);
    r->out = make_array(b, b->act, NULL, r->vectors + offset_of(r, OUT));
    r->log_sum = make_array(b, b->acc, NULL, r->sums);
    r->d_qkv = make_array(b, b->act, NULL, 3 * r->vectors + offset_of(r, D_QKV));
}

/* Where WHICH begins. */
static void *at(const struct backend *b, const struct run *r, enum array which)
{
    void *array = which == QKV ? r->qkv : which == OUT ? r->out : which == D_OUT ? r->d_out : r->d_qkv;
    return (char *)array + array_bytes(b->act, offset_of(r, which));
}

static void compute(struct backend *b, const struct run *r)
{
    b->table->attention_forward(r->attention, at(b, r, OUT), r->log_sum, at(b, r, QKV), &no_dropout);
    b->table->attention_backward(r->attention, at(b, r, D_QKV), at(b, r, D_OUT), at(b, r, OUT), at(b, r, QKV), r->log_sum, &no_dropout);
}

static void read_results(struct backend *b, const struct run *r, double *values[RESULTS], int64_t sizes[RESULTS])
{
    sizes[0] = r->vectors;
    sizes[1] = r->sums;
    sizes[2] = 3 * r->vectors;
    values[0] = array_values(b, b->act, at(b, r, OUT), sizes[0]);
    values[1] = array_values(b, b->acc, r->log_sum, sizes[1]);
    values[2] = array_values(b, b->act, at(b, r, D_QKV), sizes[2]);
}

static void end(struct backend *b, struct run *r)
{
    b->table->attention_destroy(r->attention);
    free_array(b, b->act, r->qkv, 3 * r->vectors + offset_of(r, QKV));
    free_array(b, b->act, r->d_out, r->vectors + offset_of(r, D_OUT));
    free_array(b, b->act, r->out, r->vectors + offset_of(r, OUT));
    free_array(b, b->acc, r->log_sum, r->sums);
    free_array(b, b->act, r->d_qkv, 3 * r->vectors + offset_of(r, D_QKV));
}

/* Against the reference in float64; R was computed. */
static void compare(struct backend *b, const struct run *r)
{
    static const char *const names[RESULTS] = {"out", "log_sum", "d_qkv"};
    static const double tolerances[RESULTS] = {1e-2, 1e-4, 1e-2};
    struct backend *reference = open_backend("reference", DTYPE_F64, 1, NULL);
    double *got[RESULTS], *expected[RESULTS];
    int64_t sizes[RESULTS];
    struct run right;
    begin(reference, &r->desc, 0, &right);
    compute(reference, &right);
    read_results(reference, &right, expected, sizes);
    read_results(b, r, got, sizes);
    cr_assert_eq(b->table->finish(b), CAIRN_OK, "%s", cairn_err_message());
    for (int i = 0; i < RESULTS; i++) {
        double error = relative_error(got[i], expected[i], sizes[i]);
        cr_expect_lt(error, tolerances[i], "[%d, %d, %d, %d] %s: relative error %g", (int)r->desc.batch, (int)r->desc.context,
                     (int)r->desc.heads, (int)r->desc.head_size, names[i], error);
        free(got[i]);
        free(expected[i]);
    }
    end(reference, &right);
    reference->table->close(reference);
}

static void run_and_compare(struct backend *b, const struct attention_desc *d, unsigned unaligned)
{
    struct run r;
    begin(b, d, unaligned, &r);
    compute(b, &r);
    compare(b, &r);
    end(b, &r);
}

Test(cudnn, is_right)
{
    struct backend *b = open_cuda(DTYPE_BF16);
    const struct attention_desc shapes[] = {shape(2, 130, 3, 64), shape(1, 2, 1, 8), shape(2, 65, 2, 72), shape(1, 33, 2, 256),
                                            shape(1, 128, 1, 128)};
    need_cudnn(b);
    cr_expect(signed_by_cudnn(b), "%s", b->table->signature(b));
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        run_and_compare(b, &shapes[i], 0);
    b->table->close(b);
}

/* In one backend plans share their workspace, which a later one lets grow, and layers of one shape share their plans. */
Test(cudnn, plans_take_turns)
{
    enum { RUNS = 6 };
    struct backend *b = open_cuda(DTYPE_BF16);
    const struct attention_desc shapes[RUNS] = {shape(1, 20, 2, 16), shape(2, 130, 2, 32), shape(1, 20, 2, 16), shape(1, 20, 1, 16),
                                                shape(3, 20, 2, 16), shape(1, 20, 2, 8)};
    struct run runs[RUNS];
    need_cudnn(b);
    for (int i = 0; i < RUNS; i++)
        begin(b, &shapes[i], 0, &runs[i]);
    for (int i = 0; i < RUNS; i++)
        compute(b, &runs[i]);
    for (int i = 0; i < RUNS; i++) {
        compare(b, &runs[i]);
        end(b, &runs[i]);
    }
    b->table->close(b);
}

Test(cudnn, bits_repeat)
{
    struct backend *b = open_cuda(DTYPE_BF16);
    struct attention_desc d = shape(2, 96, 2, 64);
    double *first[RESULTS], *again[RESULTS];
    int64_t sizes[RESULTS];
    struct run r;
    need_cudnn(b);
    begin(b, &d, 0, &r);
    compute(b, &r);
    read_results(b, &r, first, sizes);
    for (int times = 0; times < 3; times++) {
        compute(b, &r);
        read_results(b, &r, again, sizes);
        for (int i = 0; i < RESULTS; i++) {
            cr_expect(memcmp(first[i], again[i], (size_t)sizes[i] * sizeof(double)) == 0, "result %d: other bits", i);
            free(again[i]);
        }
    }
    for (int i = 0; i < RESULTS; i++)
        free(first[i]);
    end(b, &r);
    b->table->close(b);
}

/* What cuDNN does not do is right all the same; where arrays are not aligned, in place of what it does. */
Test(cudnn, leaves_the_rest_to_own_kernels)
{
    struct backend *b = open_cuda(DTYPE_BF16);
    const struct attention_desc shapes[] = {shape(2, 33, 2, 65), shape(2, 1, 2, 64), shape(1, 5, 1, 264), shape(1, 5, 1, 4)};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        run_and_compare(b, &shapes[i], 0);
    struct attention_desc with_dropout = shape(2, 33, 2, 64), of_columns = with_dropout;
    struct attention *a;
    with_dropout.dropout_rate = 0.1F;
    of_columns.columns = 33;
    cr_assert_eq(b->table->attention_create(b, &with_dropout, &a), CAIRN_OK, "%s", cairn_err_message());
    b->table->attention_destroy(a);
    cr_assert_eq(b->table->attention_create(b, &of_columns, &a), CAIRN_OK, "%s", cairn_err_message());
    b->table->attention_destroy(a);
    cr_expect(!signed_by_cudnn(b), "%s", b->table->signature(b));
    struct attention_desc plain = shape(2, 33, 2, 64);
    for (unsigned unaligned = QKV; unaligned <= D_QKV; unaligned *= 2)
        run_and_compare(b, &plain, unaligned);
    b->table->close(b);
    b = open_cuda(DTYPE_F32);
    run_and_compare(b, &plain, 0);
    cr_expect(!signed_by_cudnn(b), "%s", b->table->signature(b));
    b->table->close(b);
}

/* Without cuDNN of a fitting kind the own kernels do it. NAME=VALUE says how it is not there. */
static void expect_own_kernels(const char *name, const char *value, struct attention_desc d)
{
    cr_assert_eq(setenv(name, value, 1), 0);
    struct backend *b = open_cuda(DTYPE_BF16);
    run_and_compare(b, &d, 0);
    cr_expect(!signed_by_cudnn(b), "%s=%s: %s", name, value, b->table->signature(b));
    b->table->close(b);
}

Test(cudnn, can_be_left_out) { expect_own_kernels("CAIRN_CUDNN", "0", shape(2, 40, 2, 64)); }

/* Of the emulation. */
static struct backend *need_emulation(void)
{
    struct backend *b = open_cuda(DTYPE_BF16);
    if (strstr(b->table->signature(b), "CUDA on the processor") == NULL)
        cr_skip_test("a cuDNN cannot be told to");
    return b;
}

Test(cudnn, may_not_work)
{
    struct backend *b = need_emulation();
    b->table->close(b);
    expect_own_kernels("CUDA_ON_CPU_NO_CUDNN", "1", shape(2, 40, 2, 64));
}

Test(cudnn, may_be_too_old)
{
    struct backend *b = need_emulation();
    b->table->close(b);
    expect_own_kernels("CUDA_ON_CPU_CUDNN_VERSION", "91001", shape(1, 128, 1, 64));
    expect_own_kernels("CUDA_ON_CPU_CUDNN_VERSION", "91500", shape(1, 130, 1, 64));
    b = open_cuda(DTYPE_BF16);
    struct attention_desc d = shape(1, 128, 1, 64);
    run_and_compare(b, &d, 0);
    cr_expect_not_null(strstr(b->table->signature(b), " cuDNN 9.15.0"), "%s", b->table->signature(b));
    b->table->close(b);
}

Test(cudnn, failures_are_kept)
{
    struct backend *b = need_emulation();
    struct attention_desc d = shape(1, 16, 1, 64);
    struct run r;
    begin(b, &d, 0, &r);
    cr_assert_eq(setenv("CUDA_ON_CPU_CUDNN_FAILS", "1", 1), 0);
    compute(b, &r);
    cr_expect_eq(b->table->finish(b), CAIRN_EDEVICE);
    cr_expect_not_null(strstr(cairn_err_message(), "CUDNN_STATUS_EXECUTION_FAILED"), "%s", cairn_err_message());
    end(b, &r);
    b->table->close(b);
}
