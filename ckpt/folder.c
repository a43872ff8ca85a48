#include "ckpt/folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "ckpt/state.h"

#define FAIL_ERRNO(...) fail_errno(errno, __VA_ARGS__)

static cairn_err __attribute__((format(printf, 2, 3))) fail_errno(int errnum, const char *format, ...)
{
    char text[FOLDER_PATH_SIZE + 64];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return FAIL(error_from_errno(errnum), "%s: %s", text, strerror(errnum));
}

cairn_err folder_join(const char *dir, const char *name, char out[FOLDER_PATH_SIZE])
{
    if (snprintf(out, FOLDER_PATH_SIZE, "%s/%s", dir, name) >= FOLDER_PATH_SIZE)
        return FAIL(CAIRN_EINVAL, "path too long: %.200s.../%s", dir, name);
    return CAIRN_OK;
}

cairn_err folder_step_path(const char *dir, int64_t step, const char *ending, char out[FOLDER_PATH_SIZE])
{
    char name[64];
    snprintf(name, sizeof name, "step-%08" PRId64 "%s", step, ending);
    return folder_join(dir, name, out);
}

void folder_part_name(int part, char out[FOLDER_PART_NAME_SIZE])
{
    snprintf(out, FOLDER_PART_NAME_SIZE, "part-%04d.h5", part);
}

cairn_err folder_make(const char *dir)
{
    char path[FOLDER_PATH_SIZE];
    if (snprintf(path, sizeof path, "%s", dir) >= (int)sizeof path)
        return FAIL(CAIRN_EINVAL, "path too long: %.200s...", dir);
    for (char *p = path + 1;; p++) {
        if (*p != '/' && *p != 0)
            continue;
        char end = *p;
        *p = 0;
        if (mkdir(path, 0777) != 0 && errno != EEXIST)
            return FAIL_ERRNO("cannot make folder %s", path);
        if (end == 0)
            return CAIRN_OK;
        *p = end;
    }
}

cairn_err folder_sync(const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return FAIL_ERRNO("cannot open folder %s", dir);
    /* Some file systems have no fsync for folders and say EINVAL: their renames are durable by themselves. */
    cairn_err err = fsync(fd) != 0 && errno != EINVAL ? FAIL_ERRNO("fsync of folder %s", dir) : CAIRN_OK;
    close(fd);
    return err;
}

cairn_err folder_remove(const char *path)
{
    struct stat st;
    if (lstat(path, &st) == 0 && S_ISLNK(st.st_mode)) /* what it leads to is somebody's own */
        return unlink(path) == 0 ? CAIRN_OK : FAIL_ERRNO("cannot remove link %s", path);
    DIR *d = opendir(path);
    if (!d)
        return errno == ENOENT ? CAIRN_OK : FAIL_ERRNO("cannot open folder %s", path);
    cairn_err err = CAIRN_OK;
    for (struct dirent *e; err == CAIRN_OK && (e = readdir(d));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        if (unlinkat(dirfd(d), e->d_name, 0) != 0 && errno != ENOENT)
            err = FAIL_ERRNO("cannot remove %s/%s", path, e->d_name);
    }
    closedir(d);
    if (err == CAIRN_OK && rmdir(path) != 0 && errno != ENOENT)
        err = FAIL_ERRNO("cannot remove folder %s", path);
    return err;
}

/* step-DIGITS, step-DIGITS.tmp, step-DIGITS.broken or step-DIGITS.K.broken. */
static bool parse_name(const char *name, struct checkpoint_entry *entry)
{
    if (strncmp(name, "step-", 5) != 0 || name[5] < '0' || name[5] > '9')
        return false;
    char *end;
    errno = 0;
    entry->step = strtoll(name + 5, &end, 10);
    if (errno != 0)
        return false;
    size_t length = strlen(end);
    if (length == 0)
        entry->state = CHECKPOINT_COMPLETE;
    else if (strcmp(end, ".tmp") == 0)
        entry->state = CHECKPOINT_TMP;
    else if (length >= 7 && strcmp(end + length - 7, ".broken") == 0)
        entry->state = CHECKPOINT_BROKEN;
    else
        return false;
    return true;
}

static int64_t folder_bytes(const char *path)
{
    DIR *d = opendir(path);
    if (!d)
        return 0;
    int64_t bytes = 0;
    struct stat st;
    for (struct dirent *e; (e = readdir(d));)
        if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
            bytes += st.st_size;
    closedir(d);
    return bytes;
}

static int by_step(const void *a, const void *b)
{
    const struct checkpoint_entry *x = a, *y = b;
    if (x->step != y->step)
        return x->step < y->step ? -1 : 1;
    if (x->state != y->state)
        return x->state > y->state ? -1 : 1; /* the complete one last: it is the newest of its step */
    return strcmp(x->path, y->path);
}

