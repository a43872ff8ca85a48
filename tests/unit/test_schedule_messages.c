/* What holds for the messages between stages, and that a step ends. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "schedule_cases.h"

enum { ENDLESS = 1 << 30 };

/* One action of one stage, and where its message goes. */
static bool sends(const struct action *a)
{
    return a->kind == ACTION_SEND_FORWARD || a->kind == ACTION_SEND_BACKWARD;
}

static bool receives(const struct action *a)
{
    return a->kind == ACTION_RECEIVE_FORWARD || a->kind == ACTION_RECEIVE_BACKWARD;
}

/* Messages of one direction that leave one stage all have one destination, so that (source, direction) is the channel. */
static int channel_of(const struct action *a, int stage)
{
    bool forward = a->kind == ACTION_SEND_FORWARD || a->kind == ACTION_RECEIVE_FORWARD;
    return 2 * (sends(a) ? stage : a->peer) + !forward;
}

/* What is in a message: the tensor between two neighbouring global chunks, of one microbatch. */
static int64_t content_of(const struct schedule_desc *desc, const struct action *a, int stage)
{
    bool with_next = a->kind == ACTION_SEND_FORWARD || a->kind == ACTION_RECEIVE_BACKWARD;
    int64_t first = schedule_global_chunk(desc, stage, a->chunk) - !with_next;
    return first * desc->microbatches + a->microbatch;
}

/* A channel's messages as their sender and their receiver list them. */
struct channel {
    int destination;
    int64_t *sent, *received, sent_count, received_count;
};

static void list_message(const struct schedule_desc *desc, struct channel *channels, const struct action *a, int stage)
{
    if (!sends(a) && !receives(a))
        return;
    struct channel *c = &channels[channel_of(a, stage)];
    int destination = sends(a) ? a->peer : stage;
    if (c->sent_count == 0 && c->received_count == 0)
        c->destination = destination;
    cr_assert_eq(c->destination, destination);
    if (sends(a))
        c->sent[c->sent_count++] = content_of(desc, a, stage);
    else
        c->received[c->received_count++] = content_of(desc, a, stage);
}

static void sends_are_in_the_order_of_receives(const struct schedule_desc *desc)
{
    struct stage_actions *stages = schedule_actions(desc);
    struct channel *channels = calloc(2 * (size_t)desc->stages, sizeof *channels);
    size_t room = (size_t)(desc->chunks * desc->microbatches);
    for (int i = 0; i < 2 * desc->stages; i++) {
        channels[i].sent = malloc(room * sizeof(int64_t));
        channels[i].received = malloc(room * sizeof(int64_t));
    }
    for (int s = 0; s < desc->stages; s++)
        for (int64_t i = 0; i < stages[s].count; i++)
            list_message(desc, channels, &stages[s].actions[i], s);
    for (int i = 0; i < 2 * desc->stages; i++) {
        const struct channel *c = &channels[i];
        cr_assert_eq(c->sent_count, c->received_count, "%s", schedule_text(desc));
        for (int64_t k = 0; k < c->sent_count; k++)
            cr_assert_eq(c->sent[k], c->received[k], "%s: stage %d to %d: message %lld", schedule_text(desc), i / 2, c->destination,
                         (long long)k);
        free(c->sent);
        free(c->received);
    }
    free(channels);
    schedule_actions_free(desc, stages);
}

Test(schedule_messages, sends_are_in_the_order_of_receives)
{
    each_schedule(sends_are_in_the_order_of_receives);
}

/* All stages at work, one action of one of them at a time. */
struct machine {
    const struct schedule_desc *desc;
    const struct stage_actions *stages;
    int64_t capacity;           /* messages of a channel that may be sent and not received while their sender goes on */
    int64_t *at, *in_flight;    /* [stage], [channel] */
    bool *posted;               /* [stage]: its send at at[] is under way */
    int *candidates, candidate_count;
    bool *is_candidate;
};

static void wake(struct machine *m, int stage)
{
    if (!m->is_candidate[stage]) {
        m->is_candidate[stage] = true;
        m->candidates[m->candidate_count++] = stage;
    }
}

