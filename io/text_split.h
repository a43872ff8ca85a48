/* Which parts of a text are for training and which for validation.
 *
 * The text is cut into blocks. Validation takes V of the N blocks, the middles of V equal parts of the text: block
 * floor((2k + 1) N / 2V) for k = 0..V-1. So it sees every region of the text, its blocks depend on the text's length and the
 * fraction alone, and a block's place is computed, not looked up. */
#ifndef IO_TEXT_SPLIT_H
#define IO_TEXT_SPLIT_H

#include <stdint.h>

#include "io/dataset.h"

struct text_split {
    int64_t bytes;  /* of the whole text */
    int64_t block;  /* bytes of a block; the last one may be shorter */
    int64_t blocks; /* N */
    int64_t validation_blocks;
};

/* FRACTION from 0 up to, not including, 1. */
struct text_split text_split_make(int64_t bytes, double fraction);

int64_t text_split_bytes(const struct text_split *split, enum dataset_split which);

/* Where byte POSITION of split WHICH stands in the text; *RUN is how many bytes from there on follow one another in both. */
int64_t text_split_locate(const struct text_split *split, enum dataset_split which, int64_t position, int64_t *run);

#endif
