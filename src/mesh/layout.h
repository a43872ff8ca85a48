/* How the ranks of a training are arranged: pure functions that the ranks, the supervisor and the planner share.
 *
 * A rank has a place on four axes. The innermost varies fastest with the world's rank number, so that those who speak most share a
 * node: tensor, then context, then data, then pipeline. Expert groups are EXPERT neighbours along the data axis. */
#ifndef MESH_LAYOUT_H
#define MESH_LAYOUT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/config.h"
#include "base/error.h"

struct layout {
    int data;     /* replicas of the model that share a step's microbatches; 0: what is left of the world (layout_fit) */
    int tensor;   /* ranks that share each product's columns, heads and vocabulary */
    int context;  /* ranks that share each sequence */
    int pipeline; /* stages */
    int chunks;   /* pieces of the model that a stage holds (virtual stages) */
    int expert;   /* ranks that share a block's experts; divides data */
    int servers;  /* before the others, ranks that hold the parameters and train nothing; data then counts the workers */
};

/* Where a rank is on each axis. */
struct layout_place {
    int data, tensor, context, pipeline;
};

/* What bounds a layout. */
struct layout_limits {
    int64_t layers, heads, vocabulary, context, microbatches;
    int64_t experts; /* of a block; 0: none */
};

static inline int64_t layout_model_ranks(const struct layout *l) /* ranks that hold one copy of the model together */
{
    return (int64_t)l->tensor * l->context * l->pipeline;
}

/* What CONFIG asks for under `parallel`, not yet fitted to a world. An axis that the planner chooses is 1, data 0. */
struct layout layout_asked(const struct config *config);

/* The fewest ranks that LAYOUT can do with: one copy of the model or, where data is given, that many; and the servers. */
int64_t layout_least_ranks(const struct layout *layout);

struct layout_place layout_place_of(const struct layout *layout, int rank);
int layout_rank_at(const struct layout *layout, struct layout_place place);

/* LAYOUT on a world of RANKS: data 0 becomes what is left. CAIRN_ECONFIG, with what does not fit and the nearest layout that does, if
 * the product of the axes is not RANKS or an axis passes a limit. This is the one place that refuses layouts. */
cairn_err layout_fit(struct layout *layout, int ranks, const struct layout_limits *limits);

/* The most ranks of RANKS that LAYOUT can use, where MICROBATCHES are to be shared by its data axis; 0: too few. */
int layout_usable_ranks(const struct layout *layout, int ranks, int64_t microbatches);

/* The same where CONFIG has the planner choose (config_chooses); NODE_RANKS ranks share a node. Of KEPT, the layout before, the tensor,
 * context and expert axes stay as they are unless CONFIG gives them; NULL: any will do. */
int layout_automatic_ranks(const struct config *config, const struct layout *kept, int ranks, int node_ranks);

/* "data 2 x tensor 2 x pipeline 2", axes of 1 left out; "one rank" if all are; "1 server and 3 workers". */
enum { LAYOUT_TEXT_SIZE = 128 };
char *layout_text(const struct layout *layout, char *out);

/* "tensor 2 and context 1": the axes that change sums; with the expert axis if that is more than 1. As long. */
char *layout_sums_text(const struct layout *layout, char *out);

#endif
