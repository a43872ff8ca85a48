#include "train/weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/philox.h"
#include "train/shares.h"

static size_t acc_bytes(const struct weights *w)
{
    return (size_t)w->own_elements * dtype_size(w->backend->acc);
}

static size_t compute_bytes(const struct weights *w)
{
    return (size_t)(w->sharing.zero == 3 ? w->own_elements : w->elements) * dtype_size(w->backend->act);
}

static bool lies_in_compute(const struct weights *w)
{
    return w->backend->act == w->backend->acc && w->sharing.zero > 0;
}

/* Whether a bucket has parameters of its own. */
static bool is_main(const struct weights *w, int bucket)
{
    return graph_bucket_at(w->graph, bucket)->lookup_of < 0;
}

/* This replica's elements of a bucket. */
static void own_share(const struct weights *w, int bucket, int64_t *begin, int64_t *length)
{
    const struct weights_sharing *s = &w->sharing;
    bool of_expert = s->expert_replicas > 0 && bucket_is_of_expert(w->graph, bucket);
    share_of_bucket(w->graph, bucket, of_expert ? s->expert_replicas : s->replicas, of_expert ? s->expert_replica : s->replica, begin, length);
}

static cairn_err place_own(struct weights *w)
{
    int buckets = graph_bucket_count(w->graph);
    w->own_begins = calloc((size_t)buckets + 1, sizeof *w->own_begins);
    if (!w->own_begins)
        return FAIL(CAIRN_ENOMEM, "no memory for the weights");
    for (int b = 0; b < buckets; b++) {
        int64_t begin, length = 0;
        w->own_begins[b] = w->own_elements;
        if (is_main(w, b))
            own_share(w, b, &begin, &length);
        /* Vectors begin where kernels like them to. */
        w->own_elements += (length + PARAMETER_ALIGN - 1) / PARAMETER_ALIGN * PARAMETER_ALIGN;
    }
    return CAIRN_OK;
}

static cairn_err allocate(struct weights *w, bool with_moments)
{
    const struct backend_table *table = w->backend->table;
    bool same = w->backend->act == w->backend->acc, ok;
    if (!lies_in_compute(w))
        w->master = table->alloc(w->backend, acc_bytes(w));
    w->compute = same && w->master ? w->master : table->alloc(w->backend, compute_bytes(w));
    ok = w->compute && (w->master || lies_in_compute(w));
    if (with_moments) {
        w->moment1 = table->alloc(w->backend, acc_bytes(w));
        w->moment2 = table->alloc(w->backend, acc_bytes(w));
        ok = ok && w->moment1 && w->moment2;
    }
    return ok ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for the weights and moments: %.1f MB each", (double)acc_bytes(w) * 1e-6);
}

static cairn_err read_memory(void *context, void *to, const void *from, size_t bytes)
{
    struct backend *b = context;
    b->table->download(b, to, from, bytes);
    return b->table->finish(b);
}

static cairn_err write_memory(void *context, void *to, const void *from, size_t bytes)
{
    struct backend *b = context;
    b->table->upload(b, to, from, bytes);
    return b->table->finish(b);
}

cairn_err weights_open(struct backend *backend, const struct graph *graph, bool with_moments, const struct weights_sharing *sharing,
                       struct weights *w)
{
    const struct weights_sharing whole = {.replicas = 1};
    *w = (struct weights){.backend = backend, .graph = graph, .count = graph_parameter_count(graph),
                          .elements = graph_parameter_elements(graph), .sharing = sharing ? *sharing : whole};
    w->parameters = graph_parameter_at(graph, 0);
    w->memory = (struct shard_memory){backend, read_memory, write_memory};
    w->runs = calloc((size_t)w->count + 1, sizeof *w->runs);
    cairn_err err = w->runs ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for the weights");
    if (err)
        goto failed;
    if (w->sharing.zero > 0)
        TRY_GOTO(err, place_own(w), failed);
    else
        w->own_elements = w->elements;
    TRY_GOTO(err, allocate(w, with_moments), failed);
    return CAIRN_OK;
failed:
    weights_close(w);
    return err;
}

