#include "mesh/compress.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/least.h"
#include "base/philox.h"
#include "mesh/collective.h"
#include "mesh/tree.h"

/* Where a tensor is, and its factors: of rank 0 if it is sent whole. */
struct tensor {
    int64_t rows, columns, offset;
    int rank;
    int64_t left, right; /* where its P, or it whole, is among all that are sent in the first sum; where its Q is */
};

struct bucket {
    int64_t elements, kept; /* of a share, or to be selected */
    struct tensor *tensors;
    int tensor_count;
    int64_t lefts, rights; /* elements in all */
    float *residual, *share_residual, *factor;
};

struct compressor {
    struct group *group;
    struct compress_options options;
    struct bucket *buckets;
    int bucket_count;
    int64_t *begins, *counts, *more_begins, *more_counts; /* by rank */
    size_t room;   /* bytes of each of these, for the largest bucket */
    char *sent, *received;
};

cairn_err compressor_create(struct group *group, const struct compress_options *options, struct compressor **out)
{
    if (options->kind == COMPRESS_TOPK && !(options->ratio > 0 && options->ratio <= 1))
        return FAIL(CAIRN_EINVAL, "topk sends a share of %g of a gradient: more than 0, at most 1", options->ratio);
    if (options->kind == COMPRESS_POWERSGD && options->rank < 1)
        return FAIL(CAIRN_EINVAL, "powersgd's rank is %d: at least 1", options->rank);
    struct compressor *c = calloc(1, sizeof *c);
    int64_t *begins = calloc(4 * (size_t)group->size, sizeof *begins);
    if (!c || !begins) {
        free(c);
        free(begins);
        return FAIL(CAIRN_ENOMEM, "no memory for compression");
    }
    int size = group->size;
    *c = (struct compressor){.group = group, .options = *options, .begins = begins, .counts = begins + size,
                             .more_begins = begins + 2 * size, .more_counts = begins + 3 * size};
    *out = c;
    return CAIRN_OK;
}

static void free_bucket(struct bucket *b)
{
    free(b->tensors);
    free(b->residual);
    free(b->share_residual);
    free(b->factor);
}

void compressor_destroy(struct compressor *c)
{
    if (!c)
        return;
    for (int i = 0; i < c->bucket_count; i++)
        free_bucket(&c->buckets[i]);
    free(c->buckets);
    free(c->begins);
    free(c->sent);
    free(c->received);
    free(c);
}

/* Places the tensors, and their factors where these are smaller. */
static void place_tensors(struct bucket *b, const struct compress_tensor *tensors, int rank)
{
    for (int i = 0; i < b->tensor_count; i++) {
        struct tensor *t = &b->tensors[i];
        int64_t rows = tensors[i].rows, columns = tensors[i].columns, r = least(rank, least(rows, columns));
        *t = (struct tensor){.rows = rows, .columns = columns, .offset = b->elements, .left = b->lefts, .right = b->rights};
        if (rows > 1 && columns > 1 && r * (rows + columns) < rows * columns)
            t->rank = (int)r;
        b->lefts += t->rank ? t->rank * rows : rows * columns;
        b->rights += t->rank * columns;
        b->elements += rows * columns;
    }
}

/* Bytes that a bucket's messages take: what is sent; what is received, where that is not in the same place. */
static size_t message_bytes(const struct compressor *c, const struct bucket *b, size_t *received)
{
    size_t ranks = (size_t)c->group->size;
    *received = 0;
    switch (c->options.kind) {
    case COMPRESS_NONE: break;
    case COMPRESS_BF16: *received = ranks * (size_t)b->kept * sizeof(uint16_t); return (size_t)b->elements * sizeof(uint16_t);
    case COMPRESS_TOPK: return ranks * (size_t)b->kept * 2 * sizeof(int32_t);
    case COMPRESS_POWERSGD: *received = (size_t)b->rights * sizeof(float); return (size_t)b->lefts * sizeof(float);
    }
    return 0;
}

static cairn_err grow(char **memory, size_t bytes)
{
    char *more = realloc(*memory, bytes);
    if (!more)
        return FAIL(CAIRN_ENOMEM, "no memory for messages of %.1f MB", (double)bytes * 1e-6);
    *memory = more;
    return CAIRN_OK;
}

static cairn_err take_room(struct compressor *c, const struct bucket *b)
{
    size_t received, sent = message_bytes(c, b, &received), most = sent > received ? sent : received;
    if (most <= c->room)
        return CAIRN_OK;
    TRY(grow(&c->sent, most));
    TRY(grow(&c->received, most));
    c->room = most;
    return CAIRN_OK;
}

/* The first Q, of bucket NUMBER: the same on all ranks. */
static void begin_factor(const struct compressor *c, int number, struct bucket *b)
{
    struct philox_key key = philox_key_make(c->options.seed, STREAM_FACTORS, (uint32_t)number);
    for (int64_t i = 0; i < b->rights; i++) {
        uint32_t random[4];
        philox4x32(key, 0, (uint64_t)i, random);
        b->factor[i] = philox_uniform(random[0]) - 0.5f;
    }
}