/* One action of STAGE, as far as it can go; false if it must wait. */
static bool act(struct machine *m, int stage)
{
    if (m->at[stage] == m->stages[stage].count)
        return false;
    const struct action *a = &m->stages[stage].actions[m->at[stage]];
    if (sends(a)) {
        int64_t *in_flight = &m->in_flight[channel_of(a, stage)];
        if (!m->posted[stage]) {
            ++*in_flight;
            m->posted[stage] = true;
            wake(m, a->peer);
        }
        if (*in_flight > m->capacity)
            return false;
        m->posted[stage] = false;
    } else if (receives(a)) {
        int64_t *in_flight = &m->in_flight[channel_of(a, stage)];
        if (*in_flight == 0)
            return false;
        --*in_flight;
        wake(m, a->peer);
    }
    m->at[stage]++;
    return true;
}

/* Does the step end, with the stages taking turns as SEED says? */
static bool step_ends(const struct schedule_desc *desc, const struct stage_actions *stages, int64_t capacity, uint64_t seed)
{
    size_t n = (size_t)desc->stages;
    struct machine m = {.desc = desc, .stages = stages, .capacity = capacity, .at = calloc(n, sizeof(int64_t)),
                        .in_flight = calloc(2 * n, sizeof(int64_t)), .posted = calloc(n, sizeof(bool)),
                        .candidates = calloc(n, sizeof(int)), .is_candidate = calloc(n, sizeof(bool))};
    for (int s = 0; s < desc->stages; s++)
        wake(&m, s);
    while (m.candidate_count > 0) {
        int chosen = (int)(next_random(&seed) % (uint64_t)m.candidate_count), stage = m.candidates[chosen];
        if (!act(&m, stage)) {
            m.is_candidate[stage] = false;
            m.candidates[chosen] = m.candidates[--m.candidate_count];
        }
    }
    bool ended = true;
    for (int s = 0; s < desc->stages; s++)
        ended &= m.at[s] == stages[s].count;
    for (int c = 0; ended && c < 2 * desc->stages; c++)
        cr_assert_eq(m.in_flight[c], 0);
    free(m.at);
    free(m.in_flight);
    free(m.posted);
    free(m.candidates);
    free(m.is_candidate);
    return ended;
}

/* One message; in uneven groups of interleaved stages one more for each microbatch that the largest is larger than the stages. */
static int64_t room_enough(const struct schedule_desc *desc)
{
    int64_t p = desc->stages, m = desc->microbatches, groups = m < p ? 1 : m / p, largest = (m + groups - 1) / groups;
    return desc->kind == SCHEDULE_INTERLEAVED && largest > p ? 1 + largest - p : 1;
}

static void step_ends_in_any_order(const struct schedule_desc *desc)
{
    struct stage_actions *stages = schedule_actions(desc);
    for (uint64_t seed = 1; seed <= 3; seed++) {
        cr_assert(step_ends(desc, stages, ENDLESS, seed), "%s: stuck, seed %d", schedule_text(desc), (int)seed);
        cr_assert(step_ends(desc, stages, room_enough(desc), seed), "%s: stuck with little room, seed %d", schedule_text(desc), (int)seed);
    }
    schedule_actions_free(desc, stages);
}

Test(schedule_messages, step_ends_in_any_order)
{
    each_schedule(step_ends_in_any_order);
}

/* Shows also that the machine can see a deadlock. */
Test(schedule_messages, no_room_at_all_is_a_deadlock_in_1f1b)
{
    struct schedule_desc desc = {SCHEDULE_1F1B, 2, 1, 2};
    struct stage_actions *stages = schedule_actions(&desc);
    for (uint64_t seed = 1; seed <= 100; seed++)
        cr_assert_not(step_ends(&desc, stages, 0, seed));
    schedule_actions_free(&desc, stages);
}

/* With two stages both directions go between the same two ranks; in uneven groups their order at the two ends differs. */
Test(schedule_messages, two_interleaved_stages_need_the_direction_in_the_tag)
{
    struct schedule_desc desc = {SCHEDULE_INTERLEAVED, 2, 2, 5};
    struct stage_actions *stages = schedule_actions(&desc);
    int64_t at = 0;
    bool differs = false;
    for (int64_t i = 0; i < stages[0].count; i++) {
        const struct action *sent = &stages[0].actions[i];
        if (!sends(sent))
            continue;
        while (at < stages[1].count && !receives(&stages[1].actions[at]))
            at++;
        cr_assert_lt(at, stages[1].count);
        differs |= channel_of(sent, 0) != channel_of(&stages[1].actions[at++], 1);
    }
    cr_assert(differs);
    schedule_actions_free(&desc, stages);
}
