/* Tensors split over ranks, unevenly: what slices compute, put together, is what the whole gives. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "kernels_support.h"

/* Runs BODY with B each backend in turn. */
struct opened {
    const char *name;
    enum dtype act;
};
static const struct opened all_backends[] = {
    {"reference", DTYPE_F64}, {"reference", DTYPE_F32}, {"cpu", DTYPE_F32}, {"cpu", DTYPE_BF16}};
enum { BACKENDS = sizeof all_backends / sizeof *all_backends };

static void in_every_backend(void (*check)(struct backend *))
{
    for (int i = 0; i < BACKENDS; i++) {
        struct backend *b = open_backend(all_backends[i].name, all_backends[i].act, 2, NULL);
        check(b);
        b->table->close(b);
    }
}

/* Columns FIRST..FIRST+COUNT-1 of ROWS rows of WIDTH; freed by free. */
static double *columns_of(const double *x, int64_t rows, int64_t width, int64_t first, int64_t count)
{
    double *part = malloc((size_t)(rows * count) * sizeof *part);
    for (int64_t r = 0; r < rows; r++)
        memcpy(part + r * count, x + r * width + first, (size_t)count * sizeof *part);
    return part;
}

static void expect_same(const double *got, const double *expected, int64_t n, const char *what, const struct backend *b)
{
    cr_expect_eq(memcmp(got, expected, (size_t)n * sizeof *got), 0, "%s: bits differ (%s, %s)", what, b->table->name,
                 dtype_name(b->act));
}

/* ---- attention over a slice of the heads ---- */

enum { BATCH = 2, CONTEXT = 37, HEADS = 3, SIZE = 5, POSITIONS = BATCH * CONTEXT };

struct attention_results {
    double *out, *d_qkv;
};

/* Of heads FIRST..FIRST+HEADS-1, from the whole's inputs. */
static struct attention_results attend(struct backend *b, int64_t first, int64_t heads, const double *qkv, const double *d_out)
{
    struct dropout d = {.rate = 0.3f, .key = philox_key_make(5, STREAM_DROPOUT, 3), .step = 11, .first = 40};
    struct attention_desc desc = {.batch = BATCH, .context = CONTEXT, .heads = heads, .head_size = SIZE, .heads_all = HEADS,
                                  .head_first = first, .dropout_rate = d.rate};
    int64_t n = POSITIONS * heads * SIZE;
    double *part = columns_of(qkv, 3 * POSITIONS, HEADS * SIZE, first * SIZE, heads * SIZE);
    double *d_part = columns_of(d_out, POSITIONS, HEADS * SIZE, first * SIZE, heads * SIZE);
    void *x = make_array(b, b->act, part, 3 * n), *dy = make_array(b, b->act, d_part, n), *y = make_array(b, b->act, NULL, n);
    void *dx = make_array(b, b->act, NULL, 3 * n), *log_sum = make_array(b, b->acc, NULL, POSITIONS * heads);
    struct attention *a;
    cr_assert_eq(b->table->attention_create(b, &desc, &a), CAIRN_OK, "%s", cairn_err_message());
    b->table->attention_forward(a, y, log_sum, x, &d);
    b->table->attention_backward(a, dx, dy, y, x, log_sum, &d);
    b->table->attention_destroy(a);
    struct attention_results results = {array_values(b->act, y, n), array_values(b->act, dx, 3 * n)};
    free_array(b, b->act, x, 3 * n);
    free_array(b, b->act, dy, n);
    free_array(b, b->act, y, n);
    free_array(b, b->act, dx, 3 * n);
    free_array(b, b->acc, log_sum, POSITIONS * heads);
    free(part);
    free(d_part);
    return results;
}

static void check_heads(struct backend *b)
{
    static const int64_t firsts[] = {0, 2}, counts[] = {2, 1};
    double *qkv = random_values(3 * POSITIONS * HEADS * SIZE, 1, 1), *d_out = random_values(POSITIONS * HEADS * SIZE, 2, 1);
    struct attention_results whole = attend(b, 0, HEADS, qkv, d_out);
    for (int i = 0; i < 2; i++) {
        struct attention_results slice = attend(b, firsts[i], counts[i], qkv, d_out);
        int64_t width = counts[i] * SIZE;
        double *out = columns_of(whole.out, POSITIONS, HEADS * SIZE, firsts[i] * SIZE, width);
        double *d_qkv = columns_of(whole.d_qkv, 3 * POSITIONS, HEADS * SIZE, firsts[i] * SIZE, width);
        expect_same(slice.out, out, POSITIONS * width, "out of a slice of heads", b);
        expect_same(slice.d_qkv, d_qkv, 3 * POSITIONS * width, "d_qkv of a slice of heads", b);
        free(out);
        free(d_qkv);
        free(slice.out);
        free(slice.d_qkv);
    }
    free(whole.out);
    free(whole.d_qkv);
    free(qkv);
    free(d_out);
}

Test(slices, of_heads) { in_every_backend(check_heads); }
