/* What a checkpoint holds: facts, arrays, and where the slabs of each lie (doc/formats/checkpoint.md). */
#ifndef CKPT_TABLE_H
#define CKPT_TABLE_H

#include "ckpt/box.h"
#include "ckpt/checkpoint.h"

/* Bytes that one checksum covers. */
enum { CHECKPOINT_BLOCK = 1 << 20 };

struct table_array {
    char name[SHARD_NAME_SIZE];
    int32_t dtype, dims;
    int64_t shape[SHARD_MAX_DIMS];
};

struct table_slab {
    int32_t array, part;
    int64_t offset[SHARD_MAX_DIMS], extent[SHARD_MAX_DIMS];
    int64_t data_at, checksums_at; /* bytes from the part's begin */
};

struct table_part {
    int64_t bytes;
    uint64_t structure; /* xxh3-64 over all bytes of the part but the slabs' data */
};

struct table {
    struct checkpoint_facts facts;
    double time; /* when it was written, seconds since 1970 */
    int ranks;   /* that wrote it */
    int array_count, slab_count, part_count;
    struct table_array *arrays; /* by name */
    struct table_slab *slabs;   /* by array, then offset */
    struct table_part *parts;
    int *first_slab;            /* [array_count + 1]; filled by table_check */
};

void table_free(struct table *t);
cairn_err table_allocate(struct table *t, int arrays, int slabs, int parts);

/* Every number is in its range, names are sorted and usable, and the slabs of each array hold each element once:
 * after CAIRN_OK the table can be trusted by a reader. CAIRN_ECORRUPT if not. Fills first_slab. */
cairn_err table_check(struct table *t);

/* A name as HDF5 groups take it; CAIRN_EINVAL tells why not. */
cairn_err table_check_name(const char *name);

int table_find(const struct table *t, const char *name); /* -1: not there */

/* As bytes, for other ranks. *DATA is freed by the caller. table_unpack takes any bytes: CAIRN_ECORRUPT if they are none of ours. */
cairn_err table_pack(const struct table *t, void **data, size_t *bytes);
cairn_err table_unpack(const void *data, size_t bytes, struct table *t);

static inline struct box table_slab_box(const struct table *t, int slab)
{
    const struct table_slab *s = &t->slabs[slab];
    return box_make(t->arrays[s->array].dims, s->offset, s->extent);
}

static inline size_t table_slab_bytes(const struct table *t, int slab)
{
    struct box b = table_slab_box(t, slab);
    return (size_t)box_elements(&b) * dtype_size((enum dtype)t->arrays[t->slabs[slab].array].dtype);
}

static inline int64_t block_count(size_t bytes)
{
    return (int64_t)((bytes + CHECKPOINT_BLOCK - 1) / CHECKPOINT_BLOCK);
}

/* "[2, 3]"; OUT of SIZE bytes is returned. */
char *shape_text(int dims, const int64_t *shape, char *out, size_t size);

#endif