static cairn_err make_bucket(struct compressor *c, const struct compress_tensor *tensors, int count, struct bucket *b)
{
    enum compress_kind kind = c->options.kind;
    *b = (struct bucket){.tensor_count = count, .tensors = calloc((size_t)count, sizeof *b->tensors)};
    if (!b->tensors)
        return FAIL(CAIRN_ENOMEM, "no memory for compression");
    place_tensors(b, tensors, kind == COMPRESS_POWERSGD ? c->options.rank : 0);
    if (b->elements > INT_MAX)
        return FAIL(CAIRN_EINVAL, "a bucket of %lld elements: at most %d", (long long)b->elements, INT_MAX);
    int64_t first;
    if (kind == COMPRESS_BF16)
        tree_share(b->elements, c->group->size, c->group->rank, &first, &b->kept);
    else if (kind == COMPRESS_TOPK)
        b->kept = (int64_t)ceil(c->options.ratio * (double)b->elements);
    b->residual = calloc((size_t)b->elements + 1, sizeof *b->residual);
    b->share_residual = calloc((size_t)b->kept + 1, sizeof *b->share_residual);
    b->factor = calloc((size_t)b->rights + 1, sizeof *b->factor);
    if (!b->residual || !b->share_residual || !b->factor)
        return FAIL(CAIRN_ENOMEM, "no memory for what compression keeps of %lld elements", (long long)b->elements);
    begin_factor(c, c->bucket_count, b);
    return take_room(c, b);
}

cairn_err compressor_add_bucket(struct compressor *c, const struct compress_tensor *tensors, int count, int *bucket)
{
    struct bucket b, *more = realloc(c->buckets, (size_t)(c->bucket_count + 1) * sizeof *more);
    if (!more)
        return FAIL(CAIRN_ENOMEM, "no memory for compression");
    c->buckets = more;
    cairn_err err = make_bucket(c, tensors, count, &b);
    if (err) {
        free_bucket(&b);
        return err;
    }
    *bucket = c->bucket_count;
    c->buckets[c->bucket_count++] = b;
    return CAIRN_OK;
}

void compressor_forget(struct compressor *c)
{
    for (int i = 0; i < c->bucket_count; i++) {
        struct bucket *b = &c->buckets[i];
        memset(b->residual, 0, (size_t)b->elements * sizeof *b->residual);
        memset(b->share_residual, 0, (size_t)b->kept * sizeof *b->share_residual);
        begin_factor(c, i, b);
    }
}

struct compress_state compressor_state(struct compressor *c, int bucket, int number)
{
    struct bucket *b = &c->buckets[bucket];
    enum compress_kind kind = c->options.kind;
    switch (number) {
    case 0: return (struct compress_state){"residual", b->residual, kind == COMPRESS_NONE ? 0 : b->elements, false, false};
    case 1: return (struct compress_state){"share_residual", b->share_residual, kind == COMPRESS_BF16 ? b->kept : 0, true, false};
    default: return (struct compress_state){"factor", b->factor, b->rights, false, true};
    }
}

/* The own share of all ranks' roundings, summed in the order of the ranks and rounded again. */
static void sum_share(const struct compressor *c, struct bucket *b, const uint16_t *received, uint16_t *share)
{
    for (int64_t i = 0; i < b->kept; i++) {
        float sum = bf16_to_float(received[i]);
        for (int r = 1; r < c->group->size; r++)
            sum += bf16_to_float(received[r * b->kept + i]);
        b->share_residual[i] = compress_round(sum + b->share_residual[i], &share[i]);
    }
}

static cairn_err sum_bf16(struct compressor *c, struct bucket *b, float *gradient)
{
    uint16_t *sent = (uint16_t *)c->sent, *received = (uint16_t *)c->received;
    for (int64_t i = 0; i < b->elements; i++)
        b->residual[i] = compress_round(gradient[i] + b->residual[i], &sent[i]);
    for (int r = 0; r < c->group->size; r++) {
        tree_share(b->elements, c->group->size, r, &c->begins[r], &c->counts[r]);
        c->more_begins[r] = r * b->kept;
        c->more_counts[r] = b->kept;
    }
    TRY(group_all_to_all(c->group, sent, c->begins, c->counts, received, c->more_begins, c->more_counts, DTYPE_BF16));
    sum_share(c, b, received, sent + c->begins[c->group->rank]);
    TRY(group_all_gather(c->group, sent, c->begins, c->counts, DTYPE_BF16));
    for (int64_t i = 0; i < b->elements; i++)
        gradient[i] = bf16_to_float(sent[i]);
    return CAIRN_OK;
}

