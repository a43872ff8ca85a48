/* Makes a dataset of text: each byte is a token. */
#ifndef IO_IMPORT_TEXT_H
#define IO_IMPORT_TEXT_H

#include <mpi.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum { IMPORT_CHUNK_DEFAULT = 16 << 10 }; /* bytes, of compressed data; figures: tests/bench/README.md, reader.sh */

struct import_options {
    char *const *files; /* "-": standard input, of rank 0 */
    int file_count;
    const char *output;
    double validation;   /* fraction of the text, 0 up to 1, see io/text_split.h */
    int compress;        /* deflate level, 0: none */
    int64_t chunk_bytes; /* 0: contiguous, or IMPORT_CHUNK_DEFAULT if compressed */
    bool force;          /* replace an existing file */
    bool progress;       /* tell on standard error how far it is, from rank 0 */
};

struct import_result {
    int64_t train_tokens, validation_tokens;
    int64_t file_bytes;
    double seconds;
};

/* Collective. The file is written as OUTPUT.tmp, made durable and renamed: OUTPUT is whole or not there. Another import of
 * the same OUTPUT is refused meanwhile, by a lock on OUTPUT.tmp. The bytes do not depend on the number of ranks. All ranks return the same code and message; memory is bounded whatever the text's size. */
cairn_err import_text(MPI_Comm comm, const struct import_options *options, struct import_result *result);

/* Removes what an import of OPTIONS that is cut short leaves behind. import_text does so itself; this is for signal handlers, before which
 * import_leftovers_prepare has been called once: it only calls unlink(2), and only while
 * these files are this import's. */
cairn_err import_leftovers_prepare(const struct import_options *options);
void import_leftovers_remove(void);

#endif