static cairn_err add_entry(const char *dir, const char *name, struct checkpoint_entry **entries, int *count, int *room)
{
    struct checkpoint_entry entry;
    struct stat st;
    if (!parse_name(name, &entry))
        return CAIRN_OK;
    TRY(folder_join(dir, name, entry.path));
    if (stat(entry.path, &st) != 0 || !S_ISDIR(st.st_mode))
        return CAIRN_OK;
    entry.bytes = folder_bytes(entry.path);
    if (*count == *room) {
        struct checkpoint_entry *more = realloc(*entries, (size_t)(*room = 2 * *room + 16) * sizeof *more);
        if (!more)
            return FAIL(CAIRN_ENOMEM, "no memory to list %s", dir);
        *entries = more;
    }
    (*entries)[(*count)++] = entry;
    return CAIRN_OK;
}

cairn_err checkpoint_list(const char *dir, struct checkpoint_entry **entries, int *count)
{
    *entries = NULL;
    *count = 0;
    int room = 0;
    DIR *d = opendir(dir);
    if (!d)
        return FAIL_ERRNO("cannot list checkpoints in %s", dir);
    cairn_err err = CAIRN_OK;
    errno = 0;
    for (struct dirent *e; err == CAIRN_OK && (e = readdir(d)); errno = 0)
        err = add_entry(dir, e->d_name, entries, count, &room);
    if (err == CAIRN_OK && errno != 0)
        err = FAIL_ERRNO("cannot list checkpoints in %s", dir);
    closedir(d);
    if (err != CAIRN_OK) {
        free(*entries);
        *entries = NULL;
        *count = 0;
    } else if (*count > 0) {
        qsort(*entries, (size_t)*count, sizeof **entries, by_step);
    }
    return err;
}

cairn_err folder_remove_unfinished(const char *dir, int64_t newest)
{
    struct checkpoint_entry *entries;
    int count;
    TRY(checkpoint_list(dir, &entries, &count));
    for (int i = 0; i < count; i++) {
        if (entries[i].state != CHECKPOINT_TMP || entries[i].step > newest)
            continue;
        if (folder_remove(entries[i].path) == CAIRN_OK)
            log_info("removed %s: its writing was cut off", entries[i].path);
        else
            log_warning("%s, whose writing was cut off, stays: %s", entries[i].path, cairn_err_message());
    }
    free(entries);
    return CAIRN_OK;
}

/* For file systems that cannot exchange two names: the old one goes to .replaced first. A crash between the two renames leaves
 * the old checkpoint under that name, and the earlier ones as they were. */
static cairn_err replace(const char *from, const char *to)
{
    char old[FOLDER_PATH_SIZE];
    if (snprintf(old, sizeof old, "%s.replaced", to) >= (int)sizeof old)
        return FAIL(CAIRN_EINVAL, "path too long: %s", to);
    TRY(folder_remove(old));
    if (rename(to, old) != 0)
        return FAIL_ERRNO("cannot rename %s to %s", to, old);
    if (rename(from, to) != 0)
        return FAIL_ERRNO("cannot rename %s to %s", from, to);
    return folder_remove(old);
}

cairn_err folder_commit(const char *dir, const char *from, const char *to)
{
    TRY(folder_sync(from));
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_EXCHANGE) == 0) {
        TRY(folder_sync(dir));
        return folder_remove(from);
    }
    if (errno == ENOENT) {
        if (rename(from, to) != 0)
            return FAIL_ERRNO("cannot rename %s to %s", from, to);
    } else if (errno == EINVAL || errno == ENOSYS) {
        struct stat st;
        if (stat(to, &st) == 0)
            TRY(replace(from, to));
        else if (rename(from, to) != 0)
            return FAIL_ERRNO("cannot rename %s to %s", from, to);
    } else {
        return FAIL_ERRNO("cannot rename %s to %s", from, to);
    }
    return folder_sync(dir);
}

static cairn_err write_reason(const char *path, const char *reason)
{
    char file[FOLDER_PATH_SIZE], text[FOLDER_PATH_SIZE + 512];
    TRY(folder_join(path, "REASON", file));
    int length = snprintf(text, sizeof text, "%s\n", reason);
    int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return FAIL_ERRNO("cannot write %s", file);
    cairn_err err = file_write(fd, file, text, length < (int)sizeof text ? (size_t)length : sizeof text - 1, 0);
    close(fd);
    return err;
}

