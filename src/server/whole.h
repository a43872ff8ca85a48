/* The whole model on one rank: what each worker computes, and what the servers share the state of. */
#ifndef SERVER_WHOLE_H
#define SERVER_WHOLE_H

#include "base/config.h"
#include "graph/graph.h"

/* The graph, finished, without memory for activations. VOCABULARY is the dataset's. */
cairn_err whole_graph(struct backend *backend, const struct config *config, int64_t vocabulary, struct graph **out);

#endif
