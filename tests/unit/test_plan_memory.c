/* The planner's memory: small cases by hand, and what the run time's graph really asks for. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "model/gpt.h"
#include "plan/exchange.h"
#include "plan/experts.h"
#include "train/compressed.h"
#include "train/shares.h"

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

/* The same with four experts of 8 * 64 + 5 * 8 = 552 and 8 more for the router, of which a token uses two; 4 * 64 + 8 * 8 = 320 besides. */
static const struct plan_model tiny_experts = {.layers = 2, .width = 8, .heads = 2, .context = 4, .vocabulary = 10, .tied = true, .experts = 4,
                                               .choices = 2, .capacity_factor = 1.25};

Test(plan_memory, experts_by_hand)
{
    const struct memory_rules rules = {PLAN_FLOAT32, &cairn, 0, 0};
    struct plan_layout l = layout_of(4, 1, 1, 8, 1);
    int64_t ends = 80 + 32 + 16, around = 2 * (320 + 4 * 8) + ends;
    cr_assert_eq(plan_parameters(&tiny_experts), around + 2 * 4 * 552);
    cr_assert_eq(plan_product_parameters(&tiny_experts), 2 * (4 * 64 + 4 * 8 + 2 * 8 * 64) + 80);
    cr_assert_float_eq(plan_model_operations(&tiny_experts, 3), 3 * 12 * (2.0 * (2 * 1312 + 80) + 4 * 2 * 8 * 4), 1e-6);
    cr_assert_float_eq(plan_hardware_operations(&tiny_experts, 3, RECOMPUTE_BLOCK, true) - plan_model_operations(&tiny_experts, 3),
                       12 * (2.0 * 2 * 1312 + 4 * 2 * 8 * 4), 1e-6);
    cr_assert_eq(memory_stage_parameters(&tiny_experts, &l, &cairn, 0), plan_parameters(&tiny_experts));
    l.axes.expert = 2;
    cr_assert_eq(memory_stage_experts(&tiny_experts, &l, &cairn, 0), 2 * 2 * 552);
    cr_assert_eq(memory_stage_parameters(&tiny_experts, &l, &cairn, 0), around + 2 * 2 * 552);
    l.zero = 1; /* pairs hold the same experts, all four the rest */
    cr_assert_eq(memory_of_stage(&tiny_experts, &l, &rules, 0).optimizer, 8 * (around / 4 + 2 * 2 * 552 / 2));
    /* four tokens choose two each: two and a half an even share, three rows an expert */
    l.zero = 0;
    cr_assert_eq(plan_experts_of(&tiny_experts, &l).packed, 4 * 3);
    l.axes.tensor = 2; /* half of the hidden columns, all of the contracting biases */
    cr_assert_eq(plan_experts_parameters(&tiny_experts, &l), 2 * (2 * 8 * 16 + 16 + 8));
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
    int tensor, expert;
    bool sequence;
};

/* What a rank of the shape really has. */
struct real {
    double activations;    /* bytes of one microbatch's slot and of the scratch memory */
    int64_t parameters;
    int64_t own, experts;  /* a replica's largest share of all, as ZeRO divides it; experts' buckets, of all it holds */
    int64_t largest;       /* bucket */
};

/* REPLICAS hold the same parameters, REPLICAS / EXPERT of them the same experts. */
static void count_shares(const struct graph *g, int replicas, int expert, struct real *out)
{
    for (int replica = 0; replica < replicas; replica++) {
        int64_t own = 0;
        for (int b = 0; b < graph_bucket_count(g); b++) {
            int64_t begin, length;
            bool of_expert = expert > 1 && bucket_is_of_expert(g, b);
            int holders = of_expert ? replicas / expert : replicas;
            share_of_bucket(g, b, holders, of_expert ? replica / expert : replica, &begin, &length);
            own += graph_bucket_at(g, b)->lookup_of < 0 ? length : 0;
        }
        out->own = own > out->own ? own : out->own;
    }
    for (int b = 0; b < graph_bucket_count(g); b++) {
        const struct graph_bucket *bucket = graph_bucket_at(g, b);
        out->experts += bucket_is_of_expert(g, b) ? bucket->elements : 0;
        out->largest = bucket->elements > out->largest ? bucket->elements : out->largest;
    }
    for (int i = 0; i < graph_parameter_count(g); i++)
        out->parameters += graph_parameter_at(g, i)->elements;
}

enum { REPLICAS = 4 };

