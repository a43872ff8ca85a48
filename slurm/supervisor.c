#include "slurm/supervisor.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "job/memory.h"
#include "slurm/child.h"
#include "slurm/decide.h"
#include "slurm/history.h"
#include "slurm/launch.h"
#include "slurm/ranks.h"
#include "slurm/sweep.h"
#include "slurm/workers.h"

/* slurmctld is back within minutes after a restart or a fail-over; the nodes of a job that waits longer are better used by others. */
static const double controller_limit = 30 * 60, controller_pause = 2;

struct supervisor {
    const struct config *config;
    struct allocation allocation;
    struct history history;
    double trouble; /* when the launch before showed its last sign of life; 0: none was in trouble */
    bool controller_lost; /* slurmctld was waited for in vain */
    bool launched;  /* ranks, in this allocation */
    bool first_turn; /* Slurm has not requeued the job yet; without Slurm always */
    int64_t committed_before; /* the newest checkpoint when this supervisor began; -1: none */
};

/* ---- signals ---- */

static volatile sig_atomic_t stop_asked; /* enum stop_cause */
static volatile sig_atomic_t stop_count;

static void note_signal(int number)
{
    if (!stop_asked)
        stop_asked = number == SIGUSR1 ? STOP_TIME_LIMIT : number == SIGTERM ? STOP_TERMINATED : STOP_USER;
    if (number != SIGUSR1)
        stop_count++;
}

static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = note_signal};
    sigemptyset(&action.sa_mask);
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
}

/* Asked to stop for the second time (Ctrl-C twice): not even a checkpoint is waited for. */
static enum stop_cause asked_to_stop(void *context, bool *at_once)
{
    static int told;
    (void)context;
    *at_once = stop_count > 1;
    if (stop_asked && !told) {
        told = 1;
        log_info("asked to stop (%s): the ranks write a checkpoint first",
                 stop_asked == STOP_TIME_LIMIT ? "SIGUSR1" : stop_asked == STOP_TERMINATED ? "SIGTERM" : "SIGINT");
    }
    return (enum stop_cause)stop_asked;
}

/* ---- what a launch tells ---- */

static void on_first_step(void *context, const struct launch *l)
{
    struct supervisor *s = context;
    double after = s->trouble > 0 ? clock_seconds() - s->trouble : -1;
    history_write(&s->history, "first_step", json_pack("{s:I, s:f, s:f}", "step", (json_int_t)l->first_step, "seconds_since_launch",
                                                       clock_seconds() - l->begun, "seconds_since_last_sign", after));
    if (after >= 0)
        log_info("training again, at step %lld, %.1f s after the last sign of life before", (long long)l->first_step, after);
    s->trouble = 0;
}

/* Perhaps an older one than was known: broken checkpoints are set aside, and people remove some. */
static void on_restored(void *context, int64_t step)
{
    struct supervisor *s = context;
    s->history.committed = step;
    if (s->committed_before > step)
        s->committed_before = step;
    history_write(&s->history, "restored", json_pack("{s:I}", "step", (json_int_t)step));
}

static void on_committed(void *context, const struct launch *l)
{
    struct supervisor *s = context;
    history_committed(&s->history, l->committed);
    history_write(&s->history, "committed", json_pack("{s:I}", "step", (json_int_t)l->committed));
}

static void on_silent(void *context, const struct launch *l, int rank)
{
    struct supervisor *s = context;
    const char *host = l->rank[rank].host[0] ? l->rank[rank].host : "?";
    history_write(&s->history, "rank_silent", json_pack("{s:i, s:s, s:I}", "rank", rank, "node", host, "step", (json_int_t)l->step));
    log_warning("rank %d on %s has fallen silent; asking the nodes", rank, host);
}

static void on_node_lost(void *context, const struct launch *l, const char *node)
{
    struct supervisor *s = context;
    history_write(&s->history, "node_lost", json_pack("{s:s, s:I}", "node", node, "step", (json_int_t)l->step));
    log_warning("%s does not answer: it is left out", node);
}

static void on_worker_started(void *context, const struct worker *k)
{
    struct supervisor *s = context;
    history_write(&s->history, "worker_started", json_pack("{s:i, s:s}", "worker", k->number, "node", k->node));
}

