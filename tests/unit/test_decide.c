#include <criterion/criterion.h>
#include <string.h>

#include "job/threads.h"
#include "slurm/decide.h"
#include "slurm/launch.h"

/* A rank died, all else is well. */
static struct situation usual(void)
{
    return (struct situation){.ending = ENDING_FAILED, .stop = STOP_NONE, .without_progress = 1, .max_restarts = 3, .same_failure = 1,
                              .seconds_left = -1};
}

static enum action of(const struct situation *s)
{
    char reason[256] = "";
    enum action action = decide(s, reason, sizeof reason);
    cr_assert(reason[0], "every action has a reason");
    return action;
}

static bool is_failure(enum ending ending)
{
    return ending == ENDING_FAILED || ending == ENDING_SILENT || ending == ENDING_NODE_LOST || ending == ENDING_NO_START ||
           ending == ENDING_TOO_FEW;
}

Test(decide, a_failure_restarts)
{
    struct situation s = usual();
    for (int e = 0; e < ENDING_COUNT; e++) {
        s.ending = (enum ending)e;
        if (is_failure(s.ending))
            cr_expect_eq(of(&s), ACTION_RESTART, "%s", ending_name(s.ending));
    }
}

/* Whatever else is so: an end is an end, and bad config never starts again. */
Test(decide, the_end_and_bad_config_come_first)
{
    for (int stop = STOP_NONE; stop <= STOP_USER; stop++)
        for (int fruitless = 0; fruitless < 6; fruitless++)
            for (int few = 0; few < 2; few++) {
                struct situation s = usual();
                s.stop = (enum stop_cause)stop;
                s.without_progress = fruitless;
                s.same_failure = fruitless;
                s.short_of = few ? "few" : NULL;
                s.ending = ENDING_DONE;
                cr_expect_eq(of(&s), ACTION_FINISH);
                s.ending = ENDING_USAGE;
                cr_expect_eq(of(&s), ACTION_FAIL);
            }
}

Test(decide, a_stop_never_restarts_here)
{
    for (int stop = STOP_TIME_LIMIT; stop <= STOP_USER; stop++)
        for (int e = 0; e < ENDING_COUNT; e++) {
            struct situation s = usual();
            s.stop = (enum stop_cause)stop;
            s.ending = (enum ending)e;
            cr_expect_neq(of(&s), ACTION_RESTART, "%s, stop %d", ending_name(s.ending), stop);
        }
}

Test(decide, the_time_limit_requeues_and_the_user_does_not)
{
    struct situation s = usual();
    s.ending = ENDING_STOPPED;
    s.stop = STOP_TIME_LIMIT;
    cr_expect_eq(of(&s), ACTION_REQUEUE);
    s.stop = STOP_USER;
    cr_expect_eq(of(&s), ACTION_LEAVE);
}

/* With none asked of the supervisor, Slurm would take an exit code of 75 for the end of the job. */
Test(decide, ranks_that_stop_unasked_are_started_again)
{
    struct situation s = usual();
    s.ending = ENDING_STOPPED;
    s.same_failure = 2; /* of the launches before; this one has not failed */
    cr_expect_eq(of(&s), ACTION_RESTART);
    s.seconds_left = 86400;
    cr_expect_eq(of(&s), ACTION_RESTART);
    s.seconds_left = 120;
    cr_expect_eq(of(&s), ACTION_REQUEUE, "the time limit is near");
    s.seconds_left = 86400;
    s.short_of = "few";
    cr_expect_eq(of(&s), ACTION_REQUEUE, "no node is left");
    s = usual();
    s.ending = ENDING_STOPPED;
    s.without_progress = s.max_restarts + 1;
    cr_expect_eq(of(&s), ACTION_HOLD, "and never committed anything");
}

