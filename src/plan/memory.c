#include "plan/memory.h"

#include <math.h>

#include "base/least.h"
#include "mesh/tree.h"
#include "plan/exchange.h"
#include "plan/experts.h"
#include "plan/numbers.h"
#include "schedule/schedule.h"

enum { ACC_SIZE = 4 }; /* sums, moments, statistics and master weights are float32 */

/* ---- parameters and what goes with them ---- */

/* Of one block on a rank, but for its experts. */
static int64_t block_parameters(const struct plan_model *m, const struct plan_layout *l)
{
    int64_t c = m->width, tensor = l->axes.tensor;
    if (m->experts > 0)
        return share(4 * c * c + 3 * c, tensor) + 5 * c + m->experts * c; /* the router; no MLP */
    int64_t divided = 12 * c * c + 7 * c; /* qkv, projection, expand, contract; the biases of qkv and expand */
    return share(divided, tensor) + 6 * c;/* the biases of projection and contract; two norms */
}

static bool is_last(const struct plan_layout *l, int stage)
{
    return stage == l->axes.pipeline - 1;
}

static int64_t chunk_layers(const struct plan_model *m, const struct plan_layout *l, const struct hardware_software *software, int stage,
                            int chunk)
{
    const struct plan_cut cut = plan_cut_of(m, l->axes.pipeline * l->axes.chunks, software->even_stages);
    return plan_cut_layers(&cut, chunk * l->axes.pipeline + stage);
}

static int64_t table_parameters(const struct plan_model *m, const struct plan_layout *l)
{
    return share(m->vocabulary, l->axes.tensor) * m->width;
}

static int64_t stage_layers(const struct plan_model *m, const struct plan_layout *l, const struct hardware_software *software, int stage)
{
    int64_t n = 0;
    for (int chunk = 0; chunk < l->axes.chunks; chunk++)
        n += chunk_layers(m, l, software, stage, chunk);
    return n;
}

int64_t memory_stage_experts(const struct plan_model *m, const struct plan_layout *l, const struct hardware_software *software, int stage)
{
    return m->experts > 0 ? stage_layers(m, l, software, stage) * plan_experts_parameters(m, l) : 0;
}

int64_t memory_stage_parameters(const struct plan_model *m, const struct plan_layout *l, const struct hardware_software *software, int stage)
{
    int64_t n = stage_layers(m, l, software, stage) * block_parameters(m, l) + memory_stage_experts(m, l, software, stage);
    if (stage == 0)
        n += table_parameters(m, l) + m->context * m->width;
    if (is_last(l, stage))
        n += 2 * m->width;
    if (is_last(l, stage) && (!m->tied || stage > 0)) /* a tied table is held at both ends */
        n += table_parameters(m, l);
    return n;
}

/* Ranks that hold the same parameters: they share the microbatches, and with a context axis each microbatch's sequences. */
static int replicas(const struct plan_layout *l)
{
    return l->axes.data * l->axes.context;
}

static int64_t local_microbatches(const struct plan_layout *l)
{
    return share(l->microbatches, l->axes.data);
}

/* Who shares the leaves of a sum: replicas the microbatches; those of an expert group its passes, each of all its members' microbatches
 * (train/gradient.c). */
struct holders {
    int64_t leaves;
    int data;
};

/* In rounds (mesh/reduce.h) each holder gives one leaf at a time, and its owner keeps what the tree cannot join yet. */
static int slots_in_rounds(const struct holders *h)
{
    struct tree_stack stack;
    int left, slots = 1;
    tree_begin(&stack, h->leaves);
    for (int64_t leaf = 0; leaf < h->leaves; leaf++) {
        tree_push(&stack, (struct tree_node){0, leaf});
        while (tree_join(&stack, &left)) {
        }
        if ((leaf + 1) % h->data == 0 && stack.count > slots)
            slots = stack.count;
    }
    return slots;
}

/* Of the first part of the sequences: the others' are like it. */
static int slots_of_holders(const struct holders *h, int context)
{
    struct tree_node nodes[TREE_MAX_NODES];
    int64_t first, count;
    int slots = 1;
    for (int data = 0; data < h->data; data++) {
        int held;
        tree_share(h->leaves, h->data, data, &first, &count);
        tree_partials(h->leaves * context, first, count, nodes, &held);
        slots = held > slots ? held : slots;
    }
    return slots;
}

