#include "base/json_lines.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"

struct json_lines {
    int fd;
    char *path;
};

/* One write(2), begun again only where the system took a part: with O_APPEND what it takes stands together, so lines of
 * several writers do not mix. */
static cairn_err append(int fd, const char *path, const char *text, size_t length)
{
    for (size_t done = 0; done < length;) {
        ssize_t wrote = write(fd, text + done, length - done);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote < 0)
            return FAIL(error_from_errno(errno), "cannot write %s: %s", path, strerror(errno));
        done += (size_t)wrote;
    }
    return CAIRN_OK;
}

/* Ends a last line that has no newline. Another writer may be in the middle of its line: then the newline comes after that
 * one's own, and the line between them is empty. */
static cairn_err heal(int fd, const char *path)
{
    struct stat status;
    char last = '\n';
    if (fstat(fd, &status) != 0)
        return FAIL(error_from_errno(errno), "cannot look at %s: %s", path, strerror(errno));
    if (!S_ISREG(status.st_mode) || status.st_size == 0)
        return CAIRN_OK;
    if (pread(fd, &last, 1, status.st_size - 1) < 0)
        return FAIL(error_from_errno(errno), "cannot read %s: %s", path, strerror(errno));
    return last == '\n' ? CAIRN_OK : append(fd, path, "\n", 1);
}

cairn_err json_lines_open(const char *path, struct json_lines **out)
{
    struct json_lines *file = calloc(1, sizeof *file);
    if (!file || !(file->path = strdup(path))) {
        free(file);
        return FAIL(CAIRN_ENOMEM, "no memory for opening %s", path);
    }
    file->fd = open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    cairn_err err = file->fd < 0 ? FAIL(error_from_errno(errno), "cannot open %s: %s", path, strerror(errno)) : heal(file->fd, path);
    if (err != CAIRN_OK) {
        json_lines_close(file);
        return err;
    }
    *out = file;
    return CAIRN_OK;
}

/* OBJECT as a line with "time" first; NULL: no memory, or not an object that JSON can show. The caller frees. */
static char *line_of(json_t *object, size_t *length)
{
    json_t *line = json_object();
    json_t *time = json_object_get(object, "time");
    bool good = line && json_object_set_new(line, "time", time ? json_incref(time) : json_real(clock_wall())) == 0 &&
                json_object_update_missing(line, object) == 0;
    /* 17 digits bring every double back to its bits. */
    char *text = good ? json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(line);
    if (!text)
        return NULL;
    *length = strlen(text) + 1;
    text[*length - 1] = '\n'; /* in the place of the NUL */
    return text;
}

cairn_err json_lines_write(struct json_lines *file, json_t *object)
{
    size_t length = 0;
    if (!json_is_object(object)) {
        json_decref(object);
        return FAIL(CAIRN_EINVAL, "cannot write %s: a line must be a JSON object", file->path);
    }
    char *text = line_of(object, &length);
    json_decref(object);
    if (!text)
        return FAIL(CAIRN_ENOMEM, "no memory for a line of %s", file->path);
    cairn_err err = append(file->fd, file->path, text, length);
    free(text);
    return err;
}

void json_lines_close(struct json_lines *file)
{
    if (!file)
        return;
    if (file->fd >= 0)
        close(file->fd);
    free(file->path);
    free(file);
}

cairn_err json_lines_read(const char *path, void (*each)(json_t *object, void *context), void *context, int *broken)
{
    FILE *in = fopen(path, "re");
    if (!in)
        return FAIL(error_from_errno(errno), "cannot open %s: %s", path, strerror(errno));
    char *line = NULL;
    size_t size = 0;
    int bad = 0;
    ssize_t length;
    while ((length = getline(&line, &size, in)) >= 0) {
        if (strcmp(line, "\n") == 0)
            continue;
        json_t *object = json_loadb(line, (size_t)length, JSON_REJECT_DUPLICATES, NULL);
        if (json_is_object(object))
            each(object, context);
        else
            bad++;
        json_decref(object);
    }
    bool failed = ferror(in);
    free(line);
    fclose(in);
    if (failed)
        return FAIL(CAIRN_ESYS, "cannot read %s: %s", path, strerror(errno));
    if (broken)
        *broken = bad;
    return CAIRN_OK;
}
