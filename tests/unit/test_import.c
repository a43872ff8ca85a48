/* The serial parts of an import; the whole is tested over ranks (tests/ranks/import.c). */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include "io/chunk_cache.h"
#include "io/gzip_stream.h"
#include "io/text_split.h"

/* ---- split ---- */

/* Walks both splits through text_split_locate: every byte of the text in exactly one of them, in order. */
static void check_split(int64_t bytes, double fraction)
{
    struct text_split s = text_split_make(bytes, fraction);
    char *seen = calloc((size_t)bytes + 1, 1);
    int64_t sum = 0;
    for (int which = 0; which < 2; which++) {
        int64_t count = text_split_bytes(&s, (enum dataset_split)which), before = -1, run;
        cr_assert_geq(count, 0);
        sum += count;
        for (int64_t position = 0; position < count; position += run) {
            int64_t at = text_split_locate(&s, (enum dataset_split)which, position, &run);
            cr_assert_gt(run, 0);
            cr_assert_gt(at, before);
            cr_assert_leq(at + run, bytes);
            before = at;
            int64_t inside; /* the middle of a run is found too */
            cr_assert_eq(text_split_locate(&s, (enum dataset_split)which, position + run / 2, &inside), at + run / 2);
            for (int64_t i = 0; i < run; i++)
                cr_assert_eq(seen[at + i]++, 0, "%d bytes, %g: byte %d is in two splits", (int)bytes, fraction, (int)(at + i));
        }
    }
    cr_assert_eq(sum, bytes);
    free(seen);
}

Test(text_split, every_byte_once)
{
    static const double fractions[] = {0, 0.001, 0.01, 0.1, 0.3, 0.5, 0.77, 0.99};
    static const int64_t sizes[] = {1, 2, 255, 256, 257, 511, 512, 513, 1000, 4096, 10007, 65536, 100000, 300001};
    for (size_t f = 0; f < sizeof fractions / sizeof fractions[0]; f++)
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
            check_split(sizes[i], fractions[f]);
}

Test(text_split, fraction_is_met_and_spread)
{
    struct text_split s = text_split_make(40000000, 0.01);
    int64_t bytes = text_split_bytes(&s, SPLIT_VALIDATION), run, quarter[4] = {0};
    cr_assert(bytes > 390000 && bytes < 410000, "%d validation bytes", (int)bytes);
    for (int64_t position = 0; position < bytes; position += run)
        quarter[text_split_locate(&s, SPLIT_VALIDATION, position, &run) / 10000000]++;
    for (int i = 0; i < 4; i++)
        cr_assert(quarter[i] >= 5 && quarter[i] <= 7, "%d validation blocks in quarter %d", (int)quarter[i], i);
    s = text_split_make(40000000, 0);
    cr_assert_eq(text_split_bytes(&s, SPLIT_VALIDATION), 0);
    s = text_split_make(100, 0.5); /* one block is all for training */
    cr_assert_eq(text_split_bytes(&s, SPLIT_TRAIN), 100);
}

/* Sizes past what a 32-bit count or a 64-bit product holds. */
Test(text_split, huge_text)
{
    int64_t bytes = (int64_t)1 << 55, run;
    struct text_split s = text_split_make(bytes, 0.01);
    int64_t train = text_split_bytes(&s, SPLIT_TRAIN), validation = text_split_bytes(&s, SPLIT_VALIDATION);
    cr_assert_eq(train + validation, bytes);
    int64_t at = text_split_locate(&s, SPLIT_TRAIN, train - 1, &run);
    cr_assert(at < bytes && at > bytes - 300 * s.block);
    at = text_split_locate(&s, SPLIT_VALIDATION, validation - 1, &run);
    cr_assert(at < bytes && at > bytes - 300 * s.block);
}

/* ---- gzip ---- */

static int file_with(const void *bytes, size_t count)
{
    int fd = memfd_create("test", 0);
    cr_assert_eq(write(fd, bytes, count), (ssize_t)count);
    lseek(fd, 0, SEEK_SET);
    return fd;
}