Test(decide, turns_that_commit_nothing_have_a_limit)
{
    for (int e = ENDING_STOPPED; e <= ENDING_FAILED; e += ENDING_FAILED - ENDING_STOPPED) {
        struct situation s = usual();
        s.ending = (enum ending)e;
        s.stop = STOP_TIME_LIMIT;
        s.without_progress = s.max_restarts;
        cr_expect_eq(of(&s), ACTION_REQUEUE, "%s", ending_name(s.ending));
        s.without_progress = s.max_restarts + 1;
        cr_expect_eq(of(&s), ACTION_HOLD, "%s", ending_name(s.ending));
        s.committed_here = true;
        cr_expect_eq(of(&s), ACTION_REQUEUE, "%s", ending_name(s.ending));
        s.committed_here = false;
        s.stop = STOP_TERMINATED;
        cr_expect_eq(of(&s), ACTION_LEAVE, "preempted or cancelled, by Slurm: %s", ending_name(s.ending));
    }
}

/* With a full disk neither checkpoint nor count reaches the next turn. */
Test(decide, turns_that_cannot_be_counted_are_not_begun)
{
    struct situation s = usual();
    s.record_lost = true;
    cr_expect_eq(of(&s), ACTION_RESTART, "in this allocation they are counted");
    s.stop = STOP_TIME_LIMIT;
    cr_expect_eq(of(&s), ACTION_HOLD);
    s.committed_here = true;
    cr_expect_eq(of(&s), ACTION_REQUEUE);
    s.stop = STOP_NONE;
    s.committed_here = false;
    s.short_of = "few";
    cr_expect_eq(of(&s), ACTION_HOLD);
}

Test(decide, restarts_without_progress_have_a_limit)
{
    for (int e = 0; e < ENDING_COUNT; e++) {
        struct situation s = usual();
        s.ending = (enum ending)e;
        if (!is_failure(s.ending))
            continue;
        s.without_progress = s.max_restarts;
        cr_expect_eq(of(&s), ACTION_RESTART, "%s", ending_name(s.ending));
        s.without_progress = s.max_restarts + 1;
        cr_expect_eq(of(&s), ACTION_HOLD, "%s", ending_name(s.ending));
    }
}

Test(decide, the_same_error_at_the_same_step_is_held)
{
    struct situation s = usual();
    s.same_failure = 2;
    cr_expect_eq(of(&s), ACTION_HOLD);
    s.ending = ENDING_NODE_LOST; /* what the survivors say when a peer is gone is always the same */
    cr_expect_eq(of(&s), ACTION_RESTART);
}

/* Whatever is left, some of it is the ranks' and some is the supervisor's. */
Test(decide, a_stop_ends_before_the_allocation)
{
    cr_expect_eq(decide_stop_seconds(-1), 600);
    cr_expect_eq(decide_stop_seconds(100000), 600);
    for (int left = 1; left < 1000; left++) {
        double seconds = decide_stop_seconds(left);
        cr_expect(seconds > 0 && seconds < left && seconds <= 600, "%d s left: %g", left, seconds);
        cr_expect(left < 60 || seconds >= left - 20 || seconds == 600, "%d s left: %g", left, seconds);
    }
    cr_expect_eq(decide_stop_seconds(120), 105);
}

Test(decide, commands_end_before_the_allocation)
{
    cr_expect_eq(decide_command_seconds(-1), 30);
    cr_expect_eq(decide_command_seconds(0), 0);
    for (int left = 1; left < 1000; left++) {
        double seconds = decide_command_seconds(left);
        cr_expect(seconds > 0 && seconds < left && seconds <= 30, "%d s left: %g", left, seconds);
    }
    /* After a stop that took all its time, and four seconds for the end of the ranks. */
    cr_expect_geq(decide_command_seconds(120 - decide_stop_seconds(120) - 4), 10);
}

