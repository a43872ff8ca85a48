#include "ckpt/table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Far above any real array; products of two numbers below it and an element size stay below 2^63. */
static const int64_t ELEMENTS_MAX = (int64_t)1 << 56;

void checkpoint_facts_free(struct checkpoint_facts *facts)
{
    free(facts->config);
    free(facts->signature);
    free(facts->extra);
    *facts = (struct checkpoint_facts){0};
}

void table_free(struct table *t)
{
    checkpoint_facts_free(&t->facts);
    free(t->arrays);
    free(t->slabs);
    free(t->parts);
    free(t->first_slab);
    *t = (struct table){0};
}

cairn_err table_allocate(struct table *t, int arrays, int slabs, int parts)
{
    t->array_count = arrays;
    t->slab_count = slabs;
    t->part_count = parts;
    t->arrays = calloc((size_t)arrays + 1, sizeof *t->arrays);
    t->slabs = calloc((size_t)slabs + 1, sizeof *t->slabs);
    t->parts = calloc((size_t)parts + 1, sizeof *t->parts);
    t->first_slab = calloc((size_t)arrays + 1, sizeof *t->first_slab);
    if (!t->arrays || !t->slabs || !t->parts || !t->first_slab)
        return FAIL(CAIRN_ENOMEM, "no memory for the table of a checkpoint of %d arrays", arrays);
    return CAIRN_OK;
}

char *shape_text(int dims, const int64_t *shape, char *out, size_t size)
{
    size_t used = (size_t)snprintf(out, size, "[");
    for (int i = 0; i < dims && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, "%s%lld", i ? ", " : "", (long long)shape[i]);
    if (used < size)
        snprintf(out + used, size - used, "]");
    return out;
}

cairn_err table_check_name(const char *name)
{
    size_t length = strnlen(name, SHARD_NAME_SIZE);
    if (length == 0 || length == SHARD_NAME_SIZE)
        return FAIL(CAIRN_EINVAL, "an array's name has %zu bytes; 1 to %d can be stored", length, SHARD_NAME_SIZE - 1);
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)name[i] <= ' ' || name[i] == 0x7f)
            return FAIL(CAIRN_EINVAL, "array name '%s' holds a blank or control character", name);
    for (const char *part = name; part; part = strchr(part, '/') ? strchr(part, '/') + 1 : NULL) {
        size_t n = strcspn(part, "/");
        if (n == 0 || (n == 1 && part[0] == '.') || (n == 2 && part[0] == '.' && part[1] == '.'))
            return FAIL(CAIRN_EINVAL, "array name '%s' has an empty, '.' or '..' component", name);
    }
    if (strcmp(name, "checkpoint") == 0 || strncmp(name, "checkpoint/", 11) == 0)
        return FAIL(CAIRN_EINVAL, "array name '%s': the group 'checkpoint' is taken by the format itself", name);
    return CAIRN_OK;
}

static cairn_err check_array(const struct table *t, int i)
{
    const struct table_array *a = &t->arrays[i];
    if (table_check_name(a->name) != CAIRN_OK)
        return error_context(CAIRN_ECORRUPT, "array %d", i);
    if (i > 0 && strcmp(t->arrays[i - 1].name, a->name) >= 0)
        return FAIL(CAIRN_ECORRUPT, "array names are not in order at %s", a->name);
    if (a->dtype < DTYPE_F32 || a->dtype > DTYPE_I32 || a->dims < 1 || a->dims > SHARD_MAX_DIMS)
        return FAIL(CAIRN_ECORRUPT, "array %s: type %d, %d dimensions", a->name, a->dtype, a->dims);
    int64_t elements = 1;
    for (int d = 0; d < a->dims; d++) {
        if (a->shape[d] < 0 || (a->shape[d] > 0 && elements > ELEMENTS_MAX / a->shape[d]))
            return FAIL(CAIRN_ECORRUPT, "array %s: dimension %d of %lld", a->name, d, (long long)a->shape[d]);
        elements *= a->shape[d];
    }
    return CAIRN_OK;
}

static cairn_err check_slab(const struct table *t, int i)
{
    const struct table_slab *s = &t->slabs[i];
    if (s->array < 0 || s->array >= t->array_count || s->part < 0 || s->part >= t->part_count || (i > 0 && s->array < s[-1].array))
        return FAIL(CAIRN_ECORRUPT, "slab %d: array %d, part %d", i, s->array, s->part);
    const struct table_array *a = &t->arrays[s->array];
    for (int d = 0; d < a->dims; d++)
        if (s->offset[d] < 0 || s->extent[d] < 1 || s->extent[d] > a->shape[d] || s->offset[d] > a->shape[d] - s->extent[d])
            return FAIL(CAIRN_ECORRUPT, "array %s: slab %d lies outside dimension %d", a->name, i, d);
    int64_t bytes = (int64_t)table_slab_bytes(t, i), whole = t->parts[s->part].bytes;
    int64_t checksums = 8 * block_count((size_t)bytes);
    if (s->data_at < 0 || s->data_at > whole || bytes > whole - s->data_at || s->checksums_at < 0 || s->checksums_at > whole ||
        checksums > whole - s->checksums_at)
        return FAIL(CAIRN_ECORRUPT, "array %s: slab %d lies outside its part", a->name, i);
    return CAIRN_OK;
}

