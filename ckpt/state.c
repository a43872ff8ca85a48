#include "ckpt/state.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/clock.h"
#include "ckpt/folder.h"
#include "ckpt/image.h"

/* The user block: the first bytes of the file, which HDF5 passes over. It guards all that follow it. */
enum { USER_BLOCK = 512, FORMAT = 1 };
static const char SEAL[] = "cairn checkpoint state\nbytes %" PRId64 "\nxxh3-64 %016" PRIx64 "\n";


/* ---- compound types of the tables ---- */

static void insert_longs(hid_t type, const char *name, size_t at)
{
    hsize_t n = SHARD_MAX_DIMS;
    hid_t array = H5Tarray_create2(H5T_STD_I64LE, 1, &n);
    H5Tinsert(type, name, at, array);
    H5Tclose(array);
}

static hid_t type_of_arrays(void)
{
    hid_t type = H5Tcreate(H5T_COMPOUND, sizeof(struct table_array)), name = H5Tcopy(H5T_C_S1);
    H5Tset_size(name, SHARD_NAME_SIZE);
    H5Tinsert(type, "name", offsetof(struct table_array, name), name);
    H5Tclose(name);
    H5Tinsert(type, "dtype", offsetof(struct table_array, dtype), H5T_STD_I32LE);
    H5Tinsert(type, "dims", offsetof(struct table_array, dims), H5T_STD_I32LE);
    insert_longs(type, "shape", offsetof(struct table_array, shape));
    return type;
}

static hid_t type_of_slabs(void)
{
    hid_t type = H5Tcreate(H5T_COMPOUND, sizeof(struct table_slab));
    H5Tinsert(type, "array", offsetof(struct table_slab, array), H5T_STD_I32LE);
    H5Tinsert(type, "part", offsetof(struct table_slab, part), H5T_STD_I32LE);
    insert_longs(type, "offset", offsetof(struct table_slab, offset));
    insert_longs(type, "extent", offsetof(struct table_slab, extent));
    H5Tinsert(type, "data_at", offsetof(struct table_slab, data_at), H5T_STD_I64LE);
    H5Tinsert(type, "checksums_at", offsetof(struct table_slab, checksums_at), H5T_STD_I64LE);
    return type;
}

static hid_t type_of_parts(void)
{
    hid_t type = H5Tcreate(H5T_COMPOUND, sizeof(struct table_part));
    H5Tinsert(type, "bytes", offsetof(struct table_part, bytes), H5T_STD_I64LE);
    H5Tinsert(type, "structure", offsetof(struct table_part, structure), H5T_STD_U64LE);
    return type;
}

/* ---- writing ---- */

static cairn_err put_set(hid_t group, const char *name, hid_t type, hid_t space, const void *data)
{
    hid_t set = H5Dcreate2(group, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    herr_t status = set < 0 ? -1 : H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data);
    cairn_err err = status < 0 ? h5_fail(name) : CAIRN_OK;
    if (set >= 0)
        H5Dclose(set);
    H5Sclose(space);
    H5Tclose(type);
    return err;
}

static cairn_err put_rows(hid_t group, const char *name, hid_t type, int count, const void *rows)
{
    hsize_t n = (hsize_t)count;
    return put_set(group, name, type, H5Screate_simple(1, &n, NULL), rows);
}

static cairn_err put_string(hid_t group, const char *name, const char *text)
{
    text = text ? text : "";
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, strlen(text) + 1);
    return put_set(group, name, type, H5Screate(H5S_SCALAR), text);
}

static cairn_err put_tables(hid_t group, const struct table *t)
{
    char version[64], date[40];
    snprintf(version, sizeof version, "cairn %s", cairn_version());
    time_t seconds = (time_t)t->time;
    struct tm tm;
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&seconds, &tm));
    TRY(h5_put_int(group, "format", FORMAT));
    TRY(h5_put_int(group, "step", t->facts.step));
    TRY(h5_put_int(group, "time", (int64_t)t->time));
    TRY(h5_put_int(group, "ranks", t->ranks));
    TRY(h5_put_int(group, "parts", t->part_count));
    TRY(h5_put_text(group, "date", date));
    TRY(h5_put_text(group, "written_by", version));
    TRY(put_string(group, "config", t->facts.config));
    TRY(put_string(group, "signature", t->facts.signature));
    TRY(put_string(group, "extra", t->facts.extra));
    TRY(put_rows(group, "array_table", type_of_arrays(), t->array_count, t->arrays));
    TRY(put_rows(group, "slab_table", type_of_slabs(), t->slab_count, t->slabs));
    return put_rows(group, "part_table", type_of_parts(), t->part_count, t->parts);
}

