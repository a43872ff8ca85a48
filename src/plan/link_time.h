/* How long exchanges between GPUs take: pure functions. Seconds. A group of ranks is known by how many of them share a node. */
#ifndef PLAN_LINK_TIME_H
#define PLAN_LINK_TIME_H

#include "plan/hardware.h"

struct link_group {
    int ranks;
    int per_node; /* of them in one node */
    int rivals;   /* groups like this one that share a node's NICs, itself counted */
};

/* Group of RANKS ranks that lie STRIDE apart in a world whose nodes hold consecutive ranks. */
struct link_group link_group_of(const struct machine *machine, int ranks, int stride);

/* A reduce-scatter or an all-gather of a vector of BYTES in all: rings, (R-1)/R of the vector over each link. */
double link_scatter_seconds(const struct machine *machine, const struct link_group *group, double bytes);

/* The same when every rank sends its part straight to every other: between nodes each rank's own part of the vector passes, not one a
 * node. */
double link_direct_seconds(const struct machine *machine, const struct link_group *group, double bytes);

/* An all-reduce: the two after one another. */
double link_reduce_seconds(const struct machine *machine, const struct link_group *group, double bytes);

/* BYTES from a rank to one STRIDE ranks on, all ranks at once. */
double link_send_seconds(const struct machine *machine, int stride, double bytes);

#endif
