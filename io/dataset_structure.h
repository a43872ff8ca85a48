/* The structure of a dataset's file (doc/formats/dataset.md): where its tokens lie. Read once; nothing here changes later. */
#ifndef IO_DATASET_STRUCTURE_H
#define IO_DATASET_STRUCTURE_H

#include <hdf5.h>
#include <stdbool.h>
#include <stdint.h>

#include "io/dataset.h"

enum {
    DATASET_VERSION = 1,
    SPLIT_COUNT = 2,
    /* HDF5 1.10 finds a chunk's place by walking its index from the begin, so that a table of n chunks costs n^2 / 2 steps of
     * 30 to 190 ns: 0.1 s for this many. Files with more are read through H5Dread_chunk (3 us a call, measured). */
    CHUNK_TABLE_LIMIT = 1024,
    /* A chunk of more is an attack or an accident: HDF5 itself ends at 4 GiB. */
    CHUNK_BYTES_LIMIT = 1 << 30,
};

enum storage {
    STORAGE_EMPTY,
    STORAGE_CONTIGUOUS, /* at one file offset */
    STORAGE_CHUNKED,    /* chunks as they are, each at its offset */
    STORAGE_DEFLATE,    /* chunks as zlib streams; without places: fetched raw through HDF5 */
    STORAGE_LIBRARY,    /* all else: read by HDF5 */
};

struct chunk_place {
    uint64_t offset;
    uint32_t bytes;
    uint32_t skipped_filters;
};

struct split_structure {
    int64_t tokens;
    int token_bytes; /* 1, 2 or 4 */
    enum storage storage;
    uint64_t offset;      /* contiguous */
    int64_t chunk_tokens; /* chunked and deflate */
    int64_t chunks;
    struct chunk_place *places; /* [chunks] or NULL */
    int64_t checksum_bytes;     /* token bytes a checksum covers; 0: the file has no checksums */
    int64_t checksum_count;
    uint64_t *checksums;
};

struct dataset_structure {
    int64_t vocabulary;
    char tokenizer[64];
    char created_by[128];
    int64_t file_bytes;
    int64_t source_files, source_bytes; /* -1: not told */
    struct split_structure split[SPLIT_COUNT];
};

/* Fills *STRUCTURE from the open FILE of FILE_BYTES bytes. Under hdf5_lock; collective if FILE was opened so, and FILE_BYTES then
 * the same on all ranks, so that all judge alike. Needs structure_free also after failure. */
cairn_err structure_read(hid_t file, int64_t file_bytes, struct dataset_structure *structure);
void structure_free(struct dataset_structure *structure);

/* "/train" or "/validation". */
const char *split_name(enum dataset_split split);

#endif
