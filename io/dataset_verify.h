/* Compares every token of a dataset with its checksums. */
#ifndef IO_DATASET_VERIFY_H
#define IO_DATASET_VERIFY_H

#include <stdbool.h>
#include <stdint.h>

#include "io/dataset.h"

struct dataset_damage {
    enum dataset_split split;
    int64_t block;              /* of the checksums */
    int64_t first_token, tokens;
    int64_t file_begin, file_end; /* bytes of the file; -1 where only HDF5 knows */
    const char *message;        /* "checksum differs", ...; valid during the call */
};

struct dataset_verdict {
    int64_t blocks, damaged; /* damaged: blocks with at least one fault */
    bool checksums;          /* both splits have them; without, only decoding and the vocabulary were tested */
};

/* Reads all of DATASET and calls EACH for every block that is damaged. CAIRN_OK also when some are; a failure means that the
 * test itself could not go on. */
cairn_err dataset_verify(struct dataset *dataset, bool progress, void (*each)(const struct dataset_damage *damage, void *context),
                         void *context, struct dataset_verdict *verdict);

#endif
