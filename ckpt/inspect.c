#include "ckpt/inspect.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "ckpt/folder.h"
#include "ckpt/reader.h"
#include "ckpt/state.h"

/* Arrays are read in bands of whole rows of about this size. */
enum { BAND_BYTES = 8 << 20 };

/* ---- one checkpoint, band by band ---- */

struct opened {
    struct table table;
    struct reader *reader;
};

static cairn_err open_sound(const char *path, struct opened *o)
{
    *o = (struct opened){0};
    TRY(state_read(path, &o->table));
    cairn_err err = reader_open(path, &o->table, &o->reader);
    for (int p = 0; p < o->table.part_count && err == CAIRN_OK; p++)
        err = reader_check_part(o->reader, p);
    return err;
}

static void close_opened(struct opened *o)
{
    reader_close(o->reader);
    table_free(&o->table);
}

static struct box whole_box(const struct table_array *a)
{
    static const int64_t origin[SHARD_MAX_DIMS];
    return box_make(a->dims, origin, a->shape);
}

static int64_t band_count(const struct table_array *a)
{
    struct box whole = whole_box(a);
    int64_t n = box_elements(&whole) * (int64_t)dtype_size((enum dtype)a->dtype) / BAND_BYTES + 1;
    return n < box_rows(&whole) ? n : box_rows(&whole);
}

/* Band I of ARRAY; *DATA is grown as needed. */
static cairn_err read_band(const struct opened *o, int array, int64_t i, int64_t bands, struct box *box, char **data)
{
    struct box whole = whole_box(&o->table.arrays[array]);
    *box = box_piece(&whole, i, bands);
    size_t bytes = (size_t)box_elements(box) * dtype_size((enum dtype)o->table.arrays[array].dtype);
    char *more = realloc(*data, bytes + 1);
    if (!more)
        return FAIL(CAIRN_ENOMEM, "no memory to read array %s", o->table.arrays[array].name);
    *data = more;
    return reader_read(o->reader, array, box, more);
}

/* ---- hash ---- */

static void hash_head(XXH3_state_t *hash, const char *name, int dtype, int dims, const int64_t *shape)
{
    const char *type = dtype_name((enum dtype)dtype);
    int64_t n = dims;
    XXH3_64bits_update(hash, name, strlen(name) + 1);
    XXH3_64bits_update(hash, type, strlen(type) + 1);
    XXH3_64bits_update(hash, &n, sizeof n);
    XXH3_64bits_update(hash, shape, (size_t)dims * sizeof *shape);
}

static cairn_err finish_hash(XXH3_state_t *hash, cairn_err err, char hex[17])
{
    snprintf(hex, 17, "%016" PRIx64, (uint64_t)XXH3_64bits_digest(hash));
    XXH3_freeState(hash);
    return err;
}

static cairn_err start_hash(XXH3_state_t **hash)
{
    *hash = XXH3_createState();
    if (!*hash)
        return FAIL(CAIRN_ENOMEM, "no memory for a hash");
    XXH3_64bits_reset(*hash);
    return CAIRN_OK;
}

static cairn_err hash_array(const struct opened *o, int array, XXH3_state_t *hash, char **data)
{
    const struct table_array *a = &o->table.arrays[array];
    int64_t bands = band_count(a);
    hash_head(hash, a->name, a->dtype, a->dims, a->shape);
    for (int64_t i = 0; i < bands; i++) {
        struct box box;
        TRY(read_band(o, array, i, bands, &box, data));
        XXH3_64bits_update(hash, *data, (size_t)box_elements(&box) * dtype_size((enum dtype)a->dtype));
    }
    return CAIRN_OK;
}

cairn_err checkpoint_hash(const char *path, const char *prefix, char hex[17])
{
    struct opened o;
    XXH3_state_t *hash;
    char *data = NULL;
    TRY(start_hash(&hash));
    cairn_err err = open_sound(path, &o);
    for (int a = 0; a < o.table.array_count && err == CAIRN_OK; a++)
        if (strncmp(o.table.arrays[a].name, prefix, strlen(prefix)) == 0)
            err = hash_array(&o, a, hash, &data);
    free(data);
    close_opened(&o);
    return finish_hash(hash, err, hex);
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const struct shard *const *)a)->name, (*(const struct shard *const *)b)->name);
}

cairn_err checkpoint_hash_shards(const struct shard *shards, int count, const char *prefix, char hex[17])
{
    const struct shard **order = calloc((size_t)count + 1, sizeof *order);
    XXH3_state_t *hash = NULL;
    cairn_err err = order ? start_hash(&hash) : FAIL(CAIRN_ENOMEM, "no memory to hash %d arrays", count);
    int n = 0;
    for (int i = 0; i < count && err == CAIRN_OK; i++) {
        if (strncmp(shards[i].name, prefix, strlen(prefix)) != 0)
            continue;
        if (shard_elements(&shards[i]) != shard_global_elements(&shards[i]))
            err = FAIL(CAIRN_EINVAL, "array %s is not whole here", shards[i].name);
        order[n++] = &shards[i];
    }
    if (err == CAIRN_OK)
        qsort(order, (size_t)n, sizeof *order, by_name);
    for (int i = 0; i < n && err == CAIRN_OK; i++) {
        hash_head(hash, order[i]->name, order[i]->dtype, order[i]->dims, order[i]->shape);
        XXH3_64bits_update(hash, order[i]->data, shard_bytes(order[i]));
    }
    free(order);
    return hash ? finish_hash(hash, err, hex) : err;
}

/* ---- verify ---- */

static cairn_err verify(const char *path)
{
    struct opened o;
    cairn_err err = open_sound(path, &o);
    for (int i = 0; i < o.table.slab_count && err == CAIRN_OK; i++)
        err = reader_check_slab(o.reader, i);
    close_opened(&o);
    return err;
}

