#include "train/weights.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "base/philox.h"

static size_t acc_bytes(const struct weights *w)
{
    return (size_t)w->elements * dtype_size(w->backend->acc);
}

cairn_err weights_open(struct backend *backend, const struct graph *graph, bool with_moments, struct weights *w)
{
    *w = (struct weights){.backend = backend, .count = graph_parameter_count(graph), .elements = graph_parameter_elements(graph)};
    w->parameters = graph_parameter_at(graph, 0);
    const struct backend_table *table = backend->table;
    w->master = table->alloc(backend, acc_bytes(w));
    w->compute = backend->act == backend->acc ? w->master
                                              : table->alloc(backend, (size_t)w->elements * dtype_size(backend->act));
    bool ok = w->master && w->compute;
    if (with_moments) {
        w->moment1 = table->alloc(backend, acc_bytes(w));
        w->moment2 = table->alloc(backend, acc_bytes(w));
        ok = ok && w->moment1 && w->moment2;
    }
    if (ok)
        return CAIRN_OK;
    weights_close(w);
    return FAIL(CAIRN_ENOMEM, "no memory for the weights and moments: %.1f MB each", (double)acc_bytes(w) * 1e-6);
}

void weights_close(struct weights *w)
{
    const struct backend_table *table = w->backend->table;
    if (w->compute && w->compute != w->master)
        table->free(w->backend, w->compute, (size_t)w->elements * dtype_size(w->backend->act));
    void *vectors[] = {w->master, w->moment1, w->moment2};
    for (int i = 0; i < 3; i++)
        if (vectors[i])
            table->free(w->backend, vectors[i], acc_bytes(w));
    w->master = w->moment1 = w->moment2 = w->compute = NULL;
}

/* Two normal numbers from two words (Box and Muller, 1958). */
static void normal_pair(uint32_t a, uint32_t b, double out[2])
{
    double radius = sqrt(-2 * log((double)philox_uniform(a))), angle = 2 * M_PI * (double)philox_uniform(b);
    out[0] = radius * cos(angle);
    out[1] = radius * sin(angle);
}

static void store(const struct weights *w, int64_t at, double value)
{
    if (w->backend->acc == DTYPE_F64)
        ((double *)w->master)[at] = (double)(float)value; /* the same start as in float32 */
    else
        ((float *)w->master)[at] = (float)value;
}

static void initialize(const struct weights *w, const struct parameter *p, uint64_t seed)
{
    struct philox_key key = philox_key_make(seed, STREAM_WEIGHTS, 0);
    uint64_t high = XXH3_64bits(p->name, strlen(p->name));
#pragma omp parallel for schedule(static)
    for (int64_t quad = 0; quad < (p->elements + 3) / 4; quad++) {
        uint32_t word[4];
        double normal[4] = {0};
        if (p->init.deviation != 0) {
            philox4x32(key, high, (uint64_t)quad, word);
            normal_pair(word[0], word[1], normal);
            normal_pair(word[2], word[3], normal + 2);
        }
        for (int64_t i = 4 * quad; i < 4 * quad + 4 && i < p->elements; i++)
            store(w, p->offset + i, (double)p->init.constant + (double)p->init.deviation * normal[i - 4 * quad]);
    }
}

void weights_initialize(struct weights *w, uint64_t seed)
{
    for (int i = 0; i < w->count; i++)
        initialize(w, &w->parameters[i], seed);
    weights_refresh(w);
}

void weights_refresh(struct weights *w)
{
    if (w->compute != w->master)
        w->backend->table->convert_to_act(w->backend, w->compute, w->master, w->elements);
}

int weights_shard_count(const struct weights *w)
{
    return w->count * (w->moment1 ? 3 : 1);
}

void weights_shards(const struct weights *w, int replica, int replicas, struct shard *shards)
{
    static const char *const groups[] = {"weights", "moment1", "moment2"};
    void *const vectors[] = {w->master, w->moment1, w->moment2};
    for (int g = 0, n = 0; g < 3 && vectors[g]; g++)
        for (int i = 0; i < w->count; i++) {
            const struct parameter *p = &w->parameters[i];
            struct shard *s = &shards[n++];
            *s = (struct shard){.dtype = w->backend->acc, .dims = p->dims, .replica = replica, .replicas = replicas};
            snprintf(s->name, sizeof s->name, "%s/%s", groups[g], p->name);
            for (int d = 0; d < p->dims; d++) {
                s->shape[d] = p->shape[d];
                s->offset[d] = p->first[d];
                s->extent[d] = p->extent[d];
            }
            s->data = (char *)vectors[g] + (size_t)p->offset * dtype_size(s->dtype);
        }
}