/* That slurmctld was away says nothing of the run: whatever the counts, it is tried again, and left to Slurm if it stays away. */
Test(decide, a_controller_that_was_away_is_no_failure)
{
    struct situation s = usual();
    s.ending = ENDING_NO_CONTROLLER;
    s.without_progress = s.max_restarts + 1;
    s.same_failure = 2;
    cr_expect_eq(of(&s), ACTION_RESTART);
    s.controller_lost = true;
    cr_expect_eq(of(&s), ACTION_REQUEUE);
}

Test(decide, too_few_ranks_are_requeued)
{
    struct situation s = usual();
    char reason[256];
    s.ending = ENDING_NODE_LOST;
    s.short_of = "";
    cr_expect_eq(of(&s), ACTION_RESTART);
    s.short_of = "3 ranks fit";
    cr_expect_eq(decide(&s, reason, sizeof reason), ACTION_REQUEUE);
    cr_expect_str_eq(reason, "3 ranks fit");
    s.first_start = true; /* the node was lost while the first ranks started */
    cr_expect_eq(of(&s), ACTION_REQUEUE);
}

/* Another turn may bring the nodes that this one lacks, but not for ever, and not where all came that was asked for. */
Test(decide, a_layout_that_cannot_start_is_requeued_unless_it_never_could)
{
    struct situation s = usual();
    s.ending = ENDING_TOO_FEW;
    s.short_of = "3 ranks fit";
    s.without_progress = s.max_restarts;
    cr_expect_eq(of(&s), ACTION_REQUEUE);
    s.without_progress = s.max_restarts + 1;
    cr_expect_eq(of(&s), ACTION_HOLD);
    s.without_progress = 1;
    s.first_start = true;
    cr_expect_eq(of(&s), ACTION_FAIL);
    s.stop = STOP_TERMINATED;
    cr_expect_eq(of(&s), ACTION_LEAVE);
}

/* ---- threads and cores ---- */

Test(crowd, slurm_lists_of_cpus_are_read)
{
    cr_expect_eq(allocation_fewest_cpus("8(x2),4"), 4);
    cr_expect_eq(allocation_fewest_cpus("2,16(x10)"), 2);
    cr_expect_eq(allocation_fewest_cpus("72"), 72);
    cr_expect_eq(allocation_fewest_cpus("8,none"), 0);
    cr_expect_eq(allocation_fewest_cpus(""), 0);
    cr_expect_eq(allocation_fewest_cpus(NULL), 0);
}

Test(crowd, a_rank_takes_what_it_is_given_then_what_it_is_bound_to_then_its_share)
{
    cr_expect_eq(threads_of_rank(3, 8, 8, 4), 3);
    cr_expect_eq(threads_of_rank(0, 2, 8, 4), 2);
    cr_expect_eq(threads_of_rank(0, 8, 8, 4), 2);
    cr_expect_eq(threads_of_rank(0, 2, 2, 4), 1);
}

Test(crowd, a_node_is_crowded_when_its_ranks_have_more_threads_than_cores)
{
    struct allocation_node nodes[2] = {{.name = "a", .healthy = true}, {.name = "b", .healthy = true}};
    struct allocation a = {.slurm = true, .nodes = nodes, .count = 2, .cpus_per_node = 8};
    struct config config = {.threads = 4};
    cr_expect_not(launch_is_crowded(&config, &a, 4, 2));
    cr_expect(launch_is_crowded(&config, &a, 5, 2), "three ranks on one node");
    cr_expect(launch_is_crowded(&config, &a, 4, 1), "four ranks on the node that is left");
    config.threads = 0;
    a.cpus_per_task = 2;
    cr_expect_not(launch_is_crowded(&config, &a, 4, 1));
    cr_expect(launch_is_crowded(&config, &a, 5, 1), "what Slurm gives a task counts");
    config.threads = 1;
    cr_expect_not(launch_is_crowded(&config, &a, 9, 1), "one thread waits for none");
    config.threads = 4;
    a.cpus_per_node = 0;
    cr_expect_not(launch_is_crowded(&config, &a, 9, 1), "not known");
}
