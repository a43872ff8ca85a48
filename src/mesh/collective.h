/* Collectives on host memory for groups of any size and uneven shares, with one order of sums: element by element in the order of
 * the ranks, 0 first, whatever the pieces are. So all ranks get the same bits, and group_all_reduce gives those of
 * group_reduce_scatter followed by group_all_gather. Bfloat16 is summed in float32 and rounded once.
 * Counts and begins are in elements. A group of one rank sends nothing. Each rank's own share moves over no wire; what it
 * sends and receives besides, told with each function, is counted in the group exactly. */
#ifndef MESH_COLLECTIVE_H
#define MESH_COLLECTIVE_H

#include "mesh/group.h"

/* DATA, N elements on every rank, becomes the sum of all ranks'. Each rank sums a share of it (tree_share), which then goes
 * to all. With s elements in its share, a rank sends n - s + (R-1) s elements; when R divides n, 2 n (R-1)/R. */
cairn_err group_all_reduce(struct group *group, void *data, int64_t n, enum dtype dtype);

/* IN is as long as all shares together on every rank; rank r's share is [begins[r], begins[r] + counts[r]). OUT, counts[rank]
 * elements, becomes the sum of all ranks' elements there; it may be that part of IN itself, and else must not overlap IN.
 * A rank sends all shares but its own. */
cairn_err group_reduce_scatter(struct group *group, void *out, const void *in, const int64_t *begins, const int64_t *counts,
                               enum dtype dtype);

/* Every rank's share of WHOLE goes to all others. A rank sends R-1 times its share. */
cairn_err group_all_gather(struct group *group, void *whole, const int64_t *begins, const int64_t *counts, enum dtype dtype);

/* Rank r's out_begins[s].. are rank s's in_begins[r]..: counts must agree between each pair. */
cairn_err group_all_to_all(struct group *group, const void *in, const int64_t *in_begins, const int64_t *in_counts, void *out,
                           const int64_t *out_begins, const int64_t *out_counts, enum dtype dtype);

/* The same without waiting: group_test tells when the requests, of which REQUESTS has room for 2 * size, are complete. One at a time of a
 * group; others of its collectives may go on meanwhile. At most 2^31 - 1 elements to each rank. Where IN is OUT, this rank's own part
 * stays where it is: begins and counts that are alike for all to whom it goes make a gather of it. */
struct group_exchange {
    MPI_Request *requests;
    int count, done;
};
cairn_err group_exchange_start(struct group *group, struct group_exchange *exchange, const void *in, const int64_t *in_begins,
                               const int64_t *in_counts, void *out, const int64_t *out_begins, const int64_t *out_counts, enum dtype dtype);

/* A ring: OUT goes to the next rank (the last one's to rank 0), IN comes from the one before. At most 2^31 - 1 elements each. */
cairn_err group_shift(struct group *group, const void *out, int64_t out_count, void *in, int64_t in_count, enum dtype dtype);

/* The same in two calls, so that work on other memory, and other collectives, go on between. Several may be under way; they are
 * finished by all ranks in one order. group_shift_progress, now and then between, keeps a large one moving. */
struct group_shift {
    MPI_Request requests[2];
    int count, done;
    uint64_t begun; /* base/trace.h */
};
cairn_err group_shift_start(struct group *group, struct group_shift *shift, const void *out, int64_t out_count, void *in,
                            int64_t in_count, enum dtype dtype);
cairn_err group_shift_progress(struct group_shift *shift);
cairn_err group_shift_finish(struct group *group, struct group_shift *shift);

/* Elementwise over the ranks, the same bits on all; a NaN anywhere makes that element NaN. At most GROUP_SMALL values, which each
 * rank sends to every other. */
enum { GROUP_SMALL = 128 };
cairn_err group_sum(struct group *group, double *values, int count);
cairn_err group_max(struct group *group, double *values, int count);

#endif
