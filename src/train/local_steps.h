/* Replicas that train alone for some steps, each on its own microbatches with an optimizer of its own, and then join their weights:
 * communication once in so many steps, for slow links. The mean of the weights counts each replica by its microbatches; it is taken
 * (federated averaging: McMahan et al., arXiv 1602.05629), or the difference to it serves as the gradient of an outer optimizer
 * with Nesterov momentum (DiLoCo: Douillard et al., arXiv 2311.08105). Moments are never joined. */
#ifndef TRAIN_LOCAL_STEPS_H
#define TRAIN_LOCAL_STEPS_H

#include "base/config.h"
#include "mesh/mesh.h"
#include "train/gradient.h"
#include "train/weights.h"

struct local_steps;

/* Collective over the mesh. CONFIG and the WEIGHTS of the COUNT pieces that this rank has must live longer; nothing of the weights is
 * shared (ZeRO 0). */
cairn_err local_steps_open(struct mesh *mesh, const struct config *config, int count, struct weights *weights, struct local_steps **out);
void local_steps_close(struct local_steps *local); /* NULL is fine */

const struct gradient_alone *local_steps_alone(const struct local_steps *local);
int64_t local_steps_microbatches(const struct local_steps *local); /* of this replica, in a step */

/* The step at which weights were joined last. */
int64_t local_steps_joined(const struct local_steps *local);

/* Collective, after STEP steps and UPDATE updates: joins the weights if it is time, the same bits on all replicas. */
cairn_err local_steps_join(struct local_steps *local, int64_t step, int64_t update);

/* What a checkpoint keeps, from the arrays of STANDARD, which weights_shards makes. First those that all replicas have alike: "weights/NAME",
 * as they were joined last, and "outer/momentum/NAME"; returns how many these are. Then "local/weights/NAME" and so on, with a first
 * dimension of replicas. SHARDS has room for LOCAL_SHARDS times COUNT. *ALL: how many. */
enum { LOCAL_SHARDS = 2 };
cairn_err local_steps_shards(const struct local_steps *local, const struct shard *standard, int count, struct shard *shards, int *alike,
                             int *all);

/* Weights were set from outside; they were joined at step JOINED. */
enum local_start {
    LOCAL_EXACTLY,      /* all arrays */
    LOCAL_FROM_JOINED,  /* those that are alike on all replicas: each begins at them */
    LOCAL_FROM_WEIGHTS, /* the replica's own weights, alike on all: the outer optimizer begins at them */
};
void local_steps_restart(struct local_steps *local, enum local_start start, int64_t joined);

#endif