static void on_worker_lost(void *context, const struct worker *k, const char *why, bool again)
{
    struct supervisor *s = context;
    history_write(&s->history, "worker_lost", json_pack("{s:i, s:s, s:I, s:s, s:b}", "worker", k->number, "node", k->node, "step",
                                                        (json_int_t)k->step, "failure", why, "again", (int)again));
    log_warning("worker %d%s%s %s: %s", k->number, k->node[0] ? " on " : "", k->node, why,
                again ? "it is started again" : "it is given up, the others go on");
}

/* ---- one launch ---- */

static double last_sign(const struct launch *l)
{
    double oldest = clock_seconds();
    for (int r = 0; r < l->ranks; r++)
        if (l->rank[r].seen > 0 && l->rank[r].seen < oldest)
            oldest = l->rank[r].seen;
    return oldest;
}

static void describe_failure(const struct launch *l, enum ending ending, int status, char *text, size_t size)
{
    bool left = ending == ENDING_FAILED || ending == ENDING_STOPPED;
    if (l->failure[0] || (left && l->leave_reason[0]))
        snprintf(text, size, "%s", l->failure[0] ? l->failure : l->leave_reason);
    else if (ending == ENDING_STOPPED)
        snprintf(text, size, "the ranks stopped and committed no checkpoint");
    else if (ending == ENDING_FAILED && WIFSIGNALED(status))
        snprintf(text, size, "the launcher ended by signal %d", WTERMSIG(status));
    else if (ending == ENDING_FAILED || ending == ENDING_NO_START)
        snprintf(text, size, "the launcher ended with exit code %d", WIFEXITED(status) ? WEXITSTATUS(status) : -1);
    else
        text[0] = 0;
}

static bool is_failure(enum ending ending)
{
    return ending != ENDING_DONE && ending != ENDING_STOPPED && ending != ENDING_USAGE;
}

static void write_failed(struct supervisor *s, enum ending ending, bool aborted, int64_t step, const char *failure)
{
    history_write(&s->history, "failed", json_pack("{s:s, s:b, s:I, s:I, s:s}", "how", ending_name(ending), "aborted", (int)aborted, "step",
                                                   (json_int_t)step, "committed", (json_int_t)s->history.committed, "failure", failure));
}

/* What counts against the run: a stop does where nothing was committed (the disk is full, say), or it would be started for ever. */
static void note_failure(struct supervisor *s, const struct launch *l, enum ending ending, const char *failure)
{
    s->trouble = last_sign(l);
    history_failed(&s->history, l->step, l->aborted || l->leave_reason[0] ? failure : ""); /* a rank's own words */
    write_failed(s, ending, l->aborted, l->step, failure);
}

/* Counts against the run like a launch that failed: Slurm may give the next turn as few nodes, and the one after. */
static enum ending launch_nothing(struct supervisor *s, const struct ranks *ranks, char *failure, size_t size)
{
    snprintf(failure, size, "%s", ranks->short_of);
    history_failed(&s->history, -1, "");
    write_failed(s, ENDING_TOO_FEW, false, -1, ranks->short_of);
    return ENDING_TOO_FEW;
}

static void tell_launch(struct supervisor *s, const struct ranks *r)
{
    char *nodes = allocation_first(&s->allocation, r->nodes), *left_out = allocation_list(&s->allocation, false);
    history_write(&s->history, "launched", json_pack("{s:i, s:s, s:s, s:s, s:i}", "ranks", r->used, "layout", r->layout, "nodes",
                                                     nodes ? nodes : "", "left_out", left_out ? left_out : "", "idle", r->fit - r->used));
    if (r->servers)
        log_info("%s on %d node%s", r->layout, r->nodes, r->nodes == 1 ? "" : "s");
    free(nodes);
    free(left_out);
    if (r->idle[0])
        log_info("%d of the %d ranks that fit %s used (%s), the rest is left idle: %s", r->used, r->fit, r->used == 1 ? "is" : "are",
                 r->layout, r->idle);
}

/* The axes that the run's ranks wrote down when they last began, NULL if they never did. */
static const struct layout *last_layout(const struct supervisor *s, struct layout *out)
{
    char file[4096];
    struct config last;
    snprintf(file, sizeof file, "%s/config.yaml", s->config->run_dir);
    if (!config_chooses(s->config, NULL) || (access(file, F_OK) != 0 && errno == ENOENT))
        return NULL;
    if (config_load(&last, file, NULL, 0, NULL) != CAIRN_OK) {
        log_warning("the layout before is not known, another one may change the last bits: %s", cairn_err_message());
        return NULL;
    }
    *out = (struct layout){.tensor = (int)last.parallel.tensor, .context = (int)last.parallel.context,
                           .expert = (int)last.parallel.expert};
    config_free(&last);
    return out;
}

