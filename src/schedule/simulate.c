#include <stdlib.h>

#include "schedule/order.h"
#include "schedule/schedule.h"

enum direction { FORWARD, BACKWARD };

/* A tensor that goes from a chunk to its neighbour. */
struct message {
    double made, arrives; /* both -1 until it is made */
};

/* One stage in its virtual time. */
struct lane {
    struct order order;
    struct pass pass; /* the next */
    bool waiting;     /* for a message that is not made yet */
    double now, busy, exposed, reduced;
    double line_free[2]; /* by direction: when the last message has arrived */
};

struct simulation {
    const struct schedule_desc *desc;
    const struct schedule_cost *cost;
    struct message *messages[2]; /* [direction][the receiving global chunk * microbatches + microbatch] */
    struct lane *lanes;
    int *ready, ready_count;     /* stages that can go on */
};

static double of(const double *costs, int index)
{
    return costs ? costs[index] : 0;
}

static double later(double a, double b)
{
    return a > b ? a : b;
}

static enum direction direction_of(const struct pass *pass)
{
    return pass->kind == ACTION_FORWARD ? FORWARD : BACKWARD;
}

/* The chunk next to GLOBAL in DIRECTION's way; -1 behind the last. */
static int next_chunk(const struct schedule_desc *desc, int global, enum direction direction)
{
    int next = direction == FORWARD ? global + 1 : global - 1;
    return next < desc->stages * desc->chunks ? next : -1;
}

static struct message *message_to(const struct simulation *sim, int global, const struct pass *pass)
{
    return &sim->messages[direction_of(pass)][global * sim->desc->microbatches + pass->microbatch];
}

/* Waits for what PASS of chunk GLOBAL needs; false if that is not made yet. */
static bool receive(const struct simulation *sim, struct lane *lane, int global)
{
    bool forward = lane->pass.kind == ACTION_FORWARD;
    if (lane->pass.kind == ACTION_BACKWARD_WEIGHT || next_chunk(sim->desc, global, forward ? BACKWARD : FORWARD) < 0)
        return true;
    const struct message *message = message_to(sim, global, &lane->pass);
    lane->waiting = message->made < 0;
    if (lane->waiting)
        return false;
    double under_way_since = later(lane->now, message->made);
    if (message->arrives > under_way_since)
        lane->exposed += message->arrives - under_way_since;
    lane->now = later(lane->now, message->arrives);
    return true;
}

static double duration(const struct schedule_cost *cost, enum action_kind kind, int global)
{
    if (kind == ACTION_FORWARD)
        return cost->forward[global];
    return (kind == ACTION_BACKWARD_WEIGHT ? 0 : cost->backward_input[global]) +
           (kind == ACTION_BACKWARD_INPUT ? 0 : cost->backward_weight[global]);
}

/* Sends what the pass has made, and wakes the stage that waits for it. On one stage it is there at once. */
static void send(struct simulation *sim, struct lane *lane, int global)
{
    enum direction direction = direction_of(&lane->pass);
    int next = lane->pass.kind == ACTION_BACKWARD_WEIGHT ? -1 : next_chunk(sim->desc, global, direction);
    if (next < 0)
        return;
    struct message *message = message_to(sim, next, &lane->pass);
    message->made = message->arrives = lane->now;
    if (sim->desc->stages == 1)
        return;
    message->arrives = later(lane->now, lane->line_free[direction]) + of(sim->cost->send, direction == FORWARD ? global : next);
    lane->line_free[direction] = message->arrives;
    int stage = schedule_stage_of(sim->desc, next);
    struct lane *receiver = &sim->lanes[stage];
    if (receiver->waiting && message_to(sim, schedule_global_chunk(sim->desc, stage, receiver->pass.chunk), &receiver->pass) == message) {
        receiver->waiting = false;
        sim->ready[sim->ready_count++] = stage;
    }
}

/* Goes on with STAGE until it must wait for a message that is not made yet, or is done. */
static void run(struct simulation *sim, int stage)
{
    struct lane *lane = &sim->lanes[stage];
    do {
        int global = schedule_global_chunk(sim->desc, stage, lane->pass.chunk);
        if (!receive(sim, lane, global))
            return;
        double takes = duration(sim->cost, lane->pass.kind, global);
        lane->now += takes;
        lane->busy += takes;
        send(sim, lane, global);
        if (order_ends_chunk(&lane->order, &lane->pass))
            lane->reduced = later(lane->reduced, lane->now) + of(sim->cost->reduce, global);
    } while (order_next(&lane->order, &lane->pass));
}

static struct stage_time finish(const struct simulation *sim, int stage)
{
    const struct lane *lane = &sim->lanes[stage];
    double update = of(sim->cost->update, stage), start = later(lane->now, lane->reduced);
    return (struct stage_time){lane->busy + update, lane->exposed, start - lane->now, start + update};
}

static void sum_up(const struct simulation *sim, struct schedule_time *time, struct stage_time *stage_times)
{
    double busy = 0;
    *time = (struct schedule_time){0};
    for (int stage = 0; stage < sim->desc->stages; stage++) {
        struct stage_time t = finish(sim, stage);
        busy += t.busy;
        time->makespan = later(time->makespan, t.end);
        time->exposed_messages = later(time->exposed_messages, t.exposed_messages);
        time->exposed_reduce = later(time->exposed_reduce, t.exposed_reduce);
        if (stage_times)
            stage_times[stage] = t;
    }
    if (time->makespan > 0)
        time->bubble = 1 - busy / (time->makespan * sim->desc->stages);
}

cairn_err schedule_simulate(const struct schedule_desc *desc, const struct schedule_cost *cost, struct schedule_time *time,
                            struct stage_time *stage_times)
{
    size_t stages = (size_t)desc->stages, tensors = stages * (size_t)desc->chunks * (size_t)desc->microbatches;
    struct simulation sim = {.desc = desc, .cost = cost};
    struct message *messages = malloc(2 * tensors * sizeof *messages);
    sim.lanes = calloc(stages, sizeof *sim.lanes);
    sim.ready = malloc(stages * sizeof *sim.ready);
    cairn_err err = CAIRN_OK;
    if (messages && sim.lanes && sim.ready) {
        for (size_t i = 0; i < 2 * tensors; i++)
            messages[i] = (struct message){-1, -1};
        sim.messages[FORWARD] = messages;
        sim.messages[BACKWARD] = messages + tensors;
        for (int stage = desc->stages - 1; stage >= 0; stage--) {
            order_begin(&sim.lanes[stage].order, desc, stage);
            order_next(&sim.lanes[stage].order, &sim.lanes[stage].pass);
            sim.ready[sim.ready_count++] = stage;
        }
        while (sim.ready_count > 0)
            run(&sim, sim.ready[--sim.ready_count]);
        sum_up(&sim, time, stage_times);
    } else {
        err = FAIL(CAIRN_ENOMEM, "no memory to simulate %lld microbatches on %d stages", (long long)desc->microbatches, desc->stages);
    }
    free(messages);
    free(sim.lanes);
    free(sim.ready);
    return err;
}
