/* The text of an import: several files seen as one row of bytes that every rank reads at any position.
 *
 * Plain files are read where they are. What can only be read from its begin - standard input, pipes, gzip files (by their
 * first two bytes, whatever the name) - is first unpacked by one rank into a file beside the output, several of them at the same
 * time by several ranks. */
#ifndef IO_TEXT_SOURCE_H
#define IO_TEXT_SOURCE_H

#include <mpi.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct text;

/* Collective; fails on all ranks or none. FILES may hold "-", once. Unpacked files are SPOOL.0, SPOOL.1, ... SHOW:
 * the first of them tells its progress. */
cairn_err text_open(MPI_Comm comm, char *const *files, int count, const char *spool, bool show, struct text **out);

int64_t text_bytes(const struct text *text);

/* Bytes of file I, unpacked. */
int64_t text_file_bytes(const struct text *text, int i);

/* COUNT bytes of the text from POSITION on. */
cairn_err text_read(struct text *text, int64_t position, int64_t count, void *bytes);

/* Collective: removes what was unpacked, after all ranks are done with it. */
void text_close(struct text *text);

#endif
