/* Pipeline schedules: what a stage does in one step, as an array of actions. Pure functions; nothing here runs or sends anything.
 *
 * The model is cut into stages * chunks pieces, the global chunks 0..stages*chunks-1 in the order of the forward pass. Global
 * chunk k lies on stage k % stages, as that stage's own chunk k / stages (Narayanan et al., SC 2021, arXiv 2104.04473, section
 * 2.2). Where k and k + 1 lie on the same stage (stages = 1 alone) nothing is sent: the forward pass of k + 1 is the next
 * action after that of k for the same microbatch, and the backward pass of k is the next one after that of k + 1, so that the
 * executor hands the tensor over itself.
 *
 * GPipe (Huang et al., arXiv 1811.06965): all forward passes, then all backward passes; keeps every microbatch's activations.
 * 1F1B (arXiv 2104.04473, section 2.2.1, there called PipeDream-Flush): after stages - 1 - stage forward passes, one forward
 *   and one backward in turn; keeps at most stages - stage microbatches.
 * Interleaved (the same, section 2.2.2): 1F1B over several chunks a stage; the bubble shrinks by the number of chunks. The
 *   microbatches pass chunk by chunk in groups. The paper's groups are of `stages` microbatches, so that their number must be
 *   a multiple of that; here ANY number is taken: there are max(1, microbatches / stages) groups, as even as can be, larger
 *   ones first, so that none but a lone one is smaller than `stages` and no stage waits for a group to come round.
 * Zero bubble (ZB-H1 of Qi et al., arXiv 2401.10241, section 2.1): 1F1B with the backward pass cut into its part for the
 *   inputs, which the stage before waits for, and that for the weights, which stage s does s microbatches later; keeps at
 *   most `stages` microbatches on every stage, as many as 1F1B on its first.
 * On one stage there is nothing to overlap, and all four do the same: each microbatch forward, then backward, before the next.
 *
 * The backward passes of a chunk are always in the order of microbatches 0, 1, 2, ...: gradients are summed along a tree over
 * these numbers (mesh/tree.h). GPipe's published backward order, the reverse, is therefore not used.
 *
 * What holds for messages (tests/unit/test_schedule_messages.c):
 * - For each (source, destination, direction) the sends are in the order of the receives, the direction being forward
 *   (activations) or backward (their gradients). With two interleaved stages both directions go between the same two ranks,
 *   in unlike orders if the groups are uneven, so that a tag must carry the direction; it needs neither chunk nor microbatch.
 * - With sends that never wait, the step ends under any interleaving of the stages. Whether an action can run depends on the
 *   messages that its own stage has got alone, and what can run stays so until it does: if one interleaving ends, all do
 *   (Kahn, "The semantics of a simple language for parallel programming", IFIP 1974).
 * - The same where a send waits until at most one message of its (source, destination, direction) is not received yet; for
 *   interleaved stages and a number of microbatches that is no multiple of theirs, at most 1 + (microbatches of the largest
 *   group - stages). Not with no room at all (rendezvous): neighbours in the midst of 1F1B send to each other. */
#ifndef SCHEDULE_SCHEDULE_H
#define SCHEDULE_SCHEDULE_H

#include <stdint.h>

#include "base/error.h"

/* In the order of the config's enum config_schedule. */
enum schedule_kind { SCHEDULE_GPIPE, SCHEDULE_1F1B, SCHEDULE_INTERLEAVED, SCHEDULE_ZERO_BUBBLE };

struct schedule_desc {
    enum schedule_kind kind;
    int stages;
    int chunks; /* of a stage: 1, or at least 2 where interleaved */
    int64_t microbatches;
};

enum action_kind {
    ACTION_FORWARD,
    ACTION_BACKWARD,        /* for inputs and weights at once */
    ACTION_BACKWARD_INPUT,
    ACTION_BACKWARD_WEIGHT,
    ACTION_SEND_FORWARD,    /* posts and returns */
    ACTION_RECEIVE_FORWARD, /* waits */
    ACTION_SEND_BACKWARD,
    ACTION_RECEIVE_BACKWARD,
    ACTION_REDUCE,          /* the gradients of a chunk are complete on this stage: behind its last backward action */
    ACTION_UPDATE,          /* once, at the end: for all chunks of the stage */
};

