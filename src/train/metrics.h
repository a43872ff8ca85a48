/* What a run tells while it goes: progress lines (or a live line on a terminal), and metrics.jsonl (doc/formats/events.md). */
#ifndef TRAIN_METRICS_H
#define TRAIN_METRICS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "mesh/mesh.h"

struct metrics;

struct metrics_step {
    int64_t step;          /* steps done, this one included */
    double loss, gradient_norm, learning_rate;
    double seconds;        /* of this step */
    double data_seconds;   /* of them waiting for data */
    double reduce_seconds; /* of them in sums over ranks */
    int64_t tokens;        /* of this step, over all ranks */
    int64_t bytes_sent;    /* by this rank, in its groups */
    double expert_choices, expert_dropped; /* how many choices of experts all tokens had, in all blocks; of them, for want of room */
    double expert_load;    /* the greatest of a block's experts in a microbatch, as a multiple of an even load: the mean */
    int workers;           /* of parameter servers, that live; 0: there are no servers */
    int64_t lead;          /* with servers: the most steps that a worker was ahead of the slowest so far */
    double sent[MESH_GROUPS]; /* by all ranks since the losses before were shared: in tensor, context, pipeline groups, among
                               * replicas, in expert groups, among replicas of experts */
};

/* PATH is metrics.jsonl; EVERY steps between lines; STEPS in all. */
cairn_err metrics_open(const char *path, int64_t every, int64_t steps, struct metrics **out);
/* A line that cannot be written to the file is lost with one warning: a full disk does not end the training. */
void metrics_step(struct metrics *metrics, const struct metrics_step *step);
void metrics_validation(struct metrics *metrics, int64_t step, double loss, double seconds);
void metrics_checkpoint(struct metrics *metrics, int64_t step, double seconds, double bytes);
void metrics_close(struct metrics *metrics);

#endif
