/* The classifier over blocks of rows: a product gives a block's logits in float32, whatever the compute type is (rounded to bfloat16 they
 * would be wrong by a hundredth where they are large, and so would gradients); one kernel finds each row's sums and, where the
 * vocabulary is whole, makes gradients of the logits while they are still in the second-level cache; two products follow. */
#include <math.h>

#include <cstdlib>

#include "base/least.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/product.h"

/* More rows read and write the weights' gradients less often. A third of that again are gradients of bfloat16. */
#ifndef LOGITS_BYTES_MAX
#define LOGITS_BYTES_MAX ((int64_t)2 << 30)
#endif
/* Blocks of rows are made of so many, the rows of a product's tiles; rows of logits lie a multiple of so many words apart. */
static constexpr int64_t ROWS_STEP = 128, WORDS_STEP = 64;
/* Threads that share a row, of a long one and of a short one; so many loads of 4 logits has each of them under way. */
static constexpr int THREADS_MOST = 1024, THREADS_FEW = 128, WORDS_FEW = 4096, LOADS = 4, WIDE = 4, TAKEN = LOADS * WIDE;

#define LOG2_E 1.44269504088896340736f

/* What a slice of the vocabulary gives a row, and what all slices do: backend.h's stats and joined. */
struct row_stats {
    float greatest, sum, target;
};
struct row_joined {
    float log_sum, target;
};

/* A sum over all words in float32 loses digits that float32 results are to have: it is taken over so many at a time. */
static constexpr int64_t DX_WORDS = 2048;

/* The products for a block of so many rows. */
struct block_plans {
    struct matmul *logits;
    struct matmul *dx, *dx_more, *dx_last; /* of the first words, and what adds to it those between and the last; NULL: there are none */
    struct matmul *d_weight[2]; /* the first block's overwrites, the others' add */
};

struct classifier {
    struct cuda *cuda;
    struct classifier_desc desc;
    int64_t rows;                 /* of a block */
    int64_t ld;                   /* from a row of logits to the next */
    struct block_plans plans[2];  /* of whole blocks and of the last one */
    float *logits;                /* [rows][ld] */
    void *d_logits;               /* of act; where that is float32, the logits' own memory */
    size_t logits_bytes, d_logits_bytes;
};

/* What kernels know of a block of rows. */
struct block_of_rows {
    float *logits;
    void *d_logits; /* NULL: losses alone */
    const int32_t *targets;
    int64_t ld;
    int words, word_first; /* a target's type holds all words' numbers */
};

/* ---- kernels: a block of threads for each row ---- */

/* exp(x - FROM), by the shortest way that is as good. */
static __device__ __forceinline__ float exp_from(float x, float from)
{
    return exp2f((x - from) * LOG2_E);
}

/* What is taken off logits before exp: their greatest, but for rows without any above -infinity. */
static __device__ __forceinline__ float base_of(float greatest)
{
    return greatest == -INFINITY ? 0 : greatest;
}

static __device__ __forceinline__ struct row_joined join_of(float greatest, float sum, float target)
{
    return {base_of(greatest) + logf(sum), target};
}

/* The words first.. of LOADS vectors, a block of threads side by side each; -infinity behind the last word. */
static __device__ __forceinline__ void take_logits(float (&x)[TAKEN], const float *logits, int first, int words)
{
#pragma unroll
    for (int i = 0; i < LOADS; i++) {
        int word = first + i * static_cast<int>(blockDim.x) * WIDE;
        vector16<float> v = {{-INFINITY, -INFINITY, -INFINITY, -INFINITY}};
        if (word < words)
            v = load16(logits + word);
#pragma unroll
        for (int j = 0; j < WIDE; j++)
            x[WIDE * i + j] = word + j < words ? v.v[j] : -INFINITY;
    }
}

