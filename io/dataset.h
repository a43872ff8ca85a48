/* A dataset: an HDF5 file (doc/formats/dataset.md) of token sequences, its structure read once and broadcast. */
#ifndef IO_DATASET_H
#define IO_DATASET_H

#include <mpi.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct dataset;
struct dataset_structure;

enum dataset_split { SPLIT_TRAIN, SPLIT_VALIDATION };

/* Collective over COMM: the structure is read once, by HDF5's MPI-IO driver with collective metadata reads, which broadcasts it;
 * all ranks return the same code and the same message, that of the lowest rank that failed. Every rank gets its own handle for
 * reading. */
cairn_err dataset_open(MPI_Comm comm, const char *path, struct dataset **out);

/* The same for one process by itself; MPI need not be initialised. */
cairn_err dataset_open_alone(const char *path, struct dataset **out);

void dataset_close(struct dataset *dataset);

int64_t dataset_vocabulary(const struct dataset *dataset);
int64_t dataset_tokens(const struct dataset *dataset, enum dataset_split split);

/* Non-overlapping samples of CONTEXT tokens and the token after: (tokens - 1) / context. */
int64_t dataset_samples(const struct dataset *dataset, enum dataset_split split, int64_t context);

/* Tokens [FIRST, FIRST + COUNT) of SPLIT as int32. From one thread at a time per handle. A token that is not below the
 * vocabulary is CAIRN_EFORMAT, a chunk that cannot be decoded CAIRN_ECORRUPT. Checksums are not compared here: each covers far
 * more than a sample; dataset_verify does. */
cairn_err dataset_read(struct dataset *dataset, enum dataset_split split, int64_t first, int64_t count, int32_t *tokens);

/* What a token's number stands for: "bytes", or another tokenizer's name. Static with the dataset. */
const char *dataset_tokenizer(const struct dataset *dataset);

/* A hash of the file's identity (sizes, checksums in its structure), kept in checkpoints so that a run that goes on with
 * other data is told. */
uint64_t dataset_fingerprint(const struct dataset *dataset);

/* The path it was opened by, and all that stands in the file beside its tokens (io/dataset_structure.h). */
const char *dataset_path(const struct dataset *dataset);
const struct dataset_structure *dataset_get_structure(const struct dataset *dataset);

/* The bytes of the file that hold tokens [FIRST, FIRST + COUNT), from *BEGIN up to *END; false where only HDF5 knows. */
bool dataset_file_range(const struct dataset *dataset, enum dataset_split split, int64_t first, int64_t count, int64_t *begin,
                        int64_t *end);

/* Tokens [FIRST, FIRST + COUNT) as little-endian bytes of the stored width, as the checksums cover them. */
cairn_err dataset_read_bytes(struct dataset *dataset, enum dataset_split split, int64_t first, int64_t count, void *bytes);

/* Tokens of WIDTH bytes, 1, 2 or 4, as they are stored, to int32, where TOKENS is not NULL; returns the largest. */
uint32_t tokens_widen(const void *bytes, int width, int64_t count, int32_t *tokens);

#endif