static struct ranks choose_ranks(const struct supervisor *s)
{
    struct layout last;
    return ranks_choose(s->config, last_layout(s, &last), &s->allocation);
}

static enum ending launch_once(struct supervisor *s, char *const *rank_program, char *failure, size_t size)
{
    static const int no_status;
    struct launch_observer observer = {s, on_first_step, on_restored, on_committed, on_silent, on_node_lost,
                                       {s, on_worker_started, on_worker_lost}};
    const struct ranks ranks = choose_ranks(s);
    struct launch l;
    int status = no_status;
    if (ranks.used == 0)
        return launch_nothing(s, &ranks, failure, size);
    tell_launch(s, &ranks);
    s->history.launches++;
    s->launched = true;
    char mark[160];
    snprintf(mark, sizeof mark, "%s.%ld", s->allocation.job_id, s->history.launches);
    cairn_err err = launch_start(s->config, &s->allocation, &ranks, mark, rank_program, &l);
    if (err) {
        snprintf(failure, size, "%s", cairn_err_message());
        return ENDING_NO_START;
    }
    enum ending ending = launch_watch(&l, s->config, &s->allocation, asked_to_stop, &observer, &status);
    if (is_failure(ending) && launch_heard(&l) == 0 && !allocation_has_controller(&s->allocation))
        ending = ENDING_NO_CONTROLLER;
    bool fruitless = ending == ENDING_STOPPED && l.committed < 0;
    if (fruitless || is_failure(ending))
        describe_failure(&l, ending, status, failure, size);
    if (fruitless || (is_failure(ending) && ending != ENDING_NO_CONTROLLER))
        note_failure(s, &l, ending, failure);
    launch_end(&l, &s->allocation);
    return ending;
}

/* ---- the ways out ---- */

/* Slurm ends this batch script when it requeues the job; until then there is nothing to do. */
static int wait_for_slurm(int code)
{
    for (int i = 0; i < 600; i++)
        child_run((char *[]){"sleep", "1", NULL}, 2, NULL, 0);
    return code;
}

/* By when the commands of a requeue or a hold are to be done: Slurm gives no more time when the allocation ends. */
static double commands_end(const struct supervisor *s)
{
    double now = clock_seconds(), left = s->allocation.end - now;
    return now + decide_command_seconds(s->allocation.end <= 0 ? -1 : left > 0 ? left : 0);
}

/* 'scontrol VERB' of this job, which ends this batch script a little later. */
static bool ask_slurm(const struct supervisor *s, const char *verb, double end)
{
    return child_run((char *[]){"scontrol", (char *)verb, (char *)s->allocation.job_id, NULL}, end - clock_seconds(), NULL, 0) == 0;
}

static int requeue(struct supervisor *s, const char *reason)
{
    double end = commands_end(s);
    history_write(&s->history, "requeue", json_pack("{s:s}", "reason", reason));
    if (!s->allocation.slurm) {
        log_info("%s: start the same command again to go on", reason);
        return EXIT_CODE_RESTART;
    }
    log_info("%s: job %s is requeued and goes on from its checkpoint", reason, s->allocation.job_id);
    if (!ask_slurm(s, "requeue", end)) {
        log_error("'scontrol requeue %s' failed; 'sbatch' the script again to go on", s->allocation.job_id);
        return EXIT_CODE_RESTART;
    }
    return wait_for_slurm(EXIT_CODE_RESTART);
}

static int hold(struct supervisor *s, const char *reason, const char *failure)
{
    char comment[768];
    snprintf(comment, sizeof comment, "Comment=cairn: held: %.100s%s%.500s", reason, *failure ? ": " : "", failure);
    history_write(&s->history, "held", json_pack("{s:s, s:s}", "reason", reason, "failure", failure));
    if (!s->allocation.slurm) {
        log_error("gives up: %s%s%s", reason, *failure ? ": " : "", failure);
        return EXIT_CODE_FAILED;
    }
    log_error("job %s is held: %s%s%s; mend it, then 'scontrol release %s'", s->allocation.job_id, reason, *failure ? ": " : "", failure,
              s->allocation.job_id);
    double begun = clock_seconds(), end = commands_end(s); /* the comment gets a third of it: the hold matters more */
    if (child_run((char *[]){"scontrol", "update", "JobId", s->allocation.job_id, comment, NULL}, (end - begun) / 3, NULL, 0) != 0)
        log_warning("the reason is not in the comment of job %s: 'scontrol update' failed", s->allocation.job_id);
    if (!ask_slurm(s, "requeuehold", end)) {
        log_error("'scontrol requeuehold %s' failed: the job ends; mend it, then 'sbatch' the script again", s->allocation.job_id);
        return EXIT_CODE_FAILED;
    }
    return wait_for_slurm(EXIT_CODE_FAILED);
}

