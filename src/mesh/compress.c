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
    /* For the largest bucket, and how many bytes. */
    char *sent, *received;
    size_t sent_room, received_room;
    char *parts;   /* all ranks' values of this rank's share, where they are summed as they are */
    size_t parts_room;
    /* The bucket that is being summed. */
    struct bucket *now;
    float *gradient;
    int phase;
    struct group_exchange exchange;
};

cairn_err compressor_create(struct group *group, const struct compress_options *options, struct compressor **out)
{
    if (options->kind == COMPRESS_TOPK && !(options->ratio > 0 && options->ratio <= 1))
        return FAIL(CAIRN_EINVAL, "topk sends a share of %g of a gradient: more than 0, at most 1", options->ratio);
    if (options->kind == COMPRESS_POWERSGD && options->rank < 1)
        return FAIL(CAIRN_EINVAL, "powersgd's rank is %d: at least 1", options->rank);
    struct compressor *c = calloc(1, sizeof *c);
    int64_t *begins = calloc(4 * (size_t)group->size, sizeof *begins);
    MPI_Request *requests = calloc(2 * (size_t)group->size, sizeof *requests);
    if (!c || !begins || !requests) {
        free(c);
        free(begins);
        free(requests);
        return FAIL(CAIRN_ENOMEM, "no memory for compression");
    }
    int size = group->size;
    *c = (struct compressor){.group = group, .options = *options, .begins = begins, .counts = begins + size,
                             .more_begins = begins + 2 * size, .more_counts = begins + 3 * size, .exchange = {.requests = requests}};
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
    free(c->parts);
    free(c->exchange.requests);
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

/* Elements that are summed over the ranks as they are, at once. */
static int64_t summed_elements(const struct compressor *c, const struct bucket *b)
{
    if (c->options.kind == COMPRESS_POWERSGD)
        return b->lefts > b->rights ? b->lefts : b->rights;
    return c->options.kind == COMPRESS_NONE ? b->elements : 0;
}

static cairn_err take_room(struct compressor *c, const struct bucket *b)
{
    size_t parts = (size_t)(summed_elements(c, b) + c->group->size) * sizeof(float); /* shares of as many elements or one less */
    if (parts > c->parts_room) {
        TRY(grow(&c->parts, parts));
        c->parts_room = parts;
    }
    size_t received, sent = message_bytes(c, b, &received);
    if (sent > c->sent_room) {
        TRY(grow(&c->sent, sent));
        c->sent_room = sent;
    }
    if (received > c->received_room) {
        TRY(grow(&c->received, received));
        c->received_room = received;
    }
    return CAIRN_OK;
}

int64_t compressor_room(const struct compressor *c)
{
    return (int64_t)(c->parts_room + c->sent_room + c->received_room);
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

/* WHOLE's own share to all others, with begins and counts of all shares. */
static cairn_err start_gather(struct compressor *c, void *whole, enum dtype dtype)
{
    int rank = c->group->rank;
    for (int r = 0; r < c->group->size; r++) {
        c->more_begins[r] = c->begins[rank];
        c->more_counts[r] = c->counts[rank];
    }
    return group_exchange_start(c->group, &c->exchange, whole, c->more_begins, c->more_counts, whole, c->begins, c->counts, dtype);
}

/* Of SENT, N elements, all ranks' values of this rank's share into RECEIVED. */
static cairn_err start_shares(struct compressor *c, const void *sent, int64_t n, void *received, enum dtype dtype)
{
    int size = c->group->size, rank = c->group->rank;
    for (int r = 0; r < size; r++)
        tree_share(n, size, r, &c->begins[r], &c->counts[r]);
    for (int r = 0; r < size; r++) {
        c->more_begins[r] = r * c->counts[rank];
        c->more_counts[r] = c->counts[rank];
    }
    return group_exchange_start(c->group, &c->exchange, sent, c->begins, c->counts, received, c->more_begins, c->more_counts, dtype);
}

/* What start_shares brought, added up in the order of the ranks, to all. */
static cairn_err add_shares(struct compressor *c, float *whole)
{
    int64_t count = c->counts[c->group->rank];
    float *own = whole + c->begins[c->group->rank];
    const float *parts = (const float *)c->parts;
    for (int64_t i = 0; i < count; i++) {
        float sum = parts[i];
        for (int r = 1; r < c->group->size; r++)
            sum += parts[r * count + i];
        own[i] = sum;
    }
    return start_gather(c, whole, DTYPE_F32);
}

/* Each of the following does the phase that C is in, after the exchanges before it, and starts the next exchange; *LAST: there is none. */

static cairn_err sum_plain(struct compressor *c, const struct bucket *b, float *gradient, bool *last)
{
    if (c->phase == 0)
        return start_shares(c, gradient, b->elements, c->parts, DTYPE_F32);
    *last = c->phase == 2;
    return *last ? CAIRN_OK : add_shares(c, gradient);
}

static cairn_err sum_bf16(struct compressor *c, struct bucket *b, float *gradient, bool *last)
{
    uint16_t *sent = (uint16_t *)c->sent, *received = (uint16_t *)c->received;
    if (c->phase == 0) {
        for (int64_t i = 0; i < b->elements; i++)
            b->residual[i] = compress_round(gradient[i] + b->residual[i], &sent[i]);
        return start_shares(c, sent, b->elements, received, DTYPE_BF16);
    }
    if (c->phase == 1) {
        sum_share(c, b, received, sent + c->begins[c->group->rank]);
        return start_gather(c, sent, DTYPE_BF16);
    }
    for (int64_t i = 0; i < b->elements; i++)
        gradient[i] = bf16_to_float(sent[i]);
    *last = true;
    return CAIRN_OK;
}

/* Each rank sends its indices, then the values' bits. */
static cairn_err select_largest(struct compressor *c, struct bucket *b, const float *gradient)
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
    return start_gather(c, sent, DTYPE_I32);
}

static cairn_err sum_topk(struct compressor *c, struct bucket *b, float *gradient, bool *last)
{
    int64_t k = b->kept;
    const int32_t *sent = (const int32_t *)c->sent;
    if (c->phase == 0)
        return select_largest(c, b, gradient);
    memset(gradient, 0, (size_t)b->elements * sizeof *gradient);
    for (int r = 0; r < c->group->size; r++)
        for (int64_t i = 0; i < k; i++) {
            float value;
            memcpy(&value, &sent[r * 2 * k + k + i], sizeof value);
            gradient[sent[r * 2 * k + i]] += value;
        }
    *last = true;
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

static void make_lefts(const struct bucket *b, const float *gradient, float *left)
{
    for (int i = 0; i < b->tensor_count; i++) {
        const struct tensor *t = &b->tensors[i];
        float *m = b->residual + t->offset;
        if (!t->rank)
            memcpy(left + t->left, gradient + t->offset, (size_t)(t->rows * t->columns) * sizeof *left);
        for (int64_t k = 0; t->rank && k < t->rows * t->columns; k++)
            m[k] += gradient[t->offset + k];
        times(t, m, b->factor + t->right, left + t->left);
    }
}

/* Residuals are those of this rank's own Q: their sum over the ranks is what the sum of all lacks. */
static void make_rights(const struct bucket *b, float *left, float *right)
{
    for (int i = 0; i < b->tensor_count; i++) {
        const struct tensor *t = &b->tensors[i];
        compress_orthonormalize(left + t->left, t->rows, t->rank);
        transposed_times(t, b->residual + t->offset, left + t->left, right + t->right);
        add_product(t, b->residual + t->offset, left + t->left, right + t->right, -1);
    }
}

static void multiply_factors(const struct bucket *b, const float *left, const float *right, float *gradient)
{
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
}

static cairn_err sum_powersgd(struct compressor *c, struct bucket *b, float *gradient, bool *last)
{
    float *left = (float *)c->sent, *right = (float *)c->received;
    switch (c->phase) {
    case 0:
        make_lefts(b, gradient, left);
        return start_shares(c, left, b->lefts, c->parts, DTYPE_F32);
    case 1: return add_shares(c, left);
    case 2:
        make_rights(b, left, right);
        return start_shares(c, right, b->rights, c->parts, DTYPE_F32);
    case 3: return add_shares(c, right);
    default:
        multiply_factors(b, left, right, gradient);
        *last = true;
        return CAIRN_OK;
    }
}

static cairn_err do_phase(struct compressor *c, bool *last)
{
    *last = false;
    switch (c->options.kind) {
    case COMPRESS_NONE: break;
    case COMPRESS_BF16: return sum_bf16(c, c->now, c->gradient, last);
    case COMPRESS_TOPK: return sum_topk(c, c->now, c->gradient, last);
    case COMPRESS_POWERSGD: return sum_powersgd(c, c->now, c->gradient, last);
    }
    return sum_plain(c, c->now, c->gradient, last);
}

cairn_err compress_start(struct compressor *c, int bucket, float *gradient)
{
    bool last;
    c->now = &c->buckets[bucket];
    c->gradient = gradient;
    c->phase = 0;
    return do_phase(c, &last);
}

cairn_err compress_progress(struct compressor *c, bool *done)
{
    *done = false;
    while (!*done) {
        TRY(group_test(c->exchange.requests, c->exchange.count, &c->exchange.done, "summing compressed gradients"));
        if (c->exchange.done < c->exchange.count)
            return CAIRN_OK;
        c->phase++;
        TRY(do_phase(c, done));
    }
    return CAIRN_OK;
}

cairn_err compress_sum(struct compressor *c, int bucket, float *gradient)
{
    bool done = false;
    TRY(compress_start(c, bucket, gradient));
    while (!done) {
        TRY(compress_progress(c, &done));
        if (!done)
            TRY(group_idle(c->group));
    }
    return CAIRN_OK;
}
