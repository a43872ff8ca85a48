#include "io/import_text.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "io/dataset_writer.h"
#include "io/progress.h"
#include "io/text_source.h"
#include "io/text_split.h"
#include "mesh/comm.h"

enum { PATH_SIZE = 4096, BYTE_VOCABULARY = 256 };

struct import {
    MPI_Comm comm;
    int rank, size;
    const struct import_options *options;
    char temporary[PATH_SIZE + 16], spool[PATH_SIZE + 32];
    int claim; /* rank 0's descriptor of TEMPORARY, which tells other imports that it is in use; -1 for none */
    struct text *text;
    struct text_split split;
    struct dataset_writer *writer;
    char *piece;
    struct progress progress;
};

/* ---- what a signal handler removes ---- */

/* Ready-made paths, one NUL-ended after another, an empty one last: a signal handler cannot format. */
static char *leftovers;

/* Whether they are this import's: another's must stay. */
static volatile sig_atomic_t leftovers_claimed;

cairn_err import_leftovers_prepare(const struct import_options *options)
{
    size_t each = strlen(options->output) + 32; /* .tmp.spool.NUMBER */
    char *paths = calloc((size_t)options->file_count + 2, each), *to = paths;
    if (!paths)
        return FAIL(CAIRN_ENOMEM, "no memory for %d paths", options->file_count);
    to += sprintf(to, "%s.tmp", options->output) + 1;
    for (int i = 0; i < options->file_count; i++)
        to += sprintf(to, "%s.tmp.spool.%d", options->output, i) + 1;
    leftovers = paths;
    return CAIRN_OK;
}

void import_leftovers_remove(void)
{
    for (const char *path = leftovers; leftovers_claimed && path && *path; path += strlen(path) + 1)
        unlink(path);
}

/* ---- before and after, by rank 0 ---- */

static cairn_err check_output(const struct import_options *o)
{
    struct stat status;
    if (stat(o->output, &status) != 0)
        return CAIRN_OK;
    if (!S_ISREG(status.st_mode))
        return FAIL(CAIRN_EINVAL, "%s: not a regular file", o->output);
    return o->force ? CAIRN_OK : FAIL(CAIRN_EINVAL, "%s is there already; --force replaces it", o->output);
}

/* A byte that no dataset has: MPI-IO locks what it writes on some file systems, and must not wait for this lock. */
static bool lock_claim(int fd)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = INT64_MAX - 1, .l_len = 1};
    /* A file system without locks cannot tell; no import fails for that. */
    return fcntl(fd, F_OFD_SETLK, &lock) == 0 || (errno != EAGAIN && errno != EACCES);
}

/* Whether the claimed file still has its name. */
static bool holds_claim(const struct import *import)
{
    struct stat mine, there;
    return fstat(import->claim, &mine) == 0 && stat(import->temporary, &there) == 0 && mine.st_ino == there.st_ino &&
           mine.st_dev == there.st_dev;
}

/* Takes the temporary file, unless another import has it. One renamed or removed between opening and locking is not it any more. */
static cairn_err claim_temporary(struct import *import)
{
    do {
        if (import->claim >= 0)
            close(import->claim);
        import->claim = open(import->temporary, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
        if (import->claim < 0)
            return FAIL(error_from_errno(errno), "cannot write %s: %s", import->temporary, strerror(errno));
        if (!lock_claim(import->claim)) {
            close(import->claim);
            import->claim = -1;
            return FAIL(CAIRN_EINVAL, "another import is making %s: it has %s", import->options->output, import->temporary);
        }
    } while (!holds_claim(import));
    leftovers_claimed = 1;
    if (ftruncate(import->claim, 0) != 0) /* what a power cut left */
        return FAIL(error_from_errno(errno), "cannot empty %s: %s", import->temporary, strerror(errno));
    return CAIRN_OK;
}

/* The output is looked at again once nobody else can make it. */
static cairn_err claim_output(struct import *import)
{
    TRY(check_output(import->options));
    TRY(claim_temporary(import));
    return check_output(import->options);
}

static void release_output(struct import *import, cairn_err err)
{
    if (import->claim < 0)
        return;
    if (err != CAIRN_OK && holds_claim(import))
        unlink(import->temporary);
    leftovers_claimed = 0;
    close(import->claim);
}

static cairn_err sync_path(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC);
    int result = fd < 0 ? -1 : fsync(fd);
    int error = errno;
    if (fd >= 0)
        close(fd);
    return result == 0 ? CAIRN_OK : FAIL(error_from_errno(error), "%s: %s", path, strerror(error));
}

static cairn_err commit(const struct import *import)
{
    char folder[PATH_SIZE];
    TRY(sync_path(import->temporary, O_RDONLY));
    if (rename(import->temporary, import->options->output) != 0)
        return FAIL(error_from_errno(errno), "cannot rename %s to %s: %s", import->temporary, import->options->output, strerror(errno));
    leftovers_claimed = 0; /* a file of that name would be another import's */
    snprintf(folder, sizeof folder, "%s", import->options->output);
    return sync_path(dirname(folder), O_RDONLY | O_DIRECTORY);
}

/* ---- the work ---- */

static cairn_err read_piece(struct import *import, enum dataset_split which, int64_t first, int64_t count)
{
    for (int64_t done = 0; done < count;) {
        int64_t run;
        int64_t position = text_split_locate(&import->split, which, first + done, &run);
        run = run < count - done ? run : count - done;
        TRY(text_read(import->text, position, run, import->piece + done));
        done += run;
    }
    return CAIRN_OK;
}