static size_t gzip(const char *text, size_t count, unsigned char *out, size_t room)
{
    z_stream z = {.next_in = (Bytef *)text, .avail_in = (uInt)count, .next_out = out, .avail_out = (uInt)room};
    cr_assert_eq(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    cr_assert_eq(deflate(&z, Z_FINISH), Z_STREAM_END);
    deflateEnd(&z);
    return z.total_out;
}

static cairn_err unpack(const void *bytes, size_t count, char *out, size_t room, int64_t *written)
{
    int from = file_with(bytes, count), to = memfd_create("out", 0);
    cairn_err err = gzip_stream_copy(from, to, NULL, written);
    cr_assert_eq(pread(to, out, room, 0), (ssize_t)(*written < (int64_t)room ? *written : (int64_t)room));
    close(from);
    close(to);
    return err;
}

enum { TEXT = 3 << 20 };

static char *make_text(void)
{
    char *text = malloc(TEXT);
    for (int i = 0; i < TEXT; i++)
        text[i] = (char)(' ' + (unsigned)i * 2654435761u % 64 * (unsigned)(i % 3 == 0));
    return text;
}

Test(gzip_stream, plain_and_members)
{
    char *text = make_text(), *out = malloc(TEXT);
    unsigned char *packed = malloc(2 * TEXT);
    int64_t written;
    cr_assert_eq(unpack(text, TEXT, out, TEXT, &written), CAIRN_OK);
    cr_assert(written == TEXT && memcmp(text, out, TEXT) == 0);
    size_t a = gzip(text, 1000000, packed, TEXT);                      /* three members, one of them empty, */
    size_t b = gzip(text, 0, packed + a, TEXT);                        /* and the padding that tapes leave */
    size_t c = gzip(text + 1000000, TEXT - 1000000, packed + a + b, TEXT);
    memset(packed + a + b + c, 0, 1000);
    cr_assert_eq(unpack(packed, a + b + c + 1000, out, TEXT, &written), CAIRN_OK, "%s", cairn_err_message());
    cr_assert(written == TEXT && memcmp(text, out, TEXT) == 0);
    cr_assert_eq(unpack(packed, 0, out, TEXT, &written), CAIRN_OK);
    cr_assert_eq(written, 0);
}

Test(gzip_stream, damage)
{
    char *text = make_text(), *out = malloc(TEXT);
    unsigned char *packed = malloc(TEXT);
    int64_t written;
    size_t size = gzip(text, TEXT, packed, TEXT);
    for (size_t cut = 3; cut < size; cut += size / 37) {
        cr_assert_eq(unpack(packed, cut, out, TEXT, &written), CAIRN_EFORMAT, "cut at %zu", cut);
        cr_assert(strstr(cairn_err_message(), "cut off"), "%s", cairn_err_message());
    }
    packed[size - 6] ^= 1; /* its checksum */
    cr_assert_eq(unpack(packed, size, out, TEXT, &written), CAIRN_EFORMAT);
    cr_assert(strstr(cairn_err_message(), "damaged"), "%s", cairn_err_message());
    packed[size - 6] ^= 1;
    memcpy(packed + size, "garbage", 7);
    cr_assert_eq(unpack(packed, size + 7, out, TEXT, &written), CAIRN_EFORMAT);
}

/* ---- cache ---- */

Test(chunk_cache, drops_the_least_recently_used)
{
    struct chunk_cache *cache;
    cr_assert_eq(chunk_cache_make(300, 100, &cache), CAIRN_OK);
    for (int64_t key = 0; key < 3; key++)
        memset(chunk_cache_claim(cache, key), (int)key, 100);
    cr_assert_eq(*(const char *)chunk_cache_find(cache, 0), 0);
    memset(chunk_cache_claim(cache, 3), 3, 100);
    cr_assert_null(chunk_cache_find(cache, 1));
    cr_assert_eq(*(const char *)chunk_cache_find(cache, 0), 0);
    cr_assert_eq(*(const char *)chunk_cache_find(cache, 3), 3);
    chunk_cache_forget(cache, 0);
    cr_assert_null(chunk_cache_find(cache, 0));
    cr_assert_eq(*(const char *)chunk_cache_find(cache, 2), 2);
    chunk_cache_free(cache);
}
