/* The book of work: which worker does which microbatches of which step. No sockets, no clock: the head server asks it.
 *
 * A step's microbatches are cut into shares, one for each worker that lives when the step is begun. A share is given out until it is
 * done: that of a worker that died goes to the next that asks, before anything new, so every microbatch of every step is done, and told as
 * done, exactly once. A worker may be STALENESS steps ahead of the slowest at most (stale-synchronous: Ho et al., "More effective
 * distributed ML via a stale synchronous parallel parameter server", NIPS 2013); with CONFIG_ENDLESS shares belong to nobody before they
 * are asked for. Some steps are meeting points: nothing beyond is begun until all before is done and work_met was told. */
#ifndef SERVER_WORK_H
#define SERVER_WORK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum work_kind {
    WORK_WAIT,     /* ask again after something has changed */
    WORK_TRAIN,
    WORK_VALIDATE, /* with the weights after STEP steps */
    WORK_LEAVE,    /* there will be no more */
};

/* Microbatches FIRST..FIRST+COUNT-1 of step STEP, or of the validation. */
struct work_item {
    enum work_kind kind;
    int64_t step, first, count;
};

struct work_options {
    int64_t first_step, steps;       /* the first to be done; in all */
    bool saved;                      /* the checkpoint of first_step is written: nothing is to be done when it is the last */
    int64_t microbatches;            /* of a step */
    int64_t validation_microbatches; /* of a validation */
    int64_t staleness;
    int64_t checkpoint_every, validation_every; /* steps; 0: never */
};

struct work;

cairn_err work_open(const struct work_options *options, struct work **out);
void work_close(struct work *work);

/* Worker ID (any number not in use) comes; it gets shares from the next step on that is begun. It dies or leaves. */
cairn_err work_join(struct work *work, int id);
void work_leave(struct work *work, int id);
int work_living(const struct work *work);

/* Something for worker ID, which has done all that it got. An item whose lead would pass the staleness is an error, never given. */
cairn_err work_ask(struct work *work, int id, struct work_item *item);

/* Worker ID has done ITEM; anything but what it holds is CAIRN_EINVAL. */
cairn_err work_done(struct work *work, int id, const struct work_item *item);

/* All steps before this one are done whole. */
int64_t work_base(const struct work *work);
/* Steps before this one have begun. */
int64_t work_begun(const struct work *work);
/* The most steps that any worker was ahead of the slowest when it was given work. */
int64_t work_lead(const struct work *work);

/* All work up to a meeting point is done, its validation too. *CHECKPOINT: it asks for one. The caller does what is to be done there, and
 * calls work_met. */
bool work_meets(const struct work *work, bool *checkpoint);
void work_met(struct work *work);
/* Validates first, where the point asks for that: to be called when work_base has reached the point; true when a validation has begun. */
bool work_validates(struct work *work);

/* Meet as soon as what somebody has begun is done, and end there. */
void work_stop(struct work *work);
bool work_ended(const struct work *work);

#endif
