/* Watching a launch: its output, its ranks' heartbeats, its end. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "job/heartbeat.h"
#include "slurm/child.h"
#include "slurm/launch.h"

/* In seconds. A silent rank on a healthy node is given up after SILENT_TIMES
 * supervise.silent_seconds. From a rank's word that it ends the step, the launcher has ABORT_LIMIT, and from the first that leaves in order
 * LEAVE_LIMIT (closing MPI may take 10 s). Workers have FAREWELL_LIMIT from the servers' end. A turn of the
 * watch that takes longer than SLOW_TURN was held up. */
static const double probe_pause = 5, abort_limit = 4, leave_limit = 20, farewell_limit = 6, slow_turn = 1;
enum { SILENT_TIMES = 3 };

struct watch {
    struct launch *l;
    const struct config *config;
    struct allocation *a;
    const struct launch_observer *o;
    double probed;        /* when nodes were last asked */
    bool stop_sent;       /* to the ranks */
    double stop_noted;    /* when a stop was first asked for; 0: none was */
    double stop_seconds;  /* that it may take */
    bool told_silent;
    int asked_for;        /* 1 + the rank whose process was last asked for */
};

/* STEP is in work. */
static void note_step(struct watch *w, int64_t step)
{
    struct launch *l = w->l;
    if (step > l->step)
        l->step = step;
    if (step < 0 || l->first_step >= 0)
        return;
    l->first_step = step;
    if (w->o->first_step)
        w->o->first_step(w->o->context, l);
}

static void note_heartbeat(void *context, const struct heartbeat *h)
{
    struct watch *w = context;
    struct launch *l = w->l;
    if (h->rank < 0 || h->rank >= l->ranks)
        return;
    struct launch_rank *r = &l->rank[h->rank];
    r->seen = clock_seconds();
    r->step = h->step;
    snprintf(r->host, sizeof r->host, "%s", h->host);
    snprintf(r->phase, sizeof r->phase, "%s", h->phase);
    if (h->kind == HEARTBEAT_ALIVE && h->text[0] && w->a->slurm && !l->step_id[0])
        snprintf(l->step_id, sizeof l->step_id, "%.15s.%.15s", w->a->job_id, h->text);
    if (h->kind == HEARTBEAT_ABORT && !l->failure[0]) {
        l->aborted = true;
        snprintf(l->failure, sizeof l->failure, "%s", h->text);
    }
    if (h->kind == HEARTBEAT_LEAVE && !r->left) {
        l->leaves++;
        l->leave_code = atoi(h->text);
        const char *reason = strchr(h->text, ' ');
        if (reason)
            snprintf(l->leave_reason, sizeof l->leave_reason, "%s", reason + 1);
    }
    if (h->kind == HEARTBEAT_LEAVE || h->kind == HEARTBEAT_ABORT) {
        r->left = true;
        l->ending_since = l->ending_since > 0 ? l->ending_since : r->seen;
    }
    if (h->kind == HEARTBEAT_SERVERS)
        workers_call(&l->workers, h->text);
    if (h->kind == HEARTBEAT_RESTORE && w->o->restored)
        w->o->restored(w->o->context, h->step);
    if (h->kind == HEARTBEAT_COMMIT && h->step > l->committed) {
        l->committed = h->step;
        if (w->o->committed)
            w->o->committed(w->o->context, l);
    }
    if (strcmp(h->phase, "step") == 0)
        note_step(w, h->step);
}

/* The rank that has been silent longest, and for how long. */
static int most_silent(const struct watch *w, double now, double *silence)
{
    int worst = -1;
    *silence = 0;
    for (int r = 0; r < w->l->ranks; r++) {
        double seen = w->l->rank[r].seen;
        /* One that was never heard may still be starting: its node is asked about later. */
        double silent = seen > 0 ? now - seen : now - w->l->begun - 2 * w->config->supervise.silent_seconds;
        if (!w->l->rank[r].left && silent > *silence) {
            *silence = silent;
            worst = r;
        }
    }
    return worst;
}

/* Asks all nodes, if it is not too soon since the last time. Workers on a dead one are lost; if all ranks are elsewhere, the run goes on
 * without it, and so does the job. */
