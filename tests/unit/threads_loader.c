/* Loaders beside a main thread that uses HDF5, for ThreadSanitizer (under which Criterion's programs cannot run) and as a plain
 * test: TAP, without Criterion. */
#include <hdf5.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hdf5_lock.h"
#include "base/permutation.h"
#include "io/loader.h"
#include "tests/unit/dataset_file.h"

enum { CONTEXT = 40, SAMPLES = 4, MICROBATCHES = 300 };

static int checks, failures;

static void check(int holds, const char *what)
{
    printf("%s %d - %s\n", holds ? "ok" : "not ok", ++checks, what);
    failures += !holds;
}

/* What a checkpoint's writer does meanwhile: HDF5 from the main thread, under the lock. */
static void write_something(const char *path, int value)
{
    hdf5_lock();
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT), space = H5Screate(H5S_SCALAR);
    hid_t set = H5Dcreate2(file, "value", H5T_NATIVE_INT, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    H5Dwrite(set, H5T_NATIVE_INT, H5S_ALL, H5S_ALL, H5P_DEFAULT, &value);
    H5Dclose(set);
    H5Sclose(space);
    H5Fclose(file);
    hdf5_unlock();
}

static int run(const struct dataset_file *file, const char *path, const char *other)
{
    struct dataset *dataset;
    struct loader *loader;
    const struct loader_options o = {.seed = 5, .context = CONTEXT, .samples = SAMPLES, .microbatches = 1, .count = 1, .prefetch = 3};
    const int32_t *inputs, *targets;
    int wrong = 0;
    dataset_file_make(path, file);
    if (dataset_open_alone(path, &dataset) != CAIRN_OK || loader_open(dataset, &o, &loader) != CAIRN_OK)
        return 1;
    uint64_t n = (uint64_t)dataset_samples(dataset, SPLIT_TRAIN, CONTEXT);
    for (uint64_t m = 0; m < MICROBATCHES && !wrong; m++) {
        wrong += loader_next(loader, &inputs, &targets) != CAIRN_OK;
        for (uint64_t r = 0; r < SAMPLES && !wrong; r++) {
            uint64_t p = m * SAMPLES + r, index = permutation_map(5, p / n, n, p % n);
            wrong += (uint32_t)inputs[r * CONTEXT] != dataset_file_token(file, 0, (int64_t)index * CONTEXT);
            wrong += (uint32_t)targets[(r + 1) * CONTEXT - 1] != dataset_file_token(file, 0, (int64_t)(index + 1) * CONTEXT);
        }
        if (m % 10 == 0)
            write_something(other, (int)m);
    }
    loader_close(loader);
    dataset_close(dataset);
    return wrong;
}

int main(void)
{
    char path[64], other[64];
    struct dataset_file file = {.tokens = {20000, 1000}, .token_bytes = 2, .vocabulary = 3000, .bad_token = -1};
    snprintf(path, sizeof path, "/tmp/cairn-threads-loader.%d.h5", (int)getpid());
    snprintf(other, sizeof other, "%s.other", path);
    check(!run(&file, path, other), "contiguous, read at file offsets");
    file.chunk_tokens = 500;
    check(!run(&file, path, other), "chunked, read at file offsets");
    file.deflate = 1;
    check(!run(&file, path, other), "compressed, inflated by the thread");
    file.chunk_tokens = 10;
    check(!run(&file, path, other), "compressed in many chunks, fetched through HDF5 under its lock");
    file.deflate = 0;
    check(!run(&file, path, other), "in many chunks, read by HDF5 under its lock");
    unlink(path);
    unlink(other);
    printf("1..%d\n", checks);
    return failures != 0;
}
