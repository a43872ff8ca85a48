#include "plan/automatic.h"

#include <math.h>
#include <string.h>

struct hardware_software plan_software_of(const struct config *config, const struct hardware_software *software)
{
    struct hardware_software s = *software;
    if (config->parallel.reduce == REDUCE_FAST && s.gradient_vectors == 0) {
        s.gradient_vectors = 2; /* the sum, and a microbatch's */
        s.direct_reduce = false;
    }
    if (!config->parallel.overlap)
        s.data_overlap = 0;
    return s;
}

/* An axis, or a choice, that is VALUE unless the planner chooses it: then FREE. */
static int wanted(const struct config *c, const char *key, int64_t value, int free)
{
    return config_chooses(c, key) ? free : (int)value;
}

void plan_keep_to_modes(const struct config *c, struct plan_constraints *w)
{
    w->modes = plan_modes_of(c);
    if (w->modes.compress != CONFIG_COMPRESS_NONE || w->modes.local_steps > 0)
        w->axes.expert = 1;
    if (w->modes.compress != CONFIG_COMPRESS_NONE)
        w->zero_most = 1;
    if (w->modes.local_steps > 0) {
        w->zero_most = 0;
        w->axes.context = 1;
    }
}

struct plan_constraints plan_constraints_of(const struct config *c)
{
    struct plan_constraints w = plan_unconstrained;
    w.axes = (struct layout){.data = wanted(c, "data", c->parallel.data, 0), .tensor = wanted(c, "tensor", c->parallel.tensor, 0),
                             .context = wanted(c, "context", c->parallel.context, 0),
                             .pipeline = wanted(c, "pipeline", c->parallel.pipeline, 0), .chunks = wanted(c, "chunks", c->parallel.chunks, 0),
                             .expert = wanted(c, "expert", c->parallel.expert, 0)};
    w.samples = c->batch.samples;
    w.zero = wanted(c, "zero", c->parallel.zero, -1);
    w.sequence = wanted(c, "sequence", c->parallel.sequence, -1);
    w.recompute = wanted(c, "recompute", c->parallel.recompute, -1);
    w.schedule = wanted(c, "schedule", c->parallel.schedule, -1);
    plan_keep_to_modes(c, &w);
    if (w.sequence < 0 && c->model.dropout > 0 && c->model.width % 4 != 0)
        w.sequence = 0;
    return w;
}

void plan_take(struct config *c, const struct plan_layout *l)
{
    const struct {
        const char *key;
        int64_t *field, value;
    } numbers[] = {{"data", &c->parallel.data, l->axes.data}, {"tensor", &c->parallel.tensor, l->axes.tensor},
                   {"context", &c->parallel.context, l->axes.context}, {"pipeline", &c->parallel.pipeline, l->axes.pipeline},
                   {"chunks", &c->parallel.chunks, l->axes.chunks}, {"expert", &c->parallel.expert, l->axes.expert},
                   {"zero", &c->parallel.zero, l->zero}};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        if (config_chooses(c, numbers[i].key))
            *numbers[i].field = numbers[i].value;
    if (config_chooses(c, "schedule"))
        c->parallel.schedule = l->schedule;
    if (config_chooses(c, "recompute"))
        c->parallel.recompute = l->recompute;
    if (config_chooses(c, "sequence"))
        c->parallel.sequence = l->sequence;
}

/* So many ranks a node that all nodes have as many: ranks that are spread unevenly count as more nodes. */
static int even_ranks(int ranks, int node_ranks)
{
    while (ranks % node_ranks != 0)
        node_ranks--;
    return node_ranks;
}

static cairn_err find_processors(const struct hardware *hardware, const struct planned_ranks *r, int node_ranks, struct planned_machine *out)
{
    const struct hardware_gpu *core;
    const struct hardware_network *network;
    TRY(hardware_find_gpu(hardware, "CPU", &core));
    TRY(hardware_find_network(hardware, core->network, &network));
    out->gpu = *core;
    out->network = *network;
    out->gpu.memory_gb_s *= r->threads;
    out->gpu.processors *= r->threads;
    for (int type = 0; type < PLAN_TYPES; type++)
        out->gpu.tflops[type] *= r->threads;
    out->network.nics_per_gpu = 1.0 / node_ranks;
    return CAIRN_OK;
}

/* What the kernels take beside what the planner counts (doc/gpu-notes.md), at most: a block of logits, in bfloat16 their gradients too, and the
 * scores' gradients of a layer where cuDNN may compute attention, which it does within 2 GiB of them (kernels/cuda/attention_cudnn.cu). */
static double scratch_gib(const struct config *c)
{
    bool half = c->precision == PRECISION_BFLOAT16;
    double rows = (double)(c->batch.samples * c->model.context), most = 2;
    double logits = fmin(4 * rows * (double)c->model.vocabulary / (1 << 30), most) * (half ? 1.5 : 1);
    double scores = half && c->model.dropout == 0 ? 2 * rows * (double)(c->model.heads * c->model.context) / (1 << 30) : 0;
    return logits + (scores <= most ? scores : 0);
}

/* What a GPU that the table lacks is planned as: which layout is the fastest hangs on rates' ratios more than on rates. */
static const char stand_in[] = "A100-80";

static cairn_err find_gpus(const struct hardware *hardware, const struct config *c, const struct planned_ranks *r, struct planned_machine *out)
{
    const struct hardware_gpu *gpu;
    const struct hardware_network *network;
    out->stands_in = hardware_find_device(hardware, r->device, r->device_memory, &gpu) != CAIRN_OK;
    if (out->stands_in)
        TRY(hardware_find_gpu(hardware, stand_in, &gpu));
    TRY(hardware_find_network(hardware, gpu->network, &network));
    out->gpu = *gpu;
    out->network = *network;
    out->software.reserved_gib += scratch_gib(c);
    if (strcasestr(r->device, "PCIe") || !r->linked || out->stands_in)
        out->gpu.nvlink_gb_s = 0;
    if (!r->linked) { /* down, across and up again, and nothing meanwhile */
        out->gpu.pcie_gb_s /= 3;
        out->software.data_overlap = 0;
    }
    return CAIRN_OK;
}

cairn_err planned_machine_of(const struct hardware *hardware, const struct config *config, const struct planned_ranks *r, struct planned_machine *out)
{
    const struct hardware_software *software;
    int node_ranks = even_ranks(r->ranks, r->node_ranks);
    TRY(hardware_find_software(hardware, r->device ? "cairn" : "cairn-cpu", &software));
    *out = (struct planned_machine){.software = plan_software_of(config, software)};
    TRY(r->device ? find_gpus(hardware, config, r, out) : find_processors(hardware, r, node_ranks, out));
    out->gpu.memory_gib = (double)r->memory / (double)(1 << 30);
    out->machine = (struct machine){.gpu = &out->gpu, .network = &out->network, .software = &out->software, .type = r->type,
                                    .nodes = r->ranks / node_ranks, .gpus_per_node = node_ranks};
    return CAIRN_OK;
}
