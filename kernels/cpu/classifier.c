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

struct classifier {
    struct cpu *cpu;
    struct classifier_desc desc;
    int64_t rows;                   /* of a block */
    struct part_plans plans[2][2];  /* [whole or last block of rows][whole or last part of the vocabulary] */
    float *logits;                  /* part after part: [rows of the block][words of the part] */
    void *d_logits;                 /* of act, one part */
    float *dx;                      /* [rows][width], where act is bfloat16 */
    struct running_sum *sums;       /* [rows] */
    float *target_logits, *log_sums; /* [rows] */
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
    free(c->sums);
    free(c->target_logits);
    free(c->log_sums);
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
    c->sums = calloc((size_t)c->rows, sizeof *c->sums);
    c->target_logits = calloc((size_t)c->rows, sizeof *c->target_logits);
    c->log_sums = calloc((size_t)c->rows, sizeof *c->log_sums);
    if (c->logits == NULL || c->d_logits == NULL || c->dx == NULL || c->sums == NULL || c->target_logits == NULL ||
        c->log_sums == NULL)
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
    int64_t fitting = LOGITS_BYTES_MAX / (desc->vocabulary * (int64_t)sizeof(float));
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

/* Logits of one part, and what they add to the rows' sums. */
static void sum_part(struct classifier *c, const struct part *p, const void *x, const void *weight, const int32_t *targets)
{
    struct cpu *cpu = c->cpu;
    product_run(p->plans->logits, p->logits, cpu_at(cpu, x, p->row * c->desc.width), cpu_at(cpu, weight, p->word * c->desc.width),
                NULL);
#pragma omp parallel for num_threads(cpu->base.threads) schedule(static)
    for (int64_t r = 0; r < p->rows; r++) {
        int64_t target = targets[p->row + r] - p->word;
        cpu->loops.running_sum(&c->sums[r], p->logits + r * p->words, p->words);
        if (target >= 0 && target < p->words)
            c->target_logits[r] = p->logits[r * p->words + target];
    }
}

/* Losses of a block of rows. KEEP: all parts' logits are wanted afterwards. */
static void block_losses(struct classifier *c, int64_t row, float *losses, const void *x, const void *weight, const int32_t *targets,
                         bool keep)
{
    int64_t rows = least(c->rows, c->desc.rows - row);
    for (int64_t r = 0; r < rows; r++)
        c->sums[r] = (struct running_sum){-INFINITY, 0};
    for (int64_t word = 0; word < c->desc.vocabulary; word += WORDS) {
        struct part p = part_of(c, row, word);
        if (!keep)
            p.logits = c->logits;
        sum_part(c, &p, x, weight, targets);
    }
    for (int64_t r = 0; r < rows; r++) {
        c->log_sums[r] = c->sums[r].greatest + logf(c->sums[r].sum);
        losses[row + r] = c->log_sums[r] - c->target_logits[r];
    }
}

static void classifier_loss(struct classifier *c, void *losses, const void *x, const void *weight, const int32_t *targets)
{
    for (int64_t row = 0; row < c->desc.rows; row += c->rows)
        block_losses(c, row, losses, x, weight, targets, false);
}

/* One row of d_logits = scale * (softmax - one at the target). */
static void row_gradient(struct classifier *c, const struct part *p, int64_t r, int64_t target, float scale)
{
    struct cpu *cpu = c->cpu;
    const float *logits = p->logits + r * p->words;
    void *d_logits = cpu_at_mutable(cpu, c->d_logits, r * p->words);
    cpu->act->softmax_gradient(d_logits, logits, p->words, c->log_sums[r], scale);
    if (target < 0 || target >= p->words)
        return;
    float d = scale * (expf(logits[target] - c->log_sums[r]) - 1);
    if (cpu->half)
        ((uint16_t *)d_logits)[target] = bf16_from_float(d);
    else
        ((float *)d_logits)[target] = d;
}

/* What one part gives to the gradients; DX is the block's, of float. */
static void part_gradients(struct classifier *c, const struct part *p, float *dx, float *d_weight, const void *x, const void *weight,
                           const int32_t *targets, float scale)
{
    struct cpu *cpu = c->cpu;
    int64_t width = c->desc.width;
#pragma omp parallel for num_threads(cpu->base.threads) schedule(static)
    for (int64_t r = 0; r < p->rows; r++)
        row_gradient(c, p, r, targets[p->row + r] - p->word, scale);
    product_run(p->plans->dx, dx, c->d_logits, cpu_at(cpu, weight, p->word * width), NULL);
    product_run(p->plans->d_weight[p->row > 0], d_weight + p->word * width, c->d_logits, cpu_at(cpu, x, p->row * width), NULL);
}

static void classifier_loss_and_gradients(struct classifier *c, void *losses, void *dx, void *d_weight, const void *x,
                                          const void *weight, const int32_t *targets, double scale)
{
    struct cpu *cpu = c->cpu;
    int64_t width = c->desc.width;
    for (int64_t row = 0; row < c->desc.rows; row += c->rows) {
        int64_t elements = least(c->rows, c->desc.rows - row) * width;
        float *block_dx = cpu->half ? c->dx : (float *)dx + row * width;
        block_losses(c, row, losses, x, weight, targets, true);
        memset(block_dx, 0, (size_t)elements * sizeof *block_dx);
        for (int64_t word = 0; word < c->desc.vocabulary; word += WORDS) {
            struct part p = part_of(c, row, word);
            part_gradients(c, &p, block_dx, d_weight, x, weight, targets, (float)scale);
        }
        if (cpu->half)
            cpu->act->from_float(cpu_at_mutable(cpu, dx, row * width), block_dx, elements);
    }
}

void classifier_fill(struct backend_table *table)
{
    table->classifier_create = classifier_create;
    table->classifier_loss = classifier_loss;
    table->classifier_loss_and_gradients = classifier_loss_and_gradients;
    table->classifier_destroy = classifier_destroy;
}
