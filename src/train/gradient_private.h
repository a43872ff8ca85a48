/* Shared by the files gradient*.c alone. */
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
    char *host_compute; /* staged: the compute copy on its way, of act; else NULL */
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
    bool staged;             /* the slots are a device's: what ranks exchange goes by way of the processor */
    void **host;             /* staged: by slot, the same vectors in the processor's memory */
    int slot_count;
    void **slots;            /* held partial sums first, in the order of the stacks; then free ones */
    int64_t passes;
    int64_t first_microbatch; /* of a replica that trains alone; else 0 */
    double *squares;         /* sums of squares of all chunks that this rank counts, the backend's; and downloaded */
    double *squares_there;
    int64_t squares_room;
    struct squares_run *squares_runs; /* room for all parameters */
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

static inline void *gradient_at(const struct gradient *g, void *vector, int64_t element)
{
    return (char *)vector + (size_t)element * dtype_size(g->backend->acc);
}

/* gradient_staging.c: all of it does nothing unless STAGED. OUT: what this rank gives to a sum goes to the host vectors; IN: what it got
 * from there. Elements are counted from the bucket's begin. */
cairn_err gradient_open_staging(struct gradient *g);
void gradient_close_staging(struct gradient *g);
int64_t gradient_staging_memory(const struct gradient *g);
void *gradient_exchanged(const struct gradient *g, int slot, int64_t element); /* where an exchange has an element of a slot */
void gradient_stage_out(struct gradient *g, const struct sum *s, int slots, int64_t begin, int64_t count);
void gradient_stage_in(struct gradient *g, const struct sum *s, int64_t begin, int64_t count);
void gradient_add_on_host(const struct gradient *g, void *sum, const void *a, const void *b, int64_t n);
void gradient_add_exchanged(void *context, void *sum, const void *a, const void *b, int64_t n); /* a reduce_add; CONTEXT is the gradient */

/* gradient_ties.c */
/* Whether the sum is to be changed here, or by its partner at the other end of the pipeline, before all get it. */
bool gradient_is_joined_later(const struct gradient *g, const struct sum *s);
cairn_err gradient_join_uses(struct gradient *g);

void *gradient_own_sum(const struct gradient *g, const struct sum *s); /* of this replica's share, when all is summed */

/* gradient_parameters.c */
cairn_err parameters_open(struct gradient *g);
void parameters_close(struct gradient *g);
int64_t parameters_memory(const struct gradient *g);
cairn_err parameters_acquire(void *context, int bucket, const void **parameters); /* hooks: CONTEXT is a struct piece */
cairn_err parameters_release(void *context, int bucket);

#endif
