#include "slurm/allocation.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "job/threads.h"
#include "job/time_left.h"
#include "mesh/layout.h"
#include "slurm/child.h"
#include "slurm/sweep.h"

/* srun gives up on a node that does not answer after 3 s (--immediate); a healthy one needs a tenth of one. */
static const double probe_seconds = 4.5, controller_seconds = 3, lost_rest = 30, sweep_seconds = 3;

/* A busy slurmctld answers late; before a launch there is time (srun itself waits 10 s, Slurm's MessageTimeout). */
static const double controller_patience = 10;

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

long allocation_fewest_cpus(const char *list)
{
    long fewest = 0;
    for (char *end; list && *list; list = *end == ',' ? end + 1 : "") {
        long cpus = strtol(list, &end, 10);
        if (end == list || cpus < 1)
            return 0;
        fewest = fewest == 0 || cpus < fewest ? cpus : fewest;
        end += strcspn(end, ",");
    }
    return fewest;
}

cairn_err allocation_find(const struct config *config, struct allocation *a)
{
    *a = (struct allocation){0};
    if (readlink("/proc/self/exe", a->own, sizeof a->own - 1) < 0)
        return FAIL(error_from_errno(errno), "cannot read /proc/self/exe: %s", strerror(errno));
    const char *job = getenv("SLURM_JOB_ID");
    a->slurm = config->supervise.launcher == LAUNCHER_SRUN || (config->supervise.launcher == LAUNCHER_AUTO && job);
    if (!a->slurm) {
        char host[64] = "";
        gethostname(host, sizeof host - 1);
        snprintf(a->job_id, sizeof a->job_id, "%s-%d", host, (int)getpid());
        const struct layout asked = layout_asked(config);
        int64_t least = layout_least_ranks(&asked);
        a->tasks = a->tasks_per_node = config->supervise.ranks > 0 ? config->supervise.ranks : least < INT_MAX ? (long)least : INT_MAX;
        a->cpus_per_node = threads_bound();
        return add_node(a, host);
    }
    if (!job)
        return FAIL(CAIRN_ECONFIG, "supervise.launcher is srun, but SLURM_JOB_ID is not set: run this in an sbatch script or salloc");
    snprintf(a->job_id, sizeof a->job_id, "%s", job);
    TRY(list_nodes(a));
    a->tasks = number_of("SLURM_NTASKS");
    a->tasks_per_node = number_of("SLURM_NTASKS_PER_NODE");
    if (a->tasks_per_node < 1)
        a->tasks_per_node = a->tasks > 0 ? (a->tasks + a->count - 1) / a->count : 1;
    if (a->tasks < 1)
        a->tasks = a->tasks_per_node * a->count;
    a->cpus_per_task = number_of("SLURM_CPUS_PER_TASK");
    a->cpus_per_node = allocation_fewest_cpus(getenv("SLURM_JOB_CPUS_PER_NODE"));
    return CAIRN_OK;
}

void allocation_free(struct allocation *a)
{
    free(a->nodes);
    free(a->given_back);
    a->nodes = NULL;
    a->given_back = NULL;
}

/* Whether slurmctld answers. */
static bool controller_answers(double seconds)
{
    char text[4096];
    return child_run((char *[]){"scontrol", "ping", NULL}, seconds, text, sizeof text) >= 0 && strstr(text, "is UP");
}

bool allocation_has_controller(const struct allocation *a)
{
    return !a->slurm || controller_answers(controller_patience);
}

double allocation_seconds_left(struct allocation *a)
{
    char text[128] = "";
    char *const words[] = {"squeue", "--noheader", "--jobs", (char *)a->job_id, "--format=%L", NULL};
    double left = -1;
    if (a->slurm && child_run(words, controller_seconds, text, sizeof text) == 0)
        left = time_left_parse(text);
    const char *end = a->slurm ? getenv("SLURM_JOB_END_TIME") : NULL; /* newer Slurm tells it at the begin */
    if (left < 0 && end)
        left = strtod(end, NULL) - clock_wall();
    a->end = left > 0 ? clock_seconds() + left : 0;
    return left > 0 ? left : -1;
}

enum { PROBE_WORDS = 20, PROBES_AT_ONCE = 64 };

/* srun's command line that asks NODE; TASK is what runs there. */
static void probe_words(char *node, char *const *task, char **words)
{
    char *const first[] = {"srun", "--overlap", "--immediate=3", "--quiet", "--nodes=1", "--ntasks=1", "--mpi=none", "--input=none",
                           "--nodelist", node};
    int n = sizeof first / sizeof first[0];
    memcpy(words, first, sizeof first);
    while (*task)
        words[n++] = *task++;
    words[n] = NULL;
}

