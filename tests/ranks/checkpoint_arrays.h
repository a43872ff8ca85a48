/* Arrays of all kinds in all layouts, with contents that are a function of name and position: what tests of checkpoints save,
 * restore and compare. */
#ifndef TESTS_CHECKPOINT_ARRAYS_H
#define TESTS_CHECKPOINT_ARRAYS_H

#include <mpi.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ckpt/box.h"
#include "ckpt/checkpoint.h"

enum { ARRAY_COUNT = 8 };

enum layout_kind {
    LAYOUT_REPLICATED, /* everything on every rank */
    LAYOUT_ROWS,
    LAYOUT_COLUMNS,
    LAYOUT_UNEVEN,     /* rank 0 has three quarters of the rows */
    LAYOUT_STAGES,     /* array I on the ranks of the parity of I alone */
    LAYOUT_MIXED,      /* array I in layout I modulo 4 */
    LAYOUT_COUNT,
};

static const struct shard test_arrays[ARRAY_COUNT] = {
    {.name = "weights/a", .dtype = DTYPE_F32, .dims = 2, .shape = {7, 5}},
    {.name = "weights/block.1/b", .dtype = DTYPE_BF16, .dims = 1, .shape = {1}},
    {.name = "weights/block.1/c", .dtype = DTYPE_F64, .dims = 3, .shape = {3, 4, 5}},
    {.name = "weights/block.1/row", .dtype = DTYPE_F32, .dims = 2, .shape = {1, 300001}},
    {.name = "moments/flat", .dtype = DTYPE_F32, .dims = 1, .shape = {1000003}},
    {.name = "moments/matrix", .dtype = DTYPE_BF16, .dims = 2, .shape = {1201, 1003}},
    {.name = "count", .dtype = DTYPE_I32, .dims = 4, .shape = {2, 3, 2, 3}},
    {.name = "moments/none", .dtype = DTYPE_F32, .dims = 2, .shape = {0, 4}},
};

static inline void cut(struct shard *s, int dimension, int64_t begin, int64_t end)
{
    s->offset[dimension] = begin;
    s->extent[dimension] = end - begin;
}

static inline void lay_out_shard(struct shard *s, enum layout_kind kind, int index, int rank, int size)
{
    int last = s->dims - 1;
    if (kind == LAYOUT_MIXED)
        kind = (enum layout_kind)(index % 4);
    for (int d = 0; d < s->dims; d++)
        cut(s, d, 0, s->shape[d]);
    if (kind == LAYOUT_ROWS)
        cut(s, 0, s->shape[0] * rank / size, s->shape[0] * (rank + 1) / size);
    if (kind == LAYOUT_COLUMNS)
        cut(s, last, s->shape[last] * rank / size, s->shape[last] * (rank + 1) / size);
    if (kind == LAYOUT_UNEVEN && size > 1) {
        int64_t most = s->shape[0] * 3 / 4, rest = s->shape[0] - most;
        cut(s, 0, rank ? most + rest * (rank - 1) / (size - 1) : 0, rank ? most + rest * rank / (size - 1) : most);
    }
}

/* This rank's shards; returns their number. Data is of zeros. */
static inline int make_shards(struct shard shards[ARRAY_COUNT], enum layout_kind kind, int rank, int size)
{
    int n = 0;
    for (int i = 0; i < ARRAY_COUNT; i++) {
        if (kind == LAYOUT_STAGES && size > 1 && rank % 2 != i % 2)
            continue;
        shards[n] = test_arrays[i];
        lay_out_shard(&shards[n], kind, i, rank, size);
        shards[n].data = calloc(1, shard_bytes(&shards[n]) + 1);
        n++;
    }
    return n;
}

static inline void free_shards(struct shard *shards, int count)
{
    for (int i = 0; i < count; i++)
        free(shards[i].data);
}

static inline uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 31) * 0x9e3779b97f4a7c15u;
    return (x ^ x >> 29) * 0xbf58476d1ce4e5b9u;
}

/* Fills (or, with COMPARE, counts the bytes that are not as filled) by SEED, name and global position. */
static inline int64_t visit_shard(struct shard *s, uint64_t seed, bool compare)
{
    size_t size = dtype_size(s->dtype);
    int64_t n = shard_elements(s), wrong = 0;
    for (const char *c = s->name; *c; c++)
        seed = mix(seed + (unsigned char)*c);
    for (int64_t i = 0; i < n; i++) {
        int64_t rest = i, global = 0, stride = 1;
        for (int d = s->dims - 1; d >= 0; d--) {
            global += (s->offset[d] + rest % s->extent[d]) * stride;
            rest /= s->extent[d];
            stride *= s->shape[d];
        }
        uint64_t value = mix(seed + (uint64_t)global);
        char *at = (char *)s->data + (size_t)i * size;
        if (compare)
            wrong += memcmp(at, &value, size) != 0;
        else
            memcpy(at, &value, size);
    }
    return wrong;
}

static inline int64_t visit_shards(struct shard *shards, int count, uint64_t seed, bool compare)
{
    int64_t wrong = 0;
    for (int i = 0; i < count; i++)
        wrong += visit_shard(&shards[i], seed, compare);
    return wrong;
}

/* The nodes of the ranks of a test. */
enum { ONE_NODE, NODE_A_RANK, TWO_NODES, NODE_MAP_COUNT };
static const int node_maps[NODE_MAP_COUNT][4] = {{0, 0, 0, 0}, {0, 1, 2, 3}, {0, 0, 1, 1}};

static inline struct checkpoint_facts facts_of(int64_t step)
{
    return (struct checkpoint_facts){.step = step, .config = "name: test\n", .signature = "cpu\n", .extra = "{\"position\": 12}"};
}

static inline cairn_err save_arrays(MPI_Comm comm, const int *node_of, const char *dir, enum layout_kind kind, int64_t step, uint64_t seed)
{
    struct shard shards[ARRAY_COUNT];
    struct checkpoint_group group = {comm, node_of};
    struct checkpoint_facts facts = facts_of(step);
    int rank, size;
    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &size);
    int count = make_shards(shards, kind, rank, size);
    visit_shards(shards, count, seed, false);
    cairn_err err = checkpoint_save(&group, dir, &facts, shards, count);
    free_shards(shards, count);
    return err;
}

/* Restores and compares; *STEP tells which one was restored. */
static inline cairn_err restore_arrays(MPI_Comm comm, const char *dir, enum layout_kind kind, uint64_t seed_less_step, int64_t *step,
                                       int64_t *wrong)
{
    struct shard shards[ARRAY_COUNT];
    struct checkpoint_group group = {comm, node_maps[NODE_A_RANK]};
    struct checkpoint_facts facts;
    int rank, size;
    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &size);
    int count = make_shards(shards, kind, rank, size);
    cairn_err err = checkpoint_restore(&group, dir, &facts, shards, count);
    *step = facts.step;
    *wrong = err == CAIRN_OK ? visit_shards(shards, count, seed_less_step + (uint64_t)facts.step, true) : 0;
    checkpoint_facts_free(&facts);
    free_shards(shards, count);
    return err;
}

#endif
