/* The planner: Daly's formula, what kernels and exchanges must obey, the hardware table's errors, the search. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/gpt.h"
#include "plan/automatic.h"
#include "plan/checkpoint_interval.h"
#include "plan/kernel_time.h"
#include "plan/link_time.h"
#include "plan/plan.h"

static struct hardware *table;

static struct machine machine_of(const char *gpu, const char *software, int nodes, int gpus)
{
    struct machine m = {.nodes = nodes, .gpus_per_node = gpus, .type = PLAN_BFLOAT16};
    if (!table)
        cr_assert_eq(hardware_open(NULL, &table), CAIRN_OK, "%s", cairn_err_message());
    cr_assert_eq(hardware_find_gpu(table, gpu, &m.gpu), CAIRN_OK, "%s", cairn_err_message());
    cr_assert_eq(hardware_find_network(table, m.gpu->network, &m.network), CAIRN_OK, "%s", cairn_err_message());
    cr_assert_eq(hardware_find_software(table, software, &m.software), CAIRN_OK, "%s", cairn_err_message());
    return m;
}

/* ---- checkpoints ---- */

Test(plan, daly)
{
    /* w = 300 s, M = 24 h: sqrt(2 * 300 * 86400) = 7200; w / 2M = 1 / 576, whose root is 1 / 24 */
    cr_assert_float_eq(checkpoint_interval_daly(300, 86400), 7200 * (1 + 1.0 / 72 + 1.0 / 5184) - 300, 1e-9);
    cr_assert_float_eq(checkpoint_interval_daly(1000, 400), 400, 0, "writing takes longer than twice the time between failures");
    double best = checkpoint_interval_daly(300, 86400);
    for (double other = 0.25; other < 4.1; other *= 16)
        cr_assert_gt(checkpoint_interval_loss(best * other, 300, 600, 86400), checkpoint_interval_loss(best, 300, 600, 86400));
}

/* ---- kernels and exchanges ---- */

Test(plan, products_stay_below_the_sustained_rate)
{
    struct machine m = machine_of("A100-80", "cairn", 1, 8);
    for (double n = 64; n <= 16384; n *= 2) {
        const struct product_shape s = {.m = n, .n = n, .k = n, .count = 1, .result_bytes = 2};
        double rate = 2 * n * n * n / kernel_product_seconds(m.gpu, m.type, &s) / (m.gpu->tflops[m.type] * 1e12);
        cr_assert_lt(rate, m.gpu->matmul_efficiency);
        if (n == 8192)
            cr_assert_gt(rate, 0.95 * m.gpu->matmul_efficiency, "a large product is near it, not %.2f", rate);
    }
    /* 108 processors, tiles of 256 x 128: a tile more than fits a wave costs a wave */
    const struct product_shape whole = {.m = 256 * 27, .n = 128 * 4, .k = 8192, .count = 1, .result_bytes = 2};
    const struct product_shape more = {.m = 256 * 28, .n = 128 * 4, .k = 8192, .count = 1, .result_bytes = 2};
    cr_assert_gt(kernel_product_seconds(m.gpu, m.type, &more), 1.05 * kernel_product_seconds(m.gpu, m.type, &whole));
}

Test(plan, exchanges)
{
    struct machine m = machine_of("A100-80", "cairn", 4, 8);
    struct link_group inside = link_group_of(&m, 8, 1), across = link_group_of(&m, 32, 1), strided = link_group_of(&m, 4, 8);
    cr_assert(inside.per_node == 8 && inside.rivals == 1);
    cr_assert(across.per_node == 8 && across.rivals == 1);
    cr_assert(strided.per_node == 1 && strided.rivals == 8);
    double bytes = 1e9, links = 300e9 * m.gpu->link_efficiency;
    cr_assert_float_eq(link_scatter_seconds(&m, &inside, bytes), bytes * 7 / 8 / links, 50e-6);
    double nics = 8 * 25e9 * m.network->efficiency;
    cr_assert_float_eq(link_scatter_seconds(&m, &across, bytes), bytes * 31 / 32 / nics, 100e-6);
    cr_assert_float_eq(link_scatter_seconds(&m, &strided, bytes), 8 * bytes * 3 / 4 / nics, 100e-6, "eight groups share the NICs");
    cr_assert_gt(link_direct_seconds(&m, &across, bytes), 5 * link_scatter_seconds(&m, &across, bytes), "each rank's part passes the NICs");
    cr_assert_float_eq(link_direct_seconds(&m, &strided, bytes), link_scatter_seconds(&m, &strided, bytes), 1e-9);
}