/* Of one row, by all threads; thread 0 has the target's logit. Each thread keeps a running sum of its own logits. */
static __device__ struct row_stats sum_row(const float *logits, int words, int target, float *between)
{
    float greatest = -INFINITY, sum = 0;
    for (int first = static_cast<int>(threadIdx.x) * WIDE; first < words; first += static_cast<int>(blockDim.x) * TAKEN) {
        float x[TAKEN], before = greatest, added = 0;
        take_logits(x, logits, first, words);
#pragma unroll
        for (int i = 0; i < TAKEN; i++)
            greatest = fmaxf(greatest, x[i]);
        float base = base_of(greatest);
#pragma unroll
        for (int i = 0; i < TAKEN; i++)
            added += exp_from(x[i], base);
        sum = sum * exp_from(before, base) + added;
    }
    float greatest_of_row = block_reduce<greatest_of>(greatest, between, -INFINITY);
    sum = block_reduce<sum_of>(sum * exp_from(greatest, base_of(greatest_of_row)), between, 0.0f);
    bool here = threadIdx.x == 0 && target >= 0 && target < words;
    return {greatest_of_row, sum, here ? logits[target] : 0};
}

/* Four gradients, 16 or 8 bytes. */
static __device__ __forceinline__ void store_gradients(float *to, const float *x)
{
    store16(to, {x[0], x[1], x[2], x[3]});
}

static __device__ __forceinline__ void store_gradients(bf16 *to, const float *x)
{
    struct __align__(8) four {
        bf16 v[WIDE];
    };
    *reinterpret_cast<struct four *>(to) = {from_float<bf16>(x[0]), from_float<bf16>(x[1]), from_float<bf16>(x[2]), from_float<bf16>(x[3])};
}

/* d_logits = scale * (softmax - one at the target), from the row's end to its beginning: sum_row has read the end last. What lies
 * behind the last word is written too; no product reads it. LOGITS may be D_LOGITS. */
template <typename T>
static __device__ void row_gradients(T *d_logits, const float *logits, int words, int target, float log_sum, float scale)
{
    int step = static_cast<int>(blockDim.x) * TAKEN;
    for (int first = (words - 1) / step * step + static_cast<int>(threadIdx.x) * WIDE; first >= 0; first -= step) {
        float x[TAKEN];
        take_logits(x, logits, first, words);
#pragma unroll
        for (int i = 0; i < LOADS; i++) {
            int word = first + i * static_cast<int>(blockDim.x) * WIDE;
#pragma unroll
            for (int j = 0; j < WIDE; j++)
                x[WIDE * i + j] = scale * (exp_from(x[WIDE * i + j], log_sum) - (word + j == target ? 1.0f : 0.0f));
            if (word < words)
                store_gradients(d_logits + word, x + WIDE * i);
        }
    }
}

static __device__ __forceinline__ int target_of(const struct block_of_rows &b, int64_t row)
{
    return b.targets[row] - b.word_first;
}

/* Losses and gradients of a whole vocabulary. */
template <typename T>
static __global__ void __launch_bounds__(THREADS_MOST) whole_rows(struct block_of_rows b, float *losses, float scale)
{
    __shared__ float between[WARP];
    __shared__ struct row_joined joined;
    int64_t row = blockIdx.x;
    int target = target_of(b, row);
    const float *logits = b.logits + row * b.ld;
    struct row_stats s = sum_row(logits, b.words, target, between);
    if (threadIdx.x == 0) {
        joined = join_of(s.greatest, s.sum, s.target);
        losses[row] = joined.log_sum - joined.target;
    }
    __syncthreads();
    if (b.d_logits != NULL)
        row_gradients(static_cast<T *>(b.d_logits) + row * b.ld, logits, b.words, target, joined.log_sum, scale);
}

static __global__ void __launch_bounds__(THREADS_MOST) slice_stats(struct block_of_rows b, struct row_stats *stats)
{
    __shared__ float between[WARP];
    int64_t row = blockIdx.x;
    struct row_stats s = sum_row(b.logits + row * b.ld, b.words, target_of(b, row), between);
    if (threadIdx.x == 0)
        stats[row] = s;
}

