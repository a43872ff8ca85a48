/* The planner's memory: small cases by hand, and what the run time's graph really asks for. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "model/gpt.h"
#include "plan/exchange.h"
#include "train/compressed.h"

static const struct hardware_software cairn = {.name = "cairn", .flash = 3, .keeps_copy = true, .recomputes_qkv = true};
static const struct hardware_software megatron = {.name = "megatron", .keeps_copy = true, .keeps_masks = true, .keeps_logits = true, .gradient_vectors = 1,
                                                  .even_stages = true};

static struct plan_layout layout_of(int data, int tensor, int pipeline, int64_t microbatches, int64_t samples)
{
    return (struct plan_layout){.axes = {.data = data, .tensor = tensor, .context = 1, .pipeline = pipeline, .chunks = 1, .expert = 1},
                                .schedule = CONFIG_1F1B, .microbatches = microbatches, .samples = samples};
}

/* Two blocks of width 8 by hand: a block has 12 * 64 + 13 * 8 = 872; tables 10 * 8 and 4 * 8; the final norm 16. */
static const struct plan_model tiny = {.layers = 2, .width = 8, .heads = 2, .context = 4, .vocabulary = 10, .tied = true};

Test(plan_memory, parameters_by_hand)
{
    struct plan_layout one = layout_of(1, 1, 1, 1, 1), two = layout_of(1, 2, 1, 1, 1), stages = layout_of(1, 1, 2, 2, 1);
    cr_assert_eq(plan_parameters(&tiny), 2 * 872 + 80 + 32 + 16);
    cr_assert_eq(memory_stage_parameters(&tiny, &one, &cairn, 0), plan_parameters(&tiny));
    /* divided: 12 * 64 and the biases of qkv and expand, 7 * 8; whole: the other biases and the norms, 6 * 8 */
    cr_assert_eq(memory_stage_parameters(&tiny, &two, &cairn, 0), 2 * (412 + 48) + 40 + 32 + 16);
    cr_assert_eq(memory_stage_parameters(&tiny, &stages, &cairn, 0), 872 + 80 + 32);
    cr_assert_eq(memory_stage_parameters(&tiny, &stages, &cairn, 1), 872 + 16 + 80, "a tied table is at both ends");
}

Test(plan_memory, state_by_hand)
{
    struct plan_layout l = layout_of(4, 1, 1, 8, 1);
    struct memory_rules rules = {PLAN_FLOAT32, &cairn, 0, 0};
    int64_t n = plan_parameters(&tiny); /* 1872, which 4 divides */
    struct plan_memory m = memory_of_stage(&tiny, &l, &rules, 0);
    cr_assert_eq(m.parameters, 4 * n);
    cr_assert_eq(m.optimizer, 8 * n, "float32: two moments, the master weights are the parameters");
    cr_assert_eq(memory_gradient_slots(&l, &cairn), 2, "two microbatches a replica");
    cr_assert_eq(m.gradients, 2 * 4 * (n + 80), "the tied table's use as embedding apart");
    rules.type = PLAN_BFLOAT16;
    m = memory_of_stage(&tiny, &l, &rules, 0);
    cr_assert_eq(m.parameters, 2 * n);
    cr_assert_eq(m.optimizer, 12 * n);
    l.zero = 1;
    cr_assert_eq(memory_of_stage(&tiny, &l, &rules, 0).optimizer, 3 * n);
    l.zero = 2;
    cr_assert_eq(memory_gradient_slots(&l, &cairn), 1, "in rounds of four the tree joins all of a round");
    cr_assert_eq(memory_of_stage(&tiny, &l, &rules, 0).gradients, n + 80);
    l.zero = 3;
    cr_assert_eq(memory_of_stage(&tiny, &l, &rules, 0).parameters, n / 2);
}

/* Korthikanti et al., arXiv 2205.05198, equations 2, 4 and 6 and table 2, with dropout: bytes a block of s b h (...). */
Test(plan_memory, activations_of_published_formulas)
{
    const struct plan_model m = {.layers = 48, .width = 6144, .heads = 64, .context = 2048, .vocabulary = 51200, .dropout = true};
    const struct memory_rules rules = {PLAN_FLOAT16, &megatron, 0, 0};
    struct plan_layout l = layout_of(1, 8, 1, 1, 4);
    double sbh = 2048.0 * 4 * 6144, scores = 5.0 * 64 * 2048 / 6144;
    double statistics = 2048.0 * 4 * 4 * 4; /* the norms', which the paper leaves out */
    cr_assert_float_eq((double)memory_block_activations(&m, &l, &rules), sbh * (10 + (24 + scores) / 8) + statistics, 1);
    l.sequence = true;
    cr_assert_float_eq((double)memory_block_activations(&m, &l, &rules), sbh / 8 * (34 + scores) + statistics, 1);
    l.recompute = RECOMPUTE_ATTENTION;
    cr_assert_float_eq((double)memory_block_activations(&m, &l, &rules), sbh / 8 * 34 + statistics, 1);
    l.recompute = RECOMPUTE_BLOCK;
    l.sequence = false;
    cr_assert_float_eq((double)memory_block_activations(&m, &l, &rules), sbh * 2, 1);
}

