#include "slurm/workers.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "slurm/child.h"
#include "slurm/sweep.h"

/* Seconds: before a worker is started again, in which it shows if a server's end was what ended it; more of them for each life without a
 * step; until slurmctld is asked again; that a step's cancelling may take; that an srun which has not told its step may take to end it. */
static const double restart_pause = 0.3, fruitless_pause = 1, controller_pause = 5, cancel_seconds = 1, term_seconds = 1;

/* So many sruns may be on their way to a first word: hundreds at once would keep each other waiting. */
enum { STARTS_AT_ONCE = 64 };

cairn_err workers_open(struct workers *w, const struct config *config, struct allocation *a, int count, const char *mark, bool calm,
                       char *const *program)
{
    *w = (struct workers){.config = config, .allocation = a, .program = program, .calm = calm, .count = count};
    snprintf(w->mark, sizeof w->mark, "%s", mark);
    w->worker = calloc((size_t)count, sizeof *w->worker);
    w->poll = calloc((size_t)count + 1, sizeof *w->poll);
    if (!w->worker || !w->poll)
        return FAIL(CAIRN_ENOMEM, "no memory for %d workers", count);
    for (int i = 0; i < count; i++)
        w->worker[i] = (struct worker){.number = i, .output.fd = -1};
    return CAIRN_OK;
}

void workers_call(struct workers *w, const char *servers)
{
    if (w->count == 0 || (w->servers && strcmp(w->servers, servers) == 0))
        return;
    free(w->servers); /* what differs was damaged on its way, or this is: the next one puts it right */
    w->servers = strdup(servers);
}

void workers_wait(struct workers *w, int output, int milliseconds)
{
    struct pollfd alone, *in = w->poll ? w->poll : &alone;
    in[0] = (struct pollfd){.fd = output, .events = POLLIN};
    for (int i = 0; i < w->count; i++)
        in[i + 1] = (struct pollfd){.fd = w->worker[i].output.fd, .events = POLLIN};
    poll(in, (nfds_t)w->count + 1, milliseconds);
}

/* ---- where a worker goes ---- */

static int load_of(const struct workers *w, const struct allocation_node *node)
{
    int load = node->ranks;
    for (int i = 0; i < w->count; i++)
        load += w->worker[i].state == WORKER_RUNS && strcmp(w->worker[i].node, node->name) == 0;
    return load;
}

/* The healthy node with the fewest ranks and workers that has room for one more; of equals rather not the one where WORKER was last: what
 * ended it may be that node's. NULL: none has room. */
static const struct allocation_node *place(const struct workers *w, const struct worker *k)
{
    const struct allocation_node *best = NULL;
    int least = 0;
    for (int i = 0; i < w->allocation->count; i++) {
        const struct allocation_node *node = &w->allocation->nodes[i];
        int load = load_of(w, node);
        if (!node->healthy || load >= w->allocation->tasks_per_node)
            continue;
        if (!best || load < least || (load == least && strcmp(best->name, k->node) == 0)) {
            best = node;
            least = load;
        }
    }
    return best;
}

/* ---- the end of a life ---- */

static void cancel_those_that_go(const struct workers *w)
{
    struct command c = {0};
    command_add_all(&c, (char *[]){"scancel", "--signal=KILL", NULL});
    const int none = c.count;
    for (int i = 0; i < w->count; i++)
        if (w->worker[i].goes && w->worker[i].step_id[0])
            command_add(&c, "%s", w->worker[i].step_id);
    if (w->allocation->slurm && c.count > none && !c.failed)
        child_run(c.word, cancel_seconds, NULL, 0);
    command_free(&c);
}

/* An srun that has not told its step's number ends it when it gets SIGTERM. */
static void end_unknown_steps(struct workers *w)
{
    int unknown = 0;
    for (int i = 0; i < w->count; i++)
        if (w->worker[i].goes && !w->worker[i].step_id[0])
            unknown += kill(w->worker[i].pid, SIGTERM) == 0;
    for (double end = clock_seconds() + term_seconds; unknown > 0 && clock_seconds() < end;) {
        poll(NULL, 0, 5);
        for (int i = 0; i < w->count; i++)
            if (w->worker[i].goes && !w->worker[i].step_id[0] &&
                waitpid(w->worker[i].pid, NULL, WNOHANG) == w->worker[i].pid) {
                w->worker[i].goes = false;
                unknown--;
            }
    }
}

/* Steps that are known have been cancelled. */
static void kill_those_that_go(struct workers *w)
{
    if (w->count > 0 && w->allocation->slurm)
        end_unknown_steps(w);
    for (int i = 0; i < w->count; i++) {
        if (w->worker[i].goes)
            child_kill(w->worker[i].pid);
        w->worker[i].goes = false;
    }
}

