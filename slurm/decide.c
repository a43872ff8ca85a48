#include "slurm/decide.h"

#include <stdio.h>

/* An error that comes back at the same step with the same words is not bad luck: two tries are enough to know. */
enum { SAME_FAILURE_LIMIT = 2 };

/* Seconds: for a checkpoint where time is not short, and for ending the ranks (4 s at most) and requeueing. */
static const double stop_limit = 600, requeue_reserve = 15;

/* Seconds: a slurmctld under load may let scontrol wait so long. */
static const double command_limit = 30;

/* Seconds: ranks that stop with less than this left were told so by Slurm, for the time limit or a preemption, which shortens it to
 * the grace time. What a new start could still do here is not worth that nobody might stop it a second time. */
static const double worth_starting = 900;

double decide_stop_seconds(double left)
{
    if (left < 0)
        return stop_limit;
    double limit = left > 2 * requeue_reserve ? left - requeue_reserve : left / 2;
    return limit < stop_limit ? limit : stop_limit;
}

double decide_command_seconds(double left)
{
    if (left < 0)
        return command_limit;
    double limit = left > 2 ? left - 1 : left / 2;
    return limit < command_limit ? limit : command_limit;
}

const char *ending_name(enum ending ending)
{
    static const char *const names[] = {"done", "stopped at a checkpoint", "bad usage or config", "failed", "a rank fell silent",
                                        "a node is gone", "the launcher could not start the ranks",
                                        "slurmctld was away", "too few ranks for the layout"};
    return (unsigned)ending < ENDING_COUNT ? names[ending] : "unknown";
}

const char *action_name(enum action action)
{
    static const char *const names[] = {"finish", "restart", "requeue", "leave", "fail", "hold"};
    return (unsigned)action < sizeof names / sizeof names[0] ? names[action] : "unknown";
}

static bool without_progress(const struct situation *s, char *reason, size_t size)
{
    snprintf(reason, size, "%ld restarts without a newer checkpoint", s->max_restarts);
    return s->without_progress > s->max_restarts;
}

static bool too_few_ranks(const struct situation *s, char *reason, size_t size)
{
    if (!s->short_of || !s->short_of[0])
        return false;
    snprintf(reason, size, "%s", s->short_of);
    return true;
}

/* After the supervisor was asked to stop, whatever way the ranks ended. */
static enum action after_stop(const struct situation *s, char *reason, size_t size)
{
    switch (s->stop) {
    case STOP_TIME_LIMIT:
        if (!s->committed_here && without_progress(s, reason, size)) /* a disk that is full, say: each turn would be as fruitless */
            return ACTION_HOLD;
        snprintf(reason, size, "the time limit is near");
        return ACTION_REQUEUE;
    case STOP_USER:
        snprintf(reason, size, "stopped by its user");
        return ACTION_LEAVE;
    case STOP_TERMINATED:
    case STOP_NONE:
        break;
    }
    snprintf(reason, size, "preempted, requeued or cancelled");
    return ACTION_LEAVE;
}

/* The ranks stopped, and nobody had asked the supervisor: a signal went to them alone. Slurm starts no job again for that. */
static enum action after_unasked_stop(const struct situation *s, char *reason, size_t size)
{
    if (without_progress(s, reason, size))
        return ACTION_HOLD;
    if (s->seconds_left >= 0 && s->seconds_left < worth_starting) {
        snprintf(reason, size, "the ranks were asked to stop, and %.0f s are left", s->seconds_left);
        return ACTION_REQUEUE;
    }
    if (too_few_ranks(s, reason, size))
        return ACTION_REQUEUE;
    snprintf(reason, size, "the ranks were asked to stop, the supervisor was not");
    return ACTION_RESTART;
}

static enum action choose(const struct situation *s, char *reason, size_t size)
{
    snprintf(reason, size, "%s", ending_name(s->ending));
    if (s->ending == ENDING_DONE)
        return ACTION_FINISH;
    if (s->ending == ENDING_USAGE)
        return ACTION_FAIL;
    if (s->stop != STOP_NONE)
        return after_stop(s, reason, size);
    if (s->controller_lost) {
        snprintf(reason, size, "slurmctld does not come back");
        return ACTION_REQUEUE;
    }
    if (s->ending == ENDING_STOPPED)
        return after_unasked_stop(s, reason, size);
    if (s->ending == ENDING_TOO_FEW && s->first_start && too_few_ranks(s, reason, size))
        return ACTION_FAIL; /* what was asked of Slurm is what came: another turn would bring the same */
    bool no_controller = s->ending == ENDING_NO_CONTROLLER; /* says nothing of the ranks */
    if (!no_controller && s->ending != ENDING_NODE_LOST && s->same_failure >= SAME_FAILURE_LIMIT) {
        snprintf(reason, size, "the same error at the same step, %d times", s->same_failure);
        return ACTION_HOLD;
    }
    if (!no_controller && without_progress(s, reason, size))
        return ACTION_HOLD;
    if (too_few_ranks(s, reason, size))
        return ACTION_REQUEUE;
    snprintf(reason, size, "%s", ending_name(s->ending));
    return ACTION_RESTART;
}

enum action decide(const struct situation *s, char *reason, size_t size)
{
    enum action action = choose(s, reason, size);
    if (action != ACTION_REQUEUE || !s->record_lost || s->committed_here || s->controller_lost)
        return action;
    /* Where neither a checkpoint nor the count of fruitless turns is kept, nothing would ever end them. */
    snprintf(reason, size, "no newer checkpoint in this allocation, and events.jsonl cannot be written");
    return ACTION_HOLD;
}
