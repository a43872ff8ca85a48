/* The classifier over blocks: some rows at a time, and of those a part of the vocabulary at a time, so that each part is
 * still in the cache when the next loop or product wants it. The logits of a block of rows are kept between the sweep that
 * finds the rows' sums and the sweep that makes gradients of them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/least.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/product.h"

/* More rows read and write the weights' gradients less often; more words a part make products larger. Rows of logits lie
 * WORDS apart, and a product that reads them by columns is a third slower when that is a multiple of 4 KiB, whose rows share
 * the sets of a cache: 1040 words, not 1024. */
enum { ROWS_MAX = 1024, WORDS = 1040 };
#define LOGITS_BYTES_MAX ((int64_t)256 << 20)

/* The products for a block of so many rows and a part of so many words. */
struct part_plans {
    struct matmul *logits, *dx;
    struct matmul *d_weight[2]; /* the first block's overwrites, the others' add */
};

/* What a slice of the vocabulary gives a row, and what all slices do: backend.h's stats and joined. */
struct row_stats {
    struct running_sum sum;
    float target;
};
struct row_joined {
    float log_sum, target;
};

struct classifier {
    struct cpu *cpu;
    struct classifier_desc desc;
    int64_t rows;                   /* of a block */
    struct part_plans plans[2][2];  /* [whole or last block of rows][whole or last part of the vocabulary] */
    float *logits;                  /* part after part: [rows of the block][words of the part] */
    void *d_logits;                 /* of act, one part */
    float *dx;                      /* [rows][width], where act is bfloat16 */
    struct row_stats *stats;        /* [rows], where the vocabulary is whole */
    struct row_joined *joined;      /* [rows] */
    size_t logits_bytes, d_logits_bytes, dx_bytes;
};

static void destroy_plans(struct part_plans *p)
{
    product_destroy(p->logits);
    product_destroy(p->dx);
    product_destroy(p->d_weight[0]);
    product_destroy(p->d_weight[1]);
}

static void classifier_destroy(struct classifier *c)
{
    if (c == NULL)
        return;
    for (int i = 0; i < 4; i++)
        destroy_plans(&c->plans[i / 2][i % 2]);
    struct backend *b = &c->cpu->base;
    memory_free(b, c->logits, c->logits_bytes);
    memory_free(b, c->d_logits, c->d_logits_bytes);
    memory_free(b, c->dx, c->dx_bytes);
    free(c->stats);
    free(c->joined);
    free(c);
}

static cairn_err create_plans(struct classifier *c, struct part_plans *plans, int64_t rows, int64_t words)
{
    struct cpu *cpu = c->cpu;
    int64_t width = c->desc.width;
    struct product_desc logits = {{.m = rows, .n = words, .k = width, .transpose_b = true, .c_is_acc = true}, width, width, words};
    struct product_desc dx = {{.m = rows, .n = width, .k = words, .accumulate = true, .c_is_acc = true}, words, width, width};
    struct product_desc d_weight = {{.m = words, .n = width, .k = rows, .transpose_a = true, .c_is_acc = true}, words, width, width};
    TRY(product_create(cpu, &logits, &plans->logits));
    TRY(product_create(cpu, &dx, &plans->dx));
    TRY(product_create(cpu, &d_weight, &plans->d_weight[0]));
    d_weight.matmul.accumulate = true;
    return product_create(cpu, &d_weight, &plans->d_weight[1]);
}

static cairn_err create_all_plans(struct classifier *c)
{
    int64_t rows[2] = {c->rows, c->desc.rows % c->rows};
    int64_t words[2] = {least(WORDS, c->desc.vocabulary), c->desc.vocabulary > WORDS ? c->desc.vocabulary % WORDS : 0};
    for (int r = 0; r < 2; r++)
        for (int w = 0; w < 2; w++)
            if (rows[r] > 0 && words[w] > 0)
                TRY(create_plans(c, &c->plans[r][w], rows[r], words[w]));
    return CAIRN_OK;
}