static void find_dead_nodes(struct watch *w)
{
    double now = clock_seconds();
    if (now - w->probed < probe_pause)
        return;
    bool *before = calloc((size_t)w->a->count, sizeof *before);
    for (int i = 0; i < w->a->count && before; i++)
        before[i] = w->a->nodes[i].healthy;
    int lost = allocation_probe(w->a);
    for (int i = 0; i < w->a->count && before && lost > 0; i++)
        if (before[i] && !w->a->nodes[i].healthy && w->o->node_lost)
            w->o->node_lost(w->o->context, w->l, w->a->nodes[i].name);
    free(before);
    w->probed = clock_seconds();
    if (lost <= 0 || allocation_lost_ranks(w->a))
        return;
    workers_leave_nodes(&w->l->workers);
    allocation_shrink(w->a);
}

/* Whether RANK's process has ended. Neither srun nor PMIx ends the others then, and those wait for it until their watchdogs bark. */
static bool is_gone(struct watch *w, int rank)
{
    if (w->asked_for == rank + 1)
        return false;
    w->asked_for = rank + 1;
    return !allocation_has_rank(w->a, w->l->rank[rank].host, rank);
}

/* Whether the launch has to be given up. */
static bool check_silence(struct watch *w, enum ending *ending)
{
    double silence, limit = w->config->supervise.silent_seconds;
    int rank = most_silent(w, clock_seconds(), &silence);
    if (rank < 0 || silence < limit)
        return false;
    if (!w->told_silent && w->o->silent)
        w->o->silent(w->o->context, w->l, rank);
    w->told_silent = true;
    find_dead_nodes(w);
    if (allocation_lost_ranks(w->a)) {
        *ending = ENDING_NODE_LOST;
        return true;
    }
    bool heard = w->l->rank[rank].seen > 0;
    if (heard && is_gone(w, rank)) {
        snprintf(w->l->failure, sizeof w->l->failure, "rank %d on %s has died", rank, w->l->rank[rank].host);
        *ending = ENDING_FAILED;
        return true;
    }
    if (heard ? silence < SILENT_TIMES * limit : clock_seconds() - w->l->begun < w->config->supervise.start_seconds)
        return false;
    snprintf(w->l->failure, sizeof w->l->failure, "rank %d on %s has said nothing for %.0f s, but its node answers", rank,
             w->l->rank[rank].host[0] ? w->l->rank[rank].host : "an unknown node", silence);
    *ending = ENDING_SILENT;
    return true;
}

/* A worker that hangs holds up the others; one whose node is dead is not waited for. */
static bool check_workers(struct watch *w, enum ending *ending)
{
    struct launch *l = w->l;
    double silence, limit = w->config->supervise.silent_seconds;
    char why[128];
    struct worker *k = workers_most_silent(&l->workers, &silence);
    if (k && silence >= limit)
        find_dead_nodes(w);
    if (allocation_lost_ranks(w->a)) {
        *ending = ENDING_NODE_LOST;
        return true;
    }
    bool hangs = k && k->state == WORKER_RUNS &&
                 (k->seen > 0 ? silence >= SILENT_TIMES * limit : clock_seconds() - k->begun >= w->config->supervise.start_seconds);
    if (hangs) {
        snprintf(why, sizeof why, "has said nothing for %.0f s, but its node answers", clock_seconds() - (k->seen > 0 ? k->seen : k->begun));
        workers_end(&l->workers, k, why);
    }
    const struct worker *last = l->ending_since > 0 ? NULL : workers_all_lost(&l->workers);
    if (!last)
        return false;
    snprintf(l->failure, sizeof l->failure, "no worker is left%s%.400s", last->reason[0] ? "; the last one: " : "", last->reason);
    l->aborted = last->reason[0] != 0;
    *ending = ENDING_FAILED;
    return true;
}

int launch_heard(const struct launch *l)
{
    int heard = 0;
    for (int r = 0; r < l->ranks; r++)
        heard += l->rank[r].seen > 0;
    return heard;
}

