/* Stands in for `cairn train` in tests of the supervisor (CAIRN_RANK_PROGRAM): speaks its control lines, trains nothing, and
 * misbehaves as it is told, without MPI.
 *
 *   FAKE_DIR    folder that keeps the "checkpoint" (a file with a step) and which faults have happened
 *   FAKE_STEPS  steps in all (20); a step takes FAKE_MS milliseconds (50); every second one is committed by rank 0
 *   FAKE_PLAN   faults by commas, each ACTION@STEP/RANK, once in FAKE_DIR's life, or every time with a "!" behind:
 *               exitN segv stop hang abort flood full (the disk is: no more commits)
 *               deaf (no more heed of signals; from before its first word of that step)
 *               leaveN
 *               torn (its call for workers is told twice, the first time damaged)
 *               RANK wN is worker N of a parameter server; STEP -1 is any
 *
 * With CAIRN_WORKERS the ranks are a parameter server's: rank 0 calls for workers and waits for the first one before it trains. With
 * CAIRN_SERVERS it is a worker, from whatever step the checkpoint is of until the servers leave. */
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "job/heartbeat.h"

static volatile sig_atomic_t asked;
static int rank;
static bool disk_full, is_worker, is_torn;
static char host[64];
static const char *folder;

static void ask(int number)
{
    (void)number;
    asked = 1;
}

static long number_of(const char *name, long otherwise)
{
    const char *text = getenv(name);
    return text && *text ? atol(text) : otherwise;
}

static void path_of(char *out, size_t size, const char *name)
{
    snprintf(out, size, "%s/%s", folder, name);
}

static long restore(void)
{
    char path[4096];
    long step = 0;
    path_of(path, sizeof path, "checkpoint");
    FILE *in = fopen(path, "r");
    if (in) {
        if (fscanf(in, "%ld", &step) != 1)
            step = 0;
        fclose(in);
    }
    return step;
}

static void commit(long step)
{
    char path[4096], part[4096];
    path_of(path, sizeof path, "checkpoint");
    path_of(part, sizeof part, "checkpoint.tmp");
    FILE *out = fopen(part, "w");
    if (!out)
        return;
    fprintf(out, "%ld\n", step);
    fclose(out);
    rename(part, path);
    heartbeat_send(HEARTBEAT_COMMIT, rank, host, step, "checkpoint", NULL);
}

static void touch(const char *name)
{
    char path[4096];
    path_of(path, sizeof path, name);
    int fd = open(path, O_WRONLY | O_CREAT, 0666);
    if (fd >= 0)
        close(fd);
}

static bool is_there(const char *name)
{
    char path[4096];
    path_of(path, sizeof path, name);
    return access(path, F_OK) == 0;
}

static void rest(long milliseconds)
{
    nanosleep(&(struct timespec){milliseconds / 1000, milliseconds % 1000 * 1000000}, NULL);
}

static long launch_number(void)
{
    return number_of("SLURM_STEP_ID", getppid());
}

static void leave(int code)
{
    char text[16];
    if (getenv("CAIRN_WORKERS") && rank == 0) {
        snprintf(text, sizeof text, "over.%ld", launch_number());
        touch(text);
    }
    snprintf(text, sizeof text, "%d", code);
    heartbeat_send(HEARTBEAT_LEAVE, rank, host, 0, NULL, text);
    _exit(code);
}

static void flood(void)
{
    static char line[1 << 16];
    memset(line, 'x', sizeof line);
    line[sizeof line - 1] = '\n';
    for (int i = 0; i < 64; i++)
        if (write(STDOUT_FILENO, line, sizeof line) < 0)
            return;
}

static void act(const char *action, long step)
{
    if (strncmp(action, "exit", 4) == 0)
        _exit(atoi(action + 4));
    if (strncmp(action, "leave", 5) == 0)
        leave(atoi(action + 5));
    if (strcmp(action, "segv") == 0)
        kill(getpid(), SIGSEGV);
    if (strcmp(action, "stop") == 0)
        kill(getpid(), SIGSTOP);
    if (strcmp(action, "hang") == 0)
        for (;;)
            pause();
    if (strcmp(action, "flood") == 0)
        flood();
    if (strcmp(action, "full") == 0)
        disk_full = true;
    if (strcmp(action, "abort") == 0) {
        heartbeat_send(HEARTBEAT_ABORT, rank, host, step, "step", "the loss is not a number");
        _exit(1);
    }
}

