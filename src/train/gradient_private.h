/* Shared by gradient.c and gradient_parameters.c alone. */
#ifndef TRAIN_GRADIENT_PRIVATE_H
#define TRAIN_GRADIENT_PRIVATE_H

#include "mesh/reduce.h"
#include "mesh/tree.h"
#include "train/compressed.h"
#include "train/gradient.h"

/* Ranks that hold the same parameters, and the leaves of the sum over them: a replica's microbatches, or for experts the passes of its
 * expert group, which runs its members' microbatches at once. */
struct holders {
    struct group *group;
    struct reducer *reducer;
    int64_t leaves, first, stride, count; /* of all; this rank's */
};

/* One bucket of one piece. */
struct sum {
    struct holders *holders;
    int piece, bucket;
    int id;                  /* the reducer's */
    int64_t offset, elements;/* in the gradient vectors of all pieces */
    int64_t own_begin, own_length; /* this replica's share, from the bucket's begin */
    int lookup;              /* the sum of the same parameters' use as lookup table; -1 */
    bool of_lookup;
    struct tree_stack stack; /* of this step's microbatches */
    int64_t added;
    bool started;            /* its last exchange of this step */
    void *buffer;            /* with rounds: what is written now */
    /* ZeRO's parameters */
    bool gathering;          /* the others' shares are on their way */
};

/* What a graph's hooks get. */
struct piece {
    struct gradient *gradient;
    struct graph *graph;
    struct weights *weights;
    int first_sum; /* that of its bucket 0 */
};

struct gradient {
    struct mesh *mesh;
    struct backend *backend;
    struct gradient_options options;
    struct compressed *compressed; /* sums in the reducers' place; NULL */
    struct holders dense, expert; /* the latter's group is NULL where it is the former's */
    bool rounds;
    struct piece *pieces;
    int piece_count;
    struct sum *sums;
    int sum_count;
    int64_t elements;        /* of a gradient vector of all pieces */
    int slot_count;
    void **slots;            /* held partial sums first, in the order of the stacks; then free ones */
    int64_t passes;
    int64_t first_microbatch; /* of a replica that trains alone; else 0 */
    double *squares;         /* sums of squares of a bucket's chunks */
    struct exact_sum *total;
    /* with rounds: room for buckets on their way */
    int *buffer_of;          /* which sum uses it; -1: none */
    int next_buffer;
    int64_t buffer_elements;
    struct parameter_window *window; /* with zero 3 */
};

static inline struct sum *sum_of(const struct piece *p, int bucket)
{
    return &p->gradient->sums[p->first_sum + bucket];
}

/* gradient_parameters.c */
cairn_err parameters_open(struct gradient *g);
void parameters_close(struct gradient *g);
int64_t parameters_memory(const struct gradient *g);
cairn_err parameters_acquire(void *context, int bucket, const void **parameters); /* hooks: CONTEXT is a struct piece */
cairn_err parameters_release(void *context, int bucket);

#endif
