#include "plan/model.h"

#include <stdio.h>

#include "mesh/tree.h"
#include "model/gpt.h"

const char *const plan_type_names[PLAN_TYPES] = {"float32", "float16", "bfloat16"};

cairn_err plan_model_of(const struct config *c, struct plan_model *m)
{
    if (c->model.vocabulary == 0)
        return FAIL(CAIRN_ECONFIG, "a plan reads no dataset: give model.vocabulary");
    *m = (struct plan_model){.layers = c->model.layers, .width = c->model.width, .heads = c->model.heads, .context = c->model.context,
                             .vocabulary = c->model.vocabulary, .tied = c->model.tied, .dropout = c->model.dropout > 0,
                             .experts = c->model.experts, .choices = c->model.experts > 0 ? c->model.expert_choices : 0,
                             .capacity_factor = c->model.capacity_factor};
    return CAIRN_OK;
}

cairn_err plan_type_of(const struct config *config, enum plan_type *type)
{
    if (config->precision == PRECISION_FLOAT64)
        return FAIL(CAIRN_ECONFIG, "precision float64 is for tests; no plan is made for it");
    *type = config->precision == PRECISION_BFLOAT16 ? PLAN_BFLOAT16 : PLAN_FLOAT32;
    return CAIRN_OK;
}

struct plan_modes plan_modes_of(const struct config *c)
{
    bool local = c->parallel.sync == SYNC_LOCAL;
    return (struct plan_modes){.compress = (enum config_compress)c->parallel.compress, .compress_ratio = c->parallel.compress_ratio,
                               .compress_rank = (int)c->parallel.compress_rank, .local_steps = local ? c->parallel.local_steps : 0,
                               .outer_momentum = local && c->parallel.outer == OUTER_NESTEROV};
}

int64_t plan_parameters(const struct plan_model *m)
{
    int64_t c = m->width, mlp = 8 * c * c + 5 * c, block = 4 * c * c + 8 * c;
    block += m->experts > 0 ? m->experts * (mlp + c) : mlp;
    return m->layers * block + m->vocabulary * c * (m->tied ? 1 : 2) + m->context * c + 2 * c;
}

/* Weights of a block that a token is multiplied with. */
static int64_t block_products(const struct plan_model *m)
{
    int64_t c = m->width;
    return 4 * c * c + (m->experts > 0 ? m->choices * 8 * c * c + m->experts * c : 8 * c * c);
}

int64_t plan_product_parameters(const struct plan_model *m)
{
    return m->layers * block_products(m) + m->vocabulary * m->width;
}

double plan_model_operations(const struct plan_model *m, int64_t samples)
{
    double tokens = (double)samples * (double)m->context;
    double attention = 4.0 * (double)m->layers * (double)m->width * (double)m->context;
    return 3 * tokens * (2.0 * (double)plan_product_parameters(m) + attention);
}

double plan_hardware_operations(const struct plan_model *m, int64_t samples, enum config_recompute recompute, bool with_qkv)
{
    double tokens = (double)samples * (double)m->context, layers = (double)m->layers, c = (double)m->width;
    double attention = 4 * layers * c * (double)m->context;
    double again = 0;
    if (recompute == RECOMPUTE_BLOCK)
        again = 2 * layers * (double)block_products(m) + attention;
    if (recompute == RECOMPUTE_ATTENTION)
        again = attention + (with_qkv ? 6 * layers * c * c : 0);
    return plan_model_operations(m, samples) + tokens * again;
}

/* As even as can be; pieces in the middle take one more, since those at the ends have the embedding and the head besides. */
static int64_t even_layers(int64_t layers, int count, int index)
{
    int64_t base = layers / count, more = layers % count, first = (count - more) / 2;
    return base + (index >= first && index < first + more);
}

struct plan_cut plan_cut_of(const struct plan_model *m, int count, bool even)
{
    const struct gpt gpt = {.layers = m->layers, .width = m->width, .heads = m->heads, .vocabulary = m->vocabulary, .tied = m->tied};
    struct plan_cut cut = {.count = count, .even = even || count == 1 || count > m->layers, .layers = m->layers};
    if (!cut.even)
        cut.last = gpt_piece_of(&gpt, m->context, count, count - 1).count;
    return cut;
}

int64_t plan_cut_layers(const struct plan_cut *cut, int index)
{
    int64_t first, share;
    if (cut->even)
        return even_layers(cut->layers, cut->count, index);
    if (index == cut->count - 1)
        return cut->last;
    tree_share(cut->layers - cut->last, cut->count - 1, index, &first, &share); /* as gpt_piece_of shares them */
    return share;
}

char *plan_layout_text(const struct plan_layout *l, char *out)
{
    static const char *const schedules[] = {"gpipe", "1f1b", "interleaved", "zero-bubble"};
    static const char *const recomputes[] = {"", ", recompute attention", ", recompute block"};
    size_t used = (size_t)snprintf(out, PLAN_LAYOUT_TEXT_SIZE, "data %d", l->axes.data);
#define ADD(...) used += (size_t)snprintf(out + used, PLAN_LAYOUT_TEXT_SIZE - used, __VA_ARGS__)
    if (l->axes.tensor > 1)
        ADD(", tensor %d%s", l->axes.tensor, l->sequence ? ", sequence" : "");
    if (l->axes.context > 1)
        ADD(", context %d", l->axes.context);
    if (l->axes.expert > 1)
        ADD(", expert %d", l->axes.expert);
    if (l->axes.pipeline > 1)
        ADD(", pipeline %d %s", l->axes.pipeline, schedules[l->schedule]);
    if (l->axes.chunks > 1)
        ADD(" x %d chunks", l->axes.chunks);
    ADD(", microbatch %lld", (long long)l->samples);
    if (l->zero)
        ADD(", zero %d", l->zero);
    ADD("%s", recomputes[l->recompute]);
#undef ADD
    return out;
}
