/* The sum over all ranks in the tree's order (mesh/tree.h), bitwise the same for any number of ranks: each rank owns a range of the
 * elements, gets every other rank's partial sums of that range, joins them along the tree, and all gather the result. On an
 * even split this moves the bytes of a ring all-reduce: (R-1)/R of the vector out and in, twice. */
#ifndef MESH_REDUCE_H
#define MESH_REDUCE_H

#include <mpi.h>
#include <stdint.h>

#include "base/error.h"
#include "mesh/tree.h"
#include "tensor/dtype.h"

/* sum = a + b over N elements; sum is a. */
typedef void reduce_add(void *context, void *sum, const void *a, const void *b, int64_t n);

struct reducer;

/* A range of elements of each rank: rank r owns [begin[r], begin[r] + length[r]). */
struct reduce_ranges {
    int64_t *begin, *length;
};

/* LEAVES microbatches shared among the ranks of COMM by tree_share. Fails with CAIRN_ECONFIG if there are more ranks than leaves. */
cairn_err reducer_create(MPI_Comm comm, int64_t leaves, enum dtype dtype, reduce_add *add, void *add_context, struct reducer **out);
void reducer_destroy(struct reducer *reducer);

/* Collective. PARTIALS are this rank's tree_partials, vectors of the whole length; afterwards this rank's own range of PARTIALS[0]
 * holds the sum. The ranges' other contents in all PARTIALS are undefined. */
cairn_err reduce_scatter(struct reducer *reducer, void *const *partials, const struct reduce_ranges *ranges);

/* Collective. Every rank's own range of VECTOR goes to all. */
cairn_err reduce_gather(struct reducer *reducer, void *vector, const struct reduce_ranges *ranges);

/* Bytes this rank has sent since the last call. */
int64_t reducer_bytes_sent(struct reducer *reducer);

#endif
