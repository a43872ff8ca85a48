/* Which rank holds which slabs. Ranks whose lists of shards are the same form a group: its list is kept once. */
#ifndef CKPT_LAYOUT_H
#define CKPT_LAYOUT_H

#include <mpi.h>

#include "tensor/shard.h"

struct layout_group {
    struct shard *shards; /* without data and replica */
    int count, first_rank;
};

struct layout {
    int rank, size;
    int *group_of; /* [size] */
    struct layout_group *groups;
    int group_count;
};

/* Collective: all ranks succeed or all fail. One small allgather, and a broadcast for each list that differs from rank 0's. */
cairn_err layout_open(MPI_Comm comm, const struct shard *shards, int count, struct layout *out);
void layout_close(struct layout *layout);

#endif
