/* The memory of a rank, split by kind: pure functions of model, layout and types. This is the one place that counts it: what the run
 * time allocates is checked against it, and the planner refuses by it. Bytes.
 *
 * Activations are those that a block's ops make and the backward pass reads again, in a slot for each microbatch that the schedule has on
 * its way, and beside them the most that lives within a pass (graph/arena.c); logits are never kept (kernels/backend.h). Other software's conventions are Korthikanti et al.'s (arXiv 2205.05198, section 4). */
#ifndef PLAN_MEMORY_H
#define PLAN_MEMORY_H

#include "plan/hardware.h"

struct plan_memory {
    int64_t parameters;  /* what products read: in the compute type, the master weights where that is float32 */
    int64_t gradients;
    int64_t optimizer;   /* two moments, and the master weights where products read a copy */
    int64_t activations;
    int64_t buffers;     /* workspaces, gathered parameters, buckets */
};

static inline int64_t plan_memory_total(const struct plan_memory *m)
{
    return m->parameters + m->gradients + m->optimizer + m->activations + m->buffers;
}

/* What memory depends on besides model and layout. */
struct memory_rules {
    enum plan_type type;
    const struct hardware_software *software;
    int gradient_slots, sharded_slots; /* as memory_gradient_slots tells for zero below 2 and from 2, where it is known; 0: it is not */
};

/* Parameters that a rank of STAGE holds, before ZeRO divides them: divided by the tensor group where they are matrices' columns or rows,
 * embeddings by words; norms, positions, routers and the biases of rows whole; experts by the expert group and the tensor group. */
int64_t memory_stage_parameters(const struct plan_model *model, const struct plan_layout *layout, const struct hardware_software *software,
                                int stage);

/* Those of them that belong to experts: held by as many ranks fewer as the expert axis has. */
int64_t memory_stage_experts(const struct plan_model *model, const struct plan_layout *layout, const struct hardware_software *software,
                             int stage);

/* The most gradients that a rank keeps apart at once: partial sums of mesh/tree.h, of the replica that holds the most; from zero 2 on, of
 * its own range alone. */
int memory_gradient_slots(const struct plan_layout *layout, const struct hardware_software *software);

/* Bytes that one block keeps of a microbatch until its backward pass. */
int64_t memory_block_activations(const struct plan_model *model, const struct plan_layout *layout, const struct memory_rules *rules);

/* Microbatches whose activations CHUNK of STAGE has room for. */
int64_t memory_live_microbatches(const struct plan_layout *layout, int stage, int chunk);

/* Everything on a rank of STAGE. */
struct plan_memory memory_of_stage(const struct plan_model *model, const struct plan_layout *layout, const struct memory_rules *rules,
                                   int stage);

/* The stage that needs the most. */
struct plan_memory memory_of_layout(const struct plan_model *model, const struct plan_layout *layout, const struct memory_rules *rules);

#endif
