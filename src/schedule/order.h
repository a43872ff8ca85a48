/* The order in which a stage computes, one pass after the other, without its messages: what schedule_make and
 * schedule_simulate both walk along. */
#ifndef SCHEDULE_ORDER_H
#define SCHEDULE_ORDER_H

#include <stdbool.h>

#include "schedule/schedule.h"

/* Where the passes of one kind have got to: they go through a group's microbatches, chunk by chunk, then through the next
 * group's. It is kept, and not worked out from the number done, because the divisions for each pass were four fifths of an
 * interleaved simulation's time. */
struct order_cursor {
    int64_t done;
    int64_t group, begin, size, inside; /* the group, its first microbatch and their number, and the next one in it */
    int round;                          /* through the chunks: 0..chunks-1 */
};

struct order {
    const struct schedule_desc *desc;
    int64_t passes;         /* of each kind: chunks * microbatches */
    int64_t ahead;          /* forward passes done before the first pair of forward and backward */
    int64_t weights_behind; /* weight passes that wait behind the input passes */
    bool split;             /* backward passes are two */
    struct order_cursor forwards, backwards, weights;
};

struct pass {
    enum action_kind kind;
    int chunk;
    int64_t microbatch;
};

void order_begin(struct order *order, const struct schedule_desc *desc, int stage);

/* The next pass; false behind the last. */
bool order_next(struct order *order, struct pass *pass);

/* Is this the last pass of its chunk, behind which its gradients are complete? */
bool order_ends_chunk(const struct order *order, const struct pass *pass);

/* How many groups of microbatches there are, and where a group begins (its first microbatch; that of GROUPS is microbatches). */
int64_t order_groups(const struct schedule_desc *desc);
int64_t order_group_begin(const struct schedule_desc *desc, int64_t group);

/* How many of the first PASSES backward passes (for inputs) are those of CHUNK. */
int64_t order_backwards_of(const struct schedule_desc *desc, int64_t passes, int chunk);

#endif