/* A task ran, or the node could not find its program (slurmstepd: 2; shells: 126, 127): a node that is lost does neither. */
static bool is_answer(int status)
{
    return status == 0 || status == 2 || status == 126 || status == 127;
}

static bool none_answered(const int *status, int count)
{
    int answers = 0;
    for (int i = 0; i < count; i++)
        answers += is_answer(status[i]);
    return answers == 0 && count > 0;
}

/* Notes what the nodes in ASKED have answered. */
static int note_answers(struct allocation *a, const int *asked, const int *status, int count)
{
    int lost = 0, failed = 0;
    for (int i = 0; i < count; i++)
        failed += !is_answer(status[i]);
    if (none_answered(status, count) || (failed > 0 && !controller_answers(controller_seconds)))
        return -1;
    for (int i = 0; i < count; i++) {
        struct allocation_node *node = &a->nodes[asked[i]];
        bool healthy = is_answer(status[i]);
        if (healthy && status[i] != 0)
            log_warning("%s answers, but cannot run %s", node->name, a->own);
        lost += node->healthy && !healthy;
        node->healthy = healthy;
        if (!healthy)
            node->lost_at = clock_seconds();
    }
    return lost;
}

/* Not all at once: hundreds of sruns would keep each other from their answers in time. */
static void run_probes(char *const **probes, int count, int *status)
{
    for (int i = 0; i < count; i += PROBES_AT_ONCE)
        child_run_all(probes + i, count - i < PROBES_AT_ONCE ? count - i : PROBES_AT_ONCE, probe_seconds, status + i);
}

static int ask_nodes(struct allocation *a, char *const *task)
{
    char *(*argvs)[PROBE_WORDS] = calloc((size_t)a->count, sizeof *argvs);
    char *const **pointers = calloc((size_t)a->count, sizeof *pointers);
    int *status = calloc((size_t)a->count, sizeof *status), *asked = calloc((size_t)a->count, sizeof *asked);
    int count = 0, lost = 0;
    double now = clock_seconds();
    if (argvs && pointers && status && asked) {
        for (int i = 0; i < a->count; i++) {
            if (!a->nodes[i].healthy && a->nodes[i].lost_at > 0 && now - a->nodes[i].lost_at < lost_rest)
                continue;
            probe_words(a->nodes[i].name, task, argvs[count]);
            pointers[count] = argvs[count];
            asked[count++] = i;
        }
        run_probes(pointers, count, status);
        /* This one's own node is alive: that none answers comes of a slurmctld that was away and may be back by now. */
        if (none_answered(status, count) && controller_answers(controller_seconds))
            run_probes(pointers, count, status);
        lost = note_answers(a, asked, status, count);
    }
    free(argvs);
    free(pointers);
    free(status);
    free(asked);
    return lost;
}

int allocation_probe(struct allocation *a)
{
    return a->slurm ? ask_nodes(a, (char *[]){"true", NULL}) : 0;
}

int allocation_sweep(struct allocation *a)
{
    if (!a->slurm) {
        sweep_kill(a->job_id, sweep_seconds);
        return 0;
    }
    return ask_nodes(a, (char *[]){a->own, "run", "--sweep", a->job_id, NULL});
}

bool allocation_has_rank(const struct allocation *a, const char *node, int rank)
{
    char number[32], *words[PROBE_WORDS];
    if (!a->slurm)
        return sweep_has_rank(a->job_id, rank);
    snprintf(number, sizeof number, "--has-rank=%d", rank);
    probe_words((char *)node, (char *[]){(char *)a->own, "run", "--sweep", (char *)a->job_id, number, NULL}, words);
    return child_run(words, probe_seconds, NULL, 0) != EXIT_CODE_NOT_THERE;
}

bool allocation_lost_ranks(const struct allocation *a)
{
    for (int i = 0; i < a->count; i++)
        if (!a->nodes[i].healthy && a->nodes[i].ranks > 0)
            return true;
    return false;
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

/* The first COUNT nodes that are HEALTHY, or are not, behind BEFORE. */
static char *join_names(const struct allocation *a, bool healthy, int count, const char *before)
{
    char *list = malloc(strlen(before) + (size_t)a->count * sizeof a->nodes[0].name + 1), *at = list;
    if (!list)
        return NULL;
    at += sprintf(at, "%s", before);
    for (int i = 0; i < a->count && count > 0; i++)
        if (a->nodes[i].healthy == healthy) {
            at += sprintf(at, "%s%s", at == list ? "" : ",", a->nodes[i].name);
            count--;
        }
    return list;
}

char *allocation_list(const struct allocation *a, bool healthy)
{
    return join_names(a, healthy, a->count, !healthy && a->given_back ? a->given_back : "");
}

char *allocation_first(const struct allocation *a, int count)
{
    return join_names(a, true, count, "");
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
        char *gone = allocation_list(a, false);
        free(a->given_back);
        a->given_back = gone;
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