/* ---- the hardware table ---- */

static const char gpu_text[] = "gpus:\n  Mine:\n    source: me\n    memory_gib: 10\n    memory_gb_s: 100\n    float32_tflops: 1\n    processors: 4\n"
                               "    pcie_gb_s: 16\n    matmul_efficiency: 0.5\n    flash1_efficiency: 0.2\n    memory_efficiency: 0.8\n"
                               "    link_efficiency: 0.8\n    kernel_us: 3\n    network: InfiniBand-EDR\n";

/* Opens the installed table and TEXT; returns the code, the message in cairn_err_message with FILE's name as "f". */
static cairn_err open_text(const char *text, struct hardware **out)
{
    char path[] = "/tmp/cairn-hardware-XXXXXX";
    int fd = mkstemp(path);
    cr_assert(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
    cairn_err err = hardware_open(path, out);
    unlink(path);
    return err;
}

static void refuse(const char *text, const char *message)
{
    struct hardware *h;
    cr_assert_eq(open_text(text, &h), CAIRN_ECONFIG, "is taken: %s", text);
    const char *got = strstr(cairn_err_message(), ":") + 1; /* behind the file's name */
    cr_assert_str_eq(got, message);
}

Test(plan, a_site_adds_hardware)
{
    struct hardware *h;
    const struct hardware_gpu *gpu;
    cr_assert_eq(open_text(gpu_text, &h), CAIRN_OK, "%s", cairn_err_message());
    cr_assert_eq(hardware_find_gpu(h, "mine", &gpu), CAIRN_OK);
    cr_assert_float_eq(gpu->memory_gib, 10, 0);
    cr_assert_float_eq(gpu->tflops[PLAN_BFLOAT16], 0, 0, "what is not given it has not");
    cr_assert_eq(hardware_find_gpu(h, "H100", &gpu), CAIRN_OK, "the installed ones stay");
    cr_assert_eq(hardware_find_gpu(h, "TPU", &gpu), CAIRN_ECONFIG);
    cr_assert(strstr(cairn_err_message(), "no GPU 'TPU' in the hardware table; there are V100-16"));
    hardware_close(h);
}

Test(plan, mistakes_in_hardware_have_a_place)
{
    refuse("gpus:\n  A:\n    memory: 3\n", "3:5: A: unknown key 'memory'");
    refuse("gpus:\n  A:\n    memory_gib: many\n", "3:17: A: memory_gib: expected a number from 0.1 to 100000, found 'many'");
    refuse("networks:\n  A:\n    nic_gbit_s: 1\n    nics_per_gpu: 1\n    efficiency: 2\n", "5:17: A: efficiency: expected a number from 0.01 to 1, found '2'");
    refuse("networks:\n  A:\n    nic_gbit_s: 1\n    nics_per_gpu: 1\n    efficiency: 1\n", "2:3: A: latency_us is missing");
    refuse("networks:\n  A:\n    nic_gbit_s: 1\n    nics_per_gpu: 1\n    efficiency: 1\n    latency_us: 1\n", "2:3: A: source is missing: where its figures are from");
    refuse("networks:\n  A:\n    nic_gbit_s: 1\n    nic_gbit_s: 1\n", "4:5: A: nic_gbit_s is given twice");
    refuse("disks: {}\n", "1:1: unknown section 'disks'; there are gpus, networks and software");
    refuse("software:\n  A:\n    keeps_masks: perhaps\n", "3:18: A: keeps_masks: expected true or false, found 'perhaps'");
    refuse("gpus: 3\n", "1:1: gpus: expected keys with values");
}

/* ---- the search ---- */

static const struct plan_model gpt3 = {.layers = 96, .width = 12288, .heads = 96, .context = 2048, .vocabulary = 51200, .tied = true};

static const struct plan_reason *reason_of(const struct plan_result *r, enum plan_refusal kind)
{
    for (int i = 0; i < r->reason_count; i++)
        if (r->reasons[i].kind == kind)
            return &r->reasons[i];
    return NULL;
}

Test(plan, operations)
{
    /* Narayanan et al. (SC21), equation 3, with all recomputed but the head: 96 B s l h^2 (1 + s / 6h + V / 16 l h) */
    double b = 1536, s = 2048, l = 96, h = 12288, v = 51200;
    double expected = 96 * b * s * l * h * h * (1 + s / (6 * h) + v / (16 * l * h));
    cr_assert_float_eq(plan_hardware_operations(&gpt3, 1536, RECOMPUTE_BLOCK, false) / expected, 1, 1e-12);
    cr_assert_float_eq(plan_model_operations(&gpt3, 1536) / (72 * b * s * l * h * h * (1 + s / (6 * h) + v / (12 * l * h))), 1, 1e-12);
}

Test(plan, a_model_too_large_is_refused)
{
    struct machine m = machine_of("A100-80", "cairn", 1, 8);
    struct plan_result r;
    cr_assert_eq(plan_best(&gpt3, 64, &m, &plan_unconstrained, 10, &r), CAIRN_OK);
    cr_assert_eq(r.count, 0);
    const struct plan_reason *memory = reason_of(&r, REFUSED_MEMORY);
    cr_assert(memory && memory->count == r.tried && memory->missing > 100e9);
    plan_result_free(&r);
}

Test(plan, what_is_found_fits_and_is_in_order)
{
    struct machine m = machine_of("H100", "cairn", 16, 8);
    struct plan_result r;
    cr_assert_eq(plan_best(&gpt3, 1536, &m, &plan_unconstrained, 10, &r), CAIRN_OK);
    cr_assert_eq(r.count, 10);
    int64_t others = 0;
    for (int i = 0; i < r.count; i++) {
        const struct plan *p = &r.best[i];
        cr_assert_eq(layout_model_ranks(&p->layout.axes) * p->layout.axes.data, 128);
        cr_assert_eq(p->layout.microbatches * p->layout.samples, 1536);
        cr_assert_leq(plan_memory_total(&p->memory), plan_memory_limit(&m));
        cr_assert(i == 0 || p->time.total >= r.best[i - 1].time.total);
    }
    for (int i = 0; i < r.reason_count; i++)
        if (r.reasons[i].kind == REFUSED_MEMORY || r.reasons[i].kind == REFUSED_SLOWER || (r.reasons[i].kind == REFUSED_RANK))
            others += r.reasons[i].count;
    cr_assert_eq(others + r.count, r.tried, "every layout judged is shown or has a reason");
    plan_result_free(&r);
}

Test(plan, ten_thousand_gpus)
{
    struct machine m = machine_of("H100", "cairn", 1250, 8);
    struct plan_result r;
    cr_assert_eq(plan_best(&gpt3, 10000, &m, &plan_unconstrained, 10, &r), CAIRN_OK);
    cr_assert_eq(r.count, 10);
    cr_assert_gt(r.tried, 10000);
    cr_assert_lt(r.tried, 100000, "%lld layouts are too many to judge in seconds", (long long)r.tried);
    plan_result_free(&r);
}

Test(plan, constraints_are_kept)
{
    struct machine m = machine_of("H100", "cairn", 16, 8);
    struct plan_constraints wanted = plan_unconstrained;
    struct plan_result r;
    wanted.axes.tensor = 8;
    wanted.zero = 2;
    wanted.samples = 2;
    wanted.recompute = RECOMPUTE_BLOCK;
    cr_assert_eq(plan_best(&gpt3, 1536, &m, &wanted, 10, &r), CAIRN_OK);
    cr_assert_gt(r.count, 0);
    for (int i = 0; i < r.count; i++) {
        const struct plan_layout *l = &r.best[i].layout;
        cr_assert(l->axes.tensor == 8 && (l->zero == 2 || l->axes.data == 1) && l->samples == 2 && l->recompute == RECOMPUTE_BLOCK);
    }
    plan_result_free(&r);
    m = machine_of("V100-32", "cairn", 1, 8);
    cr_assert_eq(plan_best(&gpt3, 64, &m, &plan_unconstrained, 10, &r), CAIRN_ECONFIG);
    cr_assert_str_eq(cairn_err_message(), "a V100-32 has no products of bfloat16");
}

Test(plan, pieces_are_the_run_times)
{
    for (int64_t layers = 1; layers <= 40; layers += 3)
        for (int count = 1; count <= layers; count++) {
            const struct plan_model m = {.layers = layers, .width = 256, .heads = 4, .context = 128, .vocabulary = 5000};
            const struct gpt gpt = {.layers = layers, .width = 256, .heads = 4, .vocabulary = 5000};
            const struct plan_cut cut = plan_cut_of(&m, count, false);
            for (int i = 0; i < count; i++)
                cr_assert_eq(plan_cut_layers(&cut, i), gpt_piece_of(&gpt, 128, count, i).count, "piece %d of %d", i, count);
        }
}

/* The formula that screens must agree with the schedule that is run, or the search would drop what is best. */
Test(plan, the_estimate_is_the_simulation)
{
    struct machine m = machine_of("H100", "cairn", 16, 8);
    struct plan_layout l = {.axes = {.data = 4, .tensor = 4, .context = 1, .pipeline = 8, .chunks = 1, .expert = 1}, .microbatches = 128,
                            .samples = 1, .schedule = CONFIG_1F1B};
    for (int i = 0; i < 4; i++) {
        static const enum config_schedule schedules[] = {CONFIG_GPIPE, CONFIG_1F1B, CONFIG_INTERLEAVED, CONFIG_ZERO_BUBBLE};
        l.schedule = schedules[i];
        l.axes.chunks = l.schedule == CONFIG_INTERLEAVED ? 3 : 1;
        struct step_time run;
        const struct block_time block = block_time_of(&gpt3, &l, &m), head = block_time_of_head(&gpt3, &l, &m);
        const struct step_time estimate = step_time_estimate(&gpt3, &l, &m, &block, &head);
        cr_assert_eq(step_time_of(&gpt3, &l, &m, &run), CAIRN_OK);
        cr_expect(fabs(estimate.total / run.total - 1) < 0.03, "schedule %d: %.4f s by formula, %.4f s by simulation", i, estimate.total, run.total);
    }
}

/* ---- what a config leaves open ---- */

Test(plan, what_a_config_gives_is_kept)
{
    char some[] = "data pipeline zero recompute";
    struct config c = {.batch = {.microbatches = 8, .samples = 2}, .model = {.dropout = 0.1, .width = 66}};
    c.parallel.automatic = some;
    c.parallel.tensor = 2;
    c.parallel.context = c.parallel.chunks = 1;
    c.parallel.data = 7;
    c.parallel.expert = 4;
    c.parallel.schedule = CONFIG_ZERO_BUBBLE;
    c.parallel.compress = CONFIG_COMPRESS_TOPK;
    const struct plan_constraints w = plan_constraints_of(&c);
    cr_expect(w.axes.data == 0 && w.axes.pipeline == 0 && w.axes.tensor == 2 && w.axes.context == 1 && w.axes.chunks == 1 && w.samples == 2);
    cr_expect(w.zero == -1 && w.recompute == -1 && w.schedule == CONFIG_ZERO_BUBBLE && w.sequence == 0);
    cr_expect_eq(w.zero_most, 1, "compression goes with zero 1 at most");
    cr_expect_eq(w.axes.expert, 1, "and with no groups of experts");
    c.parallel.compress = CONFIG_COMPRESS_NONE;
    cr_expect_eq(plan_constraints_of(&c).axes.expert, 4);
    char rows[] = "sequence";
    c.parallel.automatic = rows;
    cr_expect_eq(plan_constraints_of(&c).sequence, 0, "dropout of rows that are no whole draws is refused");
    c.model.width = 64;
    cr_expect_eq(plan_constraints_of(&c).sequence, -1);

    c.parallel.automatic = some;
    const struct plan_layout chosen = {.axes = {.data = 2, .tensor = 3, .context = 4, .pipeline = 5, .chunks = 6}, .schedule = CONFIG_GPIPE,
                                       .zero = 1, .sequence = true, .recompute = RECOMPUTE_BLOCK};
    plan_take(&c, &chosen);
    cr_expect(c.parallel.data == 2 && c.parallel.pipeline == 5 && c.parallel.zero == 1 && c.parallel.recompute == RECOMPUTE_BLOCK);
    cr_expect(c.parallel.tensor == 2 && c.parallel.context == 1 && c.parallel.chunks == 1 && !c.parallel.sequence &&
              c.parallel.schedule == CONFIG_ZERO_BUBBLE, "what was given stays");
}

Test(plan, ranks_on_processors)
{
    struct planned_machine one, four;
    const struct config c = {.parallel = {.overlap = true}};
    struct planned_ranks ranks = {.ranks = 8, .node_ranks = 4, .threads = 1, .memory = (int64_t)3 << 30, .type = PLAN_FLOAT32};
    machine_of("H100", "cairn", 1, 1); /* opens the table */
    cr_assert_eq(planned_machine_of(table, &c, &ranks, &one), CAIRN_OK, "%s", cairn_err_message());
    ranks.threads = 4;
    ranks.ranks = 6;
    cr_assert_eq(planned_machine_of(table, &c, &ranks, &four), CAIRN_OK, "%s", cairn_err_message());
    cr_expect(one.machine.nodes == 2 && one.machine.gpus_per_node == 4);
    cr_expect(four.machine.nodes == 2 && four.machine.gpus_per_node == 3, "as many on each node");
    cr_expect_float_eq(four.gpu.tflops[PLAN_FLOAT32], 4 * one.gpu.tflops[PLAN_FLOAT32], 1e-12);
    cr_expect_float_eq(four.gpu.memory_gb_s, 4 * one.gpu.memory_gb_s, 1e-9);
    cr_expect_float_eq(one.network.nics_per_gpu, 0.25, 1e-12, "a NIC a node");
    cr_expect_eq(plan_memory_limit(&one.machine), (int64_t)((3 - one.software.reserved_gib) * (1 << 30)));
    cr_expect_eq(plan_check_machine(&one.machine), CAIRN_OK);
    cr_expect_gt(one.software.data_overlap, 0);
    const struct config apart = {.parallel = {.overlap = false, .reduce = REDUCE_FAST}};
    cr_assert_eq(planned_machine_of(table, &apart, &ranks, &one), CAIRN_OK);
    cr_expect(one.software.data_overlap == 0 && one.software.gradient_vectors == 2 && !one.software.direct_reduce);
}

/* The table's entry for a GPU that its driver names so. */
static const char *entry_of(const char *device, double gib)
{
    const struct hardware_gpu *gpu;
    return hardware_find_device(table, device, (int64_t)(gib * (1 << 30)), &gpu) == CAIRN_OK ? gpu->name : "none";
}

Test(plan, gpus_by_their_drivers_names)
{
    machine_of("H100", "cairn", 1, 1); /* opens the table */
    cr_expect_str_eq(entry_of("NVIDIA A100-SXM4-80GB", 78.5), "A100-80");
    cr_expect_str_eq(entry_of("NVIDIA A100-SXM4-40GB", 38.9), "A100-40");
    cr_expect_str_eq(entry_of("Tesla V100-SXM2-16GB", 15.5), "V100-16");
    cr_expect_str_eq(entry_of("NVIDIA H200", 139), "H200");
    cr_expect_str_eq(entry_of("NVIDIA H100 80GB HBM3", 78), "H100");
    cr_expect_str_eq(entry_of("h100", 10), "H100", "an entry's own name");
    cr_expect_str_eq(entry_of("NVIDIA GH200 480GB", 94), "none", "a word, not a part of one");
    cr_expect_str_eq(entry_of("", 94), "none");
}

Test(plan, ranks_on_gpus)
{
    struct planned_machine linked, staged;
    const struct config c = {.parallel = {.overlap = true}, .model = {.context = 1024, .heads = 12, .vocabulary = 50257}, .batch = {.samples = 32}, .precision = PRECISION_BFLOAT16};
    struct planned_ranks ranks = {.ranks = 16, .node_ranks = 8, .device = "NVIDIA A100 80GB PCIe", .device_memory = (int64_t)79 << 30,
                                  .memory = (int64_t)60 << 30, .type = PLAN_BFLOAT16, .linked = true};
    machine_of("H100", "cairn", 1, 1);
    cr_assert_eq(planned_machine_of(table, &c, &ranks, &linked), CAIRN_OK, "%s", cairn_err_message());
    cr_expect(linked.machine.nodes == 2 && linked.machine.gpus_per_node == 8 && linked.gpu.nvlink_gb_s == 0 && linked.gpu.memory_gib == 60);
    cr_expect_str_eq(linked.gpu.name, "A100-80");
    cr_expect_eq(plan_check_machine(&linked.machine), CAIRN_OK);
    /* 2 GiB of logits and half of that of gradients; 2 bytes of 32 x 12 x 1024 x 1024 scores */
    cr_expect_float_eq(linked.software.reserved_gib, machine_of("H100", "cairn", 1, 1).software->reserved_gib + 3 + 0.75, 1e-9);
    struct config wide = c;
    wide.model.heads = 64; /* 4 GiB of scores: not by cuDNN */
    struct planned_machine own;
    cr_assert_eq(planned_machine_of(table, &wide, &ranks, &own), CAIRN_OK);
    cr_expect_float_eq(own.software.reserved_gib, linked.software.reserved_gib - 0.75, 1e-9);
    ranks.device = "NVIDIA A100-SXM4-80GB";
    ranks.linked = false;
    cr_assert_eq(planned_machine_of(table, &c, &ranks, &staged), CAIRN_OK);
    cr_expect(staged.gpu.nvlink_gb_s == 0 && staged.gpu.pcie_gb_s < linked.gpu.pcie_gb_s && staged.software.data_overlap == 0);
    ranks.linked = true;
    cr_assert_eq(planned_machine_of(table, &c, &ranks, &linked), CAIRN_OK);
    cr_expect_gt(linked.gpu.nvlink_gb_s, 0);
    ranks.device = "NVIDIA L40S";
    cr_expect(!linked.stands_in);
    cr_assert_eq(planned_machine_of(table, &c, &ranks, &linked), CAIRN_OK);
    cr_expect(linked.stands_in && linked.gpu.nvlink_gb_s == 0 && linked.gpu.memory_gib == 60, "as another, but with its own memory");
}

/* The one that is best of RANKS ranks of a node within WANTED, for BATCH samples; data 0: there is none. */
static struct plan_layout best_of(const struct plan_model *m, int64_t batch, int ranks, const struct plan_constraints *wanted)
{
    const struct machine machine = machine_of("H100", "cairn", 1, ranks);
    struct plan_result r;
    cr_assert_eq(plan_best(m, batch, &machine, wanted, 1, &r), CAIRN_OK, "%s", cairn_err_message());
    const struct plan_layout best = r.count ? r.best[0].layout : (struct plan_layout){0};
    plan_result_free(&r);
    return best;
}

/* Limits of what is worth a look hold for what is free alone. */
Test(plan, what_is_given_is_looked_at)
{
    const struct plan_model m = {.layers = 40, .width = 192, .heads = 3, .context = 60, .vocabulary = 256, .tied = true};
    struct plan_constraints large = plan_unconstrained, context = large, tensor = large, chunks = large, many = large, rows = large;
    large.samples = 600;
    cr_expect_eq(best_of(&m, 1200, 2, &large).samples, 600);
    context.axes.context = 3;
    cr_expect_eq(best_of(&m, 12, 6, &context).axes.context, 3);
    tensor.axes.tensor = 2;
    cr_expect_eq(best_of(&m, 12, 4, &tensor).axes.tensor, 2, "three heads on two ranks");
    chunks.axes.chunks = 3;
    chunks.axes.pipeline = 2;
    cr_expect_eq(best_of(&m, 12, 2, &chunks).axes.chunks, 3, "twenty blocks of a stage in three chunks");
    chunks.axes.chunks = 1;
    cr_expect_neq(best_of(&m, 12, 2, &chunks).schedule, CONFIG_INTERLEAVED);
    many.axes.chunks = 20;
    cr_expect_eq(best_of(&m, 12, 2, &many).axes.chunks, 20);
    struct plan_model parted = m;
    parted.experts = 6;
    parted.choices = 2;
    parted.capacity_factor = 1.25;
    struct plan_constraints groups = plan_unconstrained;
    for (groups.axes.expert = 1; groups.axes.expert <= 6; groups.axes.expert++)
        cr_expect_eq(best_of(&parted, 24, 12, &groups).axes.expert, groups.axes.expert == 4 || groups.axes.expert == 5 ? 0 : groups.axes.expert);
    groups.axes.expert = 0;
    cr_expect_gt(best_of(&parted, 24, 12, &groups).axes.data, 0);
    groups.axes.expert = 2;
    cr_expect_eq(best_of(&m, 24, 12, &groups).axes.data, 0, "no experts to share");
    rows.sequence = 1;
    rows.axes.tensor = 1;
    cr_expect_eq(best_of(&m, 12, 2, &rows).axes.tensor, 1, "rows that nobody shares");
    rows.axes.tensor = 3;
    cr_expect(best_of(&m, 12, 3, &rows).sequence);
}

/* With less and less memory what is chosen takes less, at last nothing fits. */
Test(plan, less_memory_takes_other_layouts)
{
    const struct plan_model m = {.layers = 8, .width = 512, .heads = 8, .context = 256, .vocabulary = 256, .tied = true};
    const struct config c = {.parallel = {.overlap = true}};
    struct planned_ranks ranks = {.ranks = 4, .node_ranks = 4, .threads = 1, .type = PLAN_FLOAT32};
    struct plan_constraints wanted = plan_unconstrained;
    int layouts = 0;
    int64_t last = INT64_MAX;
    wanted.samples = 4;
    machine_of("H100", "cairn", 1, 1);
    for (ranks.memory = (int64_t)2 << 30; last > 0; ranks.memory -= 64 << 20) {
        struct planned_machine machine;
        struct plan_result r;
        cr_assert_eq(planned_machine_of(table, &c, &ranks, &machine), CAIRN_OK);
        cr_assert_eq(plan_best(&m, 16, &machine.machine, &wanted, 1, &r), CAIRN_OK, "%s", cairn_err_message());
        int64_t bytes = r.count ? plan_memory_total(&r.best[0].memory) : 0;
        cr_expect_leq(bytes, r.count ? plan_memory_limit(&machine.machine) : 0);
        layouts += bytes != last && r.count;
        last = bytes;
        plan_result_free(&r);
    }
    cr_expect_geq(layouts, 3, "only %d layouts from 2 GiB down", layouts);
}

Test(plan, modes_that_send_less)
{
    const struct plan_model m = {.layers = 12, .width = 768, .heads = 12, .context = 1024, .vocabulary = 50304, .tied = true};
    const struct machine machine = machine_of("A100-80", "cairn", 4, 1);
    struct plan_layout l = {.axes = {4, 1, 1, 1, 1, 1, 0}, .schedule = CONFIG_1F1B, .microbatches = 4, .samples = 1};
    struct plan p;
    double seconds[5];
    l.modes = (struct plan_modes){.compress_ratio = 0.01, .compress_rank = 4};
    for (int kind = CONFIG_COMPRESS_NONE; kind <= CONFIG_COMPRESS_POWERSGD; kind++) {
        l.modes.compress = (enum config_compress)kind;
        cr_assert_eq(plan_of(&m, &l, &machine, &p), CAIRN_OK);
        seconds[kind] = p.time.data;
    }
    l.modes = (struct plan_modes){.local_steps = 10};
    cr_assert_eq(plan_of(&m, &l, &machine, &p), CAIRN_OK);
    seconds[4] = p.time.data;
    cr_expect_lt(seconds[CONFIG_COMPRESS_TOPK], seconds[CONFIG_COMPRESS_BF16]);
    cr_expect_lt(seconds[CONFIG_COMPRESS_POWERSGD], seconds[CONFIG_COMPRESS_BF16]);
    l.modes.local_steps = 20;
    cr_assert_eq(plan_of(&m, &l, &machine, &p), CAIRN_OK);
    cr_expect_float_eq(p.time.data, seconds[4] / 2, 1e-12, "half as often");
}