/* A thread for each row. */
static __global__ void join_stats(struct row_joined *joined, const struct row_stats *stats, int64_t slices, int64_t rows)
{
    int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    float greatest = -INFINITY, sum = 0, target = 0;
    if (row >= rows)
        return;
    for (int64_t s = 0; s < slices; s++)
        greatest = fmaxf(greatest, stats[s * rows + row].greatest);
    for (int64_t s = 0; s < slices; s++) {
        struct row_stats of_slice = stats[s * rows + row];
        sum += of_slice.sum * exp_from(of_slice.greatest, base_of(greatest));
        target += of_slice.target;
    }
    joined[row] = join_of(greatest, sum, target);
}

template <typename T>
static __global__ void __launch_bounds__(THREADS_MOST) slice_rows(struct block_of_rows b, float *losses, const struct row_joined *joined,
                                                                  float scale)
{
    int64_t row = blockIdx.x;
    struct row_joined j = joined[row];
    if (threadIdx.x == 0)
        losses[row] = j.log_sum - j.target;
    if (b.d_logits != NULL)
        row_gradients(static_cast<T *>(b.d_logits) + row * b.ld, b.logits + row * b.ld, b.words, target_of(b, row), j.log_sum, scale);
}

/* ---- the plan ---- */

static int64_t round_up(int64_t n, int64_t step)
{
    return (n + step - 1) / step * step;
}

/* As many rows as LOGITS_BYTES_MAX holds of the longest slice, the blocks nearly alike. */
static int64_t rows_of_blocks(const struct classifier_desc *desc)
{
    int64_t words = desc->vocabulary_most > 0 ? desc->vocabulary_most : desc->vocabulary;
    int64_t fitting = LOGITS_BYTES_MAX / (round_up(words, WORDS_STEP) * static_cast<int64_t>(sizeof(float)));
    fitting = fitting > ROWS_STEP ? fitting / ROWS_STEP * ROWS_STEP : ROWS_STEP;
    int64_t blocks = blocks_of(desc->rows, fitting);
    return least(desc->rows, round_up(blocks_of(desc->rows, blocks), ROWS_STEP));
}

static int64_t rows_of(const struct classifier *c, int64_t block)
{
    return least(c->rows, c->desc.rows - block * c->rows);
}

static void classifier_destroy(struct classifier *c)
{
    if (c == NULL)
        return;
    for (const struct block_plans &p : c->plans) {
        product_destroy(p.logits);
        product_destroy(p.dx);
        product_destroy(p.dx_more);
        product_destroy(p.dx_last);
        product_destroy(p.d_weight[0]);
        product_destroy(p.d_weight[1]);
    }
    struct backend *b = &c->cuda->base;
    memory_free(b, c->logits, c->logits_bytes);
    if (c->d_logits_bytes > 0)
        memory_free(b, c->d_logits, c->d_logits_bytes);
    free(c);
}

static cairn_err create_workspace(struct classifier *c)
{
    struct backend *b = &c->cuda->base;
    size_t elements = static_cast<size_t>(c->rows * c->ld);
    c->logits_bytes = elements * sizeof(float);
    c->logits = static_cast<float *>(memory_alloc(b, c->logits_bytes));
    c->d_logits = c->logits;
    if (b->act == DTYPE_BF16) {
        c->d_logits_bytes = elements * sizeof(bf16);
        c->d_logits = memory_alloc(b, c->d_logits_bytes);
    }
    if (c->logits == NULL || c->d_logits == NULL)
        return FAIL(CAIRN_ENOMEM, "no memory for the classifier's workspace, %zu bytes of logits", c->logits_bytes + c->d_logits_bytes);
    return CAIRN_OK;
}

