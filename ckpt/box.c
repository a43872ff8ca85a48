#include "ckpt/box.h"

#include <stdlib.h>
#include <string.h>

struct box box_make(int dims, const int64_t *offset, const int64_t *extent)
{
    struct box b = {.dims = dims};
    memcpy(b.offset, offset, (size_t)dims * sizeof *offset);
    memcpy(b.extent, extent, (size_t)dims * sizeof *extent);
    return b;
}

struct box box_of_shard(const struct shard *s)
{
    return box_make(s->dims, s->offset, s->extent);
}

int64_t box_elements(const struct box *b)
{
    int64_t n = 1;
    for (int i = 0; i < b->dims; i++)
        n *= b->extent[i];
    return n;
}

bool box_intersect(const struct box *a, const struct box *b, struct box *out)
{
    out->dims = a->dims;
    for (int i = 0; i < a->dims; i++) {
        int64_t begin = a->offset[i] > b->offset[i] ? a->offset[i] : b->offset[i];
        int64_t a_end = a->offset[i] + a->extent[i], b_end = b->offset[i] + b->extent[i];
        int64_t end = a_end < b_end ? a_end : b_end;
        if (end <= begin)
            return false;
        out->offset[i] = begin;
        out->extent[i] = end - begin;
    }
    return true;
}

bool box_equal(const struct box *a, const struct box *b)
{
    size_t bytes = (size_t)a->dims * sizeof(int64_t);
    return a->dims == b->dims && memcmp(a->offset, b->offset, bytes) == 0 && memcmp(a->extent, b->extent, bytes) == 0;
}

static int split_dimension(const struct box *b)
{
    for (int i = 0; i < b->dims; i++)
        if (b->extent[i] != 1)
            return i;
    return 0;
}

int64_t box_rows(const struct box *b)
{
    return b->extent[split_dimension(b)];
}

struct box box_piece(const struct box *b, int64_t i, int64_t count)
{
    struct box piece = *b;
    int d = split_dimension(b);
    int64_t begin = (int64_t)((__int128)b->extent[d] * i / count), end = (int64_t)((__int128)b->extent[d] * (i + 1) / count);
    piece.offset[d] += begin;
    piece.extent[d] = end - begin;
    return piece;
}

int64_t box_first(const struct box *outer, const struct box *inner)
{
    int64_t at = 0;
    for (int i = 0; i < outer->dims; i++)
        at = at * outer->extent[i] + inner->offset[i] - outer->offset[i];
    return at;
}

static int by_offset(const void *a, const void *b)
{
    const struct box *x = a, *y = b;
    for (int i = 0; i < x->dims; i++)
        if (x->offset[i] != y->offset[i])
            return x->offset[i] < y->offset[i] ? -1 : 1;
    return 0;
}

cairn_err boxes_cover(const char *name, int dims, const int64_t *shape, struct box *boxes, int count, cairn_err code)
{
    int64_t whole = 1, held = 0;
    for (int i = 0; i < dims; i++)
        whole *= shape[i];
    if (count > 0)
        qsort(boxes, (size_t)count, sizeof *boxes, by_offset);
    for (int i = 0; i < count; i++) {
        held += box_elements(&boxes[i]);
        int64_t end = boxes[i].offset[0] + boxes[i].extent[0];
        struct box both;
        for (int j = i + 1; j < count && boxes[j].offset[0] < end; j++)
            if (box_intersect(&boxes[i], &boxes[j], &both))
                return FAIL(code, "array %s: two slabs hold the same elements, from %lld of dimension 0 on", name,
                            (long long)both.offset[0]);
    }
    if (held != whole)
        return FAIL(code, "array %s: the slabs hold %lld of its %lld elements", name, (long long)held, (long long)whole);
    return CAIRN_OK;
}