int memory_gradient_slots(const struct plan_layout *l, const struct hardware_software *software)
{
    struct tree_node nodes[TREE_MAX_NODES];
    int64_t data = l->axes.data, expert = l->axes.expert, all = l->microbatches;
    const struct holders holders[] = {{all, (int)data}, {all / data * (data / expert) + share(all % data, expert), (int)(data / expert)}};
    int slots = 1;
    if (software->gradient_vectors > 0)
        return l->zero >= 2 || local_microbatches(l) == 1 ? 1 : (int)software->gradient_vectors;
    if (l->modes.local_steps > 0 && l->zero < 2) { /* each replica has a tree of its own */
        tree_partials(local_microbatches(l), 0, local_microbatches(l), nodes, &slots);
        return slots;
    }
    for (int i = 0; i < (expert > 1 ? 2 : 1); i++) /* the same memory is for both, or nearly as much */
        slots = (int)most(slots, l->zero >= 2 ? slots_in_rounds(&holders[i]) : slots_of_holders(&holders[i], l->axes.context));
    return slots;
}

static int64_t gradient_elements(const struct plan_model *m, const struct plan_layout *l, const struct memory_rules *r, int stage)
{
    int64_t n = memory_stage_parameters(m, l, r->software, stage);
    /* A tied table's use as embedding is summed apart (graph/graph.h). */
    bool apart = r->software->gradient_vectors != 1 && m->tied && l->axes.pipeline == 1 && l->microbatches > 1;
    return apart ? n + table_parameters(m, l) : n;
}

/* A rank's share of N, of which OF_EXPERTS are divided among the fewer ranks that hold the same experts. */
static int64_t share_of_replicas(const struct plan_layout *l, int64_t n, int64_t of_experts)
{
    return share(n - of_experts, replicas(l)) + share(of_experts, replicas(l) / l->axes.expert);
}

static void count_state(const struct plan_model *m, const struct plan_layout *l, const struct memory_rules *r, int stage,
                        struct plan_memory *out)
{
    int64_t n = memory_stage_parameters(m, l, r->software, stage), experts = memory_stage_experts(m, l, r->software, stage);
    int64_t shared = share_of_replicas(l, n, experts);
    bool copy = r->type != PLAN_FLOAT32 && (r->software->keeps_copy || l->zero < 3); /* products read rounded weights */
    int64_t gradients = gradient_elements(m, l, r, stage) * ACC_SIZE;
    out->parameters = (l->zero >= 3 ? shared : n) * (copy ? plan_type_size(r->type) : ACC_SIZE);
    out->optimizer = (l->zero >= 1 ? shared : n) * (copy ? 3 : 2) * ACC_SIZE;
    int known = l->zero >= 2 ? r->sharded_slots : r->gradient_slots;
    int slots = known ? known : memory_gradient_slots(l, r->software);
    out->gradients = (l->zero >= 2 ? share_of_replicas(l, gradients, experts * ACC_SIZE) : gradients) * slots;
    out->gradients += exchange_compressed(m, l, r->software, stage).state;
    out->optimizer += exchange_local_state(l, n);
}

/* ---- activations ---- */

/* Numbers a token, in units of the model's width: WHOLE on every rank of the tensor group (or divided along the sequence), DIVIDED by
 * columns and heads. Names of what they count are those of model/gpt.c's block. */
struct widths {
    double whole, divided;
};

static bool is_split(const struct plan_layout *l)
{
    return l->schedule == CONFIG_ZERO_BUBBLE && l->axes.pipeline > 1;
}

/* Attention's, and what stands around experts (those have their own count): their input, with sequence gathered, is kept for the router.
 * Where the backward pass is cut in two, the experts' part is over with its first half; what the weights' part wants of the rest is: the
 * norms' inputs and results but for the experts' own input, gradients of results, and qkv's. */
static struct widths kept_beside_experts(const struct plan_layout *l, const struct memory_rules *r, bool after)
{
    struct widths w = {4, 4};
    double gathered = l->sequence ? l->axes.tensor - 1 : 0;
    if (after) /* qkv's input and the gradient of the projection's result are gathered, too */
        return (struct widths){6 + 2 * gathered, 4};
    if (l->recompute == RECOMPUTE_BLOCK)
        return (struct widths){1, 0};
    if (l->recompute == RECOMPUTE_ATTENTION && r->software->recomputes_qkv)
        w = (struct widths){3, 0};
    else if (l->recompute == RECOMPUTE_ATTENTION && r->software->flash > 0)
        w.divided -= 1;
    w.whole += gathered + (r->software->keeps_masks ? 2.0 / plan_type_size(r->type) : 0);
    return w;
}

