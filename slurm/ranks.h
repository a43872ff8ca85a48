/* How many ranks a launch has: what the healthy nodes hold, what the layout can use of it, and why not more. */
#ifndef SLURM_RANKS_H
#define SLURM_RANKS_H

#include <stdbool.h>

#include "base/config.h"
#include "mesh/layout.h"
#include "slurm/allocation.h"

enum { RANKS_TEXT_SIZE = 320 };

struct ranks {
    int fit;   /* that the healthy nodes hold */
    int used;  /* of them, by the layout; 0: too few */
    int servers; /* of those used: a parameter server's ranks, the others are its workers; 0: there is none */
    int nodes; /* that these stand on, the first healthy ones */
    bool enough;                  /* for a start after a failure: supervise.min_ranks, and never less than the layout needs */
    char layout[RANKS_TEXT_SIZE]; /* of those that are used; what is asked for, where there are too few */
    char idle[RANKS_TEXT_SIZE];   /* why some are not used, a clause; empty: all are */
    char short_of[RANKS_TEXT_SIZE]; /* why they are not enough, a sentence without its full stop; empty: they are */
};

/* LAST is the run's layout before, NULL if it has none: where the planner chooses, as many ranks are taken as its tensor, context and
 * expert axes can use, since others would change the bits; if those are none or below supervise.min_ranks, as many as any layout can use. */
struct ranks ranks_choose(const struct config *config, const struct layout *last, const struct allocation *allocation);

#endif
