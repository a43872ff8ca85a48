#include "io/gzip_stream.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

enum { BUFFER_BYTES = 1 << 20, WINDOW_GZIP = 15 + 16 /* zlib.h, inflateInit2: gzip only */ };

struct copy {
    int from, to;
    struct progress *progress;
    int64_t taken, written;
    z_stream z;
    bool ended; /* the input */
    unsigned char in[BUFFER_BYTES], out[BUFFER_BYTES];
};

/* Reads until the buffer is full or the input ends, so that the first bytes of a slow pipe are there together. */
static cairn_err fill(struct copy *c)
{
    size_t have = 0;
    while (have < sizeof c->in) {
        ssize_t n = read(c->from, c->in + have, sizeof c->in - have);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return FAIL(CAIRN_ESYS, "reading: %s", strerror(errno));
        if (n == 0) {
            c->ended = true;
            break;
        }
        have += (size_t)n;
    }
    c->z.next_in = c->in;
    c->z.avail_in = (uInt)have;
    c->taken += (int64_t)have;
    if (c->progress)
        progress_update(c->progress, c->taken);
    return CAIRN_OK;
}

static cairn_err put(struct copy *c, const unsigned char *bytes, size_t count)
{
    while (count > 0) {
        ssize_t n = write(c->to, bytes, count);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return FAIL(error_from_errno(errno), "writing what was unpacked: %s", strerror(errno));
        bytes += n;
        count -= (size_t)n;
        c->written += n;
    }
    return CAIRN_OK;
}

static cairn_err copy_plain(struct copy *c)
{
    while (c->z.avail_in > 0) {
        TRY(put(c, c->in, c->z.avail_in));
        c->z.avail_in = 0;
        if (!c->ended)
            TRY(fill(c));
    }
    return CAIRN_OK;
}

static cairn_err damaged(const struct copy *c, const char *why)
{
    return FAIL(CAIRN_EFORMAT, "damaged gzip data before compressed byte %lld: %s", (long long)(c->taken - c->z.avail_in), why);
}

/* One gzip member, to its end. */
static cairn_err copy_member(struct copy *c)
{
    for (;;) {
        if (c->z.avail_in == 0 && !c->ended)
            TRY(fill(c));
        c->z.next_out = c->out;
        c->z.avail_out = sizeof c->out;
        int result = inflate(&c->z, Z_NO_FLUSH);
        TRY(put(c, c->out, sizeof c->out - c->z.avail_out));
        if (result == Z_STREAM_END)
            return CAIRN_OK;
        if (result == Z_BUF_ERROR && c->z.avail_in == 0 && c->ended)
            return FAIL(CAIRN_EFORMAT, "the gzip data is cut off after %lld compressed bytes", (long long)c->taken);
        if (result != Z_OK && result != Z_BUF_ERROR)
            return damaged(c, c->z.msg ? c->z.msg : zError(result));
    }
}

/* Zeros up to the end: tapes and block devices pad with them, and gzip passes over them. */
static cairn_err skip_zeros(struct copy *c)
{
    for (;;) {
        while (c->z.avail_in > 0 && *c->z.next_in == 0) {
            c->z.next_in++;
            c->z.avail_in--;
        }
        if (c->z.avail_in > 0 || c->ended)
            return CAIRN_OK;
        TRY(fill(c));
    }
}

static cairn_err copy_members(struct copy *c)
{
    if (inflateInit2(&c->z, WINDOW_GZIP) != Z_OK)
        return FAIL(CAIRN_ENOMEM, "no memory for zlib");
    cairn_err err;
    do {
        err = copy_member(c);
        if (err == CAIRN_OK)
            err = skip_zeros(c);
        if (err == CAIRN_OK && inflateReset(&c->z) != Z_OK)
            err = FAIL(CAIRN_ELIBRARY, "zlib cannot be reset");
    } while (err == CAIRN_OK && c->z.avail_in > 0);
    inflateEnd(&c->z);
    return err;
}

cairn_err gzip_stream_copy(int from, int to, struct progress *progress, int64_t *written)
{
    struct copy *c = calloc(1, sizeof *c);
    if (!c)
        return FAIL(CAIRN_ENOMEM, "no memory for a copy");
    c->from = from;
    c->to = to;
    c->progress = progress;
    cairn_err err = fill(c);
    if (err == CAIRN_OK) {
        bool gzip = c->z.avail_in >= 2 && c->in[0] == 0x1f && c->in[1] == 0x8b;
        err = gzip ? copy_members(c) : copy_plain(c);
    }
    *written = c->written;
    free(c);
    return err;
}