static cairn_err create_workspace(struct classifier *c)
{
    struct backend *b = &c->cpu->base;
    c->logits_bytes = (size_t)(c->rows * c->desc.vocabulary) * sizeof(float);
    c->d_logits_bytes = (size_t)(c->rows * WORDS) * dtype_size(b->act);
    c->dx_bytes = (size_t)(c->rows * c->desc.width) * sizeof(float);
    c->logits = memory_alloc(b, c->logits_bytes);
    c->d_logits = memory_alloc(b, c->d_logits_bytes);
    c->dx = memory_alloc(b, c->dx_bytes);
    c->stats = calloc((size_t)c->rows, sizeof *c->stats);
    c->joined = calloc((size_t)c->rows, sizeof *c->joined);
    if (c->logits == NULL || c->d_logits == NULL || c->dx == NULL || c->stats == NULL || c->joined == NULL)
        return FAIL(CAIRN_ENOMEM, "no memory for the classifier's workspace, %zu bytes of logits", c->logits_bytes);
    return CAIRN_OK;
}

static cairn_err classifier_create(struct backend *b, const struct classifier_desc *desc, struct classifier **classifier)
{
    *classifier = NULL;
    struct classifier *c = calloc(1, sizeof *c);
    if (c == NULL)
        return FAIL(CAIRN_ENOMEM, "no memory for the classifier's plan");
    c->cpu = cpu_of(b);
    c->desc = *desc;
    int64_t words = desc->vocabulary_most > 0 ? desc->vocabulary_most : desc->vocabulary;
    int64_t fitting = LOGITS_BYTES_MAX / (words * (int64_t)sizeof(float));
    c->rows = least(least(ROWS_MAX, desc->rows), fitting > 0 ? fitting : 1);
    cairn_err err;
    TRY_GOTO(err, create_workspace(c), failed);
    TRY_GOTO(err, create_all_plans(c), failed);
    *classifier = c;
    return CAIRN_OK;
failed:
    classifier_destroy(c);
    return err;
}

/* A block of rows, and a part of the vocabulary. */
struct part {
    const struct part_plans *plans;
    int64_t row, rows, word, words;
    float *logits;
};

static struct part part_of(struct classifier *c, int64_t row, int64_t word)
{
    struct part p = {.row = row, .word = word};
    p.rows = least(c->rows, c->desc.rows - row);
    p.words = least(WORDS, c->desc.vocabulary - word);
    p.logits = c->logits + p.rows * word;
    p.plans = &c->plans[p.rows != c->rows][p.words != least(WORDS, c->desc.vocabulary)];
    return p;
}

/* The target of the part's row R among the part's words, -1 if it is none of them. */
static int64_t target_of(const struct classifier *c, const struct part *p, const int32_t *targets, int64_t r)
{
    int64_t target = targets[p->row + r] - c->desc.word_first - p->word;
    return target >= 0 && target < p->words ? target : -1;
}

/* Logits of one part, and what they add to the rows' sums. */
static void sum_part(struct classifier *c, const struct part *p, struct row_stats *stats, const void *x, const void *weight,
                     const int32_t *targets)
{
    struct cpu *cpu = c->cpu;
    product_run(p->plans->logits, p->logits, cpu_at(cpu, x, p->row * c->desc.width), cpu_at(cpu, weight, p->word * c->desc.width),
                NULL);
#pragma omp parallel for num_threads(cpu->base.threads) schedule(static)
    for (int64_t r = 0; r < p->rows; r++) {
        int64_t target = target_of(c, p, targets, r);
        cpu->loops.running_sum(&stats[r].sum, p->logits + r * p->words, p->words);
        if (target >= 0)
            stats[r].target = p->logits[r * p->words + target];
    }
}

static int64_t rows_of(const struct classifier *c, int64_t block)
{
    return least(c->rows, c->desc.rows - block * c->rows);
}

static int64_t classifier_blocks(const struct classifier *c, int64_t *rows)
{
    *rows = c->rows;
    return (c->desc.rows + c->rows - 1) / c->rows;
}

static void classifier_block_logits(struct classifier *c, int64_t block, void *stats_, const void *x, const void *weight,
                                    const int32_t *targets, bool keep)
{
    struct row_stats *stats = stats_;
    for (int64_t r = 0; r < rows_of(c, block); r++)
        stats[r] = (struct row_stats){{-INFINITY, 0}, 0};
    for (int64_t word = 0; word < c->desc.vocabulary; word += WORDS) {
        struct part p = part_of(c, block * c->rows, word);
        if (!keep)
            p.logits = c->logits;
        sum_part(c, &p, stats, x, weight, targets);
    }
}

