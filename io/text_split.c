#include "io/text_split.h"

#include <math.h>

/* Large blocks keep paragraphs whole; small ones let a small text's validation still see many of its regions. */
enum { BLOCK_LARGEST = 64 << 10, BLOCK_SMALLEST = 256, BLOCKS_WANTED = 16 };

struct text_split text_split_make(int64_t bytes, double fraction)
{
    struct text_split s = {.bytes = bytes, .block = BLOCK_LARGEST};
    double smaller = (double)bytes * (fraction < 0.5 ? fraction : 1 - fraction);
    while (s.block > BLOCK_SMALLEST && smaller < BLOCKS_WANTED * (double)s.block)
        s.block /= 2;
    s.blocks = (bytes + s.block - 1) / s.block;
    s.validation_blocks = llround((double)s.blocks * fraction);
    if (fraction > 0 && s.validation_blocks == 0)
        s.validation_blocks = 1;
    if (s.validation_blocks >= s.blocks) /* a text of one block is all for training */
        s.validation_blocks = s.blocks > 0 ? s.blocks - 1 : 0;
    return s;
}

static int64_t validation_block(const struct text_split *s, int64_t k)
{
    return (int64_t)((__int128)(2 * k + 1) * s->blocks / (2 * s->validation_blocks));
}

/* How many validation blocks stand before block I: the k with (2k + 1) N < 2 V i. */
static int64_t validation_before(const struct text_split *s, int64_t i)
{
    __int128 room = (__int128)2 * s->validation_blocks * i - s->blocks;
    if (room <= 0)
        return 0;
    int64_t count = (int64_t)((room + 2 * s->blocks - 1) / (2 * s->blocks));
    return count < s->validation_blocks ? count : s->validation_blocks;
}

/* The block that is number T of the train blocks: the last I with T train blocks before it that is one itself. */
static int64_t train_block(const struct text_split *s, int64_t t)
{
    int64_t low = t, high = t + s->validation_blocks;
    while (low < high) { /* the smallest i with more than t train blocks among 0..i */
        int64_t middle = low + (high - low) / 2;
        if (middle + 1 - validation_before(s, middle + 1) > t)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static int64_t block_bytes(const struct text_split *s, int64_t i)
{
    return i == s->blocks - 1 ? s->bytes - i * s->block : s->block;
}

int64_t text_split_bytes(const struct text_split *s, enum dataset_split which)
{
    int64_t validation = s->validation_blocks * s->block;
    if (s->validation_blocks > 0 && validation_block(s, s->validation_blocks - 1) == s->blocks - 1)
        validation -= s->block - block_bytes(s, s->blocks - 1);
    return which == SPLIT_VALIDATION ? validation : s->bytes - validation;
}

int64_t text_split_locate(const struct text_split *s, enum dataset_split which, int64_t position, int64_t *run)
{
    int64_t number = position / s->block, inside = position % s->block;
    int64_t i = which == SPLIT_VALIDATION ? validation_block(s, number) : train_block(s, number);
    *run = block_bytes(s, i) - inside;
    return i * s->block + inside;
}
