/* Starting and ending; slurm/watch.c watches. */
#include "slurm/launch.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "job/threads.h"
#include "slurm/child.h"
#include "slurm/sweep.h"

enum { MAX_WORDS = 24 };

static const double cancel_seconds = 1, sweep_seconds = 3;

struct words {
    char *word[MAX_WORDS];
    int count;
};

static bool add(struct words *w, const char *format, ...) __attribute__((format(printf, 2, 3)));

static bool add(struct words *w, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = w->count < MAX_WORDS - 1 ? vasprintf(&w->word[w->count], format, args) : -1;
    va_end(args);
    if (n < 0)
        return false;
    w->word[++w->count] = NULL;
    return true;
}

static void release(struct words *w)
{
    for (int i = 0; i < w->count; i++)
        free(w->word[i]);
}

static const char *mpiexec_program(void)
{
    const char *given = getenv("CAIRN_MPIEXEC");
    return given && *given ? given : CAIRN_MPIEXEC_DEFAULT;
}

static bool launcher_words(const struct config *config, const struct allocation *a, int ranks, int nodes, struct words *w)
{
    if (!a->slurm)
        return add(w, "%s", mpiexec_program()) && add(w, "-n") && add(w, "%d", ranks);
    char *list = allocation_first(a, nodes);
    bool ok = list && add(w, "srun") && add(w, "--mpi=%s", config->supervise.mpi == CONFIG_MPI_PMI2 ? "pmi2" : "pmix") &&
              add(w, "--overlap") && add(w, "--kill-on-bad-exit=0") && add(w, "--nodes=%d", nodes) &&
              add(w, "--ntasks=%d", ranks) && add(w, "--nodelist=%s", list);
    if (ok && ranks == nodes * a->tasks_per_node)
        ok = add(w, "--ntasks-per-node=%ld", a->tasks_per_node);
    if (ok && a->cpus_per_task > 0)
        ok = add(w, "--cpus-per-task=%ld", a->cpus_per_task);
    free(list);
    return ok;
}

/* Under Slurm the ranks' own binding is not known here; where this process, the batch script's, is bound, they are taken to be too. */
bool launch_is_crowded(const struct config *config, const struct allocation *a, int ranks, int nodes)
{
    if (nodes < 1 || a->cpus_per_node < 1)
        return false;
    int local = (ranks + nodes - 1) / nodes, bound = threads_bound(), online = threads_online();
    long threads = config->threads;
    if (threads == 0 && a->slurm && bound < online && a->cpus_per_task == 0)
        return false; /* each takes the cores it is bound to */
    if (threads == 0)
        threads = threads_of_rank((int)a->cpus_per_task, bound, online, local);
    return threads > 1 && threads * local > a->cpus_per_node;
}

/* The threads of libgomp that wait for work keep their core busy for a while, which those that have work then lack: a step
 * was seen to take 19 s. OMP_WAIT_POLICY=passive makes them sleep. libgomp reads it when it is loaded, so it has to be in the
 * environment of the ranks; it changes no order of sums. A user's own word counts more. */
static bool calm_threads(const struct config *config, const struct allocation *a, int ranks, int nodes)
{
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT") || !launch_is_crowded(config, a, ranks, nodes))
        return false;
    return setenv("OMP_WAIT_POLICY", "passive", 1) == 0;
}

cairn_err launch_start(const struct config *config, const struct allocation *a, int ranks, int nodes, char *const *rank_program,
                       struct launch *l)
{
    struct words w = {.count = 0};
    *l = (struct launch){.output = -1, .ranks = ranks, .nodes = nodes, .first_step = -1, .step = -1, .committed = -1,
                         .begun = clock_seconds()};
    l->rank = calloc((size_t)ranks, sizeof *l->rank);
    cairn_err err = l->rank && launcher_words(config, a, ranks, nodes, &w) ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for a launch");
    int own = 0;
    while (rank_program[own])
        own++;
    char **argv = calloc((size_t)(w.count + own + 1), sizeof *argv);
    if (!err && argv) {
        memcpy(argv, w.word, (size_t)w.count * sizeof *argv);
        memcpy(argv + w.count, rank_program, (size_t)own * sizeof *argv);
        bool calmed = calm_threads(config, a, ranks, nodes);
        err = child_start(argv, &l->output, false, &l->pid);
        if (calmed)
            unsetenv("OMP_WAIT_POLICY"); /* the next launch may have other ranks */
    }
    free(argv);
    release(&w);
    if (err)
        free(l->rank);
    return err;
}

/* The step's ranks are ended through Slurm, since a launcher that is killed leaves them behind. Those on healthy nodes are gone within
 * a tenth of a second; for a dead one scancel waits long, which nobody needs. */
static void cancel_step(const struct launch *l, const struct allocation *a)
{
    if (!a->slurm || !l->step_id[0])
        return;
    child_run((char *[]){"scancel", "--signal=KILL", (char *)l->step_id, NULL}, cancel_seconds, NULL, 0);
}

void launch_end(struct launch *l, const struct allocation *a)
{
    if (l->pid > 0) {
        cancel_step(l, a);
        child_kill(l->pid);
        l->pid = 0;
    }
    sweep_kill(a->job_id, sweep_seconds); /* mpiexec does not end ranks that are stopped */
    if (l->output >= 0)
        close(l->output);
    l->output = -1;
    free(l->rank);
    l->rank = NULL;
}