static void classifier_join(struct backend *b, void *joined_, const void *stats_, int64_t slices, int64_t rows)
{
    (void)b;
    struct row_joined *joined = joined_;
    const struct row_stats *stats = stats_;
    for (int64_t r = 0; r < rows; r++) {
        float greatest = -INFINITY, sum = 0, target = 0;
        for (int64_t s = 0; s < slices; s++)
            greatest = fmaxf(greatest, stats[s * rows + r].sum.greatest);
        for (int64_t s = 0; s < slices; s++) {
            const struct row_stats *of_slice = &stats[s * rows + r];
            sum += of_slice->sum.sum * expf(of_slice->sum.greatest - greatest);
            target += of_slice->target;
        }
        joined[r] = (struct row_joined){greatest + logf(sum), target};
    }
}

/* One row of d_logits = scale * (softmax - one at the target). */
static void row_gradient(struct classifier *c, const struct part *p, int64_t r, int64_t target, float log_sum, float scale)
{
    struct cpu *cpu = c->cpu;
    const float *logits = p->logits + r * p->words;
    void *d_logits = cpu_at_mutable(cpu, c->d_logits, r * p->words);
    cpu->act->softmax_gradient(d_logits, logits, p->words, log_sum, scale);
    if (target < 0)
        return;
    float d = scale * (expf(logits[target] - log_sum) - 1);
    if (cpu->half)
        ((uint16_t *)d_logits)[target] = bf16_from_float(d);
    else
        ((float *)d_logits)[target] = d;
}

/* What one part gives to the gradients; DX is the block's, of float. */
static void part_gradients(struct classifier *c, const struct part *p, float *dx, float *d_weight, const struct row_joined *joined,
                           const void *x, const void *weight, const int32_t *targets, float scale)
{
    struct cpu *cpu = c->cpu;
    int64_t width = c->desc.width;
#pragma omp parallel for num_threads(cpu->base.threads) schedule(static)
    for (int64_t r = 0; r < p->rows; r++)
        row_gradient(c, p, r, target_of(c, p, targets, r), joined[r].log_sum, scale);
    product_run(p->plans->dx, dx, c->d_logits, cpu_at(cpu, weight, p->word * width), NULL);
    product_run(p->plans->d_weight[p->row > 0], d_weight + p->word * width, c->d_logits, cpu_at(cpu, x, p->row * width), NULL);
}

static void classifier_block_finish(struct classifier *c, int64_t block, void *losses, void *dx, void *d_weight, const void *joined_,
                                    const void *x, const void *weight, const int32_t *targets, double scale)
{
    struct cpu *cpu = c->cpu;
    const struct row_joined *joined = joined_;
    int64_t width = c->desc.width, row = block * c->rows, rows = rows_of(c, block);
    for (int64_t r = 0; r < rows; r++)
        ((float *)losses)[row + r] = joined[r].log_sum - joined[r].target;
    if (dx == NULL)
        return;
    float *block_dx = cpu->half ? c->dx : (float *)dx + row * width;
    memset(block_dx, 0, (size_t)(rows * width) * sizeof *block_dx);
    for (int64_t word = 0; word < c->desc.vocabulary; word += WORDS) {
        struct part p = part_of(c, row, word);
        part_gradients(c, &p, block_dx, d_weight, joined, x, weight, targets, (float)scale);
    }
    if (cpu->half)
        cpu->act->from_float(cpu_at_mutable(cpu, dx, row * width), block_dx, rows * width);
}

static void classifier_loss_and_gradients(struct classifier *c, void *losses, void *dx, void *d_weight, const void *x,
                                          const void *weight, const int32_t *targets, double scale)
{
    int64_t rows, blocks = classifier_blocks(c, &rows);
    for (int64_t block = 0; block < blocks; block++) {
        classifier_block_logits(c, block, c->stats, x, weight, targets, dx != NULL);
        classifier_join(&c->cpu->base, c->joined, c->stats, 1, rows_of(c, block));
        classifier_block_finish(c, block, losses, dx, d_weight, c->joined, x, weight, targets, scale);
    }
}

static void classifier_loss(struct classifier *c, void *losses, const void *x, const void *weight, const int32_t *targets)
{
    classifier_loss_and_gradients(c, losses, NULL, NULL, x, weight, targets, 0);
}

void classifier_fill(struct backend_table *table)
{
    table->classifier_create = classifier_create;
    table->classifier_loss = classifier_loss;
    table->classifier_loss_and_gradients = classifier_loss_and_gradients;
    table->classifier_blocks = classifier_blocks;
    table->classifier_block_logits = classifier_block_logits;
    table->classifier_join = classifier_join;
    table->classifier_block_finish = classifier_block_finish;
    table->classifier_destroy = classifier_destroy;
}
