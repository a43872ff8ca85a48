#include "model/gpt.h"

#include <math.h>
#include <stdio.h>

static const double norm_epsilon = 1e-5;     /* GPT-2's */
static const float weight_deviation = 0.02f; /* GPT-2's */

static const struct parameter_init zeros = {0, 0}, ones = {1, 0};

struct namer {
    struct graph *graph;
    char prefix[64];
};

static tensor_id declare(const struct namer *n, const char *name, struct parameter_desc desc)
{
    char full[SHARD_NAME_SIZE];
    snprintf(full, sizeof full, "%s%s", n->prefix, name);
    desc.name = full;
    return graph_parameter(n->graph, &desc);
}

static tensor_id vector(const struct namer *n, const char *name, int64_t width, struct parameter_init init)
{
    return declare(n, name, (struct parameter_desc){.dims = 1, .shape = {width}, .split = -1, .init = init, .vector = true});
}

static tensor_id matrix(const struct namer *n, const char *name, int64_t rows, int64_t width, float deviation)
{
    return declare(n, name, (struct parameter_desc){.dims = 2, .shape = {rows, width}, .split = -1, .init = {0, deviation}});
}

static tensor_id norm(const struct namer *n, const char *name, tensor_id x, int64_t width)
{
    char gain[48], bias[48];
    snprintf(gain, sizeof gain, "%s.gain", name);
    snprintf(bias, sizeof bias, "%s.bias", name);
    return graph_layer_norm(n->graph, x, vector(n, gain, width, ones), vector(n, bias, width, zeros), norm_epsilon);
}

/* A linear layer whose outputs the tensor ranks share: FROM, COUNT of them in each of PARTS (queries, keys and values; else 1). */
static tensor_id linear_of_columns(const struct namer *n, const char *name, tensor_id x, int parts, int64_t first, int64_t count,
                                   int64_t in, int64_t out, float deviation)
{
    char weight[48], bias[48];
    snprintf(weight, sizeof weight, "%s.weight", name);
    snprintf(bias, sizeof bias, "%s.bias", name);
    struct parameter_desc w = {.dims = 2, .shape = {out, in}, .first = first, .count = count, .init = {0, deviation}};
    struct parameter_desc b = {.dims = 1, .shape = {out}, .first = first, .count = count, .init = zeros, .vector = true};
    if (parts > 1) {
        w = (struct parameter_desc){.dims = 3, .shape = {parts, out, in}, .split = 1, .first = first, .count = count, .init = {0, deviation}};
        b = (struct parameter_desc){.dims = 2, .shape = {parts, out}, .split = 1, .first = first, .count = count, .init = zeros,
                                    .vector = true};
    }
    return graph_linear(n->graph, x, declare(n, weight, w), declare(n, bias, b));
}

/* One whose inputs they share: COUNT of IN from FIRST on. The parts of its result are summed. */
static tensor_id linear_of_parts(const struct namer *n, const char *name, tensor_id x, int64_t first, int64_t count, int64_t in,
                                 int64_t out, float deviation)
{
    char weight[48], bias[48];
    snprintf(weight, sizeof weight, "%s.weight", name);
    snprintf(bias, sizeof bias, "%s.bias", name);
    struct parameter_desc w = {.dims = 2, .shape = {out, in}, .split = 1, .first = first, .count = count, .init = {0, deviation}};
    tensor_id y = graph_linear_part(n->graph, x, declare(n, weight, w), vector(n, bias, out, zeros));
    return graph_tensor_leave(n->graph, y);
}

static tensor_id mlp(const struct namer *n, const struct gpt *m, tensor_id x, float branch_deviation)
{
    struct graph *g = n->graph;
    int64_t c = m->width, first, count = graph_tensor_share(g, 4 * c, &first);
    graph_segment_begin(g, GRAPH_GATHER_AGAIN);
    x = graph_tensor_enter(g, x);
    x = linear_of_columns(n, "mlp.expand", x, 1, first, count, c, 4 * c, weight_deviation);
    graph_segment_end(g);
    x = graph_gelu(g, x);
    return linear_of_parts(n, "mlp.contract", x, first, count, 4 * c, c, branch_deviation);
}