static cairn_err map_slab(const struct table *t, int slab, int in_part, hid_t space, hid_t how)
{
    const struct table_slab *s = &t->slabs[slab];
    int dims = t->arrays[s->array].dims;
    hsize_t start[SHARD_MAX_DIMS], extent[SHARD_MAX_DIMS];
    for (int d = 0; d < dims; d++) {
        start[d] = (hsize_t)s->offset[d];
        extent[d] = (hsize_t)s->extent[d];
    }
    char file[FOLDER_PART_NAME_SIZE], name[32];
    folder_part_name(s->part, file);
    snprintf(name, sizeof name, "/slabs/%08d", in_part);
    hid_t source = H5Screate_simple(dims, extent, NULL);
    herr_t status = H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, extent, NULL);
    if (status >= 0)
        status = H5Pset_virtual(how, space, file, name, source);
    cairn_err err = status < 0 ? h5_fail("H5Pset_virtual") : CAIRN_OK;
    H5Sclose(source);
    return err;
}

static cairn_err put_whole(hid_t file, const struct table *t, int array, const int *in_part, hid_t links)
{
    const struct table_array *a = &t->arrays[array];
    hsize_t shape[SHARD_MAX_DIMS];
    for (int d = 0; d < a->dims; d++)
        shape[d] = (hsize_t)a->shape[d];
    hid_t space = H5Screate_simple(a->dims, shape, NULL), how = H5Pcreate(H5P_DATASET_CREATE);
    cairn_err err = CAIRN_OK;
    for (int i = t->first_slab[array]; i < t->first_slab[array + 1] && err == CAIRN_OK; i++)
        err = map_slab(t, i, in_part[i], space, how);
    H5Sselect_all(space);
    hid_t set = err != CAIRN_OK ? -1 : H5Dcreate2(file, a->name, h5_type_of((enum dtype)a->dtype), space, links, how, H5P_DEFAULT);
    if (err == CAIRN_OK)
        err = set < 0 ? h5_fail(a->name) : h5_put_text(set, "dtype", dtype_name((enum dtype)a->dtype));
    if (set >= 0)
        H5Dclose(set);
    H5Pclose(how);
    H5Sclose(space);
    return err;
}

static cairn_err put_wholes(hid_t file, const struct table *t)
{
    int *in_part = calloc((size_t)t->slab_count + 1, sizeof *in_part), *next = calloc((size_t)t->part_count + 1, sizeof *next);
    cairn_err err = in_part && next ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory to write a checkpoint's state");
    for (int i = 0; i < t->slab_count && err == CAIRN_OK; i++)
        in_part[i] = next[t->slabs[i].part]++; /* parts number their slabs in the order of the table */
    hid_t links = H5Pcreate(H5P_LINK_CREATE);
    H5Pset_create_intermediate_group(links, 1);
    for (int a = 0; a < t->array_count && err == CAIRN_OK; a++)
        err = put_whole(file, t, a, in_part, links);
    H5Pclose(links);
    free(in_part);
    free(next);
    return err;
}

