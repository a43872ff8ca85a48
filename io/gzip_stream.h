/* A stream of bytes, unpacked if it is gzip (RFC 1952, several members one after another too). */
#ifndef IO_GZIP_STREAM_H
#define IO_GZIP_STREAM_H

#include <stdint.h>

#include "base/error.h"
#include "io/progress.h"

/* Copies all of FROM to the file descriptor TO, decompressed if it begins with gzip's magic bytes. *WRITTEN: bytes written.
 * PROGRESS is told the bytes taken, or is NULL. A stream that ends inside a gzip member, or is damaged, is CAIRN_EFORMAT. */
cairn_err gzip_stream_copy(int from, int to, struct progress *progress, int64_t *written);

#endif
