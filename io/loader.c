#include "io/loader.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/permutation.h"
#include "base/thread.h"
#include "base/trace.h"

enum { MESSAGE_BYTES = 4096 };

/* The ring holds prefetch + 1 microbatches: one that the caller looks at, and those read ahead. */
struct loader {
    struct dataset *dataset;
    struct loader_options options;
    int64_t sample_count; /* of the split */
    int64_t slots;
    int32_t *inputs, *targets; /* [slots, samples, context] */
    int32_t *sample;           /* [context + 1] */

    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t filled, emptied;
    /* Under the mutex. Microbatches are counted from the first one asked for. */
    int64_t written;  /* microbatches in the ring, or gone from it */
    int64_t released; /* microbatches that the caller is done with */
    bool stop;
    cairn_err err;
    char message[MESSAGE_BYTES];

    /* The caller's alone. */
    int64_t taken;
    double waited;
};

static int64_t slot_elements(const struct loader *loader)
{
    return loader->options.samples * loader->options.context;
}

/* The number of the first sample of this rank's microbatch COUNT in the endless sequence of samples. */
static uint64_t first_position(const struct loader_options *o, int64_t count)
{
    uint64_t step = (uint64_t)(o->step + count / o->count);
    uint64_t microbatch = (uint64_t)(o->first + count % o->count * (o->stride ? o->stride : 1));
    return (step * (uint64_t)o->microbatches + microbatch) * (uint64_t)o->samples;
}

static cairn_err read_microbatch(struct loader *loader, int64_t count)
{
    const struct loader_options *o = &loader->options;
    uint64_t n = (uint64_t)loader->sample_count, position = first_position(o, count);
    int64_t at = count % loader->slots * slot_elements(loader);
    for (int64_t r = 0; r < o->samples; r++, position++, at += o->context) {
        uint64_t index = permutation_map((uint64_t)o->seed, position / n, n, position % n);
        TRY(dataset_read(loader->dataset, o->split, (int64_t)index * o->context, o->context + 1, loader->sample));
        memcpy(loader->inputs + at, loader->sample, (size_t)o->context * sizeof(int32_t));
        memcpy(loader->targets + at, loader->sample + 1, (size_t)o->context * sizeof(int32_t));
    }
    return CAIRN_OK;
}

/* Waits for room in the ring; false when the loader is closed. */
static bool wait_for_room(struct loader *loader)
{
    pthread_mutex_lock(&loader->mutex);
    while (!loader->stop && loader->written - loader->released >= loader->slots)
        pthread_cond_wait(&loader->emptied, &loader->mutex);
    bool go_on = !loader->stop;
    pthread_mutex_unlock(&loader->mutex);
    return go_on;
}

static void *prefetch(void *context)
{
    struct loader *loader = context;
    cairn_err err = CAIRN_OK;
    for (int64_t count = 0; err == CAIRN_OK && wait_for_room(loader); count++) {
        uint64_t begun = trace_begin();
        err = read_microbatch(loader, count);
        trace_end(begun, TRACE_READING, "read", count);
        pthread_mutex_lock(&loader->mutex);
        if (err == CAIRN_OK)
            loader->written++;
        else
            snprintf(loader->message, sizeof loader->message, "%s", cairn_err_message());
        loader->err = err;
        pthread_cond_signal(&loader->filled);
        pthread_mutex_unlock(&loader->mutex);
    }
    return NULL;
}

static cairn_err check_options(struct dataset *dataset, const struct loader_options *o)
{
    if (o->context < 1 || o->samples < 1 || o->microbatches < 1 || o->count < 1 || o->first < 0 || o->step < 0 || o->prefetch < 1 ||
        o->stride < 0 || o->first + (o->count - 1) * (o->stride ? o->stride : 1) >= o->microbatches)
        return FAIL(CAIRN_EINVAL, "loader: context %lld, samples %lld, %lld microbatches from %lld by %lld of %lld, step %lld, prefetch %lld",
                    (long long)o->context, (long long)o->samples, (long long)o->count, (long long)o->first, (long long)o->stride,
                    (long long)o->microbatches, (long long)o->step, (long long)o->prefetch);
    if (dataset_samples(dataset, o->split, o->context) < 1)
        return FAIL(CAIRN_EINVAL, "dataset %s: its %s split has %lld tokens; a context of %lld needs at least %lld", dataset_path(dataset),
                    o->split == SPLIT_TRAIN ? "train" : "validation", (long long)dataset_tokens(dataset, o->split), (long long)o->context,
                    (long long)o->context + 1);
    return CAIRN_OK;
}

