/* The time left of an allocation, asked by running squeue: libslurm ends the process when it finds no slurm.conf or one of
 * another version, and it is bound to one version of Slurm; a child process can do neither. */
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/thread.h"
#include "job/job_private.h"
#include "job/time_left.h"

extern char **environ;

/* Seconds: between questions, and for an answer (squeue waits long for a controller that is down). */
static const double ask_every = 60, answer_limit = 20;

struct time_left {
    pthread_mutex_t lock;
    char job[32];
    double end;       /* clock_seconds at which the allocation ends; negative: not known */
    double asked;     /* clock_seconds of the last question */
    bool asking;
};

/* "[days-]hours:minutes:seconds", "minutes:seconds"; anything else ("UNLIMITED", "INVALID") is not known. */
double time_left_parse(const char *text)
{
    long days = 0, part[3] = {0};
    int count = 0;
    char *end;
    const char *at = text + strspn(text, " ");
    const char *dash = strchr(at, '-');
    if (dash) {
        days = strtol(at, &end, 10);
        if (end != dash || days < 0)
            return -1;
        at = dash + 1;
    }
    for (; count < 3; at = end + 1) {
        part[count] = strtol(at, &end, 10);
        if (end == at || part[count++] < 0)
            return -1;
        if (*end != ':')
            break;
    }
    if (count < 2 || *(end + strspn(end, " \n")) != '\0')
        return -1;
    double seconds = 0;
    for (int i = 0; i < count; i++)
        seconds = seconds * 60 + (double)part[i];
    return seconds + 86400.0 * (double)days;
}

/* Reads what FD gives until its end, the time limit, or ANSWER is full. */
static void read_answer(int fd, char *answer, size_t size)
{
    size_t used = 0;
    double deadline = clock_seconds() + answer_limit;
    while (used + 1 < size) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int wait = (int)(1000 * fmax(0, deadline - clock_seconds()));
        if (poll(&p, 1, wait) != 1)
            break;
        ssize_t n = read(fd, answer + used, size - 1 - used);
        if (n <= 0)
            break;
        used += (size_t)n;
    }
    answer[used] = '\0';
}

/* Runs squeue with PIPE as its output. */
static int start_squeue(const char *job, int out, pid_t *child)
{
    char *argv[] = {"squeue", "--noheader", "--jobs", (char *)job, "--format=%L", NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    sigemptyset(&none);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    int code = posix_spawnp(child, argv[0], &actions, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return code;
}

static double ask_slurm(const char *job)
{
    int fds[2];
    pid_t child;
    char answer[128];
    if (pipe2(fds, O_CLOEXEC) != 0)
        return -1;
    int code = start_squeue(job, fds[1], &child);
    close(fds[1]);
    if (code == 0) {
        read_answer(fds[0], answer, sizeof answer);
        kill(child, SIGKILL); /* it has said all, or says nothing */
        waitpid(child, NULL, 0);
    }
    close(fds[0]);
    return code ? -1 : time_left_parse(answer);
}

static void *ask(void *arg)
{
    struct time_left *t = arg;
    double now = clock_seconds(), left = ask_slurm(t->job);
    pthread_mutex_lock(&t->lock);
    if (left >= 0) /* else the last answer stands: a controller that is down does not change the limit */
        t->end = now + left;
    t->asking = false;
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

/* In a thread of its own; the lock is held. */
static void start_asking(struct time_left *t)
{
    pthread_t thread;
    t->asked = clock_seconds();
    t->asking = thread_start(&thread, ask, t) == 0;
    if (t->asking)
        pthread_detach(thread);
}

struct time_left *time_left_open(void)
{
    const char *job = getenv("SLURM_JOB_ID"), *end = getenv("SLURM_JOB_END_TIME");
    struct time_left *t = job && *job ? calloc(1, sizeof *t) : NULL;
    if (!t)
        return NULL;
    pthread_mutex_init(&t->lock, NULL);
    snprintf(t->job, sizeof t->job, "%s", job);
    t->end = end ? clock_seconds() + strtod(end, NULL) - clock_wall() : -1; /* newer Slurm tells; the limit may change later */
    pthread_mutex_lock(&t->lock);
    start_asking(t);
    pthread_mutex_unlock(&t->lock);
    return t;
}

double time_left_seconds(struct time_left *t)
{
    pthread_mutex_lock(&t->lock);
    if (!t->asking && clock_seconds() - t->asked >= ask_every)
        start_asking(t);
    double left = t->end < 0 ? -1 : fmax(0, t->end - clock_seconds());
    pthread_mutex_unlock(&t->lock);
    return left;
}