/* False if this fault has happened before. */
static bool is_first(const char *fault)
{
    char path[4096], name[128] = "did-";
    strncat(name, fault, sizeof name - 5);
    for (char *c = name; *c; c++)
        if (*c == '/')
            *c = '_';
    path_of(path, sizeof path, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0666);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static void misbehave(long step, bool before_its_sign)
{
    char plan[1024], *rest = NULL;
    snprintf(plan, sizeof plan, "%s", getenv("FAKE_PLAN") ? getenv("FAKE_PLAN") : "");
    for (char *fault = strtok_r(plan, ",", &rest); fault; fault = strtok_r(NULL, ",", &rest)) {
        char action[32];
        long at;
        int who;
        if (sscanf(fault, is_worker ? "%31[a-z0-9]@%ld/w%d" : "%31[a-z0-9]@%ld/%d", action, &at, &who) != 3 ||
            (at != step && at != -1) || who != rank)
            continue;
        bool deaf = strcmp(action, "deaf") == 0; /* whoever hears of the step may signal at once */
        bool torn = strcmp(action, "torn") == 0;
        if ((deaf || torn) != before_its_sign || (!strchr(fault, '!') && !is_first(fault)))
            continue;
        if (deaf)
            signal(SIGUSR1, SIG_IGN);
        else if (torn)
            is_torn = true;
        else
            act(action, step);
    }
}

/* All ranks take a step together, as training ranks do: each leaves a file with its step, named after the launch. */
static void meet(long step)
{
    int size = (int)number_of("SLURM_STEP_NUM_TASKS", number_of("PMI_SIZE", 1));
    char name[64];
    for (int other = rank, seen = 0; seen < size;) {
        snprintf(name, sizeof name, "at.%ld.%ld.%d", launch_number(), step, other);
        if (other == rank)
            touch(name);
        if (is_there(name)) {
            other = (other + 1) % size;
            seen++;
            continue;
        }
        rest(20);
        heartbeat_send(HEARTBEAT_ALIVE, rank, host, step, getenv("CAIRN_WORKERS") ? "serve" : "step", getenv("SLURM_STEP_ID"));
    }
}

/* As a launcher may mix the lines of two ranks: once neither can be read, once the second can. */
static void call_torn(const char *text)
{
    printf("live \001cairn servers 0 n \001cairn serve %s\n\001cairn servers 0 n 0 serve %s\001cairn alive 0 n 0 listen \n", text, text);
    fflush(stdout);
}

/* Until the first worker has come. */
static void call_workers(void)
{
    char text[128];
    snprintf(text, sizeof text, "secret-%ld@%s:1", launch_number(), host);
    if (is_torn)
        call_torn(text);
    if (rank == 0)
        heartbeat_send(HEARTBEAT_SERVERS, rank, host, 0, "listen", text);
    snprintf(text, sizeof text, "hello.%ld", launch_number());
    while (!is_there(text)) {
        heartbeat_send(HEARTBEAT_ALIVE, rank, host, 0, "listen", getenv("SLURM_STEP_ID"));
        rest(50);
    }
}

static void work(const char *servers, long milliseconds)
{
    long launch;
    char over[64], hello[64];
    is_worker = true;
    rank = (int)number_of("CAIRN_WORKER", -1);
    if (rank < 0 || sscanf(servers, "secret-%ld@", &launch) != 1)
        _exit(9);
    snprintf(over, sizeof over, "over.%ld", launch);
    snprintf(hello, sizeof hello, "hello.%ld", launch);
    for (long step = restore(); !is_there(over); step++) {
        heartbeat_send(HEARTBEAT_ALIVE, rank, host, step, "step", getenv("SLURM_STEP_ID"));
        misbehave(step, false);
        touch(hello);
        rest(milliseconds);
    }
    leave(0);
}

int main(void)
{
    rank = (int)number_of("PMIX_RANK", number_of("SLURM_PROCID", number_of("PMI_RANK", 0)));
    gethostname(host, sizeof host - 1);
    folder = getenv("FAKE_DIR") ? getenv("FAKE_DIR") : ".";
    signal(SIGUSR1, ask);
    signal(SIGTERM, ask);
    long steps = number_of("FAKE_STEPS", 20), milliseconds = number_of("FAKE_MS", 50);
    if (getenv("CAIRN_SERVERS"))
        work(getenv("CAIRN_SERVERS"), milliseconds);
    long first = restore();
    misbehave(first, true);
    if (rank == 0)
        heartbeat_send(HEARTBEAT_RESTORE, rank, host, first, "restore", NULL);
    if (getenv("CAIRN_WORKERS"))
        call_workers();
    for (long step = first; step < steps; step++) {
        misbehave(step, true);
        heartbeat_send(HEARTBEAT_ALIVE, rank, host, step, getenv("CAIRN_WORKERS") ? "serve" : "step", getenv("SLURM_STEP_ID"));
        misbehave(step, false);
        rest(milliseconds);
        meet(step);
        if (rank == 0 && !disk_full && (step % 2 == 1 || asked))
            commit(step + 1);
        if (asked)
            leave(75);
    }
    if (rank == 0) {
        printf("fake: done, %ld steps\n", steps);
        fflush(stdout);
    }
    leave(0);
}
