#include "experts_block.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/expert_mlp.h"
#include "kernels_support.h"

struct block block_make(int64_t rows, int64_t width, int64_t experts, int64_t choices, double factor, int64_t hidden)
{
    return (struct block){
        .router = {.rows = rows, .width = width, .experts = experts, .choices = choices,
                   .capacity = router_capacity(factor, rows, experts, choices)},
        .hidden = hidden,
        .scales = {.balance = 0.3, .z = 0.07},
    };
}

int64_t block_input_size(const struct block *k, enum block_input which)
{
    const struct router_desc *d = &k->router;
    switch (which) {
    case INPUT_X:
    case INPUT_DY: return d->rows * d->width;
    case INPUT_ROUTER: return d->experts * d->width;
    case INPUT_CONTRACT_BIAS: return k->hidden > 0 ? d->experts * d->width : 0;
    case INPUT_EXPAND:
    case INPUT_CONTRACT: return d->experts * d->width * k->hidden;
    case INPUT_EXPAND_BIAS: return d->experts * k->hidden;
    case INPUTS: break;
    }
    return 0;
}

int64_t block_result_size(const struct block *k, enum block_result which)
{
    const struct router_desc *d = &k->router;
    switch (which) {
    case RESULT_Y:
    case RESULT_D_X: return block_input_size(k, INPUT_X);
    case RESULT_LOSSES: return 2;
    case RESULT_GATE:
    case RESULT_EXPERT:
    case RESULT_PLACE: return d->rows * d->choices;
    case RESULT_PROBABILITY: return d->rows * d->experts;
    case RESULT_LOAD:
    case RESULT_TAKEN: return d->experts;
    case RESULT_D_ROUTER: return block_input_size(k, INPUT_ROUTER);
    case RESULT_D_EXPAND:
    case RESULT_D_CONTRACT: return block_input_size(k, INPUT_EXPAND);
    case RESULT_D_EXPAND_BIAS: return block_input_size(k, INPUT_EXPAND_BIAS);
    case RESULT_D_CONTRACT_BIAS: return block_input_size(k, INPUT_CONTRACT_BIAS);
    case RESULTS: break;
    }
    return 0;
}

const char *block_result_name(enum block_result which)
{
    static const char *const names[RESULTS] = {"y", "losses", "gates", "probabilities", "experts", "places", "load", "taken", "d_x",
                                               "d_router", "d_expand", "d_expand_bias", "d_contract", "d_contract_bias"};
    return names[which];
}

void block_inputs_make(const struct block *k, double *inputs[INPUTS], uint64_t seed)
{
    static const double scales[INPUTS] = {[INPUT_X] = 1, [INPUT_DY] = 1, [INPUT_ROUTER] = 0.6, [INPUT_EXPAND] = 0.4,
                                          [INPUT_EXPAND_BIAS] = 0.2, [INPUT_CONTRACT] = 0.4, [INPUT_CONTRACT_BIAS] = 0.2};
    for (int i = 0; i < INPUTS; i++)
        inputs[i] = random_values(block_input_size(k, (enum block_input)i), seed * INPUTS + (uint64_t)i, scales[i]);
}

void block_inputs_free(double *inputs[INPUTS])
{
    for (int i = 0; i < INPUTS; i++)
        free(inputs[i]);
}

void block_results_free(struct block_results *r)
{
    for (int i = 0; i < RESULTS; i++)
        free(r->values[i]);
}

/* The arrays of one run. */
enum { STATE_PACKED, STATE_OUT, STATE_D_OUT, STATE_D_PACKED, STATE_INNER, STATE_ACTIVE, STATE_D_INNER, STATE_D_GATE,
       STATE_D_LOGITS, STATE_LOG_SUM, STATES };

struct run {
    struct backend *b;
    const struct block *block;
    void *inputs[INPUTS], *results[RESULTS], *states[STATES];
    struct routing routing;
};

static enum dtype result_type(const struct backend *b, enum block_result which)
{
    if (which == RESULT_Y || which == RESULT_D_X)
        return b->act;
    return which >= RESULT_EXPERT && which <= RESULT_TAKEN ? DTYPE_I32 : b->acc;
}

static enum dtype state_type(const struct backend *b, int which)
{
    return which >= STATE_D_GATE ? b->acc : b->act;
}

static int64_t state_size(const struct block *k, int which)
{
    const struct router_desc *d = &k->router;
    int64_t packed = d->experts * d->capacity;
    if (which < STATE_INNER)
        return packed * d->width;
    if (which < STATE_D_GATE)
        return packed * k->hidden;
    return which == STATE_D_GATE ? d->rows * d->choices : which == STATE_D_LOGITS ? d->rows * d->experts : d->rows;
}

static void begin(struct run *run, double *const inputs[INPUTS])
{
    for (int i = 0; i < INPUTS; i++)
        run->inputs[i] = make_array(run->b, run->b->act, inputs[i], block_input_size(run->block, (enum block_input)i));
    for (int i = 0; i < RESULTS; i++) {
        enum dtype type = result_type(run->b, (enum block_result)i);
        int64_t n = block_result_size(run->block, (enum block_result)i);
        run->results[i] = make_array(run->b, type, NULL, n);
    }
    for (int i = 0; i < STATES; i++)
        run->states[i] = make_array(run->b, state_type(run->b, i), NULL, state_size(run->block, i));
    run->routing = (struct routing){
        .expert = run->results[RESULT_EXPERT], .place = run->results[RESULT_PLACE], .load = run->results[RESULT_LOAD],
        .taken = run->results[RESULT_TAKEN], .gate = run->results[RESULT_GATE], .probability = run->results[RESULT_PROBABILITY],
        .losses = run->results[RESULT_LOSSES], .log_sum = run->states[STATE_LOG_SUM],
    };
}

