/* Starting and ending; slurm/watch.c watches. */
#include "slurm/launch.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "job/threads.h"
#include "slurm/child.h"
#include "slurm/command.h"
#include "slurm/sweep.h"

static const double cancel_seconds = 1, sweep_seconds = 3;

static const char *mpiexec_program(void)
{
    const char *given = getenv("CAIRN_MPIEXEC");
    return given && *given ? given : CAIRN_MPIEXEC_DEFAULT;
}

static void launcher_words(const struct config *config, const struct allocation *a, int ranks, int nodes, struct command *c)
{
    if (!a->slurm) {
        command_add_all(c, (char *[]){(char *)mpiexec_program(), "-n", NULL});
        command_add(c, "%d", ranks);
        return;
    }
    char *list = allocation_first(a, nodes);
    command_add(c, "srun");
    command_add(c, "--mpi=%s", config->supervise.mpi == CONFIG_MPI_PMI2 ? "pmi2" : "pmix");
    command_add_all(c, (char *[]){"--overlap", "--kill-on-bad-exit=0", NULL});
    command_add(c, "--nodes=%d", nodes);
    command_add(c, "--ntasks=%d", ranks);
    command_add(c, "--nodelist=%s", list ? list : "");
    if (ranks == nodes * a->tasks_per_node)
        command_add(c, "--ntasks-per-node=%ld", a->tasks_per_node);
    if (a->cpus_per_task > 0)
        command_add(c, "--cpus-per-task=%ld", a->cpus_per_task);
    c->failed |= !list;
    free(list);
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
static bool wants_calm(const struct config *config, const struct allocation *a, const struct ranks *ranks)
{
    return !getenv("OMP_WAIT_POLICY") && !getenv("GOMP_SPINCOUNT") && launch_is_crowded(config, a, ranks->used, ranks->nodes);
}

/* Notes where the launcher's ranks stand: evenly on the first nodes. */
static void note_places(const struct launch *l, struct allocation *a)
{
    for (int i = 0, node = 0; i < a->count; i++) {
        bool used = a->nodes[i].healthy && node < l->nodes;
        a->nodes[i].ranks = used ? l->ranks / l->nodes + (node < l->ranks % l->nodes) : 0;
        node += used;
    }
}

cairn_err launch_start(const struct config *config, struct allocation *a, const struct ranks *ranks, const char *mark,
                       char *const *rank_program, struct launch *l)
{
    struct command c = {0};
    bool calm = wants_calm(config, a, ranks);
    *l = (struct launch){.output = {.fd = -1}, .ranks = ranks->servers ? ranks->servers : ranks->used, .nodes = ranks->nodes,
                         .first_step = -1, .step = -1, .committed = -1, .begun = clock_seconds()};
    if (l->nodes > l->ranks)
        l->nodes = l->ranks;
    note_places(l, a);
    launcher_words(config, a, l->ranks, l->nodes, &c);
    command_add_all(&c, rank_program);
    command_set(&c, SWEEP_MARK, "%s", mark);
    if (calm)
        command_set(&c, "OMP_WAIT_POLICY", "passive");
    if (ranks->servers)
        command_set(&c, WORKERS_COUNT, "%d", ranks->used - ranks->servers);
    l->rank = calloc((size_t)l->ranks, sizeof *l->rank);
    cairn_err err = l->rank ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for a launch");
    if (!err && ranks->servers)
        err = workers_open(&l->workers, config, a, ranks->used - ranks->servers, mark, calm, rank_program);
    if (!err)
        err = command_start(&c, &l->output.fd, &l->pid);
    command_free(&c);
    if (err) {
        workers_free(&l->workers);
        free(l->rank);
    }
    return err;
}

/* The steps of the ranks and the workers are ended through Slurm, since a launcher that is killed leaves its step behind. What is on
 * healthy nodes is gone within a tenth of a second; for a dead one scancel waits long, which nobody needs. */
static void cancel_steps(const struct launch *l, const struct allocation *a)
{
    struct command c = {0};
    command_add_all(&c, (char *[]){"scancel", "--signal=KILL", NULL});
    const int none = c.count;
    if (l->pid > 0 && l->step_id[0])
        command_add(&c, "%s", l->step_id);
    workers_add_steps(&l->workers, &c);
    if (a->slurm && c.count > none && !c.failed)
        child_run(c.word, cancel_seconds, NULL, 0);
    command_free(&c);
}

void launch_end(struct launch *l, const struct allocation *a)
{
    cancel_steps(l, a);
    if (l->pid > 0)
        child_kill(l->pid);
    l->pid = 0;
    workers_kill(&l->workers);
    sweep_kill(a->job_id, sweep_seconds); /* mpiexec does not end ranks that are stopped */
    output_close(&l->output);
    workers_free(&l->workers);
    free(l->rank);
    l->rank = NULL;
}
