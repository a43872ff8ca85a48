/* Boxes of a global array: what a slab, a piece of one, and a wish are. */
#ifndef CKPT_BOX_H
#define CKPT_BOX_H

#include <stdbool.h>

#include "tensor/shard.h"

struct box {
    int dims;
    int64_t offset[SHARD_MAX_DIMS], extent[SHARD_MAX_DIMS];
};

struct box box_make(int dims, const int64_t *offset, const int64_t *extent);
struct box box_of_shard(const struct shard *s);
int64_t box_elements(const struct box *b);
bool box_intersect(const struct box *a, const struct box *b, struct box *out); /* false: they share no element */
bool box_equal(const struct box *a, const struct box *b);

/* Boxes are split along their first dimension longer than 1, so that every piece is dense in a row-major copy of the whole.
 * box_rows is that dimension's length; box_piece is piece I of COUNT; box_first is where INNER's first element stands in OUTER's copy. */
int64_t box_rows(const struct box *b);
struct box box_piece(const struct box *b, int64_t i, int64_t count);
int64_t box_first(const struct box *outer, const struct box *inner);

/* Do BOXES hold every element of an array of SHAPE exactly once? CODE and a message that names NAME if not. Sorts BOXES. */
cairn_err boxes_cover(const char *name, int dims, const int64_t *shape, struct box *boxes, int count, cairn_err code);

#endif