static int finish(struct supervisor *s)
{
    char *left_out = allocation_list(&s->allocation, false);
    history_write(&s->history, "finished", json_pack("{s:I, s:I}", "step", (json_int_t)s->history.committed, "restarts",
                                                     (json_int_t)s->history.restarts));
    log_info("finished; %ld restart%s%s%s", s->history.restarts, s->history.restarts == 1 ? "" : "s",
             left_out && *left_out ? ", left out: " : "", left_out ? left_out : "");
    free(left_out);
    return EXIT_CODE_DONE;
}

static void restart(struct supervisor *s, const char *reason, const char *failure, int nodes)
{
    s->history.restarts++;
    history_write(&s->history, "restart", json_pack("{s:s, s:s, s:I}", "reason", reason, "failure", failure, "from_step",
                                                    (json_int_t)(s->history.committed < 0 ? 0 : s->history.committed)));
    log_info("%s%s%s: starting again on %d node%s from step %lld", reason, *failure ? ": " : "", failure,
             nodes, nodes == 1 ? "" : "s", (long long)(s->history.committed < 0 ? 0 : s->history.committed));
}

/* While slurmctld is away nothing can be started: an srun fails after ten seconds. False if it does not come back in time, or a stop
 * is asked for before. */
static bool await_controller(struct supervisor *s)
{
    double begun = clock_seconds(), waited = 0;
    if (s->controller_lost || allocation_has_controller(&s->allocation))
        return !s->controller_lost;
    log_warning("slurmctld does not answer; waiting for it, %.0f minutes at most", controller_limit / 60);
    history_write(&s->history, "controller_away", NULL);
    while (!stop_asked && (waited = clock_seconds() - begun) < controller_limit) {
        poll(NULL, 0, (int)(controller_pause * 1000)); /* a signal ends it early */
        if (allocation_has_controller(&s->allocation)) {
            history_write(&s->history, "controller_back", json_pack("{s:f}", "seconds", waited));
            log_info("slurmctld answers again");
            return true;
        }
    }
    s->controller_lost = !stop_asked;
    return false;
}

/* Before ranks are started again: who is healthy (a node may have died without a rank on it falling silent, or come back), and is
 * nothing left of earlier ranks, who would write to the same folder? Returns how many nodes were lost. */
static int clear_nodes(struct supervisor *s)
{
    double begun = clock_seconds();
    int lost;
    while ((lost = allocation_sweep(&s->allocation)) < 0 && await_controller(s) && !stop_asked) {
        if (clock_seconds() - begun < controller_limit) {
            poll(NULL, 0, (int)(controller_pause * 1000)); /* a signal ends it early */
            continue;
        }
        log_warning("slurmctld answers, but no step can be started on any node");
        s->controller_lost = true;
        break;
    }
    return lost;
}

static void tell_lost(struct supervisor *s, const bool *before)
{
    for (int i = 0; i < s->allocation.count; i++)
        if (before[i] && !s->allocation.nodes[i].healthy) {
            history_write(&s->history, "node_lost", json_pack("{s:s}", "node", s->allocation.nodes[i].name));
            log_warning("%s does not answer: it is left out", s->allocation.nodes[i].name);
        } else if (!before[i] && s->allocation.nodes[i].healthy) {
            history_write(&s->history, "node_back", json_pack("{s:s}", "node", s->allocation.nodes[i].name));
            log_info("%s answers again", s->allocation.nodes[i].name);
        }
}

/* A failure with a lost node comes of that. */
static void look_around(struct supervisor *s, enum ending *ending)
{
    bool *before = calloc((size_t)s->allocation.count, sizeof *before);
    for (int i = 0; before && i < s->allocation.count; i++)
        before[i] = s->allocation.nodes[i].healthy;
    if (clear_nodes(s) > 0 && is_failure(*ending))
        *ending = ENDING_NODE_LOST;
    if (before)
        tell_lost(s, before);
    free(before);
}