static struct real real_of(const struct plan_model *m, int64_t samples, const struct shape *s)
{
    const struct gpt gpt = {.layers = m->layers, .width = m->width, .heads = m->heads, .vocabulary = m->vocabulary, .tied = m->tied,
                            .dropout = s->dropout ? 0.1f : 0, .experts = m->experts, .choices = m->choices, .capacity_factor = m->capacity_factor};
    struct group tensor = {.size = s->tensor}, experts = {.size = s->expert}; /* of them this is the first, and it exchanges nothing */
    const struct backend_options options = {.act = s->act, .threads = 1, .instruction_set = "auto"};
    const struct graph_options wanted = {.samples = samples, .context = m->context, .training = true, .recompute = s->recompute,
                                         .split_backward = s->split, .tensor = s->tensor > 1 ? &tensor : NULL, .sequence = s->sequence,
                                         .experts = s->expert > 1 ? &experts : NULL};
    const struct gpt_piece piece = gpt_piece_of(&gpt, m->context, s->pieces, s->piece);
    struct backend *backend;
    cr_assert_eq(backend_open("cpu", &options, &backend), CAIRN_OK, "%s", cairn_err_message());
    struct graph *g = graph_new(backend, &wanted);
    gpt_declare(g, &gpt, &piece, m->context, true, NULL, NULL);
    cr_assert_eq(graph_finish(g), CAIRN_OK, "%s", cairn_err_message());
    struct real r = {.activations = (double)(graph_slot_bytes(g) + graph_scratch_bytes(g))};
    count_shares(g, REPLICAS, s->expert, &r);
    graph_free(g);
    backend->table->close(backend);
    return r;
}

/* Differs by at most SHARE. */
static void compare_model(const struct plan_model *model, const struct shape *s, double share)
{
    struct plan_model m = *model;
    m.dropout = s->dropout;
    const struct memory_rules rules = {s->act == DTYPE_BF16 ? PLAN_BFLOAT16 : PLAN_FLOAT32, &cairn, 0, 0};
    struct plan_layout l = layout_of(s->expert, s->tensor, s->pieces, s->expert, 2); /* a microbatch each: one slot whatever the stage */
    l.axes.expert = s->expert;
    l.sequence = s->sequence;
    l.recompute = (enum config_recompute)s->recompute;
    l.schedule = s->split ? CONFIG_ZERO_BUBBLE : CONFIG_1F1B;
    double real = real_of(&m, l.samples, s).activations, planned = (double)memory_of_stage(&m, &l, &rules, s->piece).activations;
    cr_expect(fabs(planned / real - 1) <= share,
              "piece %d of %d, recompute %d, split %d, dropout %d, %s, tensor %d, sequence %d, expert %d: planned %.0f, the graph takes %.0f (%+.1f %%)",
              s->piece, s->pieces, s->recompute, s->split, s->dropout, dtype_name(s->act), s->tensor, s->sequence, s->expert, planned, real,
              100 * (planned / real - 1));
}

static void compare(const struct shape *s)
{
    const struct plan_model m = {.layers = 12, .width = 128, .heads = 4, .context = 64, .vocabulary = 200, .tied = true};
    compare_model(&m, s, 0.05);
}

Test(plan_memory, activations_are_the_graphs)
{
    for (int pieces = 1; pieces <= 3; pieces += 2)
        for (int piece = 0; piece < pieces; piece++)
            for (int recompute = RECOMPUTE_NONE; recompute <= RECOMPUTE_BLOCK; recompute++)
                for (int dropout = 0; dropout < 2; dropout++)
                    for (int half = 0; half < 2; half++)
                        for (int split = 0; split < (pieces > 1 ? 2 : 1); split++)
                            compare(&(struct shape){pieces, piece, recompute, split, dropout, half ? DTYPE_BF16 : DTYPE_F32, 1, 1, false});
}

static void compare_experts(int recompute, bool half, int tensor, bool sequence)
{
    const struct plan_model m = {.layers = 12, .width = 128, .heads = 4, .context = 64, .vocabulary = 200, .tied = true, .experts = 4,
                                 .choices = 2, .capacity_factor = 1.25};
    for (int expert = 1; expert <= 4; expert *= 2)
        for (int pieces = 1; pieces <= 3; pieces += 2)
            for (int split = 0; split < (pieces > 1 ? 2 : 1); split++)
                for (int dropout = 0; dropout < 2; dropout++)
                    compare_model(&m, &(struct shape){pieces, pieces - 1, recompute, split, dropout, half ? DTYPE_BF16 : DTYPE_F32, tensor, expert,
                                                      sequence}, 0.025);
}

