/* Writes a dataset's file (doc/formats/dataset.md), by all ranks of a communicator together.
 *
 * Uncompressed tokens are written by every rank through parallel HDF5. Compressed chunks are made by every rank and written by
 * rank 0, one after another: compressing is the work, and a file whose chunks lie in their order is read faster. Either way the file
 * is the same to the byte for any number of ranks. */
#ifndef IO_DATASET_WRITER_H
#define IO_DATASET_WRITER_H

#include <mpi.h>
#include <stdint.h>

#include "base/error.h"
#include "io/dataset.h"

enum {
    CHECKSUM_BYTES = 1 << 20, /* token bytes that one checksum covers */
    CHUNK_SMALLEST = 4 << 10,
    CHUNK_LARGEST = 64 << 20,
};

struct dataset_plan {
    const char *tokenizer;
    int64_t vocabulary;
    int token_bytes;       /* 1, 2 or 4 */
    int64_t tokens[2];     /* by enum dataset_split */
    int64_t chunk_bytes;   /* a power of two from CHUNK_SMALLEST to CHUNK_LARGEST; 0: contiguous */
    int compress;          /* deflate level 1 to 9; 0: none. Needs chunks */
    int source_files;
    char *const *source_names;
    const int64_t *source_bytes;
    double validation_fraction;
    int64_t validation_block; /* bytes of text in a block */
};

struct dataset_writer;

/* Collective. Makes PATH, over what is there. */
cairn_err dataset_writer_open(MPI_Comm comm, const char *path, const struct dataset_plan *plan, struct dataset_writer **out);

/* Tokens of one piece: a multiple of both the chunks and the checksums. */
int64_t dataset_writer_piece(const struct dataset_writer *writer);

/* Collective: this rank's tokens [FIRST, FIRST + COUNT) of SPLIT, as stored bytes. FIRST is a multiple of the piece; COUNT is the piece,
 * less only at the split's end, or 0. Ranks write in their order. ERR is this rank's error so far: with one on any rank nothing is
 * written and all ranks get it, as they get that of a rank that cannot write. */
cairn_err dataset_writer_write(struct dataset_writer *writer, enum dataset_split split, int64_t first, int64_t count, const void *bytes,
                               cairn_err err);

/* Collective. Writes the checksums, makes the file durable and closes it. If ERR is not CAIRN_OK, only closes and returns it. */
cairn_err dataset_writer_close(struct dataset_writer *writer, cairn_err err);

#endif
