/* Sums over the ranks of a group in the tree's order (mesh/tree.h), bitwise the same for any number of ranks, that go on while the
 * caller computes. The vector that is summed is cut into buckets, summed one by one as each is ready; of each bucket every rank
 * owns a range: it gets the other ranks' partial sums of that range and joins them along the tree. Then, if asked for, all
 * gather the result. On an even split this moves the bytes of a ring all-reduce: (R-1)/R of the vector out and in, twice.
 *
 * Two ways to the same bits:
 *  - at once: a rank has joined its leaves (microbatches) as far as the tree lets it, and gives these partial sums of a bucket;
 *  - in rounds: in round i each rank gives its ith leaf, and the owner joins those of all ranks to what it keeps of rounds
 *    before. So no rank ever holds more than one leaf's bucket and some partial sums of its own range: memory is divided by R.
 * FAST gives the order up for MPI's own sums, or NCCL's: each rank gives one vector, all its leaves added (or one leaf, in rounds).
 *
 * Where the vectors are in the memory of a DEVICE, ADD is called for what is there, and the group has a link (mesh/device_link.h), unless it is of
 * one rank. Then nothing is waited for: all is done in the order of the device's calls, and reduce_wait orders what is computed after it.
 *
 * All ranks start the same buckets, the same gathers, in the same order; what MPI sees of another order is an error (between devices nobody
 * sees it). After
 * any error the reducer can only be destroyed. What is sent, received and waited is counted in the group. */
#ifndef MESH_REDUCE_H
#define MESH_REDUCE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "mesh/group.h"
#include "mesh/tree.h"

/* sum = a + b over N elements; sum is a. */
typedef void reduce_add(void *context, void *sum, const void *a, const void *b, int64_t n);

struct backend; /* kernels/backend.h */
struct reducer;

/* A range of elements of each rank: rank r owns [begin[r], begin[r] + length[r]). */
struct reduce_ranges {
    int64_t *begin, *length;
};

/* Which leaves of a tree each rank has: rank r has first[r] + i * stride for 0 <= i < count[r]. Not in rounds, the stride is 1 and
 * rank r+1 goes on where rank r ends. In rounds, i is the round, and first rises with the rank. */
struct reduce_leaves {
    int64_t leaves; /* of the whole tree */
    int64_t stride;
    const int64_t *first, *count; /* by rank, copied; NULL: tree_share's, or in rounds first r and stride R */
};

struct reducer_options {
    struct reduce_leaves leaves;
    enum dtype dtype;
    reduce_add *add;
    void *add_context;
    bool rounds, fast;
    struct backend *device; /* NULL: the processor's memory */
    int64_t scratch_bytes; /* for other ranks' partial sums; 0: a good number. Fewer only make messages smaller. */
};

/* Collective. GROUP must live longer. Fails with CAIRN_ECONFIG where a rank would have no leaf. */
cairn_err reducer_create(struct group *group, const struct reducer_options *options, struct reducer **out);

/* Collective, but after an error. NULL is fine. */
void reducer_destroy(struct reducer *reducer);

/* The vectors that this rank gives to reduce_start: tree_partials of its leaves; 1 in rounds and where fast. */
int reducer_partials(const struct reducer *reducer);

/* How many times each bucket is summed for one whole sum: 1 if not in rounds. In the last rounds some ranks may have no leaf. */
int64_t reducer_rounds(const struct reducer *reducer);

/* Bytes that are held for other ranks' messages and, in rounds, for partial sums. */
int64_t reducer_memory(const struct reducer *reducer);

/* A bucket, with no more allocation later; RANGES, in elements from the bucket's begin, are copied and the same on all ranks. FAST
 * wants ranges that follow one another, at most 2^31 - 1 elements in all. *BUCKET numbers count from 0. */
cairn_err reducer_add_bucket(struct reducer *reducer, const struct reduce_ranges *ranges, int *bucket);

/* Starts the sum of BUCKET, the next round of it if in rounds. PARTIALS are where the bucket begins in each of this rank's vectors;
 * until it is done they are the reducer's. Then this rank's own range of PARTIALS[0] holds the sum (in rounds reduce_shard
 * does), or with GATHER the ranges of all ranks do; other contents of all vectors are undefined. In rounds GATHER is not possible,
 * and a rank without a leaf in this round gives NULL, or where fast zeros. */
cairn_err reduce_start(struct reducer *reducer, int bucket, void *const *partials, bool gather);

/* In rounds, after the last one is done, until the next sum's first is started: the sum of this rank's range. */
void *reduce_shard(const struct reducer *reducer, int bucket);

/* Every rank's own range of VECTOR (where the bucket begins) goes to all. May go on beside sums, also of the same bucket. */
cairn_err gather_start(struct reducer *reducer, int bucket, void *vector, enum dtype dtype);

/* Moves all that is under way on, as far as it goes without waiting: to be called now and then between computations. */
cairn_err reduce_progress(struct reducer *reducer);

bool reduce_done(const struct reducer *reducer, int bucket);
bool gather_done(const struct reducer *reducer, int bucket);

/* Until BUCKET is done; at once if it was not started. */
cairn_err reduce_wait(struct reducer *reducer, int bucket);
cairn_err gather_wait(struct reducer *reducer, int bucket);

/* Until nothing is under way. */
cairn_err reduce_wait_all(struct reducer *reducer);

#endif
