/* A model read back from a checkpoint, to run forward: what eval and generate share. */
#ifndef TRAIN_RESTORED_MODEL_H
#define TRAIN_RESTORED_MODEL_H

#include "base/config.h"
#include "graph/graph.h"
#include "mesh/mesh.h"
#include "train/weights.h"

struct restored_model {
    struct config config;   /* the checkpoint's, with overrides */
    int64_t step, vocabulary;
    char tokenizer[32];
    struct backend *backend;
    struct graph *graph;
    struct weights weights;
    tensor_id hidden, head; /* the final norm's output, and the table that turns it into logits */
};

/* Collective. PATH is a checkpoint's folder, a folder of checkpoints, or a run's folder: then the newest one. OVERRIDES as in
 * config_load; SAMPLES of a forward pass (0: the config's microbatch); CLASSIFY: losses are wanted. */
cairn_err restored_model_open(struct mesh *mesh, const struct job *job, const char *path, int override_count, char *const *overrides,
                              int64_t samples, bool classify, struct restored_model *out);
void restored_model_close(struct restored_model *model);

#endif
