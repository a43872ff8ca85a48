#include "plan/memory.h"

#include "base/least.h"
#include "mesh/tree.h"

enum { ACC_SIZE = 4 }; /* sums, moments, statistics and master weights are float32 */

static int64_t share(int64_t n, int64_t parts) /* the largest of PARTS shares */
{
    return (n + parts - 1) / parts;
}

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* ---- parameters and what goes with them ---- */

int64_t memory_block_parameters(const struct plan_model *m, int tensor)
{
    int64_t c = m->width;
    int64_t divided = 12 * c * c + 7 * c; /* qkv, projection, expand, contract; the biases of qkv and expand */
    return share(divided, tensor) + 6 * c;/* the biases of projection and contract; two norms */
}

static bool is_last(const struct plan_layout *l, int stage)
{
    return stage == l->axes.pipeline - 1;
}

static int64_t table_parameters(const struct plan_model *m, const struct plan_layout *l)
{
    return share(m->vocabulary, l->axes.tensor) * m->width;
}

int64_t memory_stage_parameters(const struct plan_model *m, const struct plan_layout *l, int stage)
{
    int64_t n = plan_stage_layers(m->layers, &l->axes, stage) * memory_block_parameters(m, l->axes.tensor);
    if (stage == 0)
        n += table_parameters(m, l) + m->context * m->width;
    if (is_last(l, stage))
        n += 2 * m->width;
    if (is_last(l, stage) && (!m->tied || stage > 0)) /* a tied table is held at both ends */
        n += table_parameters(m, l);
    return n;
}

int memory_gradient_slots(const struct plan_layout *l, const struct hardware_software *software)
{
    struct tree_node nodes[TREE_MAX_NODES];
    int64_t first, count;
    int slots = 1;
    for (int replica = 0; software->gradient_tree && replica < l->axes.data; replica++) {
        int held;
        tree_share(l->microbatches, l->axes.data, replica, &first, &count);
        tree_partials(l->microbatches, first, count, nodes, &held);
        slots = held > slots ? held : slots;
    }
    return slots;
}

static int64_t gradient_elements(const struct plan_model *m, const struct plan_layout *l, int stage, bool tree)
{
    int64_t n = memory_stage_parameters(m, l, stage);
    /* A tied table's use as embedding is summed apart (graph/graph.h). */
    bool apart = tree && m->tied && l->axes.pipeline == 1 && l->microbatches > 1;
    return apart ? n + table_parameters(m, l) : n;
}

static void count_state(const struct plan_model *m, const struct plan_layout *l, const struct memory_rules *r, int stage,
                        struct plan_memory *out)
{
    int64_t n = memory_stage_parameters(m, l, stage), data = l->axes.data;
    bool copy = r->type != PLAN_FLOAT32 && (r->software->keeps_copy || l->zero < 3); /* products read rounded weights */
    int64_t gradients = gradient_elements(m, l, stage, r->software->gradient_tree) * ACC_SIZE;
    out->parameters = (l->zero >= 3 ? share(n, data) : n) * (copy ? plan_type_size(r->type) : ACC_SIZE);
    out->optimizer = (l->zero >= 1 ? share(n, data) : n) * (copy ? 3 : 2) * ACC_SIZE;
    int slots = r->gradient_slots ? r->gradient_slots : memory_gradient_slots(l, r->software);
    out->gradients = (l->zero >= 2 ? share(gradients, data) : gradients) * slots;
}

/* ---- activations ---- */

/* Numbers a token that each op of a block makes: c wide, or divided by the tensor group. Used again in the backward pass: all, as the
 * arena keeps them. Software that keeps masks does without the two results that only a residual reads, and has a byte a number for
 * each of their masks. */

static const double divided_width = 12;

static double whole_width(const struct memory_rules *r)
{
    return r->software->keeps_masks ? 5 : 6; /* two norms, two sums; two residual branches, or their masks at half a number each */
}

static int64_t local_tokens(const struct plan_model *m, const struct plan_layout *l)
{
    return l->samples * share(m->context, l->axes.context);
}

/* Into how many parts what the tensor group does not divide by columns is divided. */
static int row_parts(const struct plan_layout *l)
{
    return l->sequence ? l->axes.tensor : 1;
}

/* Attention's scores: the probabilities, and with dropout what is left of them and the mask. */
static double score_bytes(const struct plan_model *m, const struct plan_layout *l, const struct memory_rules *r)
{
    double scores = (double)l->samples * (double)share(m->heads, l->axes.tensor) * (double)share(m->context, l->axes.context) * (double)m->context;
    double size = plan_type_size(r->type);
    return scores * (r->software->keeps_masks ? 2 * size + 1 : size);
}

int64_t memory_block_activations(const struct plan_model *m, const struct plan_layout *l, const struct memory_rules *r)
{
    double tokens = (double)local_tokens(m, l), c = (double)m->width, size = plan_type_size(r->type);
    double input = tokens * c * size / row_parts(l);
    if (l->recompute == RECOMPUTE_BLOCK)
        return (int64_t)input;
    double bytes = tokens * c * size * (whole_width(r) / row_parts(l) + divided_width / l->axes.tensor);
    bytes += tokens * ACC_SIZE * 4 / row_parts(l); /* the norms' means and deviations */
    if (r->software->flash > 0 && l->recompute == RECOMPUTE_NONE)
        bytes += tokens * ACC_SIZE * (double)share(m->heads, l->axes.tensor); /* logarithms of the scores' sums */
    if (r->software->flash > 0 && l->recompute == RECOMPUTE_ATTENTION)
        bytes -= tokens * c * size / l->axes.tensor; /* attention's result */
    if (r->software->flash == 0 && l->recompute == RECOMPUTE_NONE)
        bytes += score_bytes(m, l, r);
    return (int64_t)bytes;
}