/* What the ranks said tells more than the launcher's exit code: srun ends the ranks that leave last with SIGTERM and exits with
 * 143, mpiexec joins the codes of all by OR. */
static enum ending ending_of(const struct launch *l, int status)
{
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_CODE_FAILED;
    if (!l->failure[0] && l->leaves > 0 && (l->leaves == l->ranks || l->leave_code != EXIT_CODE_DONE))
        code = l->leave_code;
    switch (code) {
    case EXIT_CODE_DONE: return ENDING_DONE;
    case EXIT_CODE_RESTART: return ENDING_STOPPED;
    case EXIT_CODE_USAGE: return ENDING_USAGE;
    default: return launch_heard(l) > 0 ? ENDING_FAILED : ENDING_NO_START;
    }
}

/* The launcher waits for every rank; one on a dead node, or that hangs while it closes MPI, is not waited for. */
static bool ends_too_slowly(const struct launch *l)
{
    return l->ending_since > 0 && clock_seconds() - l->ending_since > (l->failure[0] ? abort_limit : leave_limit);
}

/* Asks the ranks to stop at a checkpoint. srun and mpiexec pass SIGUSR1 on; before all ranks listen, it would kill those that
 * do not. */
static void ask_to_stop(struct watch *w)
{
    if (!w->stop_sent && launch_heard(w->l) == w->l->ranks) {
        w->stop_sent = true;
        kill(w->l->pid, SIGUSR1);
    }
    if (w->stop_noted > 0)
        return;
    w->stop_noted = clock_seconds();
    w->stop_seconds = decide_stop_seconds(allocation_seconds_left(w->a));
}

static bool stops_too_slowly(struct watch *w)
{
    if (w->stop_noted <= 0 || clock_seconds() - w->stop_noted <= w->stop_seconds)
        return false;
    snprintf(w->l->failure, sizeof w->l->failure, "the ranks have not stopped at a checkpoint within %.0f s", w->stop_seconds);
    log_warning("%s and are ended", w->l->failure);
    return true;
}

/* They have been told to leave by the servers, which have left; what is not gone then is ended. */
static void await_workers(struct launch *l)
{
    double end = clock_seconds() + farewell_limit;
    l->workers.ending = true;
    while (workers_running(&l->workers) > 0 && clock_seconds() < end) {
        workers_wait(&l->workers, -1, 100);
        workers_tend(&l->workers);
    }
}

static enum ending watch_ranks(struct watch *w, enum stop_cause (*stop)(void *, bool *), int *status)
{
    struct launch *l = w->l;
    enum ending ending = ENDING_FAILED;
    bool at_once = false;
    for (;;) {
        workers_wait(&l->workers, l->output.fd, 100);
        output_read(&l->output, note_heartbeat, w);
        pid_t ended = waitpid(l->pid, status, WNOHANG);
        if (ended == l->pid) {
            l->pid = 0;
            output_read(&l->output, note_heartbeat, w);
            return ending_of(l, *status);
        }
        l->workers.ending = l->ending_since > 0;
        double tended = clock_seconds();
        workers_tend(&l->workers);
        if (clock_seconds() - tended > slow_turn)
            continue; /* it asked slurmctld, which is away: what ranks said meanwhile is to be read before their silence is judged */
        note_step(w, workers_step(&l->workers)); /* servers train nothing */
        if (stop(w->o->context, &at_once) != STOP_NONE)
            ask_to_stop(w);
        if (ends_too_slowly(l))
            return ending_of(l, W_EXITCODE(EXIT_CODE_FAILED, 0));
        if (at_once || stops_too_slowly(w))
            return ENDING_FAILED;
        if (check_silence(w, &ending) || check_workers(w, &ending))
            return ending;
    }
}

enum ending launch_watch(struct launch *l, const struct config *config, struct allocation *a,
                         enum stop_cause (*stop)(void *, bool *), const struct launch_observer *observer, int *status)
{
    struct watch w = {.l = l, .config = config, .a = a, .o = observer};
    l->workers.observer = observer->workers;
    enum ending ending = watch_ranks(&w, stop, status);
    if (ending == ENDING_DONE || ending == ENDING_STOPPED)
        await_workers(l);
    return ending;
}
