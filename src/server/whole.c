#include "server/whole.h"

#include "model/gpt.h"
#include "train/trainer.h"

cairn_err whole_graph(struct backend *backend, const struct config *c, int64_t vocabulary, struct graph **out)
{
    const struct graph_options options = {.samples = c->batch.samples, .context = c->model.context, .training = true,
                                          .join_lookups = c->batch.microbatches == 1, .seed = (uint64_t)c->seed,
                                          .recompute = c->parallel.recompute};
    struct gpt gpt;
    trainer_model(c, vocabulary, &gpt);
    const struct gpt_piece whole = gpt_piece_of(&gpt, c->model.context, 1, 0);
    struct graph *g = graph_new(backend, &options);
    if (!g)
        return FAIL(CAIRN_ENOMEM, "no memory for the graph");
    gpt_declare(g, &gpt, &whole, c->model.context, true, NULL, NULL);
    cairn_err err = error_context(graph_finish(g), "building the model");
    if (err)
        graph_free(g);
    else
        *out = g;
    return err;
}