static cairn_err fill_image(const char *image, const struct table *t)
{
    hid_t how = H5Pcreate(H5P_FILE_CREATE);
    H5Pset_userblock(how, USER_BLOCK);
    hid_t driver = image_access();
    hid_t file = H5Fcreate(image, H5F_ACC_TRUNC, how, driver);
    H5Pclose(driver);
    H5Pclose(how);
    if (file < 0)
        return h5_fail("H5Fcreate");
    hid_t group = H5Gcreate2(file, "checkpoint", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    cairn_err err = group < 0 ? h5_fail("H5Gcreate2") : put_tables(group, t);
    if (group >= 0)
        H5Gclose(group);
    if (err == CAIRN_OK)
        err = put_wholes(file, t);
    if (H5Fclose(file) < 0 && err == CAIRN_OK)
        err = h5_fail("H5Fclose");
    return err;
}

static cairn_err load(int fd, const char *path, void **data, int64_t *bytes)
{
    *data = NULL;
    *bytes = image_bytes(fd);
    if (*bytes < 0)
        return FAIL(CAIRN_ESYS, "cannot look at %s: %s", path, strerror(errno));
    *data = malloc((size_t)*bytes + 1);
    if (!*data)
        return FAIL(CAIRN_ENOMEM, "no memory to read %s (%lld bytes)", path, (long long)*bytes);
    cairn_err err = file_read(fd, path, *data, (size_t)*bytes, 0);
    if (err != CAIRN_OK) {
        free(*data);
        *data = NULL;
    }
    return err;
}

static void seal(char block[USER_BLOCK], const char *data, int64_t bytes)
{
    memset(block, 0, USER_BLOCK);
    snprintf(block, USER_BLOCK, SEAL, bytes, XXH3_64bits(data + USER_BLOCK, (size_t)bytes - USER_BLOCK));
}

static cairn_err write_file(const char *path, const void *data, int64_t bytes)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return FAIL(error_from_errno(errno), "cannot create %s: %s", path, strerror(errno));
    cairn_err err = file_write(fd, path, data, (size_t)bytes, 0);
    if (err == CAIRN_OK && fsync(fd) != 0)
        err = FAIL(error_from_errno(errno), "fsync of %s: %s", path, strerror(errno));
    if (close(fd) != 0 && err == CAIRN_OK)
        err = FAIL(error_from_errno(errno), "closing %s: %s", path, strerror(errno));
    return err;
}

cairn_err state_write(const char *folder, const struct table *table)
{
    char path[FOLDER_PATH_SIZE], image[IMAGE_PATH_SIZE];
    int fd;
    void *data = NULL;
    int64_t bytes;
    TRY(folder_join(folder, "state.h5", path));
    TRY(image_create(&fd, image));
    h5_enter();
    cairn_err err = fill_image(image, table);
    h5_leave();
    if (err == CAIRN_OK)
        err = load(fd, "a checkpoint's state in memory", &data, &bytes);
    if (err == CAIRN_OK) {
        seal(data, data, bytes);
        err = write_file(path, data, bytes);
    }
    free(data);
    close(fd);
    return err;
}

/* ---- reading ---- */

static cairn_err get_rows(hid_t group, const char *name, hid_t type, void **rows, size_t row_bytes, int *count)
{
    hid_t set = H5Dopen2(group, name, H5P_DEFAULT);
    hid_t space = set < 0 ? -1 : H5Dget_space(set);
    hssize_t n = space < 0 ? -1 : H5Sget_simple_extent_npoints(space);
    cairn_err err = CAIRN_OK;
    if (n < 0 || n > INT32_MAX || H5Dget_storage_size(set) < (hsize_t)n * H5Tget_size(type)) { /* of what is not stored there is no end */
        err = h5_fail(name);
    } else if (!(*rows = calloc((size_t)n + 1, row_bytes))) {
        err = FAIL(CAIRN_ENOMEM, "no memory for %lld rows of %s", (long long)n, name);
    } else if (H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, *rows) < 0) {
        err = h5_fail(name);
    }
    *count = (int)n;
    if (space >= 0)
        H5Sclose(space);
    if (set >= 0)
        H5Dclose(set);
    H5Tclose(type);
    return err;
}

static bool is_scalar(hid_t set)
{
    hid_t space = H5Dget_space(set);
    bool scalar = space >= 0 && H5Sget_simple_extent_npoints(space) == 1;
    if (space >= 0)
        H5Sclose(space);
    return scalar;
}

static cairn_err get_string(hid_t group, const char *name, char **text)
{
    hid_t set = H5Dopen2(group, name, H5P_DEFAULT);
    hid_t type = set < 0 ? -1 : H5Dget_type(set);
    size_t bytes = type < 0 ? 0 : H5Tget_size(type);
    cairn_err err = CAIRN_OK;
    if (bytes == 0 || H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) || !is_scalar(set))
        err = h5_fail(name);
    else if (!(*text = calloc(1, bytes + 1)))
        err = FAIL(CAIRN_ENOMEM, "no memory for %s", name);
    else if (H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, *text) < 0)
        err = h5_fail(name);
    if (type >= 0)
        H5Tclose(type);
    if (set >= 0)
        H5Dclose(set);
    return err;
}

