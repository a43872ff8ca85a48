#include "slurm/allocation.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "slurm/child.h"

/* srun gives up on a node that does not answer after 3 s (--immediate); a healthy one needs a tenth of one. */
static const double probe_seconds = 4.5;

/* slurmctld answers within milliseconds where it is up; where it is down the job goes on as it is. */
static const double shrink_seconds = 2;

static long number_of(const char *variable)
{
    const char *text = getenv(variable);
    return text ? atol(text) : 0;
}

static cairn_err add_node(struct allocation *a, const char *name)
{
    struct allocation_node *more = realloc(a->nodes, (size_t)(a->count + 1) * sizeof *more);
    if (!more)
        return FAIL(CAIRN_ENOMEM, "no memory for the list of nodes");
    a->nodes = more;
    more[a->count] = (struct allocation_node){.healthy = true};
    snprintf(more[a->count].name, sizeof more[a->count].name, "%s", name);
    a->count++;
    return CAIRN_OK;
}

static cairn_err list_nodes(struct allocation *a)
{
    const char *list = getenv("SLURM_JOB_NODELIST");
    size_t size = 1 << 20; /* ten thousand names */
    char *names = malloc(size), *rest = names;
    cairn_err err = names ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for the list of nodes");
    if (!err && (!list || child_run((char *[]){"scontrol", "show", "hostnames", (char *)list, NULL}, 10, names, size) != 0))
        err = FAIL(CAIRN_ESYS, "'scontrol show hostnames %s' failed: cannot tell the nodes of job %s", list ? list : "", a->job_id);
    for (char *name; !err && (name = strsep(&rest, "\n"));)
        if (*name)
            err = add_node(a, name);
    if (!err && a->count == 0)
        err = FAIL(CAIRN_ESYS, "job %s has no nodes", a->job_id);
    free(names);
    return err;
}

cairn_err allocation_find(const struct config *config, struct allocation *a)
{
    *a = (struct allocation){0};
    const char *job = getenv("SLURM_JOB_ID");
    a->slurm = config->supervise.launcher == LAUNCHER_SRUN || (config->supervise.launcher == LAUNCHER_AUTO && job);
    if (!a->slurm) {
        char host[64] = "";
        gethostname(host, sizeof host - 1);
        a->tasks_per_node = config->supervise.ranks > 0 ? config->supervise.ranks : 1;
        return add_node(a, host);
    }
    if (!job)
        return FAIL(CAIRN_ECONFIG, "supervise.launcher is srun, but SLURM_JOB_ID is not set: run this in an sbatch script or salloc");
    snprintf(a->job_id, sizeof a->job_id, "%s", job);
    TRY(list_nodes(a));
    a->tasks_per_node = number_of("SLURM_NTASKS_PER_NODE");
    if (a->tasks_per_node < 1)
        a->tasks_per_node = number_of("SLURM_NTASKS") / a->count;
    if (a->tasks_per_node < 1)
        a->tasks_per_node = 1;
    a->cpus_per_task = number_of("SLURM_CPUS_PER_TASK");
    return CAIRN_OK;
}

void allocation_free(struct allocation *a)
{
    free(a->nodes);
    a->nodes = NULL;
}

int allocation_probe(struct allocation *a)
{
    if (!a->slurm)
        return 0;
    enum { WORDS = 12 };
    char *(*argvs)[WORDS] = calloc((size_t)a->count, sizeof *argvs);
    char *const **pointers = calloc((size_t)a->count, sizeof *pointers);
    int *status = calloc((size_t)a->count, sizeof *status), lost = 0;
    if (argvs && pointers && status) {
        for (int i = 0; i < a->count; i++) {
            char *const words[WORDS] = {"srun", "--overlap", "--immediate=3", "--quiet", "--nodes=1", "--ntasks=1", "--mpi=none",
                                        "--nodelist", a->nodes[i].name, "true", NULL};
            memcpy(argvs[i], words, sizeof words);
            pointers[i] = argvs[i];
        }
        child_run_all(pointers, a->count, probe_seconds, status);
        for (int i = 0; i < a->count; i++) {
            bool healthy = status[i] == 0;
            lost += a->nodes[i].healthy && !healthy;
            a->nodes[i].healthy = healthy;
        }
    }
    free(argvs);
    free(pointers);
    free(status);
    return lost;
}

int allocation_healthy(const struct allocation *a)
{
    int n = 0;
    for (int i = 0; i < a->count; i++)
        n += a->nodes[i].healthy;
    return n;
}

struct allocation_node *allocation_node(struct allocation *a, const char *name)
{
    for (int i = 0; i < a->count; i++)
        if (strcmp(a->nodes[i].name, name) == 0)
            return &a->nodes[i];
    return NULL;
}

char *allocation_list(const struct allocation *a, bool healthy)
{
    char *list = malloc((size_t)a->count * sizeof a->nodes[0].name + 1), *at = list;
    if (!list)
        return NULL;
    *at = 0;
    for (int i = 0; i < a->count; i++)
        if (a->nodes[i].healthy == healthy)
            at += sprintf(at, "%s%s", at == list ? "" : ",", a->nodes[i].name);
    return list;
}

/* What srun reads of a job's extent in its environment is that of the job's begin. */
static void export_extent(const struct allocation *a, const char *list)
{
    char count[16];
    snprintf(count, sizeof count, "%d", a->count);
    setenv("SLURM_JOB_NODELIST", list, 1);
    setenv("SLURM_NODELIST", list, 1);
    setenv("SLURM_JOB_NUM_NODES", count, 1);
    unsetenv("SLURM_JOB_CPUS_PER_NODE");
    unsetenv("SLURM_TASKS_PER_NODE");
}

void allocation_shrink(struct allocation *a)
{
    int healthy = allocation_healthy(a);
    if (!a->slurm || healthy == a->count || healthy == 0)
        return;
    char *list = allocation_list(a, true), *request = NULL, script[64];
    if (list && asprintf(&request, "NodeList=%s", list) >= 0 &&
        child_run((char *[]){"scontrol", "update", "JobId", a->job_id, request, NULL}, shrink_seconds, NULL, 0) == 0) {
        int kept = 0;
        for (int i = 0; i < a->count; i++)
            if (a->nodes[i].healthy)
                a->nodes[kept++] = a->nodes[i];
        a->count = kept;
        export_extent(a, list);
        /* scontrol leaves scripts that would do the same for a shell. */
        static const char *const endings[] = {"sh", "csh"};
        for (int i = 0; i < 2; i++) {
            snprintf(script, sizeof script, "slurm_job_%s_resize.%s", a->job_id, endings[i]);
            unlink(script);
        }
    }
    free(list);
    free(request);
}
