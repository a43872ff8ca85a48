/* Virtual time: bubbles as published, and the simulation against the action lists. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "schedule_cases.h"

static double *same(int count, double value)
{
    double *values = malloc((size_t)count * sizeof *values);
    for (int i = 0; i < count; i++)
        values[i] = value;
    return values;
}

/* The simulated time of stages that all take this long for a microbatch. */
static struct schedule_time even_time(const struct schedule_desc *desc, double forward, double input, double weight)
{
    int chunks = desc->stages * desc->chunks;
    double v = desc->chunks, *f = same(chunks, forward / v), *b = same(chunks, input / v), *w = same(chunks, weight / v);
    struct schedule_cost cost = {.forward = f, .backward_input = b, .backward_weight = w};
    struct schedule_time time;
    cr_assert_eq(schedule_simulate(desc, &cost, &time, NULL), CAIRN_OK, "%s", cairn_err_message());
    free(f);
    free(b);
    free(w);
    return time;
}

static void bubble_is_published(const struct schedule_desc *desc)
{
    static const double costs[][3] = {{1, 1, 1}, {1, 1, 0.5}, {2, 1.5, 1}, {0.75, 4, 0.25}};
    for (size_t i = 0; i < sizeof costs / sizeof costs[0]; i++) {
        double f = costs[i][0] * desc->chunks, b = costs[i][1] * desc->chunks, w = costs[i][2] * desc->chunks;
        double simulated = even_time(desc, f, b, w).bubble, formula = schedule_bubble(desc, f, b, w);
        cr_assert(fabs(simulated - formula) <= 1e-12, "%s, costs %zu: %.17g, not %.17g", schedule_text(desc), i, simulated, formula);
    }
}

Test(schedule_time, bubble_is_the_formula)
{
    each_schedule(bubble_is_published);
}

/* The formulas as the papers write them, for as many microbatches as they suppose. */
static void formula_is_published(const struct schedule_desc *desc)
{
    double p = desc->stages, v = desc->chunks, m = (double)desc->microbatches;
    if (m < p)
        return;
    double all = 2 + 3 + 1, zero = (p - 1) * (2 + 3 - 1);
    const double expected[] = {(p - 1) / (m + p - 1), (p - 1) / (m + p - 1), (p - 1) / (v * m + p - 1), zero / (m * all + zero)};
    cr_assert(fabs(schedule_bubble(desc, 2, 3, 1) - expected[desc->kind]) <= 1e-15, "%s", schedule_text(desc));
}

Test(schedule_time, formulas_are_the_published_ones)
{
    each_schedule(formula_is_published);
}

/* The same virtual time, told from the action lists: stages go on in rounds, messages are matched in the order of a channel. */
struct replay {
    const struct schedule_desc *desc;
    const struct schedule_cost *cost;
    struct stage_actions *stages;
    double *now, *arrivals; /* [stage]; [channel][number] */
    int64_t *at, *sent, *received;
};

static double pass_time(const struct schedule_cost *cost, enum action_kind kind, int global)
{
    switch (kind) {
    case ACTION_FORWARD:
        return cost->forward[global];
    case ACTION_BACKWARD:
        return cost->backward_input[global] + cost->backward_weight[global];
    case ACTION_BACKWARD_INPUT:
        return cost->backward_input[global];
    case ACTION_BACKWARD_WEIGHT:
        return cost->backward_weight[global];
    default:
        return 0;
    }
}

static bool replay_action(struct replay *r, int stage)
{
    const struct action *a = &r->stages[stage].actions[r->at[stage]];
    int64_t room = r->desc->chunks * r->desc->microbatches;
    int global = a->chunk < 0 ? 0 : schedule_global_chunk(r->desc, stage, a->chunk);
    bool forward = a->kind == ACTION_SEND_FORWARD || a->kind == ACTION_RECEIVE_FORWARD;
    if (a->kind == ACTION_SEND_FORWARD || a->kind == ACTION_SEND_BACKWARD) {
        int channel = 2 * stage + !forward;
        double *arrival = &r->arrivals[channel * room + r->sent[channel]], free_at = r->sent[channel]++ ? arrival[-1] : 0;
        *arrival = fmax(r->now[stage], free_at) + r->cost->send[global - !forward];
    } else if (a->kind == ACTION_RECEIVE_FORWARD || a->kind == ACTION_RECEIVE_BACKWARD) {
        int channel = 2 * a->peer + !forward;
        if (r->received[channel] == r->sent[channel])
            return false;
        r->now[stage] = fmax(r->now[stage], r->arrivals[channel * room + r->received[channel]++]);
    } else {
        r->now[stage] += pass_time(r->cost, a->kind, global);
    }
    return ++r->at[stage] < r->stages[stage].count;
}