Test(plan_memory, slots_follow_the_schedule)
{
    struct plan_layout l = layout_of(1, 1, 4, 8, 1);
    cr_assert_eq(memory_live_microbatches(&l, 0, 0), 4);
    cr_assert_eq(memory_live_microbatches(&l, 3, 0), 1);
    l.schedule = CONFIG_GPIPE;
    cr_assert_eq(memory_live_microbatches(&l, 3, 0), 8);
}

/* ---- what the graph asks for ---- */

struct shape {
    int pieces, piece, recompute;
    bool split, dropout;
    enum dtype act;
};

/* Bytes of one microbatch's slot and of the scratch memory. */
static double graph_bytes(const struct plan_model *m, int64_t samples, const struct shape *s)
{
    const struct gpt gpt = {.layers = m->layers, .width = m->width, .heads = m->heads, .vocabulary = m->vocabulary, .tied = m->tied,
                            .dropout = s->dropout ? 0.1f : 0};
    const struct backend_options options = {.act = s->act, .threads = 1, .instruction_set = "auto"};
    const struct graph_options wanted = {.samples = samples, .context = m->context, .training = true, .recompute = s->recompute,
                                         .split_backward = s->split};
    const struct gpt_piece piece = gpt_piece_of(&gpt, m->context, s->pieces, s->piece);
    struct backend *backend;
    cr_assert_eq(backend_open("cpu", &options, &backend), CAIRN_OK, "%s", cairn_err_message());
    struct graph *g = graph_new(backend, &wanted);
    gpt_declare(g, &gpt, &piece, m->context, true, NULL, NULL);
    cr_assert_eq(graph_finish(g), CAIRN_OK, "%s", cairn_err_message());
    double bytes = (double)(graph_slot_bytes(g) + graph_scratch_bytes(g));
    graph_free(g);
    backend->table->close(backend);
    return bytes;
}

static void compare(const struct shape *s)
{
    const struct plan_model m = {.layers = 12, .width = 128, .heads = 4, .context = 64, .vocabulary = 200, .tied = true, .dropout = s->dropout};
    const struct memory_rules rules = {s->act == DTYPE_BF16 ? PLAN_BFLOAT16 : PLAN_FLOAT32, &cairn, 0, 0};
    struct plan_layout l = layout_of(1, 1, s->pieces, 1, 2); /* one microbatch: one slot whatever the stage */
    l.recompute = (enum config_recompute)s->recompute;
    l.schedule = s->split ? CONFIG_ZERO_BUBBLE : CONFIG_1F1B;
    double real = graph_bytes(&m, l.samples, s), planned = (double)memory_of_stage(&m, &l, &rules, s->piece).activations;
    cr_expect(fabs(planned / real - 1) <= 0.05, "piece %d of %d, recompute %d, split %d, dropout %d, %s: planned %.0f, the graph takes %.0f (%+.1f %%)",
              s->piece, s->pieces, s->recompute, s->split, s->dropout, dtype_name(s->act), planned, real, 100 * (planned / real - 1));
}

Test(plan_memory, activations_are_the_graphs)
{
    for (int pieces = 1; pieces <= 3; pieces += 2)
        for (int piece = 0; piece < pieces; piece++)
            for (int recompute = RECOMPUTE_NONE; recompute <= RECOMPUTE_BLOCK; recompute++)
                for (int dropout = 0; dropout < 2; dropout++)
                    for (int half = 0; half < 2; half++)
                        for (int split = 0; split < (pieces > 1 ? 2 : 1); split++)
                            compare(&(struct shape){pieces, piece, recompute, split, dropout, half ? DTYPE_BF16 : DTYPE_F32});
}

/* ---- other exchanges ---- */