static void free_loader(struct loader *loader)
{
    pthread_cond_destroy(&loader->emptied);
    pthread_cond_destroy(&loader->filled);
    pthread_mutex_destroy(&loader->mutex);
    free(loader->sample);
    free(loader->targets);
    free(loader->inputs);
    free(loader);
}

cairn_err loader_open(struct dataset *dataset, const struct loader_options *options, struct loader **out)
{
    *out = NULL;
    TRY(check_options(dataset, options));
    struct loader *loader = calloc(1, sizeof *loader);
    if (!loader)
        return FAIL(CAIRN_ENOMEM, "no memory for a loader");
    loader->dataset = dataset;
    loader->options = *options;
    loader->sample_count = dataset_samples(dataset, options->split, options->context);
    loader->slots = options->prefetch + 1;
    pthread_mutex_init(&loader->mutex, NULL);
    pthread_cond_init(&loader->filled, NULL);
    pthread_cond_init(&loader->emptied, NULL);
    size_t elements = (size_t)(loader->slots * slot_elements(loader));
    loader->inputs = calloc(elements, sizeof(int32_t));
    loader->targets = calloc(elements, sizeof(int32_t));
    loader->sample = calloc((size_t)options->context + 1, sizeof(int32_t));
    cairn_err err = CAIRN_OK;
    if (!loader->inputs || !loader->targets || !loader->sample)
        err = FAIL(CAIRN_ENOMEM, "no memory for %lld microbatches read ahead", (long long)options->prefetch);
    else if (thread_start(&loader->thread, prefetch, loader) != 0)
        err = FAIL(CAIRN_ESYS, "the loader's thread cannot be started");
    if (err != CAIRN_OK) {
        free_loader(loader);
        return err;
    }
    *out = loader;
    return CAIRN_OK;
}

/* Gives back the microbatch that the caller had and waits for the next one. */
static cairn_err take(struct loader *loader)
{
    pthread_mutex_lock(&loader->mutex);
    loader->released = loader->taken;
    pthread_cond_signal(&loader->emptied);
    double begin = loader->written > loader->taken ? 0 : clock_seconds();
    uint64_t begun = begin != 0 ? trace_begin() : 0;
    while (loader->written <= loader->taken && loader->err == CAIRN_OK)
        pthread_cond_wait(&loader->filled, &loader->mutex);
    /* What was read before the failure comes out first. */
    cairn_err err = loader->written > loader->taken ? CAIRN_OK : FAIL(loader->err, "%s", loader->message);
    pthread_mutex_unlock(&loader->mutex);
    if (begin != 0)
        loader->waited += clock_seconds() - begin;
    trace_end(begun, TRACE_READING, "wait", loader->taken);
    return err;
}

cairn_err loader_next(struct loader *loader, const int32_t **inputs, const int32_t **targets)
{
    TRY(take(loader));
    int64_t at = loader->taken % loader->slots * slot_elements(loader);
    *inputs = loader->inputs + at;
    *targets = loader->targets + at;
    loader->taken++;
    return CAIRN_OK;
}

double loader_waited(struct loader *loader)
{
    double waited = loader->waited;
    loader->waited = 0;
    return waited;
}

void loader_close(struct loader *loader)
{
    if (!loader)
        return;
    pthread_mutex_lock(&loader->mutex);
    loader->stop = true;
    pthread_cond_signal(&loader->emptied);
    pthread_mutex_unlock(&loader->mutex);
    pthread_join(loader->thread, NULL);
    free_loader(loader);
}
