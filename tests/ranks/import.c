/* Imports by 1, 2 and 3 ranks make the same file to the byte; all ranks read it back; failures are the same on all ranks and leave
 * nothing behind. TAP from rank 0. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include <zlib.h>

#include "io/dataset.h"
#include "io/dataset_verify.h"
#include "io/import_text.h"
#include "io/text_split.h"
#include "job/job.h"
#include "mesh/comm.h"
#include "tests/ranks/tap.h"

/* More than two pieces of 4 MiB, and more than 1024 chunks of 4 KiB; odd sizes, so that nothing is aligned by luck. */
enum { RANKS = 3, PLAIN_BYTES = 5000011, GZIP_BYTES = 3000017, TEXT_BYTES = 2 * PLAIN_BYTES + GZIP_BYTES, PATH = 256 };

static MPI_Comm world;
static int rank;
static char folder[128], *text;

static void in_folder(char path[PATH], const char *name)
{
    snprintf(path, PATH, "%s/%s", folder, name);
}

static void write_file(const char *name, const char *bytes, size_t count)
{
    char path[PATH];
    in_folder(path, name);
    FILE *out = fopen(path, "w");
    if (!out || fwrite(bytes, 1, count, out) != count || fclose(out) != 0)
        perror(path);
}

static void make_inputs(void)
{
    char path[PATH];
    text = malloc(TEXT_BYTES);
    uint32_t x = 1;
    for (int i = 0; i < TEXT_BYTES; i++) {
        x = x * 1664525u + 1013904223u; /* Numerical Recipes' generator: any text that does not repeat */
        text[i] = (char)(' ' + (x >> 24) % 20);
    }
    if (rank != 0)
        return;
    write_file("a.txt", text, PLAIN_BYTES);
    write_file("c.txt", text + PLAIN_BYTES + GZIP_BYTES, PLAIN_BYTES);
    write_file("empty.txt", "", 0);
    in_folder(path, "b.gz");
    gzFile out = gzopen(path, "w1");
    gzwrite(out, text + PLAIN_BYTES, GZIP_BYTES);
    gzclose(out);
}

/* By the first SIZE ranks; the others look on. */
static cairn_err import_by(int size, const struct import_options *options)
{
    MPI_Comm comm;
    struct import_result result;
    cairn_err err = CAIRN_OK;
    MPI_Comm_split(world, rank < size ? 0 : MPI_UNDEFINED, rank, &comm);
    if (comm != MPI_COMM_NULL) {
        err = import_text(comm, options, &result);
        MPI_Comm_free(&comm);
    }
    return comm_agree(world, err);
}

/* The whole file's hash, 0 when it cannot be read. */
static uint64_t hash_file(const char *path)
{
    FILE *in = fopen(path, "r");
    if (!in)
        return 0;
    XXH3_state_t *state = XXH3_createState();
    XXH3_64bits_reset(state);
    static char bytes[1 << 16];
    for (size_t n; (n = fread(bytes, 1, sizeof bytes, in)) > 0;)
        XXH3_64bits_update(state, bytes, n);
    fclose(in);
    uint64_t hash = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return hash;
}

static bool same_tokens(struct dataset *dataset, const struct text_split *split, enum dataset_split which)
{
    static int32_t tokens[1 << 16];
    int64_t run, count = text_split_bytes(split, which);
    if (dataset_tokens(dataset, which) != count)
        return false;
    for (int64_t position = 0; position < count; position += run) {
        int64_t at = text_split_locate(split, which, position, &run);
        if (dataset_read(dataset, which, position, run, tokens) != CAIRN_OK)
            return false;
        for (int64_t i = 0; i < run; i++)
            if (tokens[i] != (unsigned char)text[at + i])
                return false;
    }
    return true;
}

static void test_reading(const char *path, const char *what)
{
    struct dataset *dataset;
    struct text_split split = text_split_make(TEXT_BYTES, 0.02);
    cairn_err err = dataset_open(world, path, &dataset);
    tap_ok(err == CAIRN_OK, "%s", what);
    if (err != CAIRN_OK)
        return;
    tap_ok(same_tokens(dataset, &split, SPLIT_TRAIN) && same_tokens(dataset, &split, SPLIT_VALIDATION), "... and every rank reads the text's bytes");
    dataset_close(dataset);
}