cairn_err folder_set_aside(const char *path, const char *reason, char new_path[FOLDER_PATH_SIZE])
{
    cairn_err written = write_reason(path, reason);
    for (int k = 1; k < 1000; k++) {
        int n = k == 1 ? snprintf(new_path, FOLDER_PATH_SIZE, "%s.broken", path)
                       : snprintf(new_path, FOLDER_PATH_SIZE, "%s.%d.broken", path, k);
        if (n >= FOLDER_PATH_SIZE)
            return FAIL(CAIRN_EINVAL, "path too long: %s", path);
        if (access(new_path, F_OK) == 0)
            continue;
        if (rename(path, new_path) != 0)
            return FAIL_ERRNO("cannot rename %s to %s", path, new_path);
        return written;
    }
    return FAIL(CAIRN_ESYS, "%s: a thousand broken ones stand beside it already", path);
}

bool folder_is_checkpoint(const char *path)
{
    char file[FOLDER_PATH_SIZE];
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        length--;
    size_t begin = length;
    while (begin > 0 && path[begin - 1] != '/')
        begin--;
    char name[256];
    struct checkpoint_entry entry;
    snprintf(name, sizeof name, "%.*s", (int)(length - begin), path + begin);
    if (parse_name(name, &entry))
        return true;
    return folder_join(path, "state.h5", file) == CAIRN_OK && access(file, F_OK) == 0;
}

/* The newest complete one in DIR; an empty path if there is none. */
static cairn_err newest_in(const char *dir, char found[FOLDER_PATH_SIZE])
{
    struct checkpoint_entry *entries;
    int count;
    found[0] = 0;
    TRY(checkpoint_list(dir, &entries, &count));
    while (count > 0 && entries[count - 1].state != CHECKPOINT_COMPLETE)
        count--;
    if (count > 0)
        snprintf(found, FOLDER_PATH_SIZE, "%s", entries[count - 1].path);
    free(entries);
    return CAIRN_OK;
}

cairn_err checkpoint_find(const char *path, char *found, size_t size)
{
    char newest[FOLDER_PATH_SIZE], inner[FOLDER_PATH_SIZE];
    if (folder_is_checkpoint(path)) {
        snprintf(newest, sizeof newest, "%s", path);
    } else {
        TRY(newest_in(path, newest));
        TRY(folder_join(path, "checkpoints", inner));
        if (newest[0] == 0 && access(inner, F_OK) == 0)
            TRY(newest_in(inner, newest));
    }
    if (newest[0] == 0)
        return FAIL(CAIRN_ENOTFOUND, "no checkpoint in %s", path);
    if (snprintf(found, size, "%s", newest) >= (int)size)
        return FAIL(CAIRN_EINVAL, "path too long: %s", newest);
    return CAIRN_OK;
}

cairn_err file_write(int fd, const char *path, const void *data, size_t bytes, int64_t at)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t n = pwrite(fd, (const char *)data + done, bytes - done, at + (int64_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return FAIL_ERRNO("writing %s", path);
        if (n == 0)
            return FAIL(CAIRN_ENOSPACE, "writing %s: no byte was taken", path);
        done += (size_t)n;
    }
    return CAIRN_OK;
}

cairn_err file_read(int fd, const char *path, void *data, size_t bytes, int64_t at)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t n = pread(fd, (char *)data + done, bytes - done, at + (int64_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return FAIL_ERRNO("reading %s", path);
        if (n == 0)
            return FAIL(CAIRN_ECORRUPT, "%s is cut off at byte %lld", path, (long long)at + (long long)done);
        done += (size_t)n;
    }
    return CAIRN_OK;
}

cairn_err checkpoint_prune(const char *dir, int keep)
{
    struct checkpoint_entry *entries;
    int count, valid = 0;
    TRY(checkpoint_list(dir, &entries, &count));
    cairn_err err = CAIRN_OK;
    int64_t newest = -1;
    for (int i = count - 1; i >= 0 && err == CAIRN_OK; i--) {
        char doomed[FOLDER_PATH_SIZE];
        if (entries[i].state != CHECKPOINT_COMPLETE)
            continue;
        if (newest < 0)
            newest = entries[i].step;
        if (keep <= 0 || valid < keep) {
            valid += state_sizes_match(entries[i].path);
            continue;
        }
        /* Renamed first: a removal that is cut off must not leave half a checkpoint under a good name. */
        TRY_GOTO(err, folder_step_path(dir, entries[i].step, ".tmp", doomed), done);
        TRY_GOTO(err, folder_remove(doomed), done);
        if (rename(entries[i].path, doomed) != 0)
            err = FAIL_ERRNO("cannot rename %s to %s", entries[i].path, doomed);
        else
            err = folder_remove(doomed);
    }
    if (err == CAIRN_OK)
        err = folder_remove_unfinished(dir, newest);
done:
    free(entries);
    return err;
}