/* Each rank sends its indices, then the values' bits. */
static cairn_err sum_topk(struct compressor *c, struct bucket *b, float *gradient)
{
    int64_t k = b->kept;
    int32_t *sent = (int32_t *)c->sent, *own = sent + c->group->rank * 2 * k;
    for (int64_t i = 0; i < b->elements; i++)
        b->residual[i] += gradient[i];
    compress_select(b->residual, b->elements, k, own);
    for (int64_t i = 0; i < k; i++) {
        memcpy(&own[k + i], &b->residual[own[i]], sizeof *own);
        b->residual[own[i]] = 0;
    }
    for (int r = 0; r < c->group->size; r++) {
        c->begins[r] = r * 2 * k;
        c->counts[r] = 2 * k;
    }
    TRY(group_all_gather(c->group, sent, c->begins, c->counts, DTYPE_I32));
    memset(gradient, 0, (size_t)b->elements * sizeof *gradient);
    for (int r = 0; r < c->group->size; r++)
        for (int64_t i = 0; i < k; i++) {
            float value;
            memcpy(&value, &sent[r * 2 * k + k + i], sizeof value);
            gradient[sent[r * 2 * k + i]] += value;
        }
    return CAIRN_OK;
}

/* out[c] = M q[c]: columns of length rows. */
static void times(const struct tensor *t, const float *m, const float *q, float *out)
{
    for (int64_t i = 0; i < t->rows; i++)
        for (int c = 0; c < t->rank; c++) {
            float sum = 0;
            for (int64_t j = 0; j < t->columns; j++)
                sum += m[i * t->columns + j] * q[c * t->columns + j];
            out[c * t->rows + i] = sum;
        }
}

/* out[c] = M' p[c]: columns of length columns. */
static void transposed_times(const struct tensor *t, const float *m, const float *p, float *out)
{
    memset(out, 0, (size_t)(t->rank * t->columns) * sizeof *out);
    for (int64_t i = 0; i < t->rows; i++)
        for (int c = 0; c < t->rank; c++)
            for (int64_t j = 0; j < t->columns; j++)
                out[c * t->columns + j] += m[i * t->columns + j] * p[c * t->rows + i];
}

/* m += sign * P Q' */
static void add_product(const struct tensor *t, float *m, const float *p, const float *q, float sign)
{
    for (int64_t i = 0; i < t->rows; i++)
        for (int c = 0; c < t->rank; c++)
            for (int64_t j = 0; j < t->columns; j++)
                m[i * t->columns + j] += sign * p[c * t->rows + i] * q[c * t->columns + j];
}

/* The next step begins with Q, but for columns that were dropped: those keep their last direction, or they would stay zero. */
static void keep_factor(const struct tensor *t, const float *q, float *factor)
{
    for (int c = 0; c < t->rank; c++) {
        const float *column = q + c * t->columns;
        bool zero = true;
        for (int64_t j = 0; j < t->columns && zero; j++)
            zero = column[j] == 0;
        if (!zero)
            memcpy(factor + c * t->columns, column, (size_t)t->columns * sizeof *column);
    }
}

/* Residuals are those of this rank's own Q: their sum over the ranks is what the sum of all lacks. */
static cairn_err sum_powersgd(struct compressor *c, struct bucket *b, float *gradient)
{
    float *left = (float *)c->sent, *right = (float *)c->received;
    for (int i = 0; i < b->tensor_count; i++) {
        const struct tensor *t = &b->tensors[i];
        float *m = b->residual + t->offset;
        if (!t->rank)
            memcpy(left + t->left, gradient + t->offset, (size_t)(t->rows * t->columns) * sizeof *left);
        for (int64_t k = 0; t->rank && k < t->rows * t->columns; k++)
            m[k] += gradient[t->offset + k];
        times(t, m, b->factor + t->right, left + t->left);
    }
    TRY(group_all_reduce(c->group, left, b->lefts, DTYPE_F32));
    for (int i = 0; i < b->tensor_count; i++) {
        const struct tensor *t = &b->tensors[i];
        compress_orthonormalize(left + t->left, t->rows, t->rank);
        transposed_times(t, b->residual + t->offset, left + t->left, right + t->right);
        add_product(t, b->residual + t->offset, left + t->left, right + t->right, -1);
    }
    TRY(group_all_reduce(c->group, right, b->rights, DTYPE_F32));
    for (int i = 0; i < b->tensor_count; i++) {
        const struct tensor *t = &b->tensors[i];
        float *m = gradient + t->offset;
        memset(m, 0, (size_t)(t->rows * t->columns) * sizeof *m);
        if (t->rank)
            add_product(t, m, left + t->left, right + t->right, 1);
        else
            memcpy(m, left + t->left, (size_t)(t->rows * t->columns) * sizeof *m);
        keep_factor(t, right + t->right, b->factor + t->right);
    }
    return CAIRN_OK;
}

cairn_err compress_sum(struct compressor *c, int bucket, float *gradient)
{
    struct bucket *b = &c->buckets[bucket];
    switch (c->options.kind) {
    case COMPRESS_NONE: break;
    case COMPRESS_BF16: return sum_bf16(c, b, gradient);
    case COMPRESS_TOPK: return sum_topk(c, b, gradient);
    case COMPRESS_POWERSGD: return sum_powersgd(c, b, gradient);
    }
    return group_all_reduce(c->group, gradient, b->elements, DTYPE_F32);
}