int64_t memory_live_microbatches(const struct plan_layout *l, int stage)
{
    int64_t local = share(l->microbatches, l->axes.data), behind = l->axes.pipeline - stage;
    if (l->schedule == CONFIG_GPIPE)
        return local * l->axes.chunks;
    if (l->axes.chunks == 1)
        return least(local, behind);
    /* Narayanan et al. (SC21), section 2.2: warm-up of the interleaved schedule, and the one under way */
    return least(local * l->axes.chunks, 2 * (behind - 1) + (int64_t)(l->axes.chunks - 1) * l->axes.pipeline + 1);
}

/* Gradients of activations and, where they are recomputed, the activations of one block: the most that is there beside what is kept.
 * The peak is at the gelu's backward pass: the residual's gradient, and the gelu's result's and input's. */
static double passing_bytes(const struct plan_model *m, const struct plan_layout *l, const struct memory_rules *r)
{
    double token = (double)local_tokens(m, l) * (double)m->width * plan_type_size(r->type);
    double gradients = token * (1.0 / row_parts(l) + 8.0 / l->axes.tensor);
    struct plan_layout kept = *l;
    kept.recompute = RECOMPUTE_NONE;
    if (l->recompute == RECOMPUTE_BLOCK) /* the last two sums of the block are dead when the gelu's turn comes */
        return (double)memory_block_activations(m, &kept, r) + gradients - 2 * token / row_parts(l);
    if (l->recompute == RECOMPUTE_ATTENTION)
        return gradients + (r->software->flash > 0 ? token / l->axes.tensor : score_bytes(m, l, r));
    if (r->software->flash == 0)
        return gradients + score_bytes(m, l, r); /* the scores' gradients */
    return gradients;
}

static int64_t count_activations(const struct plan_model *m, const struct plan_layout *l, const struct memory_rules *r, int stage)
{
    double token = (double)local_tokens(m, l) * (double)m->width * plan_type_size(r->type) / row_parts(l);
    double layers = (double)plan_stage_layers(m->layers, &l->axes, stage) / l->axes.chunks;
    double live = (double)memory_live_microbatches(l, stage);
    double bytes = live * layers * (double)memory_block_activations(m, l, r) + passing_bytes(m, l, r);
    if (stage == 0)
        bytes += (double)least(share(l->microbatches, l->axes.data), l->axes.pipeline) * token * (m->dropout ? 2 : 1); /* the embedding */
    if (l->axes.pipeline > 1)
        bytes += 2 * token; /* what is being received, and sent */
    return (int64_t)bytes;
}

/* ---- buffers ---- */

/* The classifier's workspace, as kernels/cpu/classifier.c takes it: logits of a block of rows, a part of their gradients, and the rows'
 * gradients in float32. */
static int64_t classifier_bytes(const struct plan_model *m, const struct plan_layout *l, const struct memory_rules *r)
{
    enum { ROWS = 1024, WORDS = 1040, LOGITS = 256 << 20 };
    int64_t words = share(m->vocabulary, l->axes.tensor), tokens = local_tokens(m, l);
    if (r->software->keeps_logits)
        return tokens * words * (ACC_SIZE + plan_type_size(r->type));
    int64_t rows = least(least(ROWS, tokens), most(LOGITS / (words * ACC_SIZE), 1));
    return rows * (words * ACC_SIZE + WORDS * plan_type_size(r->type) + m->width * ACC_SIZE);
}

static int64_t count_buffers(const struct plan_model *m, const struct plan_layout *l, const struct memory_rules *r, int stage)
{
    int64_t bytes = is_last(l, stage) ? classifier_bytes(m, l, r) : 0;
    int64_t block = memory_block_parameters(m, l->axes.tensor);
    if (l->zero >= 3)
        bytes += 2 * block * plan_type_size(r->type); /* gathered: the block at work and the next one */
    if (l->zero >= 2)
        bytes += block * ACC_SIZE; /* a block's gradients before they are scattered */
    return bytes;
}

/* ---- together ---- */

struct plan_memory memory_of_stage(const struct plan_model *m, const struct plan_layout *l, const struct memory_rules *r, int stage)
{
    struct plan_memory out = {0};
    count_state(m, l, r, stage, &out);
    out.activations = count_activations(m, l, r, stage);
    out.buffers = count_buffers(m, l, r, stage);
    return out;
}

struct plan_memory memory_of_layout(const struct plan_model *m, const struct plan_layout *l, const struct memory_rules *r)
{
    /* The first stage has the most microbatches alive, the last the head; those between have less of both. */
    struct plan_memory first = memory_of_stage(m, l, r, 0), last = memory_of_stage(m, l, r, l->axes.pipeline - 1);
    if (l->axes.pipeline > 2) { /* uneven stages: the middle may have a block more */
        struct plan_memory second = memory_of_stage(m, l, r, 1);
        if (plan_memory_total(&second) > plan_memory_total(&first))
            first = second;
    }
    return plan_memory_total(&last) > plan_memory_total(&first) ? last : first;
}
