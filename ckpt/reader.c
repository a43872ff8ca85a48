#include "ckpt/reader.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "ckpt/folder.h"
#include "ckpt/image.h"
#include "ckpt/part.h"

struct reader {
    char folder[FOLDER_PATH_SIZE];
    const struct table *table;
    int *fds;              /* of the parts; -1: not open */
    uint64_t **checksums;  /* of the slabs; NULL: not read yet */
    char *block;           /* the block read last, when not all of it was wanted */
    int block_slab;
    int64_t block_index;
};

cairn_err reader_open(const char *folder, const struct table *table, struct reader **out)
{
    struct reader *r = calloc(1, sizeof *r);
    *out = NULL;
    if (!r)
        return FAIL(CAIRN_ENOMEM, "no memory to read %s", folder);
    r->table = table;
    r->block_slab = -1;
    snprintf(r->folder, sizeof r->folder, "%s", folder);
    r->fds = malloc(((size_t)table->part_count + 1) * sizeof *r->fds);
    r->checksums = calloc((size_t)table->slab_count + 1, sizeof *r->checksums);
    r->block = malloc(CHECKPOINT_BLOCK);
    for (int i = 0; r->fds && i < table->part_count; i++)
        r->fds[i] = -1;
    if (!r->fds || !r->checksums || !r->block) {
        reader_close(r);
        return FAIL(CAIRN_ENOMEM, "no memory to read %s", folder);
    }
    *out = r;
    return CAIRN_OK;
}

void reader_close(struct reader *r)
{
    if (!r)
        return;
    for (int i = 0; r->fds && i < r->table->part_count; i++)
        if (r->fds[i] >= 0)
            close(r->fds[i]);
    for (int i = 0; r->checksums && i < r->table->slab_count; i++)
        free(r->checksums[i]);
    free(r->fds);
    free(r->checksums);
    free(r->block);
    free(r);
}

static cairn_err part_path(const struct reader *r, int part, char path[FOLDER_PATH_SIZE])
{
    char name[FOLDER_PART_NAME_SIZE];
    folder_part_name(part, name);
    return folder_join(r->folder, name, path);
}

static cairn_err open_part(struct reader *r, int part, char path[FOLDER_PATH_SIZE])
{
    TRY(part_path(r, part, path));
    if (r->fds[part] >= 0)
        return CAIRN_OK;
    r->fds[part] = open(path, O_RDONLY | O_CLOEXEC);
    if (r->fds[part] >= 0)
        return CAIRN_OK;
    if (errno != ENOENT)
        return FAIL(error_from_errno(errno), "cannot open %s: %s", path, strerror(errno));
    if (access(r->folder, F_OK) == 0)
        return FAIL(CAIRN_ECORRUPT, "%s is missing", path);
    /* A node without the file system is no reason to call a checkpoint broken. */
    return FAIL(CAIRN_ESYS, "%s cannot be seen: %s", r->folder, strerror(ENOENT));
}

cairn_err reader_check_part(struct reader *r, int part)
{
    const struct table *t = r->table;
    char path[FOLDER_PATH_SIZE];
    TRY(open_part(r, part, path));
    int64_t bytes = image_bytes(r->fds[part]);
    if (bytes < 0)
        return FAIL(CAIRN_ESYS, "cannot look at %s: %s", path, strerror(errno));
    if (bytes != t->parts[part].bytes)
        return FAIL(CAIRN_ECORRUPT, "%s has %lld bytes, not %lld", path, (long long)bytes, (long long)t->parts[part].bytes);
    struct byte_range *ranges = calloc((size_t)t->slab_count + 1, sizeof *ranges);
    if (!ranges)
        return FAIL(CAIRN_ENOMEM, "no memory to check %s", path);
    int n = 0;
    uint64_t hash = 0;
    for (int i = 0; i < t->slab_count; i++)
        if (t->slabs[i].part == part)
            ranges[n++] = (struct byte_range){t->slabs[i].data_at, (int64_t)table_slab_bytes(t, i)};
    cairn_err err = part_structure(r->fds[part], path, bytes, ranges, n, &hash);
    free(ranges);
    if (err == CAIRN_OK && hash != t->parts[part].structure)
        return FAIL(CAIRN_ECORRUPT, "%s: checksum of its structure differs", path);
    return err;
}

