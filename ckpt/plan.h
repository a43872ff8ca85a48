/* Who writes what: a pure function of the layout and the nodes, so every rank makes the same plan by itself. */
#ifndef CKPT_PLAN_H
#define CKPT_PLAN_H

#include "ckpt/layout.h"
#include "ckpt/table.h"

struct plan_piece {
    int array;     /* in plan.arrays */
    int part;
    int sender;    /* the rank on the writer's node that holds the piece: the writer itself where it does */
    int shard;     /* the slab in the sender's list of shards ... */
    int64_t first; /* ... and the element in it at which the piece begins */
    struct box box;
};

struct plan {
    struct table_array *arrays; /* by name */
    int array_count;
    struct plan_piece *pieces;  /* by array, then offset */
    int piece_count;
    int *writer; /* [part_count] ranks, ascending */
    int part_count;
};

/* Splits every distinct slab among the nodes that hold it. CAIRN_EINVAL if ranks disagree about an array, slabs overlap, or
 * elements are missing. */
cairn_err plan_make(const struct layout *layout, const int *node_of, struct plan *out);
void plan_free(struct plan *plan);

#endif