static struct product_desc product_of(int64_t m, int64_t n, int64_t k)
{
    struct product_desc p = {};
    p.matmul.m = m;
    p.matmul.n = n;
    p.matmul.k = k;
    return p;
}

/* Of the sum that dx is. */
static int64_t words_at_once(const struct classifier *c)
{
    return c->cuda->base.act == DTYPE_F32 ? least(DX_WORDS, c->desc.vocabulary) : c->desc.vocabulary;
}

static cairn_err create_plans(struct classifier *c, struct block_plans *plans, int64_t rows)
{
    int64_t width = c->desc.width, words = c->desc.vocabulary;
    struct product_desc logits = product_of(rows, words, width), dx = product_of(rows, width, words_at_once(c));
    struct product_desc d_weight = product_of(words, width, rows);
    logits.matmul.transpose_b = logits.matmul.c_is_acc = true;
    logits.lda = logits.ldb = width;
    logits.ldc = c->ld;
    dx.lda = d_weight.lda = c->ld;
    dx.ldb = dx.ldc = d_weight.ldb = d_weight.ldc = width;
    d_weight.matmul.transpose_a = d_weight.matmul.c_is_acc = true;
    TRY(product_create(c->cuda, &logits, &plans->logits));
    TRY(product_create(c->cuda, &dx, &plans->dx));
    dx.matmul.accumulate = true;
    if (words >= 2 * dx.matmul.k)
        TRY(product_create(c->cuda, &dx, &plans->dx_more));
    dx.matmul.k = words % dx.matmul.k;
    if (dx.matmul.k > 0)
        TRY(product_create(c->cuda, &dx, &plans->dx_last));
    TRY(product_create(c->cuda, &d_weight, &plans->d_weight[0]));
    d_weight.matmul.accumulate = true;
    return product_create(c->cuda, &d_weight, &plans->d_weight[1]);
}

static cairn_err classifier_create(struct backend *b, const struct classifier_desc *desc, struct classifier **classifier)
{
    *classifier = NULL;
    struct classifier *c = static_cast<struct classifier *>(calloc(1, sizeof *c));
    if (c == NULL)
        return FAIL(CAIRN_ENOMEM, "no memory for the classifier's plan");
    c->cuda = cuda_of(b);
    c->desc = *desc;
    c->rows = rows_of_blocks(desc);
    c->ld = round_up(desc->vocabulary, WORDS_STEP);
    cairn_err err;
    TRY_GOTO(err, create_workspace(c), failed);
    TRY_GOTO(err, create_plans(c, &c->plans[0], c->rows), failed);
    if (desc->rows % c->rows > 0)
        TRY_GOTO(err, create_plans(c, &c->plans[1], desc->rows % c->rows), failed);
    *classifier = c;
    return CAIRN_OK;
failed:
    classifier_destroy(c);
    return err;
}

/* ---- running ---- */

static bool half_precision(const struct classifier *c)
{
    return c->cuda->base.act == DTYPE_BF16;
}

/* Row ROW of an array of act. */
static const char *act_row(const struct classifier *c, const void *p, int64_t row)
{
    return static_cast<const char *>(p) + static_cast<size_t>(row * c->desc.width) * (half_precision(c) ? sizeof(bf16) : sizeof(float));
}

static const struct block_plans *plans_of(const struct classifier *c, int64_t block)
{
    return &c->plans[rows_of(c, block) != c->rows];
}

static struct block_of_rows block_of(const struct classifier *c, int64_t block, const int32_t *targets, bool gradients)
{
    return {c->logits, gradients ? c->d_logits : NULL, targets + block * c->rows, c->ld, static_cast<int>(c->desc.vocabulary),
            static_cast<int>(c->desc.word_first)};
}

static unsigned threads_of(const struct classifier *c)
{
    return c->desc.vocabulary > WORDS_FEW ? THREADS_MOST : THREADS_FEW;
}