static tensor_id experts(const struct namer *n, const struct gpt *m, tensor_id x, float branch_deviation)
{
    const struct graph_experts_desc desc = {.experts = m->experts, .choices = m->choices, .hidden = 4 * m->width,
                                            .capacity_factor = m->capacity_factor, .balance = m->balance, .z = m->z};
    struct graph *g = n->graph;
    int64_t c = m->width, h = desc.hidden;
    struct parameter_desc own = {.of_expert = true};
    own.experts = graph_expert_share(g, m->experts, &own.first_expert);
    own.count = graph_tensor_share(g, h, &own.first);
    struct parameter_desc expand = own, expand_bias = own, contract = own, contract_bias = own;
    expand.split = expand_bias.split = 1;
    contract.split = 2;
    contract_bias.split = -1;
    expand.dims = contract.dims = 3;
    expand_bias.dims = contract_bias.dims = 2;
    expand.shape[0] = expand_bias.shape[0] = contract.shape[0] = contract_bias.shape[0] = m->experts;
    expand.shape[1] = expand_bias.shape[1] = contract.shape[2] = h;
    contract.shape[1] = contract_bias.shape[1] = expand.shape[2] = c;
    expand.init.deviation = weight_deviation;
    contract.init.deviation = branch_deviation;
    expand_bias.vector = contract_bias.vector = true;
    const tensor_id parameters[] = {matrix(n, "router.weight", m->experts, c, weight_deviation), declare(n, "experts.expand.weight", expand),
                                    declare(n, "experts.expand.bias", expand_bias), declare(n, "experts.contract.weight", contract),
                                    declare(n, "experts.contract.bias", contract_bias)};
    return graph_tensor_leave(g, graph_experts(g, graph_tensor_enter(g, x), parameters, &desc));
}

static tensor_id block(struct graph *g, const struct gpt *m, int64_t layer, tensor_id x)
{
    struct namer n = {.graph = g};
    snprintf(n.prefix, sizeof n.prefix, "block.%lld.", (long long)layer);
    /* Each of the 2 * layers residual branches adds to the variance: GPT-2 scales their last products' weights for it. */
    float branch_deviation = weight_deviation / sqrtf(2.0f * (float)m->layers);
    int64_t c = m->width;
    graph_unit(g, (int)layer + 1);
    graph_segment_begin(g, GRAPH_RECOMPUTE_BLOCK);
    graph_segment_begin(g, GRAPH_RECOMPUTE_ATTENTION);
    int64_t first, count = graph_tensor_share(g, m->heads, &first), size = c / m->heads;
    tensor_id h = norm(&n, "attention_norm", x, c);
    graph_segment_begin(g, GRAPH_GATHER_AGAIN);
    h = graph_tensor_enter(g, h);
    h = linear_of_columns(&n, "attention.qkv", h, 3, first * size, count * size, c, c, weight_deviation);
    graph_segment_end(g);
    h = graph_attention(g, h, m->heads, m->dropout);
    h = linear_of_parts(&n, "attention.projection", h, first * size, count * size, c, c, branch_deviation);
    graph_segment_end(g);
    x = graph_residual(g, x, h, m->dropout);
    h = norm(&n, "mlp_norm", x, c);
    h = m->experts ? experts(&n, m, h, branch_deviation) : mlp(&n, m, h, branch_deviation);
    x = graph_residual(g, x, h, m->dropout);
    graph_segment_end(g);
    return x;
}

