/* What attention over whole sequences and by pieces of them share: one head's queries, by blocks, meet keys. */
#ifndef CPU_ATTENTION_H
#define CPU_ATTENTION_H

#include "kernels/attention_span.h"
#include "kernels/cpu/cpu.h"

/* Queries of a block: a multiple of the product's rows (6); the scores of 24 x 1024 are a tenth of a second-level cache. */
enum { QUERIES = 24 };

/* One thread's workspace: matrices of floats, rows padded to lanes. */
struct head_workspace {
    float *query, *key, *value;         /* [columns][size] */
    float *key_turned, *value_turned;   /* [size][columns] */
    float *d_out, *d_key, *d_value;     /* [columns][size] */
    float *rows;                        /* [QUERIES][size] */
    float *out;                         /* [QUERIES][size] */
    float *scores, *gradients;          /* [QUERIES][columns] */
};

struct attention {
    struct cpu *cpu;
    struct attention_desc desc;
    struct attention_piece whole;
    int64_t columns, size; /* padded */
    float scale;
    struct head_workspace *threads;
    float *memory;
    size_t memory_bytes;
};

/* Where a head's vectors are in an array [batch, columns, parts, heads, head_size]. */
struct vectors {
    int64_t first, stride;
};

/* One head of one sequence: queries and the keys that they see. */
struct meeting {
    const struct attention *a;
    const struct attention_piece *piece;
    const struct dropout *dropout;
    const void *qkv, *kv;            /* kv may be qkv */
    int64_t begin, queries;          /* queries begin..queries-1 see any keys */
    int64_t keys, stride;            /* how many any query sees; padded: the length of a row of scores */
    const struct head_workspace *w;
    int64_t number;                  /* b * heads + h */
    struct vectors query, key, value, out;
};

/* All but a head; KV is NULL where keys and values are those of QKV. */
struct meeting attention_meeting(const struct attention *, const struct attention_piece *, const struct dropout *, const void *qkv,
                                 const void *kv);
/* The calling thread takes head NUMBER. */
struct meeting attention_head(const struct meeting *, int64_t number);

/* The queries of one block, and the keys that they see. */
struct block {
    int64_t first, rows, keys, padded_keys;
};

struct block attention_block(const struct meeting *, int64_t first);
/* Keys that the block's row R sees. */
int64_t attention_seen(const struct meeting *, const struct block *, int64_t r);

/* What the passes of a head read, into the workspace; backward: d_key and d_value to zero. */
void attention_pack_forward(const struct meeting *);
void attention_pack_backward(const struct meeting *, const void *d_out);
/* COUNT rows of the workspace to the head's vectors FIRST.. of X. */
void attention_unpack(const struct meeting *, void *x, struct vectors, int64_t first, const float *from, int64_t count);

/* w->scores = queries keys^T, not scaled. */
void attention_scores(const struct meeting *, const struct block *);
/* Drops what is to be dropped of rows of scores' form. */
void attention_drop(const struct meeting *, const struct block *, float *rows);
/* w->out = scores values */
void attention_values(const struct meeting *, const struct block *);
/* Adds to w->d_key and w->d_value; w->out = the block's part of d_query. LOG_SUM is the head's. */
void attention_block_backward(const struct meeting *, const struct block *, const void *out, const float *log_sum);

#endif
