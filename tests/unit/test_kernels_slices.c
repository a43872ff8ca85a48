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

static void on_a_gpu(void (*check)(struct backend *))
{
    static const enum dtype types[] = {DTYPE_F32, DTYPE_BF16};
    for (int i = 0; i < 2; i++) {
        struct backend *b = open_cuda(types[i]);
        check(b);
        b->table->close(b);
    }
}

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
    struct attention_results results = {array_values(b, b->act, y, n), array_values(b, b->act, dx, 3 * n)};
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
Test(slices, of_heads_on_a_gpu) { on_a_gpu(check_heads); }

/* ---- embedding over slices of the vocabulary and of the positions ---- */

enum { VOCABULARY = 11, WIDTH = 19, ROWS = 3 * CONTEXT };

struct embedding_results {
    double *y, *d_token, *d_position;
};

static struct embedding_results embed(struct backend *b, const struct embedding_desc *d, const int32_t *tokens, const double *table,
                                      const double *positions, const double *dy_values)
{
    int64_t n = d->rows * WIDTH, of_tokens = d->token_count * WIDTH, of_positions = d->position_count * WIDTH;
    double *zeros = calloc((size_t)of_tokens, sizeof *zeros);
    void *t = make_array(b, b->act, table + d->token_first * WIDTH, of_tokens), *p = make_array(b, b->act, positions, of_positions);
    void *y = make_array(b, b->act, NULL, n), *dy = make_array(b, b->act, dy_values, n);
    void *d_token = make_array(b, b->acc, zeros, of_tokens), *d_position = make_array(b, b->acc, NULL, of_positions);
    int32_t *words = make_integers(b, tokens, d->rows), *columns = d->positions ? make_integers(b, d->positions, d->context) : NULL;
    struct embedding_desc there = *d;
    there.positions = columns;
    b->table->embedding_forward(b, y, words, t, d->token_first == 0 ? p : NULL, &there);
    b->table->embedding_backward(b, d_token, d_position, dy, words, &there);
    struct embedding_results results = {array_values(b, b->act, y, n), array_values(b, b->acc, d_token, of_tokens),
                                        array_values(b, b->acc, d_position, of_positions)};
    free_array(b, DTYPE_I32, words, d->rows);
    if (columns)
        free_array(b, DTYPE_I32, columns, d->context);
    free_array(b, b->act, t, of_tokens);
    free_array(b, b->act, p, of_positions);
    free_array(b, b->act, y, n);
    free_array(b, b->act, dy, n);
    free_array(b, b->acc, d_token, of_tokens);
    free_array(b, b->acc, d_position, of_positions);
    free(zeros);
    return results;
}

static void embedding_results_free(struct embedding_results *r)
{
    free(r->y);
    free(r->d_token);
    free(r->d_position);
}

struct embedding_inputs {
    int32_t tokens[ROWS];
    double *table, *positions, *dy;
};

static struct embedding_inputs embedding_inputs_make(void)
{
    struct embedding_inputs in = {.table = random_values(VOCABULARY * WIDTH, 3, 1), .positions = random_values(CONTEXT * WIDTH, 4, 1),
                                  .dy = random_values(ROWS * WIDTH, 5, 1)};
    for (int i = 0; i < ROWS; i++)
        in.tokens[i] = (i * i + 3 * i) % VOCABULARY;
    return in;
}

static void embedding_inputs_free(struct embedding_inputs *in)
{
    free(in->table);
    free(in->positions);
    free(in->dy);
}

/* Words 0..3, 4..8 and 9, 10; positions are the first slice's. Each row is one slice's, so that sums over slices round nothing
 * but the first's sum with its position. */
static void check_words(struct backend *b)
{
    static const int64_t firsts[] = {0, 4, 9, VOCABULARY};
    struct embedding_inputs in = embedding_inputs_make();
    struct embedding_desc d = {.rows = ROWS, .width = WIDTH, .context = CONTEXT, .token_count = VOCABULARY, .position_count = CONTEXT};
    struct embedding_results whole = embed(b, &d, in.tokens, in.table, in.positions, in.dy);
    double *sum = calloc(ROWS * WIDTH, sizeof *sum);
    for (int s = 0; s < 3; s++) {
        d.token_first = firsts[s];
        d.token_count = firsts[s + 1] - firsts[s];
        struct embedding_results slice = embed(b, &d, in.tokens, in.table, in.positions, in.dy);
        for (int i = 0; i < ROWS * WIDTH; i++)
            sum[i] += slice.y[i];
        expect_same(slice.d_token, whole.d_token + d.token_first * WIDTH, d.token_count * WIDTH, "d_token of a slice of words", b);
        expect_same(slice.d_position, whole.d_position, CONTEXT * WIDTH, "d_position beside a slice of words", b);
        embedding_results_free(&slice);
    }
    double error = relative_error(sum, whole.y, ROWS * WIDTH);
    cr_expect_lt(error, b->act == DTYPE_BF16 ? 1e-2 : 1e-6, "sum of slices of words: relative error %g", error);
    embedding_results_free(&whole);
    embedding_inputs_free(&in);
    free(sum);
}

Test(slices, of_words) { in_every_backend(check_words); }
Test(slices, of_words_on_a_gpu) { on_a_gpu(check_words); }

/* Columns 0..8 and 28..36 on one rank, the others on another: each row and each position is one rank's. */
static void check_columns(struct backend *b)
{
    enum { EDGE = 9, INNER = CONTEXT - 2 * EDGE };
    struct embedding_inputs in = embedding_inputs_make();
    struct embedding_desc d = {.rows = ROWS, .width = WIDTH, .context = CONTEXT, .token_count = VOCABULARY, .position_count = CONTEXT};
    struct embedding_results whole = embed(b, &d, in.tokens, in.table, in.positions, in.dy);
    double *d_position = calloc(CONTEXT * WIDTH, sizeof *d_position);
    for (int rank = 0; rank < 2; rank++) {
        int32_t columns[CONTEXT], tokens[ROWS];
        int count = rank == 0 ? 2 * EDGE : INNER, rows = ROWS / CONTEXT * count;
        double *dy = malloc((size_t)(rows * WIDTH) * sizeof *dy), *y = malloc((size_t)(rows * WIDTH) * sizeof *y);
        for (int r = 0; r < rows; r++) {
            int column = r % count, at = columns[column] = rank != 0 ? column + EDGE : column < EDGE ? column : column + INNER;
            at += r / count * CONTEXT;
            tokens[r] = in.tokens[at];
            memcpy(dy + r * WIDTH, in.dy + at * WIDTH, WIDTH * sizeof *dy);
            memcpy(y + r * WIDTH, whole.y + at * WIDTH, WIDTH * sizeof *y);
        }
        d.rows = rows;
        d.context = count;
        d.positions = columns;
        struct embedding_results part = embed(b, &d, tokens, in.table, in.positions, dy);
        expect_same(part.y, y, rows * WIDTH, "columns of a sequence", b);
        for (int i = 0; i < CONTEXT * WIDTH; i++)
            d_position[i] += part.d_position[i];
        embedding_results_free(&part);
        free(dy);
        free(y);
    }
    expect_same(d_position, whole.d_position, CONTEXT * WIDTH, "d_position of columns", b);
    embedding_results_free(&whole);
    embedding_inputs_free(&in);
    free(d_position);
}

Test(slices, of_columns) { in_every_backend(check_columns); }
Test(slices, of_columns_on_a_gpu) { on_a_gpu(check_columns); }