void weights_close(struct weights *w)
{
    const struct backend_table *table = w->backend->table;
    if (w->compute && w->compute != w->master)
        table->free(w->backend, w->compute, compute_bytes(w));
    void *vectors[] = {w->master, w->moment1, w->moment2};
    for (int i = 0; i < 3; i++)
        if (vectors[i])
            table->free(w->backend, vectors[i], acc_bytes(w));
    free(w->own_begins);
    free(w->runs);
    w->runs = NULL;
    w->master = w->moment1 = w->moment2 = w->compute = NULL;
    w->own_begins = NULL;
}

static void *element(void *vector, int64_t i, enum dtype dtype)
{
    return vector ? (char *)vector + (size_t)i * dtype_size(dtype) : NULL;
}

struct weights_own weights_own(const struct weights *w, int bucket)
{
    const struct graph_bucket *b = graph_bucket_at(w->graph, bucket);
    enum dtype act = w->backend->act, acc = w->backend->acc;
    struct weights_own own = {.offset = b->offset, .elements = b->elements};
    int64_t at = b->offset;
    if (w->sharing.zero > 0) {
        int64_t begin;
        own_share(w, bucket, &begin, &own.elements);
        own.offset += begin;
        at = w->own_begins[bucket];
    }
    own.compute = element(w->compute, w->sharing.zero == 3 ? at : own.offset, act);
    own.master = lies_in_compute(w) ? own.compute : element(w->master, at, acc);
    own.moment1 = element(w->moment1, at, acc);
    own.moment2 = element(w->moment2, at, acc);
    return own;
}

/* Two normal numbers from two words (Box and Muller, 1958). */
static void normal_pair(uint32_t a, uint32_t b, double out[2])
{
    double radius = sqrt(-2 * log((double)philox_uniform(a))), angle = 2 * M_PI * (double)philox_uniform(b);
    out[0] = radius * cos(angle);
    out[1] = radius * sin(angle);
}

/* Where element I of the slab stands in the whole array. */
static int64_t global_element(const struct parameter *p, int64_t i)
{
    int64_t global = 0, stride = 1;
    for (int d = p->dims - 1; d >= 0; d--) {
        global += (p->first[d] + i % p->extent[d]) * stride;
        stride *= p->shape[d];
        i /= p->extent[d];
    }
    return global;
}

/* Elements FIRST.. of a parameter's slab, COUNT of them, into VALUES. */
static void find_values(const struct weights *w, const struct parameter *p, uint64_t seed, int64_t first, int64_t count, void *values)
{
    struct philox_key key = philox_key_make(seed, STREAM_WEIGHTS, 0);
    uint64_t high = XXH3_64bits(p->name, strlen(p->name));
    int64_t row = p->extent[p->dims - 1]; /* elements that follow one another in the whole array too */
#pragma omp parallel for schedule(static)
    for (int64_t r = first / row; r <= (first + count - 1) / row; r++) {
        int64_t from = r * row > first ? r * row : first, to = (r + 1) * row < first + count ? (r + 1) * row : first + count;
        int64_t global = global_element(p, from), quad = -1;
        double normal[4] = {0};
        for (int64_t i = from; i < to; i++, global++) {
            if (p->init.deviation != 0 && global / 4 != quad) {
                uint32_t word[4];
                quad = global / 4;
                philox4x32(key, high, (uint64_t)quad, word);
                normal_pair(word[0], word[1], normal);
                normal_pair(word[2], word[3], normal + 2);
            }
            float value = (float)((double)p->init.constant + (double)p->init.deviation * normal[global % 4]);
            if (w->backend->acc == DTYPE_F64)
                ((double *)values)[i - first] = (double)value; /* the same start as in float32 */
            else
                ((float *)values)[i - first] = value;
        }
    }
}