static void lose(struct workers *w, struct worker *k, const char *why, bool hopeless)
{
    output_close(&k->output);
    k->pid = 0;
    k->state = WORKER_LOST;
    bool again = !hopeless && k->fruitless <= w->config->supervise.max_restarts && place(w, k);
    if (again)
        k->state = WORKER_DUE;
    k->due = clock_seconds() + restart_pause + k->fruitless * fruitless_pause;
    if (w->observer.lost)
        w->observer.lost(w->observer.context, k, why, again);
}

static void count_life(struct worker *k)
{
    k->fruitless = k->step > k->first_step ? 0 : k->fruitless + 1;
}

/* An srun fails after ten seconds while slurmctld is away, which says nothing of the worker. */
static bool lacked_controller(struct workers *w, const struct worker *k)
{
    if (k->seen > 0 || !w->allocation->slurm)
        return false;
    if (clock_seconds() < w->controller_away) /* an answer that does not come takes seconds: not for each worker */
        return true;
    if (allocation_has_controller(w->allocation))
        return false;
    w->controller_away = clock_seconds() + controller_pause;
    return true;
}

static void has_ended(struct workers *w, struct worker *k, int status)
{
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status); /* as srun tells a signal */
    char why[sizeof k->reason];
    if (k->leave_code >= 0)
        code = k->leave_code;
    output_close(&k->output);
    k->pid = 0;
    if (WIFSIGNALED(status)) { /* srun itself was killed, and has left its step behind */
        k->goes = true;
        cancel_those_that_go(w);
        k->goes = false;
    }
    if (w->ending || code == EXIT_CODE_DONE || code == EXIT_CODE_RESTART) {
        k->state = WORKER_LEFT;
        return;
    }
    if (lacked_controller(w, k)) {
        log_warning("worker %d could not be started, slurmctld does not answer: it is tried again", k->number);
        k->state = WORKER_DUE;
        k->due = w->controller_away;
        return;
    }
    if (k->reason[0])
        snprintf(why, sizeof why, "has ended: %.*s", (int)sizeof why - 16, k->reason);
    else if (code > 128)
        snprintf(why, sizeof why, "was ended by signal %d", code - 128);
    else
        snprintf(why, sizeof why, "ended with exit code %d", code);
    count_life(k);
    lose(w, k, why, code == EXIT_CODE_USAGE);
}

void workers_end(struct workers *w, struct worker *k, const char *why)
{
    k->goes = true;
    cancel_those_that_go(w);
    kill_those_that_go(w);
    count_life(k);
    lose(w, k, why, false);
}

static bool is_on_lost_node(const struct workers *w, const struct worker *k)
{
    const struct allocation_node *node = k->state == WORKER_RUNS ? allocation_node(w->allocation, k->node) : NULL;
    return node && !node->healthy;
}

/* A node that does not answer may still train. */
void workers_leave_nodes(struct workers *w)
{
    for (int i = 0; i < w->count; i++)
        w->worker[i].goes = is_on_lost_node(w, &w->worker[i]);
    cancel_those_that_go(w);
    kill_those_that_go(w);
    for (int i = 0; i < w->count; i++)
        if (is_on_lost_node(w, &w->worker[i]))
            lose(w, &w->worker[i], "is lost with its node", false);
}

/* ---- its life ---- */

/* Parameters pulled for a step and its gradient pushed are part of it. */
static bool is_training(const char *phase)
{
    return strcmp(phase, "step") == 0 || strcmp(phase, "pull") == 0 || strcmp(phase, "push") == 0;
}

static void hear(void *context, const struct heartbeat *h)
{
    struct worker *k = ((void **)context)[1];
    const struct workers *w = ((void **)context)[0];
    k->seen = clock_seconds();
    if (h->kind == HEARTBEAT_ALIVE && h->text[0] && w->allocation->slurm && !k->step_id[0])
        snprintf(k->step_id, sizeof k->step_id, "%.15s.%.15s", w->allocation->job_id, h->text);
    if (h->kind == HEARTBEAT_ABORT)
        snprintf(k->reason, sizeof k->reason, "%s", h->text);
    if (h->kind == HEARTBEAT_LEAVE) {
        const char *reason = strchr(h->text, ' ');
        k->leave_code = atoi(h->text);
        snprintf(k->reason, sizeof k->reason, "%s", reason ? reason + 1 : "");
    }
    if (is_training(h->phase)) {
        k->first_step = k->first_step < 0 ? h->step : k->first_step;
        k->step = h->step > k->step ? h->step : k->step;
    }
}

