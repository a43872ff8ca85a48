#include "base/folder_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

#define WAIT_SECONDS 5.0 /* SIGKILL and the closing of files take a moment */

enum { HOLDER_SIZE = 256, PATH_SIZE = 4096 };

static const char *job_id(void)
{
    const char *id = getenv("SLURM_JOB_ID");
    return id ? id : "";
}

/* POSIX locks, not flock's: network file systems know these. */
static bool try_lock(int fd)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    return fcntl(fd, F_SETLK, &whole) == 0 || (errno != EACCES && errno != EAGAIN);
}

/* "process 4242 on node1, Slurm job 17": the job's number stands last. */
static void write_holder(int fd)
{
    char host[64] = "", text[HOLDER_SIZE];
    gethostname(host, sizeof host - 1);
    int length = snprintf(text, sizeof text, "process %d on %s%s%s\n", (int)getpid(), host, *job_id() ? ", Slurm job " : "", job_id());
    if (ftruncate(fd, 0) != 0 || pwrite(fd, text, (size_t)length, 0) != length)
        return; /* a full disk: the lock holds without a name */
}

static void read_holder(int fd, char *text)
{
    ssize_t length = pread(fd, text, HOLDER_SIZE - 1, 0);
    text[length > 0 ? length : 0] = 0;
    text[strcspn(text, "\n")] = 0;
}

static bool of_this_job(const char *holder)
{
    const char *number = strstr(holder, "Slurm job ");
    return strcmp(number ? number + strlen("Slurm job ") : "", job_id()) == 0;
}

/* False: HOLDER keeps it, and is of another job or does not end. */
static bool wait_for_lock(int fd, char *holder)
{
    double end = clock_seconds() + WAIT_SECONDS;
    while (!try_lock(fd)) {
        read_holder(fd, holder);
        if (!of_this_job(holder) || clock_seconds() > end)
            return false;
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    }
    return true;
}

cairn_err folder_lock(const char *folder, int *fd)
{
    char path[PATH_SIZE], holder[HOLDER_SIZE];
    *fd = -1;
    if (snprintf(path, sizeof path, "%s/lock", folder) >= PATH_SIZE)
        return FAIL(CAIRN_ECONFIG, "path too long: %s/lock", folder);
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (file < 0)
        return FAIL(error_from_errno(errno), "cannot open %s: %s", path, strerror(errno));
    if (!wait_for_lock(file, holder)) {
        if (!*job_id() || !of_this_job(holder)) {
            close(file);
            return FAIL(CAIRN_ECONFIG, "another run writes into %s: %s holds %s", folder, *holder ? holder : "a process", path);
        }
        log_warning("%s is still held by this job's %s, which is taken for lost", path, holder);
    }
    write_holder(file);
    *fd = file;
    return CAIRN_OK;
}

/* In another process: its answer is 0 if it cannot have the lock. */
static bool kept_out(int fd)
{
    int status = 0;
    pid_t pid = fork();
    if (pid == 0)
        _exit(try_lock(fd) ? 1 : 0);
    return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

cairn_err folder_lock_try(const char *folder)
{
    char path[PATH_SIZE];
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (snprintf(path, sizeof path, "%s/.cairn-lock-XXXXXX", folder) >= PATH_SIZE)
        return FAIL(CAIRN_ECONFIG, "path too long: %s", folder);
    int fd = mkstemp(path);
    if (fd < 0)
        return FAIL(error_from_errno(errno), "cannot make a file in %s: %s", folder, strerror(errno));
    cairn_err err = CAIRN_OK;
    if (fcntl(fd, F_SETLK, &whole) != 0)
        err = FAIL(CAIRN_EUNSUPPORTED, "no file can be locked in %s: %s", folder, strerror(errno));
    else if (!kept_out(fd))
        err = FAIL(CAIRN_EUNSUPPORTED, "a file that is locked in %s can be locked by another process too", folder);
    close(fd);
    unlink(path);
    return err;
}
