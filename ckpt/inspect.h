/* Hashes and differences of checkpoints. Serial. */
#ifndef CKPT_INSPECT_H
#define CKPT_INSPECT_H

#include "ckpt/table.h"

/* As checkpoint_hash, over whole arrays in memory whose names begin with PREFIX: equal to the hash of a checkpoint of them.
 * CAIRN_EINVAL if one of them is only a part of its array. */
cairn_err checkpoint_hash_shards(const struct shard *shards, int count, const char *prefix, char hex[17]);

struct checkpoint_difference {
    char name[SHARD_NAME_SIZE];
    enum { DIFFERENCE_VALUES, DIFFERENCE_SHAPE, DIFFERENCE_ONLY_A, DIFFERENCE_ONLY_B } kind;
    int64_t elements;                /* that differ */
    double largest;                  /* absolute difference; NaN where one side alone is NaN */
    double relative;                 /* the difference's 2-norm by that of A's array; NaN or infinity where that says nothing */
    int dims;
    int64_t first[SHARD_MAX_DIMS];   /* position of the first one */
};

/* Which arrays of A and B differ, in the order of their names. *OUT is freed by the caller. */
cairn_err checkpoint_diff(const char *a, const char *b, struct checkpoint_difference **out, int *count);

#endif