static void test_layout(const char *name, int compress, int64_t chunk)
{
    char files[4][PATH], output[PATH], what[128];
    in_folder(files[0], "a.txt");
    in_folder(files[1], "b.gz");
    in_folder(files[2], "empty.txt");
    in_folder(files[3], "c.txt");
    char *const inputs[] = {files[0], files[1], files[2], files[3]};
    uint64_t hash[RANKS + 1] = {0};
    for (int size = 1; size <= RANKS; size++) {
        snprintf(output, sizeof output, "%s/%s.h5", folder, name);
        const struct import_options options = {.files = inputs, .file_count = 4, .output = output, .validation = 0.02,
            .compress = compress, .chunk_bytes = chunk, .force = true};
        tap_ok(import_by(size, &options) == CAIRN_OK, "%s, imported by %d", name, size);
        hash[size] = hash_file(output);
    }
    tap_ok(hash[1] != 0 && hash[1] == hash[2] && hash[2] == hash[3], "%s: the same bytes from 1, 2 and 3 ranks", name);
    snprintf(what, sizeof what, "%s: all ranks open it", name);
    test_reading(output, what);
}

/* ---- damage ---- */

static void count_damage(const struct dataset_damage *damage, void *context)
{
    (void)damage;
    ++*(int *)context;
}

/* Whether a file whose bytes are all sound, as far as opening and verifying tell, holds other tokens than KEPT. */
static bool lies(const char *path, const int32_t *kept, int64_t count)
{
    struct dataset *dataset;
    struct dataset_verdict verdict;
    int damages = 0;
    static int32_t tokens[8192];
    if (dataset_open_alone(path, &dataset) != CAIRN_OK)
        return false;
    bool sound = dataset_verify(dataset, false, count_damage, &damages, &verdict) == CAIRN_OK && damages == 0 && verdict.checksums;
    bool same = dataset_tokens(dataset, SPLIT_TRAIN) == count && dataset_read(dataset, SPLIT_TRAIN, 0, count, tokens) == CAIRN_OK &&
                memcmp(tokens, kept, (size_t)count * sizeof *tokens) == 0;
    dataset_close(dataset);
    return sound && !same;
}

/* Every byte of a small file changed in turn, each rank its share in a copy of its own: either it is found, or it does not matter. */
static int flip_every_byte(const char *path)
{
    struct dataset *dataset;
    static int32_t kept[8192];
    int lied = 0;
    if (dataset_open_alone(path, &dataset) != CAIRN_OK)
        return 1;
    int64_t count = dataset_tokens(dataset, SPLIT_TRAIN);
    lied += dataset_read(dataset, SPLIT_TRAIN, 0, count, kept) != CAIRN_OK;
    dataset_close(dataset);
    FILE *file = fopen(path, "r+");
    setvbuf(file, NULL, _IONBF, 0);
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    for (long at = rank; at < size; at += RANKS) {
        fseek(file, at, SEEK_SET);
        int byte = fgetc(file);
        fseek(file, at, SEEK_SET);
        fputc(byte ^ 1 << at % 8, file);
        if (lies(path, kept, count)) {
            fprintf(stderr, "%s: byte %ld changed, and nobody noticed\n", path, at);
            lied++;
        }
        fseek(file, at, SEEK_SET);
        fputc(byte, file);
    }
    fclose(file);
    return lied;
}

static void test_damage(int compress, const char *what)
{
    char input[PATH], output[PATH];
    struct import_result result;
    in_folder(input, "small.txt");
    in_folder(output, "small.h5");
    if (rank == 0)
        write_file("small.txt", text, 1200);
    MPI_Barrier(world);
    char *const inputs[] = {input};
    const struct import_options options = {.files = inputs, .file_count = 1, .output = output, .validation = 0.1, .compress = compress,
        .chunk_bytes = compress ? 4096 : 0, .force = true};
    char command[3 * PATH], copy[PATH + 16];
    bool made = import_text(world, &options, &result) == CAIRN_OK;
    snprintf(copy, sizeof copy, "%s.%d", output, rank);
    snprintf(command, sizeof command, "cp %s %s", output, copy);
    tap_ok(made && system(command) == 0 && flip_every_byte(copy) == 0, "%s", what);
}

/* ---- failures ---- */

static bool leftovers(const char *output)
{
    char path[PATH + 32];
    bool any = access(output, F_OK) == 0;
    snprintf(path, sizeof path, "%s.tmp", output);
    any |= access(path, F_OK) == 0;
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s.tmp.spool.%d", output, i);
        any |= access(path, F_OK) == 0;
    }
    return any;
}

/* The import of COUNT files fails with CODE and a message with MESSAGE on every rank, and leaves nothing. */
static void test_failure(char *const *inputs, int count, cairn_err code, const char *message, const char *what)
{
    char output[PATH];
    struct import_result result;
    in_folder(output, "failed.h5");
    const struct import_options options = {.files = inputs, .file_count = count, .output = output, .compress = 1};
    cairn_err err = import_text(world, &options, &result);
    bool told = err == code && strstr(cairn_err_message(), message);
    MPI_Barrier(world);
    tap_ok(told && !leftovers(output), "%s", what);
}

