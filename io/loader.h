/* The loader: a thread that reads the samples of this rank's microbatches ahead of the step.
 *
 * Sample r of microbatch m of step s is number p = (s * microbatches + m) * samples + r of the endless sequence of samples;
 * epoch e = p / n is a fresh permutation of the split's n samples (base/permutation.h): index = permutation(seed, e, n, p % n).
 * So the position of a whole job is its step. */
#ifndef IO_LOADER_H
#define IO_LOADER_H

#include <stdint.h>

#include "io/dataset.h"

struct loader_options {
    enum dataset_split split;
    int64_t seed;
    int64_t context;            /* tokens of a sample's input */
    int64_t samples;            /* b: of a microbatch */
    int64_t microbatches;       /* V: of a step, over all ranks */
    int64_t first, count;       /* this rank's microbatches of every step: FIRST, and every ... */
    int64_t stride;             /* ... so many after; 0: 1 */
    int64_t step;               /* the first step that will be asked for */
    int64_t prefetch;           /* microbatches read ahead, >= 1 */
};

struct loader;

/* Starts the thread. The dataset's handle belongs to the loader until loader_close. */
cairn_err loader_open(struct dataset *dataset, const struct loader_options *options, struct loader **out);

/* The next of this rank's microbatches, in order (step, then microbatch): INPUTS and TARGETS [samples, context], valid until the
 * next call. A failed read comes out here, with its message. */
cairn_err loader_next(struct loader *loader, const int32_t **inputs, const int32_t **targets);

/* Seconds that loader_next has waited for data since the last call of this. */
double loader_waited(struct loader *loader);

void loader_close(struct loader *loader);

#endif