/* CPUs are those of its node's other ranks too: each is a step of its own, and Slurm would bind all to the first cores. */
static void launcher_words(const struct workers *w, const char *node, struct command *c)
{
    const struct allocation *a = w->allocation;
    if (!a->slurm)
        return;
    command_add_all(c, (char *[]){"srun", "--mpi=none", "--overlap", "--kill-on-bad-exit=0", "--nodes=1", "--ntasks=1", NULL});
    command_add(c, "--nodelist=%s", node);
    if (a->tasks_per_node > 1)
        command_add(c, "--cpu-bind=none");
    if (a->cpus_per_task > 0)
        command_add(c, "--cpus-per-task=%ld", a->cpus_per_task);
}

static void start(struct workers *w, struct worker *k, const char *node)
{
    struct command c = {0};
    launcher_words(w, node, &c);
    command_add_all(&c, w->program);
    command_set(&c, SWEEP_MARK, "%s", w->mark);
    command_set(&c, WORKERS_SERVERS, "%s", w->servers);
    command_set(&c, WORKERS_NUMBER, "%d", k->number);
    if (w->calm)
        command_set(&c, "OMP_WAIT_POLICY", "passive");
    *k = (struct worker){.number = k->number, .state = WORKER_RUNS, .output.fd = -1, .begun = clock_seconds(), .first_step = -1,
                         .step = -1, .leave_code = -1, .fruitless = k->fruitless};
    snprintf(k->node, sizeof k->node, "%s", node);
    cairn_err err = command_start(&c, &k->output.fd, &k->pid);
    command_free(&c);
    if (err) {
        k->fruitless++;
        lose(w, k, cairn_err_message(), false);
    } else if (w->observer.started) {
        w->observer.started(w->observer.context, k);
    }
}

static void start_due(struct workers *w, struct worker *k)
{
    int starting = 0;
    for (int i = 0; i < w->count; i++)
        starting += w->worker[i].state == WORKER_RUNS && w->worker[i].seen <= 0;
    if (!w->servers || w->ending || clock_seconds() < k->due || starting >= STARTS_AT_ONCE)
        return;
    const struct allocation_node *node = place(w, k);
    if (node)
        start(w, k, node->name);
    else
        lose(w, k, "has no healthy node that has room for it", true);
}

static void look_after(struct workers *w, struct worker *k)
{
    int status;
    output_read(&k->output, hear, (void *[]){w, k});
    if (waitpid(k->pid, &status, WNOHANG) != k->pid)
        return;
    output_read(&k->output, hear, (void *[]){w, k});
    has_ended(w, k, status);
}

void workers_tend(struct workers *w)
{
    for (int i = 0; i < w->count; i++)
        if (w->worker[i].state == WORKER_RUNS)
            look_after(w, &w->worker[i]);
    for (int i = 0; i < w->count; i++)
        if (w->worker[i].state == WORKER_DUE)
            start_due(w, &w->worker[i]);
}

struct worker *workers_most_silent(const struct workers *w, double *silence)
{
    struct worker *worst = NULL;
    double now = clock_seconds();
    for (int i = 0; i < w->count; i++) {
        struct worker *k = &w->worker[i];
        /* One that was never heard may still be starting: its node is asked about later. */
        double silent = k->seen > 0 ? now - k->seen : now - k->begun - 2 * w->config->supervise.silent_seconds;
        if (k->state == WORKER_RUNS && k->leave_code < 0 && (!worst || silent > *silence)) {
            *silence = silent;
            worst = k;
        }
    }
    return worst;
}

int64_t workers_step(const struct workers *w)
{
    int64_t newest = -1;
    for (int i = 0; i < w->count; i++)
        if (w->worker[i].state == WORKER_RUNS && w->worker[i].step > newest)
            newest = w->worker[i].step;
    return newest;
}

int workers_running(const struct workers *w)
{
    int running = 0;
    for (int i = 0; i < w->count; i++)
        running += w->worker[i].state == WORKER_RUNS;
    return running;
}

const struct worker *workers_all_lost(const struct workers *w)
{
    const struct worker *last = NULL;
    for (int i = 0; i < w->count; i++) {
        const struct worker *k = &w->worker[i];
        if (k->state != WORKER_LOST)
            return NULL;
        if (!last || k->due > last->due)
            last = k;
    }
    return last;
}

/* ---- the end of all ---- */

void workers_add_steps(const struct workers *w, struct command *c)
{
    for (int i = 0; i < w->count; i++)
        if (w->worker[i].state == WORKER_RUNS && w->worker[i].step_id[0])
            command_add(c, "%s", w->worker[i].step_id);
}

void workers_kill(struct workers *w)
{
    for (int i = 0; i < w->count; i++)
        w->worker[i].goes = w->worker[i].state == WORKER_RUNS;
    kill_those_that_go(w);
    for (int i = 0; i < w->count; i++)
        w->worker[i].state = WORKER_LEFT;
}

void workers_free(struct workers *w)
{
    for (int i = 0; i < w->count && w->worker; i++)
        output_close(&w->worker[i].output);
    free(w->worker);
    free(w->poll);
    free(w->servers);
    *w = (struct workers){0};
}
