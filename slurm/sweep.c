#include "slurm/sweep.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "slurm/workers.h"

/* Variables that srun or mpiexec add stand around ours; an environment beyond this is cut off. */
enum { ENVIRONMENT_SIZE = 256 * 1024 };

/* Reads /proc/PID/environ into TEXT; a zombie's is empty, and another user's cannot be read. */
static size_t read_environment(const char *pid, char *text)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%.20s/environ", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    size_t used = 0;
    ssize_t got;
    while (used < ENVIRONMENT_SIZE - 1 && (got = read(fd, text + used, ENVIRONMENT_SIZE - 1 - used)) > 0)
        used += (size_t)got;
    close(fd);
    text[used] = 0;
    return used;
}

static bool has(const char *text, size_t used, const char *begin, bool whole)
{
    for (const char *at = text; at < text + used; at += strlen(at) + 1)
        if (whole ? strcmp(at, begin) == 0 : strncmp(at, begin, strlen(begin)) == 0)
            return true;
    return false;
}

static bool is_marked(const char *pid, const char *mark, char *text)
{
    return has(text, read_environment(pid, text), mark, false);
}

static int kill_once(const char *mark, char *text)
{
    DIR *proc = opendir("/proc");
    if (!proc)
        return -1;
    int found = 0;
    for (struct dirent *entry; (entry = readdir(proc)) != NULL;) {
        if (!isdigit((unsigned char)entry->d_name[0]) || !is_marked(entry->d_name, mark, text))
            continue;
        pid_t pid = (pid_t)atol(entry->d_name);
        if (pid != getpid() && kill(pid, SIGKILL) == 0)
            found++;
    }
    closedir(proc);
    return found;
}

int sweep_kill(const char *job, double seconds)
{
    char mark[320];
    snprintf(mark, sizeof mark, SWEEP_MARK "=%s.", job);
    char *text = malloc(ENVIRONMENT_SIZE);
    if (!text)
        return -1;
    double end = clock_seconds() + seconds;
    int found;
    while ((found = kill_once(mark, text)) > 0 && clock_seconds() < end)
        nanosleep(&(struct timespec){0, 20 * 1000 * 1000}, NULL);
    free(text);
    return found;
}

/* The launcher has the batch script's SLURM_PROCID=0, and is no rank. */
static bool is_launcher(const char *pid)
{
    char path[64], name[32] = "";
    snprintf(path, sizeof path, "/proc/%.20s/comm", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd >= 0 ? read(fd, name, sizeof name - 1) : 0;
    if (fd >= 0)
        close(fd);
    return got > 0 && strncmp(name, "srun", 4) == 0;
}

bool sweep_has_rank(const char *job, int rank)
{
    char mark[320], slurm[64], pmi[64];
    snprintf(mark, sizeof mark, SWEEP_MARK "=%s.", job);
    snprintf(slurm, sizeof slurm, "SLURM_PROCID=%d", rank);
    snprintf(pmi, sizeof pmi, "PMI_RANK=%d", rank);
    DIR *proc = opendir("/proc");
    char *text = malloc(ENVIRONMENT_SIZE);
    bool found = !proc || !text; /* not known: taken as there */
    for (struct dirent *entry; !found && (entry = readdir(proc)) != NULL;) {
        if (!isdigit((unsigned char)entry->d_name[0]))
            continue;
        size_t used = read_environment(entry->d_name, text);
        /* A parameter server's workers are no ranks, each is task 0 of a step of its own. */
        found = has(text, used, mark, false) && (has(text, used, slurm, true) || has(text, used, pmi, true)) &&
                !has(text, used, WORKERS_NUMBER "=", false) && !is_launcher(entry->d_name);
    }
    free(text);
    if (proc)
        closedir(proc);
    return found;
}
