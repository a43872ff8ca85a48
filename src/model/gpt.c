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

static tensor_id vector(const struct namer *n, const char *name, int64_t width, struct parameter_init init)
{
    char full[SHARD_NAME_SIZE];
    snprintf(full, sizeof full, "%s%s", n->prefix, name);
    return graph_parameter(n->graph, full, 1, &width, init);
}

static tensor_id matrix(const struct namer *n, const char *name, int64_t rows, int64_t width, float deviation)
{
    char full[SHARD_NAME_SIZE];
    snprintf(full, sizeof full, "%s%s", n->prefix, name);
    return graph_parameter(n->graph, full, 2, (int64_t[]){rows, width}, (struct parameter_init){0, deviation});
}

static tensor_id norm(const struct namer *n, const char *name, tensor_id x, int64_t width)
{
    char gain[48], bias[48];
    snprintf(gain, sizeof gain, "%s.gain", name);
    snprintf(bias, sizeof bias, "%s.bias", name);
    return graph_layer_norm(n->graph, x, vector(n, gain, width, ones), vector(n, bias, width, zeros), norm_epsilon);
}

static tensor_id linear(const struct namer *n, const char *name, tensor_id x, int64_t in, int64_t out, float deviation)
{
    char weight[48], bias[48];
    snprintf(weight, sizeof weight, "%s.weight", name);
    snprintf(bias, sizeof bias, "%s.bias", name);
    return graph_linear(n->graph, x, matrix(n, weight, out, in, deviation), vector(n, bias, out, zeros));
}

static tensor_id block(struct graph *g, const struct gpt *m, int64_t layer, tensor_id x)
{
    struct namer n = {.graph = g};
    snprintf(n.prefix, sizeof n.prefix, "block.%lld.", (long long)layer);
    /* Each of the 2 * layers residual branches adds to the variance: GPT-2 scales their last products' weights for it. */
    float branch_deviation = weight_deviation / sqrtf(2.0f * (float)m->layers);
    int64_t c = m->width;
    tensor_id h = norm(&n, "attention_norm", x, c);
    h = linear(&n, "attention.qkv", h, c, 3 * c, weight_deviation);
    h = graph_attention(g, h, m->heads, m->dropout);
    h = linear(&n, "attention.projection", h, c, c, branch_deviation);
    x = graph_residual(g, x, h, m->dropout);
    h = norm(&n, "mlp_norm", x, c);
    h = linear(&n, "mlp.expand", h, c, 4 * c, weight_deviation);
    h = graph_gelu(g, h);
    h = linear(&n, "mlp.contract", h, 4 * c, c, branch_deviation);
    return graph_residual(g, x, h, m->dropout);
}

void gpt_declare(struct graph *g, const struct gpt *m, int64_t context, bool classify, tensor_id *hidden, tensor_id *head)
{
    struct namer n = {.graph = g, .prefix = ""};
    tensor_id tokens = matrix(&n, "token_embedding", m->vocabulary, m->width, weight_deviation);
    tensor_id positions = matrix(&n, "position_embedding", context, m->width, weight_deviation);
    tensor_id x = graph_dropout(g, graph_embedding(g, tokens, positions), m->dropout);
    for (int64_t i = 0; i < m->layers; i++)
        x = block(g, m, i, x);
    x = norm(&n, "final_norm", x, m->width);
    tensor_id table = m->tied ? tokens : matrix(&n, "head.weight", m->vocabulary, m->width, weight_deviation);
    if (classify)
        graph_classifier(g, x, table);
    if (hidden)
        *hidden = x;
    if (head)
        *head = table;
}

int64_t gpt_parameter_count(const struct gpt *m, int64_t context)
{
    int64_t c = m->width;
    int64_t one_block = 12 * c * c + 13 * c; /* qkv, projection, expand, contract with biases; two norms */
    return m->vocabulary * c * (m->tied ? 1 : 2) + context * c + m->layers * one_block + 2 * c;
}