/* What a block keeps of a microbatch from its forward to its backward pass (graph/ops.c tells what each op reads again).
 *   whole: both norms' inputs (the block's own input is one) and results; divided: qkv 3, attention's result 1, expand's 4, gelu's 4
 * Where the backward pass is cut in two, the weights' part still wants the gradients of all products' and norms' results; attention's and
 * gelu's inputs are free by then, in whose place qkv's and expand's gradients can lie. Masks of both residual branches have a byte each. */
static struct widths kept_widths(const struct plan_layout *l, const struct memory_rules *r)
{
    struct widths w = {4, 12};
    if (l->recompute == RECOMPUTE_BLOCK)
        w = (struct widths){1, 0};
    if (l->recompute == RECOMPUTE_ATTENTION && r->software->recomputes_qkv)
        w = (struct widths){3, 8};
    else if (l->recompute == RECOMPUTE_ATTENTION && r->software->flash > 0)
        w.divided -= 1;
    if (r->software->keeps_masks && l->recompute != RECOMPUTE_BLOCK)
        w.whole += 2.0 / plan_type_size(r->type);
    return is_split(l) ? (struct widths){8, 12} : w; /* recomputed or not: the weights' part wants the same */
}

/* The most that lies beside what is kept: in the backward pass, gradients and what is computed again. At the gelu, the gradients of the
 * residual sum, of the gelu's result and of its input; when a block is computed again, at contract: all it makes, the gradients of the
 * sum and of contract's and the gelu's results; of those, in a backward pass cut in two, what the weights' part does not want: qkv, expand's
 * result, the gradients of the sum and of the gelu's result. */
static struct widths passing_widths(const struct plan_layout *l, const struct memory_rules *r)
{
    struct widths w = {1, 8};
    if (l->recompute == RECOMPUTE_BLOCK)
        w = (struct widths){5 + (r->software->keeps_masks ? 2.0 / plan_type_size(r->type) : 0), 16};
    if (l->recompute == RECOMPUTE_BLOCK && is_split(l))
        w = (struct widths){1, 11};
    if (l->sequence) /* a norm's result gathered for a product, and its gradient before it is scattered: whole on every rank */
        w.whole += 2 * l->axes.tensor;
    return w;
}

/* At the experts: the gradients of the residual sum, of their result and of their input; when a block is computed again, all that it
 * makes besides, where that is not kept for the weights' part. With sequence, what goes in and comes out is whole on every rank. */
static struct widths passing_beside_experts(const struct plan_layout *l)
{
    bool again = l->recompute == RECOMPUTE_BLOCK;
    struct widths w = {3, 0};
    if (again)
        w = is_split(l) ? (struct widths){3, 3} : (struct widths){6, 4};
    if (l->sequence)
        w.whole += (again ? 3 : 2) * (l->axes.tensor - 1);
    return w;
}

static int64_t local_tokens(const struct plan_model *m, const struct plan_layout *l)
{
    return l->samples * share(m->context, l->axes.context);
}

static double bytes_of(const struct plan_model *m, const struct plan_layout *l, const struct memory_rules *r, struct widths w)
{
    double numbers = (double)local_tokens(m, l) * (double)m->width;
    return numbers * plan_type_size(r->type) * (w.whole / (l->sequence ? l->axes.tensor : 1) + w.divided / l->axes.tensor);
}

/* Attention's scores where they are in memory: the probabilities, and with dropout what is left of them and the mask. */
static double score_bytes(const struct plan_model *m, const struct plan_layout *l, const struct memory_rules *r)
{
    double queries = (double)share(m->context, l->axes.context), size = plan_type_size(r->type);
    double scores = (double)l->samples * (double)share(m->heads, l->axes.tensor) * queries * (double)m->context;
    return r->software->flash > 0 ? 0 : scores * (m->dropout ? 2 * size + 1 : size);
}

/* Means and deviations of a block's norms, logarithms of attention's sums, in float32. */
static double statistic_bytes(const struct plan_model *m, const struct plan_layout *l, const struct memory_rules *r)
{
    double a_row = l->recompute == RECOMPUTE_ATTENTION && r->software->recomputes_qkv ? 2 : 4;
    if (l->recompute == RECOMPUTE_BLOCK)
        return 0;
    if (r->software->flash > 0 && l->recompute == RECOMPUTE_NONE)
        a_row += (double)share(m->heads, l->axes.tensor);
    return (double)local_tokens(m, l) * ACC_SIZE * a_row;
}

