/* Small datasets for tests, made by HDF5 alone. */
#ifndef TESTS_UNIT_DATASET_FILE_H
#define TESTS_UNIT_DATASET_FILE_H

#include <stdbool.h>
#include <stdint.h>

struct dataset_file {
    int64_t tokens[2];
    int token_bytes;
    int64_t chunk_tokens; /* 0: contiguous */
    int deflate;          /* level, 0: none */
    int64_t vocabulary;   /* 0: 256 */
    int64_t bad_token;    /* position in train of a token that is the vocabulary's size; -1: none */
    int64_t version;      /* 0: 1 */
    const char *format, *kind; /* NULL: as they should be */
    const char *leave_out;     /* an attribute or group that the file lacks, or NULL */
};

/* Token I of split (0 or 1). */
uint32_t dataset_file_token(const struct dataset_file *file, int split, int64_t i);

void dataset_file_make(const char *path, const struct dataset_file *file);

#endif