static void replay_stages(struct replay *r, struct stage_actions *stages, double *now)
{
    size_t n = (size_t)r->desc->stages, room = (size_t)(r->desc->chunks * r->desc->microbatches);
    r->stages = stages;
    r->now = now;
    r->arrivals = calloc(2 * n * room, sizeof(double));
    r->at = calloc(n, sizeof(int64_t));
    r->sent = calloc(2 * n, sizeof(int64_t));
    r->received = calloc(2 * n, sizeof(int64_t));
    for (int64_t left = 1, before = -1; left > 0; before = left) {
        left = 0;
        for (int s = 0; s < r->desc->stages; s++) {
            while (r->at[s] < stages[s].count && replay_action(r, s)) {
            }
            left += stages[s].count - r->at[s];
        }
        cr_assert(left != before, "%s: stuck", schedule_text(r->desc));
    }
    free(r->arrivals);
    free(r->at);
    free(r->sent);
    free(r->received);
}

static void simulation_is_the_replay(const struct schedule_desc *desc)
{
    int chunks = desc->stages * desc->chunks;
    uint64_t seed = 1 + (uint64_t)desc->microbatches;
    double *values[4], *now = calloc((size_t)desc->stages, sizeof *now);
    for (int k = 0; k < 4; k++) {
        values[k] = malloc((size_t)chunks * sizeof(double));
        for (int i = 0; i < chunks; i++)
            values[k][i] = (double)(next_random(&seed) % 64) / 16;
    }
    struct schedule_cost cost = {.forward = values[0], .backward_input = values[1], .backward_weight = values[2], .send = values[3]};
    struct schedule_time time;
    struct stage_time *stage_times = malloc((size_t)desc->stages * sizeof *stage_times);
    cr_assert_eq(schedule_simulate(desc, &cost, &time, stage_times), CAIRN_OK, "%s", cairn_err_message());
    struct stage_actions *stages = schedule_actions(desc);
    struct replay replay = {.desc = desc, .cost = &cost};
    replay_stages(&replay, stages, now);
    double last = 0, busy = 0;
    for (int s = 0; s < desc->stages; s++) {
        cr_assert(stage_times[s].end == now[s], "%s: stage %d ends at %g, not %g", schedule_text(desc), s, stage_times[s].end, now[s]);
        last = fmax(last, now[s]);
        busy += stage_times[s].busy;
    }
    cr_assert(time.makespan == last);
    cr_assert(last == 0 || fabs(time.bubble - (1 - busy / (last * desc->stages))) < 1e-12);
    schedule_actions_free(desc, stages);
    for (int k = 0; k < 4; k++)
        free(values[k]);
    free(now);
    free(stage_times);
}

Test(schedule_time, simulation_is_what_the_actions_say)
{
    each_small_schedule(simulation_is_the_replay);
}

Test(schedule_time, messages_take_their_turn)
{
    struct schedule_desc desc = {SCHEDULE_GPIPE, 2, 1, 2};
    const double forward[] = {1, 2}, input[] = {2, 1}, weight[] = {1, 1}, send[] = {3, 99};
    struct schedule_cost cost = {.forward = forward, .backward_input = input, .backward_weight = weight, .send = send};
    struct schedule_time time;
    struct stage_time stage[2];
    cr_assert_eq(schedule_simulate(&desc, &cost, &time, stage), CAIRN_OK);
    /* Made at 1 and 2, there at 4 and 7; backward 9..11 and 11..13, there at 14 and 17. */
    cr_assert_float_eq(stage[1].end, 13, 1e-15);
    cr_assert_float_eq(stage[1].exposed_messages, 3 + 1, 1e-15, "%g", stage[1].exposed_messages);
    cr_assert_float_eq(stage[0].end, 20, 1e-15);
    cr_assert_float_eq(stage[0].exposed_messages, 3, 1e-15, "%g", stage[0].exposed_messages);
    cr_assert_float_eq(time.makespan, 20, 1e-15);
    cr_assert_float_eq(time.exposed_messages, 4, 1e-15);
    cr_assert_float_eq(stage[0].busy, 8, 1e-15);
}

Test(schedule_time, reductions_run_beside_the_passes)
{
    struct schedule_desc desc = {SCHEDULE_INTERLEAVED, 1, 2, 1};
    const double forward[] = {1, 1}, input[] = {1, 1}, weight[] = {1, 1}, update[] = {0.5};
    double reduce[] = {1, 1.5};
    struct schedule_cost cost = {.forward = forward, .backward_input = input, .backward_weight = weight, .reduce = reduce, .update = update};
    struct schedule_time time;
    struct stage_time stage;
    cr_assert_eq(schedule_simulate(&desc, &cost, &time, &stage), CAIRN_OK);
    /* Chunk 1 is complete at 4 and reduced at 5.5, chunk 0 complete at 6 and reduced at 7. */
    cr_assert_float_eq(stage.exposed_reduce, 1, 1e-15);
    cr_assert_float_eq(time.makespan, 7.5, 1e-15);
    cr_assert_float_eq(stage.busy, 6.5, 1e-15);
    reduce[1] = 5;
    cr_assert_eq(schedule_simulate(&desc, &cost, &time, &stage), CAIRN_OK);
    cr_assert_float_eq(time.exposed_reduce, 4, 1e-15);
    cr_assert_float_eq(time.makespan, 10.5, 1e-15);
}
