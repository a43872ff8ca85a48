/* A step's gradient: the microbatches' gradients summed in the tree's order, here and across the replicas of this rank's pieces of the
 * model, bucket by bucket as each is complete; and what replicas share of the parameters, gathered again.
 *
 * A sum is exchanged once a step, when a bucket's last microbatch is added; with ZeRO 2 and 3, where no rank keeps whole gradients, at
 * every microbatch. All MPI traffic moves on in gradient_progress, which the graph calls between its kernels. */
#ifndef TRAIN_GRADIENT_H
#define TRAIN_GRADIENT_H

#include "mesh/compress.h"
#include "mesh/mesh.h"
#include "train/weights.h"

struct gradient;

/* Replicas that train alone: a gradient is that of the replica's own microbatches. */
struct gradient_alone {
    struct group *self; /* this rank */
    MPI_Comm replica;   /* the ranks of this rank's replica */
};

struct gradient_options {
    int64_t microbatches; /* of a step, over all replicas */
    int zero;
    bool fast;    /* in MPI's order, not the tree's */
    bool overlap; /* exchange under the backward pass; else after it */
    struct compress_options compress;
    const struct gradient_alone *alone; /* must live longer; NULL: over all replicas */
};

/* Collective over the mesh. For the COUNT pieces of the model that this rank has, GRAPHS with their WEIGHTS. All memory is taken here,
 * and the graphs' hooks are set. */
cairn_err gradient_open(struct mesh *mesh, struct backend *backend, const struct gradient_options *options, int count,
                        struct graph *const *graphs, struct weights *weights, struct gradient **out);
void gradient_close(struct gradient *gradient);

/* How many microbatches each replica runs in a step: every rank runs as many, those beyond its own share idle (graph_pass). */
int64_t gradient_passes(const struct gradient *gradient);
/* This replica's microbatch number PASS of a step; -1: it is idle. */
int64_t gradient_microbatch(const struct gradient *gradient, int64_t pass);

/* Collective, after all passes of a step: *NORM is the whole gradient's 2-norm. Then gradient_own gives each bucket's sum, where
 * weights_own says, until the next pass. */
cairn_err gradient_finish(struct gradient *gradient, double *norm);
const void *gradient_own(const struct gradient *gradient, int piece, int bucket);

/* What compression keeps from step to step; NULL: nothing is compressed. */
struct compressed *gradient_compressed(const struct gradient *gradient);

/* Collective, after the own parameters were changed: under ZeRO the others' are fetched, while the caller goes on. */
cairn_err gradient_share_parameters(struct gradient *gradient);

/* Moves what is under way on. */
cairn_err gradient_progress(void *gradient);

/* Until nothing of it is under way: what is still on its way to a rank when that closes leaves a mess in the MPI library. */
cairn_err gradient_wait(struct gradient *gradient);

/* Bytes of this rank's buffers. */
int64_t gradient_memory(const struct gradient *gradient);

#endif