static int act(struct supervisor *s, enum ending ending, const char *failure, bool *again)
{
    double left = -1;
    if (!stop_asked && ending == ENDING_STOPPED)
        left = allocation_seconds_left(&s->allocation);
    if (!stop_asked && !s->controller_lost && (is_failure(ending) || ending == ENDING_STOPPED))
        look_around(s, &ending);
    const struct ranks ranks = choose_ranks(s);
    bool whole = allocation_healthy(&s->allocation) == s->allocation.count && !s->allocation.given_back;
    struct situation now = {.ending = ending, .stop = (enum stop_cause)stop_asked, .without_progress = s->history.without_progress,
                            .max_restarts = s->config->supervise.max_restarts, .same_failure = s->history.same_failure,
                            .short_of = ranks.short_of, .first_start = s->first_turn && !s->launched && whole,
                            .committed_here = s->history.committed > s->committed_before, .controller_lost = s->controller_lost,
                            .record_lost = s->history.lost, .seconds_left = left};
    char reason[256];
    enum action action = decide(&now, reason, sizeof reason);
    *again = action == ACTION_RESTART;
    switch (action) {
    case ACTION_FINISH: return finish(s);
    case ACTION_RESTART:
        if (ending != ENDING_NO_CONTROLLER) /* nothing had begun */
            restart(s, reason, failure, ranks.nodes);
        allocation_shrink(&s->allocation);
        return 0;
    case ACTION_REQUEUE: return requeue(s, reason);
    case ACTION_HOLD: return hold(s, reason, failure);
    case ACTION_LEAVE:
        history_write(&s->history, "stopped", json_pack("{s:s}", "reason", reason));
        log_info("%s; goes on from its checkpoint when it is started again", reason);
        return EXIT_CODE_RESTART;
    case ACTION_FAIL:
        if (ending == ENDING_TOO_FEW) /* no rank has told it */
            log_error("%s", reason);
        break;
    }
    history_write(&s->history, "stopped", json_pack("{s:s}", "reason", reason));
    return EXIT_CODE_USAGE;
}

/* srun reads these as options of its own; each launch says what it wants by itself. The last three make
 * servers and workers of ranks. */
static void forget_options(void)
{
    static const char *const names[] = {"SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NTASKS_PER_NODE", "SLURM_NNODES", "SLURM_CPUS_PER_TASK",
                                        "SLURM_DISTRIBUTION", "SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_EXCLUSIVE", "SLURM_GPUS", "SLURM_NTASKS_PER_GPU",
                                        WORKERS_COUNT, WORKERS_SERVERS, WORKERS_NUMBER};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        unsetenv(names[i]);
}

int supervisor_run(const struct config *config, const char *file, char *const *rank_program)
{
    struct supervisor s = {.config = config};
    catch_signals();
    cairn_err err = allocation_find(config, &s.allocation);
    if (!err)
        err = history_open(config->run_dir, &s.history);
    if (err) {
        log_error("%s", cairn_err_message());
        return err == CAIRN_ECONFIG ? EXIT_CODE_USAGE : EXIT_CODE_FAILED;
    }
    s.committed_before = s.history.committed;
    memory_pass_on();
    forget_options();
    setenv("CAIRN_SUPERVISED", "1", 1);
    setenv("CAIRN_TERMINAL", isatty(STDOUT_FILENO) ? "1" : "0", 1); /* to draw a live line on, through our pipe */
    const char *count = getenv("SLURM_RESTART_COUNT");
    s.first_turn = !count || atoi(count) == 0;
    history_write(&s.history, "started", json_pack("{s:s, s:s, s:s}", "config", file, "job", s.allocation.job_id, "slurm_restarts",
                                                   count ? count : "0"));
    if (!s.first_turn)
        look_around(&s, &(enum ending){ENDING_NO_START}); /* the ranks of the launch before may outlive a dead batch host */
    int code = EXIT_CODE_FAILED;
    bool again = true;
    while (again) {
        char failure[512] = "";
        enum ending ending = await_controller(&s) ? launch_once(&s, rank_program, failure, sizeof failure) : ENDING_NO_CONTROLLER;
        code = act(&s, ending, failure, &again);
    }
    history_close(&s.history);
    allocation_free(&s.allocation);
    return code;
}
