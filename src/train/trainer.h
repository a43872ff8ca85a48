/* A training run on this rank: everything opened, restored, stepped, saved. */
#ifndef TRAIN_TRAINER_H
#define TRAIN_TRAINER_H

#include <stdbool.h>

#include "base/config.h"
#include "graph/graph.h"
#include "io/loader.h"
#include "job/job.h"
#include "mesh/mesh.h"
#include "train/gradient.h"
#include "train/local_steps.h"
#include "train/metrics.h"
#include "train/stage.h"
#include "train/weights.h"

/* What ranks tell each other in a step besides the losses. */
enum trainer_told {
    TOLD_STOP,     /* how many were asked to */
    TOLD_NO_NORM,  /* how many gradients have none */
    TOLD_DROPPED,  /* graph_experts_use */
    TOLD_GREATEST,
    TOLD_SENT,     /* bytes, by group */
    TOLD = TOLD_SENT + MESH_GROUPS
};

struct trainer {
    const struct config *config;
    struct config chosen;         /* that, where a planner chose the layout; strings are its caller's */
    struct job *job;
    struct mesh *mesh;
    struct backend *backend;
    struct dataset *dataset;
    struct dataset *validation_data;
    struct stage *stage;
    struct weights *weights;      /* of each of the stage's pieces */
    int weights_count;
    struct gradient *gradient;    /* NULL: of a server, which gets them whole */
    struct local_steps *local;    /* NULL: all replicas take each step together */
    struct loader *loader;
    struct shard *standard;       /* weights and moments, where this rank trains */
    int standard_count;
    struct shard *shards;         /* the state that checkpoints keep */
    int shard_count;
    int must_count;               /* of them, first: all but what belongs to one replica alone */
    int64_t step;                 /* steps done */
    int64_t extra_updates;        /* that the weights have had beyond one a step: of asynchronous workers */
    int threads;                  /* that gradients are computed with */
    int64_t committed;            /* the newest checkpoint's step; -1: none */
    char *config_text;            /* merged, for checkpoints */
    char *checkpoints;            /* the folder */
    int lock;                     /* rank 0's, on the run's folder; -1: none */
    struct metrics *metrics;      /* rank 0 */
    double *losses;               /* of all microbatches; then what trainer_told lists */
    int64_t sent[MESH_GROUPS];    /* by this rank in its groups, when that was last told */
    bool restored;                /* from a checkpoint */
    bool failed_alone;            /* the error was met by this rank between agreements: others do not know of it */
};

/* The threads, dataset and model that CONFIG asks for: steps that training, eval and generate share. */
int trainer_threads(const struct config *config, int local_ranks);
/* What a model needs of a config. CONFIG's vocabulary must be known. */
struct gpt;
void trainer_model(const struct config *config, int64_t vocabulary, struct gpt *out);

/* Collective. Opens all of it and restores the newest valid checkpoint, if there is one. */
cairn_err trainer_open(struct trainer *trainer, struct job *job, struct mesh *mesh, const struct config *config);

/* Its parts: the run's folder, data, backend and merged config; then, once there are weights, their newest values. */
cairn_err trainer_open_run(struct trainer *trainer, struct job *job, struct mesh *mesh, const struct config *config);
cairn_err trainer_open_metrics(struct trainer *trainer); /* on rank 0 */
int64_t trainer_vocabulary(const struct trainer *trainer);
int64_t trainer_state_memory(const struct trainer *trainer);
char *trainer_model_text(const struct trainer *trainer, char *out, size_t size); /* "gpt: 4 layers, ...: 1.23 M parameters"; returns OUT */
cairn_err trainer_tell_memory(struct trainer *trainer); /* the most that a rank has had; collective, at the end */

/* Collective. Trains until the last step or until a stop is asked for (*STOPPED), checkpoints included. */
cairn_err trainer_run(struct trainer *trainer, bool *stopped);

void trainer_close(struct trainer *trainer);

/* trainer_save.c: Collective. Commits a checkpoint of the current step; a full disk is passed over with a warning if the config says
 * so, other failures are errors. */
cairn_err trainer_save(struct trainer *trainer);
/* Serial. Facts of the newest complete checkpoint that can be read, as the restore will find; CAIRN_ENOTFOUND: there is no complete one;
 * other errors: none of them can be read. The caller frees (checkpoint_facts_free). */
struct checkpoint_facts;
cairn_err trainer_newest_facts(const struct trainer *trainer, struct checkpoint_facts *facts);
/* How many updates a checkpoint's weights have had. */
int64_t trainer_updates(const struct checkpoint_facts *facts);
/* Collective. Fills weights, moments and step from the newest valid checkpoint; a fresh start when there is none. */
cairn_err trainer_restore(struct trainer *trainer);

#endif