Test(plan_memory, activations_of_experts_are_the_graphs)
{
    for (int recompute = RECOMPUTE_NONE; recompute <= RECOMPUTE_BLOCK; recompute++)
        for (int half = 0; half < 2; half++)
            for (int tensor = 1; tensor <= 2; tensor++)
                for (int sequence = 0; sequence < tensor; sequence++)
                    compare_experts(recompute, half, tensor, sequence);
}

static const struct plan_model with_experts = {.layers = 4, .width = 256, .heads = 8, .context = 64, .vocabulary = 256, .experts = 4, .choices = 2,
                                               .capacity_factor = 1.25};

/* What the run time holds of parameters, moments and gradients, over REPLICAS copies of EIGHT microbatches. */
static void compare_state(int expert, int tensor, int zero)
{
    enum { EIGHT = 8, MOMENTS = 8, GRADIENT = 4 };
    const struct memory_rules rules = {PLAN_FLOAT32, &cairn, 0, 0};
    struct plan_layout l = layout_of(REPLICAS, tensor, 1, EIGHT, 1);
    l.axes.expert = expert;
    l.zero = zero;
    const struct real real = real_of(&with_experts, 1, &(struct shape){1, 0, RECOMPUTE_NONE, false, false, DTYPE_F32, tensor, expert, false});
    const struct plan_memory p = memory_of_stage(&with_experts, &l, &rules, 0);
    int64_t held = memory_stage_parameters(&with_experts, &l, &cairn, 0), moments = zero > 0 ? real.own : real.parameters;
    int64_t gradients = zero > 1 ? real.own : real.parameters;
    cr_expect_eq(held, real.parameters, "expert %d, tensor %d: planned %lld, held %lld", expert, tensor, (long long)held, (long long)real.parameters);
    cr_expect_eq(memory_stage_experts(&with_experts, &l, &cairn, 0), real.experts);
    cr_expect_float_eq((double)p.optimizer / (double)(MOMENTS * moments), 1, 0.025, "expert %d, tensor %d, zero %d: moments %lld", expert, tensor,
                       zero, (long long)p.optimizer);
    int slots = memory_gradient_slots(&l, &cairn);
    cr_expect_float_eq((double)p.gradients / (double)(GRADIENT * gradients * slots), 1, 0.025, "expert %d, tensor %d, zero %d: gradients", expert,
                       tensor, zero);
    l.zero = 0;
    int64_t more = p.buffers - memory_of_stage(&with_experts, &l, &rules, 0).buffers;
    if (zero == 2)
        cr_expect_eq(more, 3 * real.largest * GRADIENT, "expert %d, tensor %d: three of the largest buckets", expert, tensor);
}

Test(plan_memory, state_of_experts_is_the_run_times)
{
    for (int expert = 1; expert <= 4; expert *= 2)
        for (int tensor = 1; tensor <= 2; tensor++)
            for (int zero = 0; zero <= 3; zero++)
                compare_state(expert, tensor, zero);
}

/* ---- other exchanges ---- */

/* What compression keeps of the whole model over four replicas, as the run time opens it. */
static int64_t compressed_bytes(const struct plan_model *m, const struct plan_modes *modes)
{
    const struct gpt gpt = {.layers = m->layers, .width = m->width, .heads = m->heads, .vocabulary = m->vocabulary, .tied = m->tied,
                            .experts = m->experts, .choices = m->choices, .capacity_factor = m->capacity_factor};
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
        for (int variant = 0; variant < 4; variant++) {
            bool tied = variant % 2, experts = variant / 2;
            const struct plan_model m = {.layers = 3, .width = 64, .heads = 4, .context = 32, .vocabulary = 301, .tied = tied,
                                         .experts = experts ? 3 : 0, .choices = experts, .capacity_factor = 1};
            struct plan_layout l = layout_of(4, 1, 1, 4, 1);
            l.modes = (struct plan_modes){.compress = (enum config_compress)kind, .compress_ratio = 0.01, .compress_rank = 4};
            const struct exchange_size e = exchange_compressed(&m, &l, &cairn, 0);
            cr_expect_eq(e.elements, plan_parameters(&m));
            /* of topk a share is kept too, which has no state */
            int64_t planned = e.state + e.most + e.sending + e.receiving + e.parts, taken = compressed_bytes(&m, &l.modes);
            cr_expect_eq(planned, taken, "kind %d, tied %d, experts %d: planned %lld, allocated %lld", kind, tied, experts, (long long)planned, (long long)taken);
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