static cairn_err check_coverage(const struct table *t)
{
    struct box *boxes = calloc((size_t)t->slab_count + 1, sizeof *boxes);
    if (!boxes)
        return FAIL(CAIRN_ENOMEM, "no memory to check %d slabs", t->slab_count);
    cairn_err err = CAIRN_OK;
    for (int a = 0; a < t->array_count && err == CAIRN_OK; a++) {
        int first = t->first_slab[a], count = t->first_slab[a + 1] - first;
        for (int i = 0; i < count; i++)
            boxes[i] = table_slab_box(t, first + i);
        err = boxes_cover(t->arrays[a].name, t->arrays[a].dims, t->arrays[a].shape, boxes, count, CAIRN_ECORRUPT);
    }
    free(boxes);
    return err;
}

cairn_err table_check(struct table *t)
{
    for (int i = 0; i < t->part_count; i++)
        if (t->parts[i].bytes < 0)
            return FAIL(CAIRN_ECORRUPT, "part %d of %lld bytes", i, (long long)t->parts[i].bytes);
    for (int i = 0; i < t->array_count; i++)
        TRY(check_array(t, i));
    for (int i = 0; i < t->slab_count; i++)
        TRY(check_slab(t, i));
    for (int a = 0, slab = 0; a <= t->array_count; a++) {
        while (a < t->array_count ? slab < t->slab_count && t->slabs[slab].array < a : slab < t->slab_count)
            slab++;
        t->first_slab[a] = slab;
    }
    return check_coverage(t);
}

static int by_name(const void *key, const void *element)
{
    return strcmp(key, ((const struct table_array *)element)->name);
}

int table_find(const struct table *t, const char *name)
{
    const struct table_array *a = bsearch(name, t->arrays, (size_t)t->array_count, sizeof *t->arrays, by_name);
    return a ? (int)(a - t->arrays) : -1;
}

struct packed {
    char magic[8];
    int64_t step;
    double time;
    int32_t ranks, arrays, slabs, parts;
    int64_t text[3]; /* bytes of the three strings, each with its NUL */
};
static const char PACKED_MAGIC[8] = "cairn-t";

static size_t text_bytes(const char *s)
{
    return (s ? strlen(s) : 0) + 1;
}

cairn_err table_pack(const struct table *t, void **data, size_t *bytes)
{
    const char *text[3] = {t->facts.config, t->facts.signature, t->facts.extra};
    struct packed p = {.step = t->facts.step, .time = t->time, .ranks = t->ranks, .arrays = t->array_count, .slabs = t->slab_count,
                       .parts = t->part_count};
    memcpy(p.magic, PACKED_MAGIC, sizeof p.magic);
    size_t size[4] = {sizeof p, (size_t)p.arrays * sizeof *t->arrays, (size_t)p.slabs * sizeof *t->slabs,
                      (size_t)p.parts * sizeof *t->parts};
    *bytes = size[0] + size[1] + size[2] + size[3];
    for (int i = 0; i < 3; i++)
        *bytes += (size_t)(p.text[i] = (int64_t)text_bytes(text[i]));
    char *at = *data = malloc(*bytes);
    if (!at)
        return FAIL(CAIRN_ENOMEM, "no memory for the table of a checkpoint (%zu bytes)", *bytes);
    const void *from[4] = {&p, t->arrays, t->slabs, t->parts};
    for (int i = 0; i < 4; at += size[i++])
        memcpy(at, from[i], size[i]);
    for (int i = 0; i < 3; at += p.text[i++])
        memcpy(at, text[i] ? text[i] : "", (size_t)p.text[i]);
    return CAIRN_OK;
}

static cairn_err unpack_text(const char **at, size_t *left, int64_t bytes, char **out)
{
    if (bytes < 1 || (uint64_t)bytes > *left || (*at)[bytes - 1] != 0)
        return FAIL(CAIRN_ECORRUPT, "a checkpoint's table is cut off");
    *out = malloc((size_t)bytes);
    if (!*out)
        return FAIL(CAIRN_ENOMEM, "no memory for the table of a checkpoint");
    memcpy(*out, *at, (size_t)bytes);
    *at += bytes;
    *left -= (size_t)bytes;
    return CAIRN_OK;
}

cairn_err table_unpack(const void *data, size_t bytes, struct table *t)
{
    *t = (struct table){0};
    struct packed p;
    if (bytes < sizeof p)
        return FAIL(CAIRN_ECORRUPT, "a checkpoint's table is cut off");
    memcpy(&p, data, sizeof p);
    const char *at = (const char *)data + sizeof p;
    size_t left = bytes - sizeof p;
    if (memcmp(p.magic, PACKED_MAGIC, sizeof p.magic) != 0 || p.arrays < 0 || p.slabs < 0 || p.parts < 0)
        return FAIL(CAIRN_ECORRUPT, "not the table of a checkpoint");
    size_t size[3] = {(size_t)p.arrays * sizeof *t->arrays, (size_t)p.slabs * sizeof *t->slabs, (size_t)p.parts * sizeof *t->parts};
    if (size[0] > left || size[1] > left - size[0] || size[2] > left - size[0] - size[1])
        return FAIL(CAIRN_ECORRUPT, "a checkpoint's table is cut off");
    t->facts.step = p.step;
    t->time = p.time;
    t->ranks = p.ranks;
    cairn_err err;
    TRY_GOTO(err, table_allocate(t, p.arrays, p.slabs, p.parts), fail);
    void *to[3] = {t->arrays, t->slabs, t->parts};
    for (int i = 0; i < 3; left -= size[i], at += size[i], i++)
        memcpy(to[i], at, size[i]);
    char **text[3] = {&t->facts.config, &t->facts.signature, &t->facts.extra};
    for (int i = 0; i < 3; i++)
        TRY_GOTO(err, unpack_text(&at, &left, p.text[i], text[i]), fail);
    TRY_GOTO(err, table_check(t), fail);
    return CAIRN_OK;
fail:
    table_free(t);
    return err;
}
