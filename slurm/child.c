#include "slurm/child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"

static const double reap_seconds = 2;

/* In the child: never returns. */
static void become(char *const argv[], int output, bool quiet, pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) /* the parent died before the line above */
        _exit(127);
    setpgid(0, 0);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    int null = open("/dev/null", O_RDWR);
    dup2(null, STDIN_FILENO);
    if (output >= 0)
        dup2(output, STDOUT_FILENO);
    else if (quiet)
        dup2(null, STDOUT_FILENO);
    if (quiet)
        dup2(null, STDERR_FILENO);
    execvp(argv[0], argv);
    dprintf(STDERR_FILENO, "cairn: cannot start %s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

cairn_err child_start(char *const argv[], int *output, bool quiet, pid_t *pid)
{
    int ends[2] = {-1, -1};
    if (output && pipe2(ends, O_CLOEXEC))
        return FAIL(CAIRN_ESYS, "cannot make a pipe: %s", strerror(errno));
    pid_t parent = getpid();
    *pid = fork();
    if (*pid == 0)
        become(argv, ends[1], quiet, parent);
    if (ends[1] >= 0)
        close(ends[1]);
    if (*pid < 0) {
        if (ends[0] >= 0)
            close(ends[0]);
        return FAIL(CAIRN_ESYS, "cannot start %s: %s", argv[0], strerror(errno));
    }
    setpgid(*pid, *pid);
    if (output) {
        fcntl(ends[0], F_SETFL, O_NONBLOCK);
        *output = ends[0];
    }
    return CAIRN_OK;
}

static int exit_code_of(int status)
{
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void child_kill(pid_t pid)
{
    if (kill(-pid, SIGKILL))
        kill(pid, SIGKILL);
    /* One that hangs in a file system does not die before that answers: it is left behind. */
    for (double end = clock_seconds() + reap_seconds; waitpid(pid, NULL, WNOHANG) == 0 && clock_seconds() < end;)
        poll(NULL, 0, 2);
}

void child_run_all(char *const *const argvs[], int count, double seconds, int *status)
{
    pid_t *pids = calloc((size_t)count + 1, sizeof *pids);
    double end = clock_seconds() + seconds;
    int running = 0;
    for (int i = 0; i < count; i++) {
        status[i] = -1;
        if (pids && child_start(argvs[i], NULL, true, &pids[i]) == CAIRN_OK)
            running++;
        else if (pids)
            pids[i] = 0;
    }
    while (running > 0 && clock_seconds() < end) {
        poll(NULL, 0, 20); /* children are waited for one by one: SIGCHLD is not ours alone */
        for (int i = 0; i < count; i++) {
            int code;
            if (pids[i] && waitpid(pids[i], &code, WNOHANG) == pids[i]) {
                status[i] = exit_code_of(code);
                pids[i] = 0;
                running--;
            }
        }
    }
    for (int i = 0; i < count && pids; i++)
        if (pids[i])
            child_kill(pids[i]);
    free(pids);
}

int child_run(char *const argv[], double seconds, char *output, size_t size)
{
    pid_t pid;
    int fd, status = 0;
    size_t used = 0;
    double end = clock_seconds() + seconds;
    if (child_start(argv, &fd, true, &pid))
        return -1;
    bool open = true;
    while (open && clock_seconds() < end) {
        char buffer[4096];
        struct pollfd in = {.fd = fd, .events = POLLIN};
        poll(&in, 1, 100);
        ssize_t n = read(fd, buffer, sizeof buffer);
        open = n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
        for (ssize_t i = 0; i < n && output && used + 1 < size; i++)
            output[used++] = buffer[i];
    }
    if (output && size)
        output[used] = 0;
    close(fd);
    pid_t ended = 0; /* a command may live on when its output is closed */
    while (!open && (ended = waitpid(pid, &status, WNOHANG)) == 0 && clock_seconds() < end)
        poll(NULL, 0, 5);
    if (ended == pid)
        return exit_code_of(status);
    child_kill(pid);
    return -1;
}
