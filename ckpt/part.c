#include "ckpt/part.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <xxhash.h>

#include "ckpt/folder.h"
#include "ckpt/image.h"

/* Slabs of a page and more begin at a page, for readers that map the file. */
enum { ALIGN_FROM = 65536, ALIGN_TO = 4096 };
/* Dirty bytes after which the kernel is asked to begin writing, so that fsync finds little left to do. */
enum { WRITE_BEHIND = 32 << 20 };

struct part {
    char path[FOLDER_PATH_SIZE];
    int fd, image; /* the file, and its layout in memory */
    int count;
    struct part_piece *pieces; /* the caller's */
    int64_t bytes;
    int64_t dirty_from, dirty;
};


static cairn_err create_contiguous(hid_t group, const char *name, hid_t type, hid_t space, hid_t *out, int64_t *at)
{
    hid_t how = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_layout(how, H5D_CONTIGUOUS);
    H5Pset_alloc_time(how, H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(how, H5D_FILL_TIME_NEVER);
    hid_t set = H5Dcreate2(group, name, type, space, H5P_DEFAULT, how, H5P_DEFAULT);
    cairn_err err = set < 0 ? h5_fail(name) : CAIRN_OK;
    H5Pclose(how);
    H5Sclose(space);
    if (err == CAIRN_OK) {
        haddr_t address = H5Dget_offset(set);
        *at = (int64_t)address;
        if (address == HADDR_UNDEF)
            err = FAIL(CAIRN_ELIBRARY, "HDF5 gave dataset %s no place", name);
    }
    if (out && err == CAIRN_OK)
        *out = set;
    else if (set >= 0)
        H5Dclose(set);
    return err;
}

static cairn_err describe_slab(hid_t set, const struct part_piece *p)
{
    TRY(h5_put_text(set, "array", p->array.name));
    TRY(h5_put_text(set, "dtype", dtype_name((enum dtype)p->array.dtype)));
    TRY(h5_put_ints(set, "shape", p->array.shape, p->array.dims));
    TRY(h5_put_ints(set, "offset", p->box.offset, p->box.dims));
    return h5_put_ints(set, "extent", p->box.extent, p->box.dims);
}

static cairn_err lay_out_piece(hid_t slabs, hid_t checksums, struct part_piece *p, int index)
{
    char name[16];
    snprintf(name, sizeof name, "%08d", index);
    hsize_t blocks = (hsize_t)block_count(part_piece_bytes(p)), extent[SHARD_MAX_DIMS];
    for (int d = 0; d < p->box.dims; d++)
        extent[d] = (hsize_t)p->box.extent[d];
    hid_t set;
    TRY(create_contiguous(checksums, name, H5T_STD_U64LE, H5Screate_simple(1, &blocks, NULL), NULL, &p->checksums_at));
    TRY(create_contiguous(slabs, name, h5_type_of((enum dtype)p->array.dtype), H5Screate_simple(p->box.dims, extent, NULL), &set,
                          &p->data_at));
    cairn_err err = describe_slab(set, p);
    H5Dclose(set);
    return err;
}

static cairn_err lay_out_file(hid_t file, struct part *part)
{
    hid_t slabs = H5Gcreate2(file, "slabs", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    hid_t checksums = H5Gcreate2(file, "checksums", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    cairn_err err = slabs < 0 || checksums < 0 ? h5_fail("groups of a part") : h5_put_int(file, "cairn_part_format", 1);
    if (err == CAIRN_OK)
        err = h5_put_int(checksums, "block_bytes", CHECKPOINT_BLOCK);
    if (err == CAIRN_OK)
        err = h5_put_text(checksums, "algorithm", "xxh3-64");
    for (int i = 0; i < part->count && err == CAIRN_OK; i++)
        err = lay_out_piece(slabs, checksums, &part->pieces[i], i);
    if (slabs >= 0)
        H5Gclose(slabs);
    if (checksums >= 0)
        H5Gclose(checksums);
    return err;
}

/* A limit on file sizes (ulimit -f) counts for the layout in memory as well, and HDF5 1.10.8, when it cannot set a file's length at
 * H5Fclose, crashes in MPI_Finalize. So it is asked for first. */
static cairn_err check_size_limit(const struct part *part)
{
    enum { OVERHEAD = 1 << 16, SLAB_OVERHEAD = 1 << 14 };
    struct rlimit limit;
    int64_t bytes = OVERHEAD;
    for (int i = 0; i < part->count; i++) {
        int64_t n = (int64_t)part_piece_bytes(&part->pieces[i]);
        bytes += n + 8 * block_count((size_t)n) + SLAB_OVERHEAD;
    }
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && (uint64_t)bytes > limit.rlim_cur)
        return FAIL(CAIRN_ESYS, "%s needs about %lld bytes, and files are limited to %llu here (ulimit -f)", part->path, (long long)bytes,
                    (unsigned long long)limit.rlim_cur);
    return CAIRN_OK;
}

static cairn_err lay_out(struct part *part)
{
    char image[IMAGE_PATH_SIZE];
    TRY(image_create(&part->image, image));
    h5_enter();
    hid_t how = image_access();
    H5Pset_alignment(how, ALIGN_FROM, ALIGN_TO);
    hid_t file = H5Fcreate(image, H5F_ACC_TRUNC, H5P_DEFAULT, how);
    cairn_err err = file < 0 ? h5_fail("H5Fcreate") : lay_out_file(file, part);
    if (file >= 0 && H5Fclose(file) < 0 && err == CAIRN_OK)
        err = h5_fail("H5Fclose");
    H5Pclose(how);
    h5_leave();
    part->bytes = image_bytes(part->image);
    return err;
}

/* Takes the room ahead, so that a full disk is met here and not after gigabytes. Where the file system cannot, the writes tell. */
static cairn_err take_room(const struct part *part)
{
    if (part->bytes == 0 || fallocate(part->fd, 0, 0, part->bytes) == 0 || errno == EOPNOTSUPP || errno == ENOSYS)
        return CAIRN_OK;
    return FAIL(error_from_errno(errno), "%s needs %lld bytes: %s", part->path, (long long)part->bytes, strerror(errno));
}

cairn_err part_open(const char *path, struct part_piece *pieces, int count, struct part **out)
{
    struct part *part = calloc(1, sizeof *part);
    *out = NULL;
    if (!part)
        return FAIL(CAIRN_ENOMEM, "no memory to write %s", path);
    snprintf(part->path, sizeof part->path, "%s", path);
    part->fd = part->image = -1;
    part->pieces = pieces;
    part->count = count;
    cairn_err err;
    TRY_GOTO(err, check_size_limit(part), fail);
    TRY_GOTO(err, lay_out(part), fail);
    part->fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (part->fd < 0) {
        err = FAIL(error_from_errno(errno), "cannot create %s: %s", path, strerror(errno));
        goto fail;
    }
    TRY_GOTO(err, take_room(part), fail);
    *out = part;
    return CAIRN_OK;
fail:
    part_close(part);
    return err;
}

void part_close(struct part *part)
{
    if (!part)
        return;
    if (part->fd >= 0)
        close(part->fd);
    if (part->image >= 0)
        close(part->image);
    free(part);
}

static void write_behind(struct part *part, int64_t at, size_t bytes)
{
    if (part->dirty == 0)
        part->dirty_from = at;
    part->dirty += (int64_t)bytes;
    if (part->dirty < WRITE_BEHIND)
        return;
    /* A hint: its failure changes nothing. */
    sync_file_range(part->fd, part->dirty_from, at + (int64_t)bytes - part->dirty_from, SYNC_FILE_RANGE_WRITE);
    part->dirty = 0;
}

cairn_err part_write(struct part *part, int piece, int64_t at, const void *data, size_t bytes)
{
    const struct part_piece *p = &part->pieces[piece];
    /* Block by block, so that the bytes come from the cache when they are copied. */
    for (size_t done = 0; done < bytes; done += CHECKPOINT_BLOCK) {
        size_t n = bytes - done < CHECKPOINT_BLOCK ? bytes - done : CHECKPOINT_BLOCK;
        int64_t block = (at + (int64_t)done) / CHECKPOINT_BLOCK;
        uint64_t sum = XXH3_64bits((const char *)data + done, n);
        TRY(file_write(part->image, "a checkpoint's layout in memory", &sum, sizeof sum, p->checksums_at + 8 * block));
        TRY(file_write(part->fd, part->path, (const char *)data + done, n, p->data_at + at + (int64_t)done));
        write_behind(part, p->data_at + at + (int64_t)done, n);
    }
    return CAIRN_OK;
}

struct scan {
    int from;
    const char *path;
    int to; /* -1: what is read is hashed alone */
    const char *to_path;
    XXH3_state_t *hash;
};

static cairn_err scan_bytes(const struct scan *scan, int64_t begin, int64_t end)
{
    enum { STEP = 65536 };
    char buffer[STEP];
    for (int64_t at = begin; at < end; at += STEP) {
        size_t n = (size_t)(end - at < STEP ? end - at : STEP);
        TRY(file_read(scan->from, scan->path, buffer, n, at));
        XXH3_64bits_update(scan->hash, buffer, n);
        if (scan->to >= 0)
            TRY(file_write(scan->to, scan->to_path, buffer, n, at));
    }
    return CAIRN_OK;
}

static int by_place(const void *a, const void *b)
{
    const struct byte_range *x = a, *y = b;
    return x->at < y->at ? -1 : x->at > y->at;
}

static cairn_err scan_structure(struct scan *scan, int64_t whole, struct byte_range *ranges, int count, uint64_t *out)
{
    scan->hash = XXH3_createState();
    if (!scan->hash)
        return FAIL(CAIRN_ENOMEM, "no memory to hash %s", scan->path);
    XXH3_64bits_reset(scan->hash);
    qsort(ranges, (size_t)count, sizeof *ranges, by_place);
    int64_t from = 0;
    cairn_err err = CAIRN_OK;
    for (int i = 0; i < count && err == CAIRN_OK; i++) {
        if (ranges[i].at < from)
            err = FAIL(CAIRN_ECORRUPT, "%s: two slabs share bytes at %lld", scan->path, (long long)ranges[i].at);
        else
            err = scan_bytes(scan, from, ranges[i].at);
        from = ranges[i].at + ranges[i].bytes;
    }
    if (err == CAIRN_OK)
        err = scan_bytes(scan, from, whole);
    *out = XXH3_64bits_digest(scan->hash);
    XXH3_freeState(scan->hash);
    return err;
}

cairn_err part_structure(int fd, const char *path, int64_t whole, struct byte_range *ranges, int count, uint64_t *hash)
{
    struct scan scan = {.from = fd, .path = path, .to = -1};
    return scan_structure(&scan, whole, ranges, count, hash);
}

cairn_err part_finish(struct part *part, struct table_part *out)
{
    struct byte_range *ranges = calloc((size_t)part->count + 1, sizeof *ranges);
    if (!ranges)
        return FAIL(CAIRN_ENOMEM, "no memory to finish %s", part->path);
    for (int i = 0; i < part->count; i++)
        ranges[i] = (struct byte_range){part->pieces[i].data_at, (int64_t)part_piece_bytes(&part->pieces[i])};
    struct scan scan = {.from = part->image, .path = "a checkpoint's layout in memory", .to = part->fd, .to_path = part->path};
    out->bytes = part->bytes;
    cairn_err err = scan_structure(&scan, part->bytes, ranges, part->count, &out->structure);
    if (err == CAIRN_OK && fsync(part->fd) != 0)
        err = FAIL(error_from_errno(errno), "fsync of %s: %s", part->path, strerror(errno));
    free(ranges);
    return err;
}