static cairn_err get_tables(hid_t group, struct table *t)
{
    int64_t format, ranks, time;
    TRY(h5_get_int(group, "format", &format));
    if (format != FORMAT)
        return FAIL(CAIRN_EUNSUPPORTED, "checkpoint format %lld; this Cairn reads format %d", (long long)format, FORMAT);
    TRY(h5_get_int(group, "step", &t->facts.step));
    TRY(h5_get_int(group, "time", &time));
    TRY(h5_get_int(group, "ranks", &ranks));
    t->time = (double)time;
    t->ranks = (int)ranks;
    TRY(get_string(group, "config", &t->facts.config));
    TRY(get_string(group, "signature", &t->facts.signature));
    TRY(get_string(group, "extra", &t->facts.extra));
    TRY(get_rows(group, "array_table", type_of_arrays(), (void **)&t->arrays, sizeof *t->arrays, &t->array_count));
    TRY(get_rows(group, "slab_table", type_of_slabs(), (void **)&t->slabs, sizeof *t->slabs, &t->slab_count));
    TRY(get_rows(group, "part_table", type_of_parts(), (void **)&t->parts, sizeof *t->parts, &t->part_count));
    t->first_slab = calloc((size_t)t->array_count + 1, sizeof *t->first_slab);
    return t->first_slab ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for the table of a checkpoint");
}

static cairn_err parse_image(const char *image, struct table *t)
{
    hid_t driver = image_access();
    hid_t file = H5Fopen(image, H5F_ACC_RDONLY, driver);
    H5Pclose(driver);
    if (file < 0)
        return h5_fail("H5Fopen");
    hid_t group = H5Gopen2(file, "checkpoint", H5P_DEFAULT);
    cairn_err err = group < 0 ? h5_fail("H5Gopen2") : get_tables(group, t);
    if (group >= 0)
        H5Gclose(group);
    H5Fclose(file);
    return err;
}

/* HDF5 sees the bytes only after their checksum was compared, and sees the very bytes that were. */
static cairn_err parse(const char *path, const void *data, int64_t bytes, struct table *t)
{
    char block[USER_BLOCK], image[IMAGE_PATH_SIZE];
    int fd;
    if (bytes < 2 * USER_BLOCK)
        return FAIL(CAIRN_ECORRUPT, "%s has %lld bytes: it is cut off", path, (long long)bytes);
    seal(block, data, bytes);
    if (memcmp(block, data, USER_BLOCK) != 0)
        return FAIL(CAIRN_ECORRUPT, "%s: checksum differs", path);
    TRY(image_create(&fd, image));
    cairn_err err = file_write(fd, "a checkpoint's state in memory", data, (size_t)bytes, 0);
    if (err == CAIRN_OK) {
        h5_enter();
        err = parse_image(image, t);
        h5_leave();
    }
    close(fd);
    return err;
}

cairn_err state_read(const char *folder, struct table *table)
{
    char path[FOLDER_PATH_SIZE];
    void *data = NULL;
    int64_t bytes;
    *table = (struct table){0};
    TRY(folder_join(folder, "state.h5", path));
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT && access(folder, F_OK) == 0)
        return FAIL(CAIRN_ECORRUPT, "%s is missing", path);
    if (fd < 0)
        return FAIL(error_from_errno(errno), "cannot open %s: %s", path, strerror(errno));
    cairn_err err = load(fd, path, &data, &bytes);
    close(fd);
    if (err == CAIRN_OK)
        err = parse(path, data, bytes, table);
    if (err == CAIRN_ELIBRARY) /* sealed, and yet not what we write */
        err = error_context(CAIRN_ECORRUPT, "%s", path);
    if (err == CAIRN_OK)
        err = table_check(table);
    free(data);
    if (err != CAIRN_OK)
        table_free(table);
    return err;
}

bool state_sizes_match(const char *folder)
{
    struct table t;
    if (state_read(folder, &t) != CAIRN_OK)
        return false;
    bool same = true;
    for (int i = 0; i < t.part_count && same; i++) {
        char name[FOLDER_PART_NAME_SIZE], path[FOLDER_PATH_SIZE];
        struct stat st;
        folder_part_name(i, name);
        same = folder_join(folder, name, path) == CAIRN_OK && stat(path, &st) == 0 && st.st_size == t.parts[i].bytes;
    }
    table_free(&t);
    return same;
}