/* One rank of three cannot write: none goes on to the next piece without it. The limit is above what MPI's own files in shared memory
 * have, and below what the text comes to. */
static void test_failed_write(int limited, const char *what)
{
    char input[PATH], output[PATH];
    struct rlimit before, limit;
    struct import_result result;
    in_folder(input, "a.txt");
    in_folder(output, "failed.h5");
    char *const inputs[] = {input, input, input};
    const struct import_options options = {.files = inputs, .file_count = 3, .output = output, .validation = 0.1};
    getrlimit(RLIMIT_FSIZE, &before);
    limit = before;
    limit.rlim_cur = 5000000;
    signal(SIGXFSZ, SIG_IGN); /* an error of the write, not the process's end */
    if (rank == limited)
        setrlimit(RLIMIT_FSIZE, &limit);
    cairn_err err = import_text(world, &options, &result);
    setrlimit(RLIMIT_FSIZE, &before);
    bool told = err == CAIRN_ESYS && strstr(cairn_err_message(), "writing /train/tokens");
    MPI_Barrier(world);
    tap_ok(told && !leftovers(output), "%s", what);
}

static void test_failures(void)
{
    char a[PATH], b[PATH], path[PATH];
    struct dataset *dataset;
    in_folder(a, "a.txt");
    in_folder(b, "missing.txt");
    test_failure((char *const[]){a, b}, 2, CAIRN_ENOTFOUND, "missing.txt", "a missing input is named");
    in_folder(b, "empty.txt");
    test_failure((char *const[]){b}, 1, CAIRN_EINVAL, "empty", "an empty input is told");
    in_folder(b, "b.gz");
    if (rank == 0 && truncate(b, 1000000) != 0)
        perror(b);
    MPI_Barrier(world);
    test_failure((char *const[]){a, b}, 2, CAIRN_EFORMAT, "b.gz: the gzip data is cut off", "a cut off gzip input is named");
    in_folder(path, "nowhere.h5");
    tap_ok(dataset_open(world, path, &dataset) == CAIRN_ENOTFOUND && strstr(cairn_err_message(), "nowhere.h5"), "a missing dataset fails on all ranks");
    tap_ok(dataset_open(world, a, &dataset) == CAIRN_EFORMAT && strstr(cairn_err_message(), "not an HDF5 file"), "a text is no dataset, on all ranks");
    in_folder(path, "contiguous.h5");
    if (rank == 0 && truncate(path, 9000000) != 0)
        perror(path);
    MPI_Barrier(world);
    tap_ok(dataset_open(world, path, &dataset) == CAIRN_EFORMAT && strstr(cairn_err_message(), "cut off"), "a cut off dataset fails on all ranks");
}

/* Takes the last byte away: of a compressed dataset's last chunk. */
static bool shorten(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && truncate(path, status.st_size - 1) == 0;
}

/* One rank finds the file shorter than the others do, as on a network file system that has not told it yet: its own copy is. */
static void test_stale_size(void)
{
    char own[PATH], before[PATH];
    struct dataset *dataset;
    snprintf(own, sizeof own, "%s/rank.%d", folder, rank);
    bool ready = getcwd(before, sizeof before) && mkdir(own, 0700) == 0 && chdir(own) == 0 && system("cp ../deflate.h5 own.h5") == 0 &&
                 (rank != 1 || shorten("own.h5"));
    tap_ok(ready, "a copy of the dataset for each rank, one cut off");
    cairn_err err = dataset_open(world, "own.h5", &dataset);
    tap_ok(err == CAIRN_OK, "a rank alone that knows an older size opens the dataset with the others");
    dataset_close(dataset);
    if (ready && chdir(before) != 0)
        perror(before);
}

int main(int argc, char **argv)
{
    if (tap_asked_for_ranks(argc, argv, RANKS))
        return 0;
    struct job *job;
    if (job_open(&job)) {
        fprintf(stderr, "%s\n", cairn_err_message());
        return EXIT_CODE_FAILED;
    }
    world = job_comm(job);
    rank = job_rank(job);
    tap_folder("import", folder, sizeof folder);
    make_inputs();
    MPI_Barrier(world);
    test_layout("contiguous", 0, 0);
    test_layout("chunked", 0, 8192);
    test_layout("deflate", 1, 4096);
    test_damage(0, "no changed byte of an imported file goes unnoticed");
    test_damage(6, "... nor of a compressed one");
    test_failures();
    test_stale_size();
    test_failed_write(1, "a rank that cannot write fails the import on all ranks");
    tap_shell("rm -rf %s", folder);
    job_leave(job, tap_done());
}
