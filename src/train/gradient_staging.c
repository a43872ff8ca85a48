/* Where gradients are on a device and other ranks have a part in them: the vectors once more in the processor's memory, where messages
 * come from and go to and are summed, in the same order and so to the same bits. */
#include <stdlib.h>

#include "train/gradient_private.h"

static size_t vector_bytes(const struct gradient *g)
{
    return (size_t)g->elements * dtype_size(g->backend->acc);
}

static size_t compute_bytes(const struct piece *p)
{
    return (size_t)graph_parameter_elements(p->graph) * dtype_size(p->gradient->backend->act);
}

/* Whether parameters are exchanged too. */
static bool shares_parameters(const struct gradient *g)
{
    return g->options.zero > 0;
}

cairn_err gradient_open_staging(struct gradient *g)
{
    if (!g->staged)
        return CAIRN_OK;
    bool memory = (g->host = calloc((size_t)g->slot_count, sizeof *g->host)) != NULL;
    for (int i = 0; i < g->slot_count && memory; i++)
        memory = (g->host[i] = malloc(vector_bytes(g) + 1)) != NULL;
    for (int p = 0; p < g->piece_count && memory && shares_parameters(g); p++)
        memory = (g->pieces[p].host_compute = malloc(compute_bytes(&g->pieces[p]) + 1)) != NULL;
    return memory ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for %d gradients of %.1f MB on their way between devices", g->slot_count,
                                    (double)vector_bytes(g) * 1e-6);
}

void gradient_close_staging(struct gradient *g)
{
    for (int i = 0; g->host && i < g->slot_count; i++)
        free(g->host[i]);
    for (int p = 0; g->pieces && p < g->piece_count; p++)
        free(g->pieces[p].host_compute);
    free(g->host);
    g->host = NULL;
}

int64_t gradient_staging_memory(const struct gradient *g)
{
    int64_t bytes = g->staged ? g->slot_count * (int64_t)vector_bytes(g) : 0;
    for (int p = 0; p < g->piece_count && g->staged && shares_parameters(g); p++)
        bytes += (int64_t)compute_bytes(&g->pieces[p]);
    return bytes;
}

void *gradient_exchanged(const struct gradient *g, int slot, int64_t element)
{
    return gradient_at(g, g->staged ? g->host[slot] : g->slots[slot], element);
}

void gradient_stage_out(struct gradient *g, const struct sum *s, int slots, int64_t begin, int64_t count)
{
    for (int i = 0; i < slots && g->staged; i++)
        g->backend->table->download(g->backend, gradient_exchanged(g, i, s->offset + begin), gradient_at(g, g->slots[i], s->offset + begin),
                                    (size_t)count * dtype_size(g->backend->acc));
}

void gradient_stage_in(struct gradient *g, const struct sum *s, int64_t begin, int64_t count)
{
    if (g->staged)
        g->backend->table->upload(g->backend, gradient_at(g, g->slots[0], s->offset + begin), gradient_exchanged(g, 0, s->offset + begin),
                                  (size_t)count * dtype_size(g->backend->acc));
}

void gradient_add_on_host(const struct gradient *g, void *sum, const void *a, const void *b, int64_t n)
{
    const float *x = a, *y = b;
    float *to = sum;
    if (g->backend->table->host_memory)
        g->backend->table->add(g->backend, sum, a, b, n);
    else
        for (int64_t i = 0; i < n; i++) /* devices have float32 sums alone */
            to[i] = x[i] + y[i];
}

void gradient_add_exchanged(void *context, void *sum, const void *a, const void *b, int64_t n)
{
    const struct gradient *g = context;
    if (g->staged)
        gradient_add_on_host(g, sum, a, b, n);
    else
        g->backend->table->add(g->backend, sum, a, b, n);
}