static cairn_err initialize(const struct weights *w, const struct parameter *p, uint64_t seed, int64_t first, int64_t count, void *master)
{
    size_t bytes = (size_t)count * dtype_size(w->backend->acc);
    if (w->backend->table->host_memory) {
        find_values(w, p, seed, first, count, master);
        return CAIRN_OK;
    }
    void *values = malloc(bytes);
    if (!values)
        return FAIL(CAIRN_ENOMEM, "no memory for the first values of %s: %.1f MB", p->name, (double)bytes * 1e-6);
    find_values(w, p, seed, first, count, values);
    w->backend->table->upload(w->backend, master, values, bytes);
    free(values);
    return CAIRN_OK;
}

cairn_err weights_initialize(struct weights *w, const struct weights_rounding *rounding)
{
    for (int b = 0; b < graph_bucket_count(w->graph); b++) {
        if (!is_main(w, b))
            continue;
        struct weights_own own = weights_own(w, b);
        for (int i = 0; i < w->count; i++) {
            const struct parameter *p = &w->parameters[i];
            int64_t first, count = share_of_parameter(p, own.offset, own.elements, &first);
            if (p->bucket == b && count > 0)
                TRY(initialize(w, p, rounding->seed, first, count, element(own.master, p->offset + first - own.offset, w->backend->acc)));
        }
    }
    weights_refresh(w, rounding);
    return CAIRN_OK;
}

/* ---- updates ---- */

/* The position of the slab's first element for random numbers: in the whole array, or, where each tensor rank has some columns of it, in
 * an array of these ranks' slabs one after the other. */
static uint64_t first_position(const struct parameter *p)
{
    int split = p->dims - 1;
    while (split > 0 && p->extent[split] == p->shape[split])
        split--;
    int64_t position = 0, stride = 1;
    for (int d = p->dims - 1; d > split; d--)
        stride *= p->shape[d];
    int64_t column = stride; /* elements of one index of SPLIT, of all that come before it */
    stride *= p->extent[split];
    for (int d = split - 1; d >= 0; d--) {
        position += p->first[d] * stride;
        stride *= p->shape[d];
        column *= p->shape[d];
    }
    return (uint64_t)(position + p->first[split] * column);
}

int weights_runs(struct weights *w, int bucket, uint64_t seed, int count)
{
    const struct weights_own own = weights_own(w, bucket);
    enum dtype act = w->backend->act, acc = w->backend->acc;
    for (int i = 0; i < w->count; i++) {
        const struct parameter *p = &w->parameters[i];
        int64_t first, n = p->bucket == bucket ? share_of_parameter(p, own.offset, own.elements, &first) : 0;
        if (n == 0)
            continue;
        int64_t at = p->offset + first - own.offset;
        uint32_t name = (uint32_t)XXH3_64bits(p->name, strlen(p->name));
        w->runs[count++] = (struct adamw_run){.master = element(own.master, at, acc), .moment1 = element(own.moment1, at, acc),
                                              .moment2 = element(own.moment2, at, acc), .n = n, .decays = !p->vector,
                                              .compute = own.compute == own.master ? NULL : element(own.compute, at, act),
                                              .key = philox_key_make(seed, STREAM_ROUNDING, name),
                                              .first = first_position(p) + (uint64_t)first};
    }
    return count;
}

void weights_refresh(struct weights *w, const struct weights_rounding *rounding)
{
    int count = 0;
    for (int b = 0; b < graph_bucket_count(w->graph); b++)
        if (is_main(w, b))
            count = weights_runs(w, b, rounding->seed, count);
    w->backend->table->round_weights(w->backend, w->runs, count, rounding->stochastic, rounding->update);
}

int64_t weights_memory(const struct weights *w)
{
    int vectors = (w->master != NULL) + (w->moment1 != NULL) + (w->moment2 != NULL);
    return vectors * (int64_t)acc_bytes(w) + (w->compute != w->master ? (int64_t)compute_bytes(w) : 0);
}