/* A message is received by the action before the one that needs it and sent by the action behind the one that makes it. */
struct action {
    enum action_kind kind;
    int chunk;          /* the stage's own, also for messages; -1 for ACTION_UPDATE */
    int64_t microbatch; /* -1 for ACTION_REDUCE and ACTION_UPDATE */
    int peer;           /* the other stage of a message, else -1 */
    int slot;           /* the activation store of the chunk, 0..schedule_slots - 1; -1 for ACTION_REDUCE and ACTION_UPDATE. Taken
                           by a microbatch from its ACTION_RECEIVE_FORWARD (or ACTION_FORWARD) to the last of its backward
                           actions and ACTION_SEND_BACKWARD */
};

/* CAIRN_ECONFIG with the reason where DESC cannot be scheduled. The other functions take only what passes here. */
cairn_err schedule_check(const struct schedule_desc *desc);

/* The stage of global chunk GLOBAL, and the global chunk of a stage's own. */
static inline int schedule_stage_of(const struct schedule_desc *desc, int global)
{
    return global % desc->stages;
}

static inline int schedule_global_chunk(const struct schedule_desc *desc, int stage, int chunk)
{
    return chunk * desc->stages + stage;
}

/* The actions of STAGE in their order; the caller frees *ACTIONS. CAIRN_ENOMEM. */
cairn_err schedule_make(const struct schedule_desc *desc, int stage, struct action **actions, int64_t *count);

/* The most microbatches whose activations CHUNK of STAGE keeps at once: how many activation stores it needs. */
int64_t schedule_slots(const struct schedule_desc *desc, int stage, int chunk);

/* The most that all chunks of STAGE keep at once; less than the sum of their slots where they do not peak together. */
int64_t schedule_peak(const struct schedule_desc *desc, int stage);

/* The share of the step in which the stages wait, (makespan - busy time) / makespan, where every stage takes this long for one
 * microbatch through all of its chunks (a chunk takes 1 / chunks of it) and messages take no time. With p stages, v chunks, m
 * microbatches and F, B, W the times of forward, backward for inputs and backward for weights, the waiting time is
 *   GPipe, 1F1B   (p - 1) (F + B + W)               arXiv 2104.04473, section 2.2.1: (p - 1) / (m + p - 1) of the step
 *   interleaved   (p - 1) (F + B + W) / v           section 2.2.2: (p - 1) / (v m + p - 1) of the step
 *   zero bubble   (p - 1) (F + B - W)               arXiv 2401.10241, table 2, if W is at most F and at most B
 * The papers suppose m >= p. For fewer: interleaved waits for (p - m) (F + B + W) / v more at each of its v - 1 rounds, and
 * zero bubble has only m - 1 weight passes to fill with: (p - 1) (F + B) - (m - 1) W. */
double schedule_bubble(const struct schedule_desc *desc, double forward, double backward_input, double backward_weight);

/* Seconds. Arrays are indexed by global chunk, or by stage; those that may be NULL are then all 0. */
struct schedule_cost {
    const double *forward;         /* of one microbatch through a chunk */
    const double *backward_input;
    const double *backward_weight;
    const double *send;            /* [k]: one message between chunks k and k + 1, either way; may be NULL */
    const double *reduce;          /* of a chunk's gradients, beside the computing; one after the other; may be NULL */
    const double *update;          /* [stage]; may be NULL */
};

struct stage_time {
    double busy;             /* computing: forward, backward, update */
    double exposed_messages; /* waited for messages that were on their way */
    double exposed_reduce;   /* waited for reductions before the update */
    double end;
};

struct schedule_time {
    double makespan;
    double bubble; /* 1 - (sum of busy) / (stages * makespan) */
    double exposed_messages, exposed_reduce; /* the largest of any stage */
};

/* Runs all stages' actions in virtual time. A message leaves when it is made and when the one before it from the same stage in
 * the same direction has arrived. STAGE_TIMES ([stages]) may be NULL. Time and memory grow with the number of passes:
 * 16 bytes and (measured) 20 to 40 ns each. CAIRN_ENOMEM. */
cairn_err schedule_simulate(const struct schedule_desc *desc, const struct schedule_cost *cost, struct schedule_time *time,
                            struct stage_time *stage_times);

#endif
