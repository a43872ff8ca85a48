/* The schedules that the properties are tried on. */
#ifndef TESTS_UNIT_SCHEDULE_CASES_H
#define TESTS_UNIT_SCHEDULE_CASES_H

#include "schedule/schedule.h"

/* What a case is, for messages. Static. */
const char *schedule_text(const struct schedule_desc *desc);

/* All kinds, up to 8 stages, 4 chunks and 20 microbatches. */
void each_small_schedule(void (*try)(const struct schedule_desc *desc));

/* The same, and some of 10,000 stages times microbatches. */
void each_schedule(void (*try)(const struct schedule_desc *desc));

/* The actions of every stage, for schedule_actions_free. */
struct stage_actions {
    struct action *actions;
    int64_t count;
};

struct stage_actions *schedule_actions(const struct schedule_desc *desc);
void schedule_actions_free(const struct schedule_desc *desc, struct stage_actions *stages);

/* Pseudo-random numbers of one seed (splitmix64), so that a red case can be had again. */
uint64_t next_random(uint64_t *state);

#endif