/* A table of tokens, of which the tensor ranks share the rows. The model's first is also its last if it is tied. */
static tensor_id token_table(const struct namer *n, const struct gpt *m, const char *name)
{
    int64_t first, count = graph_tensor_share(n->graph, m->vocabulary, &first);
    return declare(n, name, (struct parameter_desc){.dims = 2, .shape = {m->vocabulary, m->width}, .first = first, .count = count,
                                                    .init = {0, weight_deviation}, .shared = m->tied});
}

static tensor_id begin(const struct namer *n, const struct gpt *m, const struct gpt_piece *piece, int64_t context, tensor_id *tokens)
{
    if (!piece->begins)
        return graph_stage_input(n->graph, m->width);
    graph_unit(n->graph, 0);
    *tokens = token_table(n, m, "token_embedding");
    tensor_id positions = matrix(n, "position_embedding", context, m->width, weight_deviation);
    return graph_dropout(n->graph, graph_tensor_leave(n->graph, graph_embedding(n->graph, *tokens, positions)), m->dropout);
}

void gpt_declare(struct graph *g, const struct gpt *m, const struct gpt_piece *piece, int64_t context, bool classify, tensor_id *hidden,
                 tensor_id *head)
{
    struct namer n = {.graph = g, .prefix = ""};
    tensor_id tokens = -1, x = begin(&n, m, piece, context, &tokens);
    for (int64_t i = piece->first; i < piece->first + piece->count; i++)
        x = block(g, m, i, x);
    if (!piece->ends) {
        graph_stage_output(g, x);
        return;
    }
    graph_unit(g, (int)m->layers + 1);
    x = norm(&n, "final_norm", x, m->width);
    if (!m->tied || tokens < 0)
        tokens = token_table(&n, m, m->tied ? "token_embedding" : "head.weight");
    if (classify) {
        graph_segment_begin(g, GRAPH_GATHER_AGAIN);
        graph_classifier(g, graph_tensor_enter(g, x), tokens);
        graph_segment_end(g);
    }
    if (hidden)
        *hidden = x;
    if (head)
        *head = tokens;
}

/* Multiplications and additions of a token's forward pass. */
static double block_cost(const struct gpt *m, int64_t context)
{
    double c = (double)m->width;
    return 24 * c * c + 2 * c * (double)context; /* products; attention's two, over half of the context on average */
}

static double head_cost(const struct gpt *m)
{
    return 2 * (double)m->vocabulary * (double)m->width;
}

/* The most costly of COUNT pieces if the last has LAST blocks. */
static double worst_cost(const struct gpt *m, int64_t context, int count, int64_t last)
{
    int64_t others = (m->layers - last + count - 2) / (count - 1);
    return fmax((double)others * block_cost(m, context), (double)last * block_cost(m, context) + head_cost(m));
}

struct gpt_piece gpt_piece_of(const struct gpt *m, int64_t context, int count, int index)
{
    struct gpt_piece p = {.count = m->layers, .begins = index == 0, .ends = index == count - 1};
    if (count == 1)
        return p;
    int64_t last = 1, most = m->layers - count + 1;
    for (int64_t n = 2; n <= most; n++)
        if (worst_cost(m, context, count, n) <= worst_cost(m, context, count, last))
            last = n;
    int64_t rest = m->layers - last, base = rest / (count - 1), more = rest % (count - 1);
    p.count = p.ends ? last : base + (index < more);
    p.first = p.ends ? rest : index * base + (index < more ? index : more);
    return p;
}

int64_t gpt_expert_capacity(const struct gpt *m, int64_t rows)
{
    return router_capacity(m->capacity_factor, rows, m->experts, m->choices);
}

int64_t gpt_parameter_count(const struct gpt *m, int64_t context)
{
    int64_t c = m->width;
    int64_t mlp = 8 * c * c + 5 * c, one_block = 4 * c * c + 8 * c; /* expand, contract with biases; qkv, projection, two norms */
    one_block += m->experts ? m->experts * (mlp + c) : mlp;
    return m->vocabulary * c * (m->tied ? 1 : 2) + context * c + m->layers * one_block + 2 * c;
}
