/* Dropout's masks: the same in every backend, and for a tensor computed whole or in parts. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "kernels/dropout.h"
#include "kernels_support.h"

static struct dropout make_dropout(uint64_t first)
{
    return (struct dropout){.rate = 0.3f, .key = philox_key_make(9, STREAM_DROPOUT, 1), .step = 5, .first = first};
}

/* Of N ones, the values after dropout with FIRST. */
static double *masked(struct backend *b, int64_t n, uint64_t first)
{
    double *ones = malloc((size_t)n * sizeof *ones);
    for (int64_t i = 0; i < n; i++)
        ones[i] = 1;
    struct dropout d = make_dropout(first);
    void *x = make_array(b, b->act, ones, n), *y = make_array(b, b->act, NULL, n);
    b->table->add_dropout_forward(b, y, NULL, x, n, &d);
    free(ones);
    double *result = array_values(b, b->act, y, n);
    free_array(b, b->act, x, n);
    free_array(b, b->act, y, n);
    return result;
}

Test(dropout, masks_follow_the_contract_in_every_backend)
{
    struct backend *backends[] = {open_backend("reference", DTYPE_F64, 1, NULL), open_backend("cpu", DTYPE_F32, 2, "baseline"),
                                  open_backend("cpu", DTYPE_F32, 2, NULL), open_backend("cpu", DTYPE_BF16, 2, NULL)};
    const int64_t n = 40001;
    const uint64_t first = (uint64_t)1 << 33; /* its counter's high word is used too */
    for (size_t i = 0; i < sizeof backends / sizeof *backends; i++) {
        double *y = masked(backends[i], n, 4 * first);
        struct dropout d = make_dropout(4 * first);
        int64_t kept = 0, wrong = 0;
        for (int64_t e = 0; e < n; e++) {
            bool keep = dropout_keeps(&d, d.first + (uint64_t)e);
            kept += keep;
            wrong += (y[e] != 0) != keep;
        }
        cr_expect_eq(wrong, 0, "backend %d: %d of %d masks differ", (int)i, (int)wrong, (int)n);
        cr_expect_float_eq((double)kept / (double)n, 0.7, 0.01);
        free(y);
        backends[i]->table->close(backends[i]);
    }
}

Test(dropout, parts_give_the_whole)
{
    struct backend *backends[] = {open_backend("reference", DTYPE_F32, 1, NULL), open_backend("cpu", DTYPE_F32, 2, NULL)};
    const int64_t n = 70000, half = 34996;
    for (size_t i = 0; i < sizeof backends / sizeof *backends; i++) {
        double *whole = masked(backends[i], n, 8), *low = masked(backends[i], half, 8);
        double *high = masked(backends[i], n - half, 8 + (uint64_t)half);
        for (int64_t e = 0; e < n; e++)
            cr_assert_eq(whole[e], e < half ? low[e] : high[e - half], "backend %d, element %d", (int)i, (int)e);
        free(whole);
        free(low);
        free(high);
        backends[i]->table->close(backends[i]);
    }
}

/* Batches 0 and 1 of two at once, or batch 1 alone with first shifted. */
static double *attention_out(struct backend *b, int64_t batch, uint64_t first, const double *values)
{
    const int64_t context = 13, heads = 2, size = 5, n = batch * context * heads * size;
    struct attention_desc desc = {.batch = batch, .context = context, .heads = heads, .head_size = size, .dropout_rate = 0.3f};
    struct attention *a;
    cr_assert_eq(b->table->attention_create(b, &desc, &a), CAIRN_OK);
    struct dropout d = make_dropout(first);
    void *qkv = make_array(b, b->act, values, 3 * n), *out = make_array(b, b->act, NULL, n);
    void *log_sum = make_array(b, b->acc, NULL, batch * heads * context);
    b->table->attention_forward(a, out, log_sum, qkv, &d);
    b->table->attention_destroy(a);
    double *result = array_values(b, b->act, out, n);
    free_array(b, b->act, qkv, 3 * n);
    free_array(b, b->act, out, n);
    free_array(b, b->acc, log_sum, batch * heads * context);
    return result;
}

Test(dropout, of_probabilities_in_parts)
{
    const int64_t each = 13 * 2 * 5;
    double *values = random_values(4 * 3 * each, 3, 1);
    struct backend *backends[] = {open_backend("reference", DTYPE_F32, 1, NULL), open_backend("cpu", DTYPE_F32, 2, NULL)};
    for (size_t i = 0; i < sizeof backends / sizeof *backends; i++) {
        /* Two batches have 2 * 2 * 13 * 13 = 676 probabilities, a multiple of 4. */
        double *whole = attention_out(backends[i], 4, 16, values);
        double *last = attention_out(backends[i], 2, 16 + 676, values + 2 * 3 * each);
        for (int64_t e = 0; e < 2 * each; e++)
            cr_assert_eq(whole[2 * each + e], last[e], "backend %d, element %d", (int)i, (int)e);
        free(whole);
        free(last);
        backends[i]->table->close(backends[i]);
    }
    free(values);
}
