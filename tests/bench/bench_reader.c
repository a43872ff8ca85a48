/* Samples a second of the loader, beside pread of the same bytes in the same order. See tests/bench/reader.sh.
 *     bench_reader FILE [--context N] [--samples N] [--batch N] [--order FILE] */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/options.h"
#include "base/permutation.h"
#include "io/dataset.h"
#include "io/loader.h"

enum { SEED = 1, PREFETCH = 4 };

struct bench {
    const char *path, *order;
    long context, samples, batch;
    int64_t count; /* samples of the split */
    double bytes;  /* of a sample in the file, uncompressed */
};

/* Drops the file's pages from the page cache; dirty ones stay, so it is synced first. */
static void drop_cache(const char *path)
{
    int fd = open(path, O_RDONLY);
    if (fd < 0 || fsync(fd) != 0 || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) != 0)
        perror(path);
    close(fd);
}

static int64_t index_of(const struct bench *b, long i)
{
    uint64_t n = (uint64_t)b->count;
    return (int64_t)permutation_map(SEED, (uint64_t)i / n, n, (uint64_t)i % n);
}

static double run_loader(const struct bench *b, int64_t *sum)
{
    struct dataset *dataset;
    struct loader *loader;
    const struct loader_options o = {.seed = SEED, .context = b->context, .samples = b->batch, .microbatches = 1, .count = 1, .prefetch = PREFETCH};
    const int32_t *inputs, *targets;
    if (dataset_open_alone(b->path, &dataset) != CAIRN_OK)
        return -1;
    double begin = clock_seconds();
    if (loader_open(dataset, &o, &loader) != CAIRN_OK)
        return -1;
    for (long i = 0; i < b->samples / b->batch; i++) {
        if (loader_next(loader, &inputs, &targets) != CAIRN_OK)
            return -1;
        *sum += inputs[0] + targets[b->batch * b->context - 1];
    }
    double seconds = clock_seconds() - begin;
    loader_close(loader);
    dataset_close(dataset);
    return seconds;
}

/* The floor: one pread a sample, nothing done with it. 0 where tokens do not lie in the file as they are. */
static double run_pread(const struct bench *b)
{
    struct dataset *dataset;
    int64_t begin_byte, end_byte, width;
    if (dataset_open_alone(b->path, &dataset) != CAIRN_OK)
        return -1;
    bool plain = dataset_file_range(dataset, SPLIT_TRAIN, 0, 1, &begin_byte, &end_byte) && end_byte - begin_byte <= 4;
    width = end_byte - begin_byte;
    dataset_close(dataset);
    if (!plain)
        return 0;
    int fd = open(b->path, O_RDONLY);
    size_t bytes = (size_t)((b->context + 1) * width);
    char *to = malloc(bytes);
    double begin = clock_seconds();
    for (long i = 0; i < b->samples; i++)
        if (pread(fd, to, bytes, begin_byte + index_of(b, i) * b->context * width) != (ssize_t)bytes)
            return -1;
    double seconds = clock_seconds() - begin;
    free(to);
    close(fd);
    return seconds;
}

static void print(const struct bench *b, const char *name, const char *state, double seconds)
{
    if (seconds < 0)
        log_error("%s: %s", name, cairn_err_message());
    else if (seconds > 0)
        printf("%-8s %-5s %10.0f samples/s  %7.4f GB/s\n", name, state, (double)b->samples / seconds, (double)b->samples * b->bytes * 1e-9 / seconds);
    fflush(stdout);
}

/* The samples' indices, for other programs to read the same. */
static void write_order(const struct bench *b)
{
    FILE *out = fopen(b->order, "w");
    for (long i = 0; out && i < b->samples; i++)
        fprintf(out, "%" PRId64 "\n", index_of(b, i));
    if (!out || fclose(out) != 0)
        perror(b->order);
}

int main(int argc, char **argv)
{
    struct bench b = {.context = 256, .samples = 20000, .batch = 8};
    const struct option_spec options[] = {
        {0, "context", OPTION_INT, &b.context, "N", "tokens of a sample (256)"},
        {0, "samples", OPTION_INT, &b.samples, "N", "samples read (20000)"},
        {0, "batch", OPTION_INT, &b.batch, "N", "samples of a microbatch (8)"},
        {0, "order", OPTION_STRING, &b.order, "FILE", "write the samples' indices there"},
        {0, NULL, OPTION_FLAG, NULL, NULL, NULL},
    };
    const struct command_spec spec = {"bench_reader FILE [options]", "Times the loader.", options, NULL};
    bool help;
    struct dataset *dataset;
    int64_t sum = 0;
    if (options_parse(&spec, &argc, argv, &help) != CAIRN_OK || argc != 2 || dataset_open_alone(argv[1], &dataset) != CAIRN_OK) {
        log_error("%s", cairn_err_message());
        options_help(&spec, stderr);
        return 1;
    }
    b.path = argv[1];
    b.count = dataset_samples(dataset, SPLIT_TRAIN, b.context);
    b.bytes = (double)(b.context + 1);
    dataset_close(dataset);
    if (b.order)
        write_order(&b);
    for (int cold = 1; cold >= 0; cold--) {
        if (cold)
            drop_cache(b.path);
        print(&b, "pread", cold ? "cold" : "warm", run_pread(&b));
        if (cold)
            drop_cache(b.path);
        print(&b, "loader", cold ? "cold" : "warm", run_loader(&b, &sum));
    }
    return sum == 0;
}
