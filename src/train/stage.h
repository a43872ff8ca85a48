/* This rank's pieces of the model, and their way through a step: the schedule's actions, one after the other. */
#ifndef TRAIN_STAGE_H
#define TRAIN_STAGE_H

#include "io/loader.h"
#include "mesh/mesh.h"
#include "model/gpt.h"
#include "schedule/schedule.h"

struct stage_options {
    struct gpt gpt;
    int64_t samples, context, microbatches; /* of a microbatch; of a step, over all replicas */
    uint64_t seed;
    enum schedule_kind schedule;
    int recompute; /* enum graph_recompute */
    bool sequence;
};

struct stage;
struct gradient;

/* The pieces' graphs, finished, without memory. MESH is arranged. */
cairn_err stage_open(struct mesh *mesh, struct backend *backend, const struct stage_options *options, struct stage **out);
void stage_close(struct stage *stage);

int stage_pieces(const struct stage *stage);
struct graph *const *stage_graphs(const struct stage *stage);

/* Whether this rank reads tokens: its pieces hold one of the model's ends. Whether it finds losses, to be counted once. */
bool stage_reads(const struct stage *stage);
bool stage_tells_losses(const struct stage *stage);

/* Memory for the activations of PASSES microbatches a step, and what goes between stages. */
cairn_err stage_prepare(struct stage *stage, int64_t passes);
int64_t stage_activation_memory(const struct stage *stage);

/* Collective over the pipeline and the tensor ranks. All passes of STEP: LOADER (NULL where nothing is read) gives the microbatches, the
 * gradients go to GRADIENT, whose hooks the graphs have. */
cairn_err stage_run(struct stage *stage, struct gradient *gradient, struct loader *loader, int64_t step, double loss_scale);

/* After that, and after all that is to be computed without waiting: LOSSES, by microbatch of the step, of this rank's own. */
void stage_take_losses(struct stage *stage, double *losses);

/* Of the passes since this was asked last (graph_take_experts_use). */
struct graph_experts_use stage_take_experts_use(struct stage *stage);

/* Collective likewise. One microbatch forward: *LOSS is the sum of the losses of its first SAMPLES samples (where
 * sequences are shared, this rank's part), where stage_tells_losses. IDLE: only
 * the hooks are called, as they are on the replicas that do run one. */
cairn_err stage_evaluate(struct stage *stage, const int32_t *inputs, const int32_t *targets, int64_t samples, bool idle, double *loss);

#endif