/* Starts a kernel with a block of threads for each row. */
template <typename... Parameters, typename... Arguments>
static void launch_rows(const struct classifier *c, int64_t block, const char *what, void (*kernel)(Parameters...), Arguments... arguments)
{
    launch(c->cuda, what, kernel, dim3(static_cast<unsigned>(rows_of(c, block))), dim3(threads_of(c)), 0, arguments...);
}

static void run_logits(struct classifier *c, int64_t block, const void *x, const void *weight)
{
    product_run(plans_of(c, block)->logits, c->logits, act_row(c, x, block * c->rows), weight, NULL);
}

static void run_gradients(struct classifier *c, int64_t block, void *dx, void *d_weight, const void *x, const void *weight)
{
    const struct block_plans *plans = plans_of(c, block);
    void *to = const_cast<char *>(act_row(c, dx, block * c->rows));
    int64_t words = c->desc.vocabulary, step = words_at_once(c);
    size_t size = dtype_size(c->cuda->base.act);
    for (int64_t word = 0; word < words; word += step) {
        struct matmul *plan = word == 0 ? plans->dx : words - word < step ? plans->dx_last : plans->dx_more;
        product_run(plan, to, static_cast<const char *>(c->d_logits) + static_cast<size_t>(word) * size,
                    static_cast<const char *>(weight) + static_cast<size_t>(word * c->desc.width) * size, NULL);
    }
    product_run(plans->d_weight[block > 0], d_weight, c->d_logits, act_row(c, x, block * c->rows), NULL);
}

static int64_t classifier_blocks(const struct classifier *c, int64_t *rows)
{
    *rows = c->rows;
    return blocks_of(c->desc.rows, c->rows);
}

static void classifier_loss_and_gradients(struct classifier *c, void *losses, void *dx, void *d_weight, const void *x,
                                          const void *weight, const int32_t *targets, double scale)
{
    int64_t rows, blocks = classifier_blocks(c, &rows);
    for (int64_t block = 0; block < blocks; block++) {
        run_logits(c, block, x, weight);
        launch_rows(c, block, "losses of the words", half_precision(c) ? whole_rows<bf16> : whole_rows<float>,
                    block_of(c, block, targets, dx != NULL), static_cast<float *>(losses) + block * rows, static_cast<float>(scale));
        if (dx != NULL)
            run_gradients(c, block, dx, d_weight, x, weight);
    }
}

static void classifier_loss(struct classifier *c, void *losses, const void *x, const void *weight, const int32_t *targets)
{
    classifier_loss_and_gradients(c, losses, NULL, NULL, x, weight, targets, 0);
}

static void classifier_block_logits(struct classifier *c, int64_t block, void *stats, const void *x, const void *weight,
                                    const int32_t *targets, bool keep)
{
    (void)keep; /* they are kept anyway */
    run_logits(c, block, x, weight);
    launch_rows(c, block, "sums of the words", slice_stats, block_of(c, block, targets, false), static_cast<struct row_stats *>(stats));
}

static void classifier_join(struct backend *b, void *joined, const void *stats, int64_t slices, int64_t rows)
{
    static constexpr int THREADS = 128;
    launch(cuda_of(b), "sums of all words", join_stats, dim3(blocks_of(rows, THREADS)), dim3(THREADS), 0,
           static_cast<struct row_joined *>(joined), static_cast<const struct row_stats *>(stats), slices, rows);
}

static void classifier_block_finish(struct classifier *c, int64_t block, void *losses, void *dx, void *d_weight, const void *joined,
                                    const void *x, const void *weight, const int32_t *targets, double scale)
{
    launch_rows(c, block, "losses of a slice of words", half_precision(c) ? slice_rows<bf16> : slice_rows<float>,
                block_of(c, block, targets, dx != NULL), static_cast<float *>(losses) + block * c->rows,
                static_cast<const struct row_joined *>(joined), static_cast<float>(scale));
    if (dx != NULL)
        run_gradients(c, block, dx, d_weight, x, weight);
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
