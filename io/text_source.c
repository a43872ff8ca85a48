#include "io/text_source.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/gzip_stream.h"
#include "io/progress.h"
#include "job/mpi_calls.h"
#include "mesh/comm.h"

enum source_kind {
    SOURCE_PLAIN,
    SOURCE_GZIP,  /* any rank can unpack it */
    SOURCE_LOCAL, /* standard input or a pipe: only rank 0 has it */
};

struct source {
    int64_t kind, bytes;
};

struct text {
    MPI_Comm comm;
    int rank, size;
    int count;
    char *const *files;
    const char *spool;
    bool show;
    struct source *source;
    int64_t *first; /* [count + 1]: where each file begins */
    int open_file;  /* the one whose descriptor is kept, -1 for none */
    int fd;
};

static bool is_stdin(const char *file)
{
    return strcmp(file, "-") == 0;
}

static void spool_path(const struct text *text, int i, char path[4200])
{
    snprintf(path, 4200, "%.4096s.%d", text->spool, i);
}

static bool ends_in(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

static cairn_err classify_regular(const char *file, int fd, struct source *source)
{
    unsigned char magic[2];
    if (pread(fd, magic, 2, 0) == 2 && magic[0] == 0x1f && magic[1] == 0x8b)
        source->kind = SOURCE_GZIP;
    else if (ends_in(file, ".gz"))
        return FAIL(CAIRN_EFORMAT, "%s: not gzip data, though its name ends in .gz", file);
    return CAIRN_OK;
}

static cairn_err classify(const char *file, struct source *source)
{
    struct stat status;
    *source = (struct source){SOURCE_LOCAL, 0};
    if (is_stdin(file))
        return CAIRN_OK;
    if (stat(file, &status) != 0)
        return FAIL(error_from_errno(errno), "%s: %s", file, strerror(errno));
    if (S_ISDIR(status.st_mode))
        return FAIL(CAIRN_EINVAL, "%s: a folder; name the files in it", file);
    if (!S_ISREG(status.st_mode))
        return CAIRN_OK;
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return FAIL(error_from_errno(errno), "%s: %s", file, strerror(errno));
    *source = (struct source){SOURCE_PLAIN, status.st_size};
    cairn_err err = classify_regular(file, fd, source);
    close(fd);
    return err;
}

static cairn_err classify_all(struct text *text)
{
    int inputs = 0;
    for (int i = 0; i < text->count; i++) {
        inputs += is_stdin(text->files[i]);
        TRY(classify(text->files[i], &text->source[i]));
    }
    return inputs <= 1 ? CAIRN_OK : FAIL(CAIRN_ECONFIG, "standard input ('-') can be read only once");
}

static cairn_err unpack_open(const char *file, int to, bool show, int64_t *bytes)
{
    struct progress progress;
    struct stat status;
    int from = is_stdin(file) ? STDIN_FILENO : open(file, O_RDONLY | O_CLOEXEC);
    if (from < 0)
        return FAIL(error_from_errno(errno), "%s", strerror(errno));
    progress_begin(&progress, "unpacking", fstat(from, &status) == 0 && S_ISREG(status.st_mode) ? status.st_size : 0);
    cairn_err err = gzip_stream_copy(from, to, show ? &progress : NULL, bytes);
    progress_end(&progress);
    if (from != STDIN_FILENO)
        close(from);
    return err;
}

/* The descriptor is synced, so that other nodes see all of the file once it is closed. */
static cairn_err unpack(struct text *text, int i, bool show)
{
    char path[4200];
    spool_path(text, i, path);
    int to = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (to < 0)
        return FAIL(error_from_errno(errno), "%s: %s", path, strerror(errno));
    cairn_err err = unpack_open(text->files[i], to, show, &text->source[i].bytes);
    if (err == CAIRN_OK && text->size > 1 && fsync(to) != 0)
        err = FAIL(error_from_errno(errno), "writing what was unpacked: %s", strerror(errno));
    if (close(to) != 0 && err == CAIRN_OK)
        err = FAIL(error_from_errno(errno), "writing what was unpacked: %s", strerror(errno));
    return err == CAIRN_OK ? err : error_context(err, "%s", is_stdin(text->files[i]) ? "standard input" : text->files[i]);
}

/* gzip files go round the ranks from the last one down: rank 0 may have standard input to read. */
static cairn_err unpack_mine(struct text *text)
{
    int turn = 0, streams = 0;
    for (int i = 0; i < text->count; i++) {
        bool mine = text->source[i].kind == SOURCE_LOCAL && text->rank == 0;
        if (text->source[i].kind == SOURCE_GZIP)
            mine = turn++ % text->size == text->size - 1 - text->rank;
        if (text->source[i].kind != SOURCE_PLAIN && !mine)
            text->source[i].bytes = 0;
        if (mine)
            TRY(unpack(text, i, text->show && streams == 0));
        streams += text->source[i].kind != SOURCE_PLAIN;
    }
    return CAIRN_OK;
}

/* A file's size is known to the rank that unpacked it, and is 0 at the others; kinds are the same everywhere. */
static cairn_err share_sizes(struct text *text)
{
    _Static_assert(sizeof(struct source) == 2 * sizeof(int64_t), "a source is two whole numbers");
    TRY(mpi_allreduce(MPI_IN_PLACE, text->source, 2 * text->count, MPI_INT64_T, MPI_MAX, text->comm, "exchanging file sizes"));
    for (int i = 0; i < text->count; i++)
        text->first[i + 1] = text->first[i] + text->source[i].bytes;
    return CAIRN_OK;
}

static cairn_err prepare(struct text *text)
{
    TRY(comm_agree(text->comm, text->rank == 0 ? classify_all(text) : CAIRN_OK));
    TRY(comm_broadcast(text->comm, text->source, (size_t)text->count * sizeof *text->source, 0));
    TRY(comm_agree(text->comm, unpack_mine(text)));
    return share_sizes(text);
}

cairn_err text_open(MPI_Comm comm, char *const *files, int count, const char *spool, bool show, struct text **out)
{
    struct text *text = calloc(1, sizeof *text);
    struct source *source = calloc((size_t)count, sizeof *source);
    int64_t *first = calloc((size_t)count + 1, sizeof *first);
    *out = NULL;
    cairn_err err = text && source && first ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for %d files", count);
    err = comm_agree(comm, err);
    if (err != CAIRN_OK) {
        free(first);
        free(source);
        free(text);
        return err;
    }
    *text = (struct text){.comm = comm, .count = count, .files = files, .spool = spool, .show = show, .source = source, .first = first};
    text->open_file = text->fd = -1;
    MPI_Comm_rank(comm, &text->rank);
    MPI_Comm_size(comm, &text->size);
    err = prepare(text);
    if (err == CAIRN_OK)
        *out = text;
    else
        text_close(text);
    return err;
}

int64_t text_bytes(const struct text *text)
{
    return text->first[text->count];
}

int64_t text_file_bytes(const struct text *text, int i)
{
    return text->source[i].bytes;
}

/* The file that byte POSITION is in. */
static int find_file(const struct text *text, int64_t position)
{
    int low = 0, high = text->count - 1;
    while (low < high) {
        int middle = low + (high - low + 1) / 2;
        if (text->first[middle] <= position)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

static cairn_err open_file(struct text *text, int i)
{
    char path[4200];
    if (text->open_file == i)
        return CAIRN_OK;
    if (text->fd >= 0)
        close(text->fd);
    text->open_file = -1;
    spool_path(text, i, path);
    const char *file = text->source[i].kind == SOURCE_PLAIN ? text->files[i] : path;
    text->fd = open(file, O_RDONLY | O_CLOEXEC);
    if (text->fd < 0)
        return FAIL(error_from_errno(errno), "%s: %s", file, strerror(errno));
    text->open_file = i;
    return CAIRN_OK;
}

static cairn_err read_file(struct text *text, int i, int64_t at, int64_t count, char *bytes)
{
    TRY(open_file(text, i));
    while (count > 0) {
        ssize_t n = pread(text->fd, bytes, (size_t)count, at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return FAIL(CAIRN_ESYS, "%s: %s", text->files[i], strerror(errno));
        if (n == 0)
            return FAIL(CAIRN_EFORMAT, "%s: it became shorter while it was read", text->files[i]);
        bytes += n;
        at += n;
        count -= n;
    }
    return CAIRN_OK;
}

cairn_err text_read(struct text *text, int64_t position, int64_t count, void *bytes)
{
    char *to = bytes;
    while (count > 0) {
        int i = find_file(text, position);
        int64_t n = text->first[i + 1] - position;
        n = n < count ? n : count;
        TRY(read_file(text, i, position - text->first[i], n, to));
        position += n;
        count -= n;
        to += n;
    }
    return CAIRN_OK;
}

void text_close(struct text *text)
{
    char path[4200];
    if (text->fd >= 0)
        close(text->fd);
    MPI_Barrier(text->comm);
    for (int i = 0; text->rank == 0 && i < text->count; i++)
        if (text->source[i].kind != SOURCE_PLAIN) {
            spool_path(text, i, path);
            unlink(path);
        }
    free(text->first);
    free(text->source);
    free(text);
}
