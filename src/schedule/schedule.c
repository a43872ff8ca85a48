#include "schedule/schedule.h"

#include <stdlib.h>

#include "base/config.h"
#include "base/least.h"
#include "schedule/order.h"

_Static_assert((int)SCHEDULE_GPIPE == (int)CONFIG_GPIPE && (int)SCHEDULE_1F1B == (int)CONFIG_1F1B &&
                   (int)SCHEDULE_INTERLEAVED == (int)CONFIG_INTERLEAVED && (int)SCHEDULE_ZERO_BUBBLE == (int)CONFIG_ZERO_BUBBLE,
               "the config's schedules are these");

/* Passes of a step over all stages: so many fit no memory, and no product of them with a small number overflows. */
static const int64_t passes_most = (int64_t)1 << 40;

cairn_err schedule_check(const struct schedule_desc *desc)
{
    if (desc->stages < 1 || desc->chunks < 1 || desc->microbatches < 1)
        return FAIL(CAIRN_ECONFIG, "a schedule of %d stages with %d chunks each and %lld microbatches: each must be at least 1",
                    desc->stages, desc->chunks, (long long)desc->microbatches);
    if (desc->kind < SCHEDULE_GPIPE || desc->kind > SCHEDULE_ZERO_BUBBLE)
        return FAIL(CAIRN_ECONFIG, "there is no schedule of number %d", (int)desc->kind);
    if (desc->kind == SCHEDULE_INTERLEAVED && desc->chunks < 2)
        return FAIL(CAIRN_ECONFIG, "the interleaved schedule needs at least 2 chunks a stage, not %d; with 1 it is 1f1b", desc->chunks);
    if (desc->kind != SCHEDULE_INTERLEAVED && desc->chunks > 1)
        return FAIL(CAIRN_ECONFIG, "%d chunks a stage need the interleaved schedule; the others take 1", desc->chunks);
    if (desc->microbatches > least(INT32_MAX, passes_most / desc->stages / desc->chunks) || desc->stages > INT32_MAX / desc->chunks)
        return FAIL(CAIRN_ECONFIG, "a schedule of %d stages with %d chunks each and %lld microbatches is too large", desc->stages,
                    desc->chunks, (long long)desc->microbatches);
    return CAIRN_OK;
}

/* A list of actions that is being written, and what its stage is. */
struct maker {
    const struct schedule_desc *desc;
    int stage;
    struct action *actions;
    int64_t count;
};

static void put(struct maker *maker, enum action_kind kind, const struct pass *pass, int peer, int64_t slots)
{
    struct action action = {kind, pass->chunk, pass->microbatch, peer, (int)(pass->microbatch % slots)};
    maker->actions[maker->count++] = action;
}

/* Messages come from chunk global - 1 and go to global + 1 in the forward pass, and back the same way. */
static void put_pass(struct maker *maker, const struct pass *pass, int64_t slots)
{
    const struct schedule_desc *desc = maker->desc;
    int global = schedule_global_chunk(desc, maker->stage, pass->chunk);
    int before = desc->stages > 1 && global > 0 ? schedule_stage_of(desc, global - 1) : -1;
    int behind = desc->stages > 1 && global < desc->stages * desc->chunks - 1 ? schedule_stage_of(desc, global + 1) : -1;
    bool forward = pass->kind == ACTION_FORWARD, weights_alone = pass->kind == ACTION_BACKWARD_WEIGHT;
    int from = forward ? before : behind, to = forward ? behind : before;
    if (from >= 0 && !weights_alone)
        put(maker, forward ? ACTION_RECEIVE_FORWARD : ACTION_RECEIVE_BACKWARD, pass, from, slots);
    put(maker, pass->kind, pass, -1, slots);
    if (to >= 0 && !weights_alone)
        put(maker, forward ? ACTION_SEND_FORWARD : ACTION_SEND_BACKWARD, pass, to, slots);
}

/* Of one stage: three passes at most, four messages at most, for each microbatch; a reduction a chunk; the update. */
static size_t actions_most(const struct schedule_desc *desc)
{
    size_t messages = desc->stages > 1 ? 4 : 0, passes = desc->kind == SCHEDULE_ZERO_BUBBLE ? 3 : 2;
    return (size_t)desc->chunks * ((size_t)desc->microbatches * (messages + passes) + 1) + 1;
}

cairn_err schedule_make(const struct schedule_desc *desc, int stage, struct action **actions, int64_t *count)
{
    struct maker maker = {.desc = desc, .stage = stage};
    int64_t *slots = malloc((size_t)desc->chunks * sizeof *slots);
    maker.actions = malloc(actions_most(desc) * sizeof *maker.actions);
    if (!slots || !maker.actions) {
        free(slots);
        free(maker.actions);
        return FAIL(CAIRN_ENOMEM, "no memory for the schedule of %lld microbatches", (long long)desc->microbatches);
    }
    for (int chunk = 0; chunk < desc->chunks; chunk++)
        slots[chunk] = schedule_slots(desc, stage, chunk);
    struct order order;
    struct pass pass;
    order_begin(&order, desc, stage);
    while (order_next(&order, &pass)) {
        put_pass(&maker, &pass, slots[pass.chunk]);
        if (order_ends_chunk(&order, &pass))
            maker.actions[maker.count++] = (struct action){ACTION_REDUCE, pass.chunk, -1, -1, -1};
    }
    maker.actions[maker.count++] = (struct action){ACTION_UPDATE, -1, -1, -1, -1};
    free(slots);
    *actions = maker.actions;
    *count = maker.count;
    return CAIRN_OK;
}

/* A chunk keeps more only while its own forward passes run, one group at a time, and backward passes take away at most as
 * many in that time: so it keeps the most behind the last forward pass of one of its groups. */
static int64_t interleaved_slots(const struct schedule_desc *desc, int stage, int chunk)
{
    struct order order;
    int64_t most = 0;
    order_begin(&order, desc, stage);
    for (int64_t group = 0; group < order_groups(desc); group++) {
        int64_t begin = order_group_begin(desc, group), end = order_group_begin(desc, group + 1);
        int64_t forwards = begin * desc->chunks + (chunk + 1) * (end - begin);
        int64_t backwards = forwards - 1 - order.ahead;
        int64_t kept = end - order_backwards_of(desc, backwards > 0 ? backwards : 0, chunk);
        most = kept > most ? kept : most;
    }
    return most;
}

int64_t schedule_slots(const struct schedule_desc *desc, int stage, int chunk)
{
    if (desc->stages == 1)
        return 1;
    if (desc->kind == SCHEDULE_INTERLEAVED)
        return interleaved_slots(desc, stage, chunk);
    return schedule_peak(desc, stage);
}

int64_t schedule_peak(const struct schedule_desc *desc, int stage)
{
    struct order order;
    order_begin(&order, desc, stage);
    int64_t waiting = order.split ? order.weights_behind : 0;
    return least(order.passes, order.ahead + 1 + waiting);
}

double schedule_bubble(const struct schedule_desc *desc, double forward, double backward_input, double backward_weight)
{
    double p = desc->stages, v = desc->chunks, m = (double)desc->microbatches, waiting;
    double all = forward + backward_input + backward_weight, fewest = m < p ? m : p;
    if (desc->kind == SCHEDULE_ZERO_BUBBLE)
        waiting = (p - 1) * (forward + backward_input) - (fewest - 1) * backward_weight;
    else
        waiting = (p - 1 + (v - 1) * (p - fewest)) * all / v;
    return waiting / (m * all + waiting);
}