/* What compression keeps of the whole model over four replicas, as the run time opens it. */
static int64_t compressed_bytes(const struct plan_model *m, const struct plan_modes *modes)
{
    const struct gpt gpt = {.layers = m->layers, .width = m->width, .heads = m->heads, .vocabulary = m->vocabulary, .tied = m->tied};
    const struct backend_options options = {.act = DTYPE_F32, .threads = 1, .instruction_set = "auto"};
    const struct graph_options wanted = {.samples = 1, .context = m->context, .training = true};
    const struct gpt_piece piece = gpt_piece_of(&gpt, m->context, 1, 0);
    const struct compress_options how = {.kind = (enum compress_kind)modes->compress, .ratio = modes->compress_ratio, .rank = modes->compress_rank};
    struct mesh mesh = {.layout = {4, 1, 1, 1, 1, 1, 0}, .replicas = {.size = 4}};
    struct backend *backend;
    struct compressed *c;
    cr_assert_eq(backend_open("cpu", &options, &backend), CAIRN_OK, "%s", cairn_err_message());
    struct graph *g = graph_new(backend, &wanted);
    gpt_declare(g, &gpt, &piece, m->context, true, NULL, NULL);
    cr_assert_eq(graph_finish(g), CAIRN_OK, "%s", cairn_err_message());
    cr_assert_eq(compressed_open(&mesh, &how, 1, &g, &c), CAIRN_OK, "%s", cairn_err_message());
    int64_t bytes = compressed_memory(c);
    compressed_close(c);
    graph_free(g);
    backend->table->close(backend);
    return bytes;
}

Test(plan_memory, compression_is_the_run_times)
{
    for (int kind = CONFIG_COMPRESS_BF16; kind <= CONFIG_COMPRESS_POWERSGD; kind++)
        for (int tied = 0; tied < 2; tied++) {
            const struct plan_model m = {.layers = 3, .width = 64, .heads = 4, .context = 32, .vocabulary = 301, .tied = tied};
            struct plan_layout l = layout_of(4, 1, 1, 4, 1);
            l.modes = (struct plan_modes){.compress = (enum config_compress)kind, .compress_ratio = 0.01, .compress_rank = 4};
            const struct exchange_size e = exchange_compressed(&m, &l, &cairn, 0);
            cr_expect_eq(e.elements, plan_parameters(&m));
            /* of topk a share is kept too, which has no state */
            int64_t planned = e.state + e.most + e.sending + e.receiving + e.parts, taken = compressed_bytes(&m, &l.modes);
            cr_expect_eq(planned, taken, "kind %d, tied %d: planned %lld, allocated %lld", kind, tied, (long long)planned, (long long)taken);
        }
}

/* The closed formulas of tests/bench/bytes.sh, which a run is measured by. */
Test(plan_memory, bytes_of_compression)
{
    const struct plan_model m = {.layers = 4, .width = 128, .heads = 4, .context = 64, .vocabulary = 512};
    struct plan_layout l = layout_of(4, 1, 1, 8, 4);
    int64_t n = plan_parameters(&m), w = m.width, factors = 4 * 77 * w + 8 * (512 + w) + 4 * (64 + w) + 2 * w;
    l.modes = (struct plan_modes){.compress = CONFIG_COMPRESS_BF16, .compress_ratio = 0.01, .compress_rank = 4};
    cr_expect_eq(4 * exchange_compressed(&m, &l, &cairn, 0).sent, 2 * 3 * 2 * n);
    l.modes.compress = CONFIG_COMPRESS_TOPK;
    cr_expect_float_eq((double)exchange_compressed(&m, &l, &cairn, 0).sent, 3 * 8 * 0.01 * (double)n, 3 * 8 * 6, "an element more a bucket");
    l.modes.compress = CONFIG_COMPRESS_POWERSGD;
    cr_expect_eq(4 * exchange_compressed(&m, &l, &cairn, 0).sent, 2 * 3 * 4 * factors);
}

Test(plan_memory, local_steps)
{
    struct plan_layout l = layout_of(4, 1, 1, 12, 1);
    const struct memory_rules rules = {PLAN_FLOAT32, &cairn, 0, 0};
    const struct plan_memory bulk = memory_of_stage(&tiny, &l, &rules, 0);
    l.modes.local_steps = 10;
    const struct plan_memory average = memory_of_stage(&tiny, &l, &rules, 0);
    l.modes.outer_momentum = true;
    const struct plan_memory nesterov = memory_of_stage(&tiny, &l, &rules, 0);
    int64_t n = 4 * plan_parameters(&tiny);
    cr_expect_eq(average.optimizer, bulk.optimizer + n, "the weights joined last");
    cr_expect_eq(nesterov.optimizer, bulk.optimizer + 2 * n, "and momentum");
    cr_expect_eq(memory_gradient_slots(&l, &cairn), 2, "three microbatches in a tree of their own");
    cr_expect_lt(average.buffers, bulk.buffers, "no other ranks' sums");
}