/* In round k rank r has piece k * size + r: a round writes one stretch of the file. */
static cairn_err write_split(struct import *import, enum dataset_split which, int64_t before)
{
    int64_t tokens = text_split_bytes(&import->split, which), piece = dataset_writer_piece(import->writer);
    for (int64_t round = 0; round < tokens; round += piece * import->size) {
        int64_t first = round + piece * import->rank;
        int64_t count = first >= tokens ? 0 : tokens - first < piece ? tokens - first : piece;
        cairn_err err = read_piece(import, which, first, count);
        TRY(dataset_writer_write(import->writer, which, count ? first : 0, count, import->piece, err));
        if (import->rank == 0 && import->options->progress)
            progress_update(&import->progress, before + (round + piece * import->size < tokens ? round + piece * import->size : tokens));
    }
    return CAIRN_OK;
}

static cairn_err write_all(struct import *import)
{
    progress_begin(&import->progress, "importing", import->split.bytes);
    cairn_err err = write_split(import, SPLIT_TRAIN, 0);
    if (err == CAIRN_OK)
        err = write_split(import, SPLIT_VALIDATION, text_split_bytes(&import->split, SPLIT_TRAIN));
    progress_end(&import->progress);
    return err;
}

static cairn_err write_dataset(struct import *import, struct dataset_plan *plan)
{
    TRY(dataset_writer_open(import->comm, import->temporary, plan, &import->writer));
    import->piece = malloc((size_t)dataset_writer_piece(import->writer));
    cairn_err err = comm_agree(import->comm, import->piece ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for a piece of text"));
    if (err == CAIRN_OK)
        err = write_all(import);
    err = dataset_writer_close(import->writer, err);
    free(import->piece);
    return err == CAIRN_OK ? err : error_context(err, "%s", import->temporary);
}

static cairn_err plan_and_write(struct import *import, struct import_result *result)
{
    const struct import_options *o = import->options;
    if (text_bytes(import->text) == 0)
        return FAIL(CAIRN_EINVAL, "the input is empty: %s%s", strcmp(o->files[0], "-") ? o->files[0] : "standard input",
                    o->file_count > 1 ? " and all the others" : "");
    import->split = text_split_make(text_bytes(import->text), o->validation);
    result->train_tokens = text_split_bytes(&import->split, SPLIT_TRAIN);
    result->validation_tokens = text_split_bytes(&import->split, SPLIT_VALIDATION);
    int64_t *sizes = calloc((size_t)o->file_count, sizeof *sizes);
    TRY(comm_agree(import->comm, sizes ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for %d sizes", o->file_count)));
    for (int i = 0; i < o->file_count; i++)
        sizes[i] = text_file_bytes(import->text, i);
    struct dataset_plan plan = {
        .tokenizer = "bytes", .vocabulary = BYTE_VOCABULARY, .token_bytes = 1,
        .tokens = {result->train_tokens, result->validation_tokens},
        .chunk_bytes = o->chunk_bytes == 0 && o->compress > 0 ? IMPORT_CHUNK_DEFAULT : o->chunk_bytes, .compress = o->compress,
        .source_files = o->file_count, .source_names = o->files, .source_bytes = sizes,
        .validation_fraction = o->validation, .validation_block = import->split.block,
    };
    cairn_err err = write_dataset(import, &plan);
    free(sizes);
    return err;
}

static cairn_err make_output(struct import *import, struct import_result *result)
{
    TRY(comm_agree(import->comm, import->rank == 0 ? claim_output(import) : CAIRN_OK));
    leftovers_claimed = 1;
    cairn_err err = text_open(import->comm, import->options->files, import->options->file_count, import->spool, import->options->progress,
                              &import->text);
    if (err == CAIRN_OK) {
        err = plan_and_write(import, result);
        text_close(import->text);
    }
    if (import->rank != 0)
        leftovers_claimed = 0; /* from here on rank 0 alone knows whether they are this import's */
    if (err == CAIRN_OK)
        err = comm_agree(import->comm, import->rank == 0 ? commit(import) : CAIRN_OK);
    return err;
}

static cairn_err run(struct import *import, struct import_result *result)
{
    cairn_err err = make_output(import, result);
    release_output(import, err);
    return err;
}

static cairn_err check_options(const struct import_options *o)
{
    if (!(o->validation >= 0 && o->validation < 1))
        return FAIL(CAIRN_ECONFIG, "--validation %g; expected a fraction from 0 to below 1", o->validation);
    if (strlen(o->output) >= PATH_SIZE)
        return FAIL(CAIRN_ECONFIG, "the output's path is longer than %d bytes", PATH_SIZE - 1);
    return CAIRN_OK;
}

cairn_err import_text(MPI_Comm comm, const struct import_options *options, struct import_result *result)
{
    struct stat status;
    double begin = clock_seconds();
    TRY(check_options(options));
    struct import import = {.comm = comm, .options = options, .claim = -1};
    MPI_Comm_rank(comm, &import.rank);
    MPI_Comm_size(comm, &import.size);
    snprintf(import.temporary, sizeof import.temporary, "%s.tmp", options->output);
    snprintf(import.spool, sizeof import.spool, "%s.spool", import.temporary);
    *result = (struct import_result){0};
    TRY(run(&import, result));
    result->file_bytes = stat(options->output, &status) == 0 ? status.st_size : 0;
    result->seconds = clock_seconds() - begin;
    return CAIRN_OK;
}