cairn_err checkpoint_verify(const char *path, char **message)
{
    *message = NULL;
    cairn_err err = verify(path);
    if (err != CAIRN_ECORRUPT)
        return err;
    *message = strdup(cairn_err_message());
    return *message ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for a message");
}

cairn_err checkpoint_read_facts(const char *path, struct checkpoint_facts *facts)
{
    char found[FOLDER_PATH_SIZE];
    struct table t;
    *facts = (struct checkpoint_facts){0};
    TRY(checkpoint_find(path, found, sizeof found));
    TRY(state_read(found, &t));
    *facts = t.facts;
    t.facts = (struct checkpoint_facts){0};
    table_free(&t);
    return CAIRN_OK;
}

/* ---- difference ---- */

static double element(const char *data, int64_t i, enum dtype type)
{
    float f;
    double d;
    int32_t n;
    uint16_t b;
    switch (type) {
    case DTYPE_F32: memcpy(&f, data + 4 * i, 4); return f;
    case DTYPE_F64: memcpy(&d, data + 8 * i, 8); return d;
    case DTYPE_I32: memcpy(&n, data + 4 * i, 4); return n;
    case DTYPE_BF16: break;
    }
    memcpy(&b, data + 2 * i, 2);
    return bf16_to_float(b);
}

static void set_first(struct checkpoint_difference *d, const struct table_array *a, const struct box *band, int64_t i)
{
    d->dims = a->dims;
    for (int k = a->dims - 1; k >= 0; k--) {
        d->first[k] = band->offset[k] + i % band->extent[k];
        i /= band->extent[k];
    }
}

/* Two NaNs of equal bits are equal, -0 and 0 are not: the bits are compared. */
static double sum_of_squares(const char *data, int64_t n, enum dtype dtype)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += element(data, i, dtype) * element(data, i, dtype);
    return sum;
}

/* SQUARES: of the differences, and of X. */
static void compare_bands(const struct table_array *a, const struct box *band, const char *x, const char *y, struct checkpoint_difference *d,
                          double squares[2])
{
    size_t size = dtype_size((enum dtype)a->dtype);
    int64_t n = box_elements(band);
    squares[1] += sum_of_squares(x, n, (enum dtype)a->dtype);
    if (memcmp(x, y, (size_t)n * size) == 0)
        return;
    for (int64_t i = 0; i < n; i++) {
        if (memcmp(x + (size_t)i * size, y + (size_t)i * size, size) == 0)
            continue;
        if (d->elements++ == 0)
            set_first(d, a, band, i);
        double difference = fabs(element(x, i, (enum dtype)a->dtype) - element(y, i, (enum dtype)a->dtype));
        squares[0] += difference * difference;
        if (!(difference <= d->largest) && !isnan(d->largest))
            d->largest = difference;
    }
}

static cairn_err compare_arrays(const struct opened *a, int i, const struct opened *b, int j, struct checkpoint_difference *d)
{
    const struct table_array *x = &a->table.arrays[i], *y = &b->table.arrays[j];
    if (x->dtype != y->dtype || x->dims != y->dims || memcmp(x->shape, y->shape, sizeof x->shape) != 0) {
        d->kind = DIFFERENCE_SHAPE;
        d->elements = 1;
        return CAIRN_OK;
    }
    char *left = NULL, *right = NULL;
    int64_t bands = band_count(x);
    double squares[2] = {0};
    cairn_err err = CAIRN_OK;
    for (int64_t k = 0; k < bands && err == CAIRN_OK; k++) {
        struct box band;
        err = read_band(a, i, k, bands, &band, &left);
        if (err == CAIRN_OK)
            err = read_band(b, j, k, bands, &band, &right);
        if (err == CAIRN_OK)
            compare_bands(x, &band, left, right, d, squares);
    }
    d->relative = sqrt(squares[0] / squares[1]);
    free(left);
    free(right);
    return err;
}

static cairn_err compare(const struct opened *a, const struct opened *b, struct checkpoint_difference *out, int *count)
{
    for (int i = 0, j = 0; i < a->table.array_count || j < b->table.array_count;) {
        const char *x = i < a->table.array_count ? a->table.arrays[i].name : NULL;
        const char *y = j < b->table.array_count ? b->table.arrays[j].name : NULL;
        int order = !x ? 1 : !y ? -1 : strcmp(x, y);
        struct checkpoint_difference *d = &out[*count];
        memset(d, 0, sizeof *d);
        memcpy(d->name, order <= 0 ? x : y, sizeof d->name);
        if (order == 0)
            TRY(compare_arrays(a, i, b, j, d));
        else
            d->kind = order < 0 ? DIFFERENCE_ONLY_A : DIFFERENCE_ONLY_B;
        if (order != 0 || d->elements > 0)
            ++*count;
        i += order <= 0;
        j += order >= 0;
    }
    return CAIRN_OK;
}

cairn_err checkpoint_diff(const char *path_a, const char *path_b, struct checkpoint_difference **out, int *count)
{
    struct opened a, b = {0};
    *out = NULL;
    *count = 0;
    cairn_err err = open_sound(path_a, &a);
    if (err == CAIRN_OK)
        err = open_sound(path_b, &b);
    if (err == CAIRN_OK) {
        *out = calloc((size_t)a.table.array_count + (size_t)b.table.array_count + 1, sizeof **out);
        err = *out ? compare(&a, &b, *out, count) : FAIL(CAIRN_ENOMEM, "no memory to compare checkpoints");
    }
    close_opened(&a);
    close_opened(&b);
    if (err != CAIRN_OK) {
        free(*out);
        *out = NULL;
    }
    return err;
}