static void end(struct run *run, struct block_results *results)
{
    for (int i = 0; i < RESULTS; i++) {
        enum dtype type = result_type(run->b, (enum block_result)i);
        int64_t n = block_result_size(run->block, (enum block_result)i);
        results->values[i] = array_values(run->b, type, run->results[i], n);
        free_array(run->b, type, run->results[i], n);
    }
    for (int i = 0; i < INPUTS; i++)
        free_array(run->b, run->b->act, run->inputs[i], block_input_size(run->block, (enum block_input)i));
    for (int i = 0; i < STATES; i++)
        free_array(run->b, state_type(run->b, i), run->states[i], state_size(run->block, i));
}

static struct expert_mlp *make_mlp(const struct run *run)
{
    const struct router_desc *d = &run->block->router;
    struct expert_mlp_desc desc = {.experts = d->experts, .capacity = d->capacity, .width = d->width, .hidden = run->block->hidden,
                                    .whole = !run->b->table->host_memory};
    struct expert_mlp *mlp;
    if (run->block->hidden == 0)
        return NULL;
    cr_assert_eq(expert_mlp_create(run->b, &desc, &mlp), CAIRN_OK, "%s", cairn_err_message());
    return mlp;
}

static struct expert_weights weights_of(const struct run *run)
{
    void *const *in = run->inputs;
    return (struct expert_weights){in[INPUT_EXPAND], in[INPUT_EXPAND_BIAS], in[INPUT_CONTRACT], in[INPUT_CONTRACT_BIAS]};
}

static void run_forward(struct run *run, struct router *router, struct expert_mlp *mlp, const int32_t *counts)
{
    const struct backend_table *t = run->b->table;
    void **s = run->states;
    struct expert_weights weights = weights_of(run);
    t->router_forward(router, &run->routing, run->inputs[INPUT_X], run->inputs[INPUT_ROUTER]);
    t->router_place(router, &run->routing, NULL);
    t->dispatch(router, s[STATE_PACKED], run->inputs[INPUT_X], &run->routing);
    if (mlp != NULL)
        expert_mlp_forward(mlp, s[STATE_OUT], s[STATE_INNER], s[STATE_ACTIVE], s[STATE_PACKED], &weights, counts);
    t->combine(router, run->results[RESULT_Y], s[mlp != NULL ? STATE_OUT : STATE_PACKED], &run->routing);
}

/* The router's own part of dx first, the experts' added to it. */
static void run_backward(struct run *run, struct router *router, struct expert_mlp *mlp, const int32_t *counts)
{
    const struct backend_table *t = run->b->table;
    void **s = run->states, **r = run->results;
    struct expert_weights weights = weights_of(run);
    struct expert_gradients gradients = {r[RESULT_D_EXPAND], r[RESULT_D_EXPAND_BIAS], r[RESULT_D_CONTRACT], r[RESULT_D_CONTRACT_BIAS]};
    t->combine_backward(router, s[STATE_D_OUT], s[STATE_D_GATE], run->inputs[INPUT_DY], s[mlp != NULL ? STATE_OUT : STATE_PACKED],
                        &run->routing);
    t->router_backward_input(router, s[STATE_D_LOGITS], r[RESULT_D_X], s[STATE_D_GATE], &run->routing, run->inputs[INPUT_ROUTER],
                             &run->block->scales, false);
    if (mlp != NULL) {
        expert_mlp_backward_input(mlp, s[STATE_D_PACKED], s[STATE_D_INNER], s[STATE_D_OUT], s[STATE_INNER], &weights, counts);
        expert_mlp_backward_weight(mlp, &gradients, s[STATE_D_INNER], s[STATE_D_OUT], s[STATE_PACKED], s[STATE_ACTIVE], counts, false);
    }
    t->dispatch_backward(router, r[RESULT_D_X], s[mlp != NULL ? STATE_D_PACKED : STATE_D_OUT], &run->routing, true);
    t->router_backward_weight(router, r[RESULT_D_ROUTER], s[STATE_D_LOGITS], run->inputs[INPUT_X]);
}

void block_run(struct backend *b, const struct block *k, double *const inputs[INPUTS], struct block_results *results)
{
    struct run run = {.b = b, .block = k};
    struct router *router;
    begin(&run, inputs);
    cr_assert_eq(b->table->router_create(b, &k->router, &router), CAIRN_OK, "%s", cairn_err_message());
    struct expert_mlp *mlp = make_mlp(&run);
    const int32_t *counts = k->whole || !b->table->host_memory ? NULL : run.routing.load;
    run_forward(&run, router, mlp, counts);
    run_backward(&run, router, mlp, counts);
    expert_mlp_destroy(mlp);
    b->table->router_destroy(router);
    end(&run, results);
}