static cairn_err load_checksums(struct reader *r, int slab, const char *path)
{
    if (r->checksums[slab])
        return CAIRN_OK;
    const struct table_slab *s = &r->table->slabs[slab];
    size_t bytes = 8 * (size_t)block_count(table_slab_bytes(r->table, slab));
    uint64_t *sums = malloc(bytes);
    if (!sums)
        return FAIL(CAIRN_ENOMEM, "no memory for the checksums of %s", path);
    cairn_err err = file_read(r->fds[s->part], path, sums, bytes, s->checksums_at);
    if (err != CAIRN_OK)
        free(sums);
    else
        r->checksums[slab] = sums;
    return err;
}

static size_t block_bytes(const struct table *t, int slab, int64_t block)
{
    size_t left = table_slab_bytes(t, slab) - (size_t)block * CHECKPOINT_BLOCK;
    return left < CHECKPOINT_BLOCK ? left : CHECKPOINT_BLOCK;
}

static cairn_err read_block(struct reader *r, int slab, int64_t block, void *out)
{
    const struct table_slab *s = &r->table->slabs[slab];
    char path[FOLDER_PATH_SIZE];
    TRY(open_part(r, s->part, path));
    TRY(load_checksums(r, slab, path));
    size_t bytes = block_bytes(r->table, slab, block);
    TRY(file_read(r->fds[s->part], path, out, bytes, s->data_at + block * CHECKPOINT_BLOCK));
    if (XXH3_64bits(out, bytes) != r->checksums[slab][block])
        return FAIL(CAIRN_ECORRUPT, "%s: array %s, block %lld of a slab: checksum differs", path,
                    r->table->arrays[s->array].name, (long long)block);
    return CAIRN_OK;
}

/* BYTES of SLAB from AT on. */
static cairn_err read_run(struct reader *r, int slab, int64_t at, size_t bytes, char *out)
{
    while (bytes > 0) {
        int64_t block = at / CHECKPOINT_BLOCK;
        size_t inside = (size_t)(at % CHECKPOINT_BLOCK), n = block_bytes(r->table, slab, block);
        if (inside == 0 && bytes >= n) {
            TRY(read_block(r, slab, block, out));
        } else {
            if (r->block_slab != slab || r->block_index != block) {
                r->block_slab = -1;
                TRY(read_block(r, slab, block, r->block));
                r->block_slab = slab;
                r->block_index = block;
            }
            n = n - inside < bytes ? n - inside : bytes;
            memcpy(out, r->block + inside, n);
        }
        at += (int64_t)n;
        out += n;
        bytes -= n;
    }
    return CAIRN_OK;
}

/* The elements that BOX and SLAB share, in runs that are dense in both. */
static cairn_err read_common(struct reader *r, int slab, const struct box *box, const struct box *common, char *data)
{
    struct box held = table_slab_box(r->table, slab), run = *common;
    size_t size = dtype_size((enum dtype)r->table->arrays[r->table->slabs[slab].array].dtype);
    int inner = box->dims - 1; /* dimensions from this one on make up a run */
    while (inner > 0 && common->extent[inner] == held.extent[inner] && common->extent[inner] == box->extent[inner])
        inner--;
    for (int d = 0; d < inner; d++)
        run.extent[d] = 1;
    size_t bytes = (size_t)box_elements(&run) * size;
    for (;;) {
        TRY(read_run(r, slab, box_first(&held, &run) * (int64_t)size, bytes, data + (size_t)box_first(box, &run) * size));
        int d = inner - 1;
        while (d >= 0 && ++run.offset[d] == common->offset[d] + common->extent[d]) {
            run.offset[d] = common->offset[d];
            d--;
        }
        if (d < 0)
            return CAIRN_OK;
    }
}

cairn_err reader_read(struct reader *r, int array, const struct box *box, void *data)
{
    const struct table *t = r->table;
    for (int i = t->first_slab[array]; i < t->first_slab[array + 1]; i++) {
        struct box held = table_slab_box(t, i), common;
        if (box_intersect(&held, box, &common))
            TRY(read_common(r, i, box, &common, data));
    }
    return CAIRN_OK;
}

cairn_err reader_check_slab(struct reader *r, int slab)
{
    r->block_slab = -1;
    for (int64_t b = 0; b < block_count(table_slab_bytes(r->table, slab)); b++)
        TRY(read_block(r, slab, b, r->block));
    return CAIRN_OK;
}