int64_t memory_block_activations(const struct plan_model *m, const struct plan_layout *l, const struct memory_rules *r)
{
    double scores = (l->recompute == RECOMPUTE_NONE ? score_bytes(m, l, r) : 0) + statistic_bytes(m, l, r);
    if (m->experts == 0)
        return (int64_t)(bytes_of(m, l, r, kept_widths(l, r)) + scores);
    double experts = l->recompute == RECOMPUTE_BLOCK ? 0 : plan_experts_kept(m, l, plan_type_size(r->type));
    double before = bytes_of(m, l, r, kept_beside_experts(l, r, false)) + scores + experts;
    return (int64_t)(is_split(l) ? fmax(before, bytes_of(m, l, r, kept_beside_experts(l, r, true)) + scores) : before);
}

/* The most that lies within a pass. */
static double passing_bytes(const struct plan_model *m, const struct plan_layout *l, const struct memory_rules *r)
{
    int size = plan_type_size(r->type);
    double scores = score_bytes(m, l, r); /* the scores' gradients, or the scores again */
    if (m->experts == 0)
        return bytes_of(m, l, r, passing_widths(l, r)) + scores;
    double again = l->recompute == RECOMPUTE_BLOCK ? plan_experts_kept(m, l, size) : 0;
    return bytes_of(m, l, r, passing_beside_experts(l)) + plan_experts_passing(m, l, size) + again + scores;
}

int64_t memory_live_microbatches(const struct plan_layout *l, int stage, int chunk)
{
    const struct schedule_desc desc = {.kind = (enum schedule_kind)l->schedule, .stages = l->axes.pipeline, .chunks = l->axes.chunks,
                                       .microbatches = local_microbatches(l)};
    return schedule_slots(&desc, stage, chunk);
}

static int64_t count_activations(const struct plan_model *m, const struct plan_layout *l, const struct memory_rules *r, int stage)
{
    double block = (double)memory_block_activations(m, l, r), bytes = 0;
    double head = bytes_of(m, l, r, (struct widths){2, 0}); /* the final norm's input and result */
    for (int chunk = 0; chunk < l->axes.chunks; chunk++) {
        double piece = (double)chunk_layers(m, l, r->software, stage, chunk) * block;
        if (is_last(l, stage) && chunk == l->axes.chunks - 1)
            piece += head;
        bytes += (double)memory_live_microbatches(l, stage, chunk) * piece;
    }
    return (int64_t)(bytes + passing_bytes(m, l, r));
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

/* What the run time's exchanges take (train/gradient.c, train/gradient_parameters.c, mesh/reduce.c). */
enum { GRADIENT_BUFFERS = 3, PARAMETER_WINDOW = 3, REDUCE_PIECE = 1 << 18, REDUCE_SCRATCH = 1 << 26 };

static int64_t foreign_parts(int64_t ranks)
{
    return least((int64_t)2 * REDUCE_PIECE * ACC_SIZE * (ranks - 1), REDUCE_SCRATCH);
}

static int64_t exchange_bytes(const struct plan_model *m, const struct plan_layout *l, const struct memory_rules *r, int stage)
{
    int64_t around = block_parameters(m, l), experts = plan_experts_parameters(m, l), bytes = 0;
    int64_t largest = experts > 0 ? most(experts, share(4 * m->width * m->width, l->axes.tensor)) : around; /* experts have a bucket of their own */
    int64_t table = stage == 0 || is_last(l, stage) ? table_parameters(m, l) : 0;
    const struct exchange_size compressed = exchange_compressed(m, l, r->software, stage);
    bytes += compressed.most + compressed.sending + compressed.receiving + compressed.parts;
    if (replicas(l) > 1 && l->modes.local_steps == 0) /* other ranks' partial sums, two pieces on their way */
        bytes += foreign_parts(replicas(l)) + (l->axes.expert > 1 ? foreign_parts(replicas(l) / l->axes.expert) : 0);
    if (l->zero >= 2) /* a bucket's gradients being made, and on their way */
        bytes += GRADIENT_BUFFERS * most(largest, table) * ACC_SIZE;
    if (l->zero >= 3) /* gathered: the block at work, the next one, and one to spare */
        bytes += (PARAMETER_WINDOW * (around + experts) + table) * plan_type_size(r->type);
    return bytes;
}

static int64_t count_buffers(const struct plan_model *m, const struct plan_layout *l, const struct memory_rules *r, int stage)
{
    int64_t experts = m->experts > 0 ? stage_layers(m, l, r->software, stage) * plan_experts_workspace(m, l, plan_type_size(r->type)) : 0;
    return exchange_bytes(m, l, r, stage) + experts + (is_last(l, stage) ? classifier_bytes(m, l, r) : 0);
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
