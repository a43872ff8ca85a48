#include "io/dataset_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>
#include <zlib.h>

#include "base/hdf5_lock.h"
#include "base/log.h"
#include "io/dataset_structure.h"
#include "io/hdf5_attribute.h"
#include "io/hdf5_error.h"
#include "job/mpi_calls.h"
#include "mesh/comm.h"

enum { STRUCTURE_BYTES = 64 << 10 }; /* groups, attributes, checksums: about so much */

/* What a rank holds at a time; large enough that writes and messages are not dominated by their start. */
enum { PIECE_BYTES = 4 << 20, TAG_SIZES = 71, TAG_CHUNKS = 72 };

/* Tokens begin at a page of the file, so that no page is written by two ranks. */
enum { ALIGN_FROM = 64 << 10, ALIGN_TO = 4096 };

struct dataset_writer {
    MPI_Comm comm;
    int rank, size;
    struct dataset_plan plan;
    bool together; /* the file is open on all ranks by MPI-IO; else on rank 0 alone */
    char *path;
    hid_t file, tokens[SPLIT_COUNT], checksums[SPLIT_COUNT];
    int64_t chunk_bytes[SPLIT_COUNT]; /* as planned, or the whole split if that is smaller: HDF5 takes no larger chunk */
    int64_t piece_bytes;
    uint64_t *sums[SPLIT_COUNT]; /* this rank's checksums, 0 for blocks of others */
    int64_t sum_count[SPLIT_COUNT];
    /* Compression: a piece's chunks one after another, and the stored size of each. */
    char *packed, *padded;
    uint32_t *sizes;
    size_t packed_limit;
    int chunks_of_piece;
};

/* ---- structure ---- */

static bool has_file(const struct dataset_writer *w)
{
    return w->together || w->rank == 0;
}

/* Superblock 3 and version 2 object headers carry checksums of their own, so that damage to the structure is found too. */
static cairn_err create_file(struct dataset_writer *w, const char *path)
{
    hid_t access = H5Pcreate(H5P_FILE_ACCESS), creation = H5Pcreate(H5P_FILE_CREATE);
    H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
    H5Pset_alignment(access, ALIGN_FROM, ALIGN_TO);
    H5Pset_obj_track_times(creation, false);
    if (w->together) {
        H5Pset_fapl_mpio(access, w->comm, MPI_INFO_NULL);
        H5Pset_all_coll_metadata_ops(access, true);
        H5Pset_coll_metadata_write(access, true);
    } else {
        H5Pset_file_locking(access, false, true);
    }
    w->file = H5Fcreate(path, H5F_ACC_TRUNC, creation, access);
    H5Pclose(creation);
    H5Pclose(access);
    return w->file < 0 ? hdf5_fail(CAIRN_ESYS, "cannot be made") : CAIRN_OK;
}

static hid_t stored_type(int token_bytes)
{
    return token_bytes == 1 ? H5T_STD_U8LE : token_bytes == 2 ? H5T_STD_U16LE : H5T_STD_U32LE;
}

/* The properties of a dataset whose place in the file is fixed as it is made. Nothing is filled in: every byte is written. */
static hid_t plain_properties(void)
{
    hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_obj_track_times(properties, false);
    H5Pset_fill_time(properties, H5D_FILL_TIME_NEVER);
    H5Pset_alloc_time(properties, H5D_ALLOC_TIME_EARLY);
    return properties;
}

static cairn_err create_set(hid_t parent, const char *name, hid_t type, int64_t count, hid_t properties, hid_t *set)
{
    hsize_t extent = (hsize_t)count;
    hid_t space = H5Screate_simple(1, &extent, NULL);
    *set = space < 0 ? -1 : H5Dcreate2(parent, name, type, space, H5P_DEFAULT, properties, H5P_DEFAULT);
    if (space >= 0)
        H5Sclose(space);
    return *set < 0 ? hdf5_fail(CAIRN_ELIBRARY, "%s cannot be made", name) : CAIRN_OK;
}

static cairn_err create_group(hid_t file, const char *name, hid_t *group)
{
    hid_t properties = H5Pcreate(H5P_GROUP_CREATE);
    H5Pset_obj_track_times(properties, false);
    *group = H5Gcreate2(file, name, H5P_DEFAULT, properties, H5P_DEFAULT);
    H5Pclose(properties);
    return *group < 0 ? hdf5_fail(CAIRN_ELIBRARY, "%s cannot be made", name) : CAIRN_OK;
}

static cairn_err create_tokens(struct dataset_writer *w, hid_t group, int i)
{
    hid_t properties = plain_properties();
    if (w->chunk_bytes[i] > 0) {
        hsize_t chunk = (hsize_t)(w->chunk_bytes[i] / w->plan.token_bytes);
        H5Pset_chunk(properties, 1, &chunk);
    }
    if (w->chunk_bytes[i] > 0 && w->plan.compress > 0) {
        H5Pset_alloc_time(properties, H5D_ALLOC_TIME_INCR);
        H5Pset_deflate(properties, (unsigned)w->plan.compress);
    }
    cairn_err err = create_set(group, "tokens", stored_type(w->plan.token_bytes), w->plan.tokens[i], properties, &w->tokens[i]);
    H5Pclose(properties);
    return err;
}

static cairn_err create_checksums(struct dataset_writer *w, hid_t group, int i)
{
    hid_t properties = plain_properties();
    cairn_err err = create_set(group, "checksums", H5T_STD_U64LE, w->sum_count[i], properties, &w->checksums[i]);
    H5Pclose(properties);
    TRY(err);
    TRY(attribute_write_string(w->checksums[i], "algorithm", "xxh3-64"));
    return attribute_write_int(w->checksums[i], "block_bytes", CHECKSUM_BYTES);
}

static cairn_err create_split(struct dataset_writer *w, int i)
{
    hid_t group;
    TRY(create_group(w->file, split_name((enum dataset_split)i), &group));
    cairn_err err = create_tokens(w, group, i);
    if (err == CAIRN_OK)
        err = create_checksums(w, group, i);
    H5Gclose(group);
    return err;
}

/* Made by all ranks, as every object is; written by one, whose failure is that of all who have the file: the next object is made by all
 * of them or by none. */
static cairn_err write_by_first(struct dataset_writer *w, hid_t set, hid_t type, const void *values)
{
    cairn_err err = CAIRN_OK;
    if (w->rank == 0 && H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) < 0)
        err = hdf5_fail(CAIRN_ELIBRARY, "writing facts");
    return w->together ? comm_agree(w->comm, err) : err;
}

static cairn_err write_names(struct dataset_writer *w, hid_t group)
{
    size_t width = 1;
    for (int i = 0; i < w->plan.source_files; i++)
        if (strlen(w->plan.source_names[i]) > width)
            width = strlen(w->plan.source_names[i]);
    char *names = calloc((size_t)w->plan.source_files, width);
    if (!names)
        return FAIL(CAIRN_ENOMEM, "no memory for the names of %d files", w->plan.source_files);
    for (int i = 0; i < w->plan.source_files; i++)
        memcpy(names + (size_t)i * width, w->plan.source_names[i], strlen(w->plan.source_names[i]));
    hid_t type = H5Tcopy(H5T_C_S1), properties = plain_properties(), set = -1;
    H5Tset_size(type, width);
    H5Tset_strpad(type, H5T_STR_NULLPAD);
    H5Tset_cset(type, H5T_CSET_UTF8);
    cairn_err err = create_set(group, "names", type, w->plan.source_files, properties, &set);
    if (err == CAIRN_OK)
        err = write_by_first(w, set, type, names);
    if (set >= 0)
        H5Dclose(set);
    H5Pclose(properties);
    H5Tclose(type);
    free(names);
    return err;
}

static cairn_err write_sizes(struct dataset_writer *w, hid_t group)
{
    hid_t properties = plain_properties(), set = -1;
    cairn_err err = create_set(group, "bytes", H5T_STD_I64LE, w->plan.source_files, properties, &set);
    if (err == CAIRN_OK)
        err = write_by_first(w, set, H5T_NATIVE_INT64, w->plan.source_bytes);
    if (set >= 0)
        H5Dclose(set);
    H5Pclose(properties);
    return err;
}

static cairn_err write_source_facts(struct dataset_writer *w, hid_t group)
{
    int64_t bytes = 0;
    for (int i = 0; i < w->plan.source_files; i++)
        bytes += w->plan.source_bytes[i];
    TRY(attribute_write_int(group, "files", w->plan.source_files));
    TRY(attribute_write_int(group, "bytes", bytes));
    TRY(attribute_write_real(group, "validation_fraction", w->plan.validation_fraction));
    TRY(attribute_write_int(group, "validation_block", w->plan.validation_block));
    TRY(write_names(w, group));
    return write_sizes(w, group);
}

static cairn_err create_source(struct dataset_writer *w)
{
    hid_t group;
    TRY(create_group(w->file, "source", &group));
    cairn_err err = write_source_facts(w, group);
    H5Gclose(group);
    return err;
}

static cairn_err create_structure(struct dataset_writer *w, const char *path)
{
    char created_by[64];
    snprintf(created_by, sizeof created_by, "cairn %s", cairn_version());
    TRY(create_file(w, path));
    TRY(attribute_write_string(w->file, "format", "cairn-dataset"));
    TRY(attribute_write_int(w->file, "version", DATASET_VERSION));
    TRY(attribute_write_string(w->file, "kind", "tokens"));
    TRY(attribute_write_string(w->file, "tokenizer", w->plan.tokenizer));
    TRY(attribute_write_int(w->file, "vocabulary", w->plan.vocabulary));
    TRY(attribute_write_string(w->file, "created_by", created_by));
    for (int i = 0; i < SPLIT_COUNT; i++)
        TRY(create_split(w, i));
    return create_source(w);
}

/* ---- opening ---- */

static cairn_err check_plan(const struct dataset_plan *plan)
{
    int64_t c = plan->chunk_bytes;
    if (c != 0 && (c < CHUNK_SMALLEST || c > CHUNK_LARGEST || (c & (c - 1)) != 0))
        return FAIL(CAIRN_ECONFIG, "chunks of %lld bytes; expected a power of two from %d to %d", (long long)c, CHUNK_SMALLEST, CHUNK_LARGEST);
    if (plan->compress < 0 || plan->compress > 9 || (plan->compress > 0 && c == 0))
        return FAIL(CAIRN_ECONFIG, "compression level %d; expected 0 (none) to 9", plan->compress);
    return CAIRN_OK;
}

static cairn_err reserve_compression(struct dataset_writer *w)
{
    if (w->plan.compress == 0)
        return CAIRN_OK;
    size_t chunk = (size_t)w->plan.chunk_bytes;
    w->chunks_of_piece = (int)(w->piece_bytes / w->plan.chunk_bytes);
    w->packed_limit = compressBound(chunk);
    w->packed = malloc(w->packed_limit * (size_t)w->chunks_of_piece);
    w->padded = malloc(chunk);
    w->sizes = calloc((size_t)w->chunks_of_piece, sizeof *w->sizes);
    return w->packed && w->padded && w->sizes ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory to compress in");
}

static cairn_err reserve(struct dataset_writer *w)
{
    w->piece_bytes = w->plan.chunk_bytes > PIECE_BYTES ? w->plan.chunk_bytes : PIECE_BYTES;
    for (int i = 0; i < SPLIT_COUNT; i++) {
        int64_t bytes = w->plan.tokens[i] * w->plan.token_bytes;
        w->chunk_bytes[i] = w->plan.chunk_bytes < bytes ? w->plan.chunk_bytes : bytes;
        w->sum_count[i] = (bytes + CHECKSUM_BYTES - 1) / CHECKSUM_BYTES;
        w->sums[i] = calloc((size_t)w->sum_count[i] + 1, sizeof *w->sums[i]);
        if (!w->sums[i])
            return FAIL(CAIRN_ENOMEM, "no memory for %lld checksums", (long long)w->sum_count[i]);
    }
    return reserve_compression(w);
}

static void free_writer(struct dataset_writer *w)
{
    for (int i = 0; i < SPLIT_COUNT; i++)
        free(w->sums[i]);
    free(w->packed);
    free(w->padded);
    free(w->sizes);
    free(w->path);
    free(w);
}

static void close_handles(struct dataset_writer *w)
{
    for (int i = 0; i < SPLIT_COUNT; i++) {
        if (w->tokens[i] >= 0)
            H5Dclose(w->tokens[i]);
        if (w->checksums[i] >= 0)
            H5Dclose(w->checksums[i]);
        w->tokens[i] = w->checksums[i] = -1;
    }
}

/* Asks the file system for all the space there will be need of, where that is known and it can be asked: a disk too small is told before
 * the work, not in the middle of it. The space is given back as HDF5 makes the file anew. */
static cairn_err try_space(const struct dataset_writer *w)
{
    off_t bytes = STRUCTURE_BYTES;
    for (int i = 0; w->plan.compress == 0 && i < SPLIT_COUNT; i++)
        bytes += (off_t)(w->plan.tokens[i] * w->plan.token_bytes);
    int fd = open(w->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    int error = fd < 0 || fallocate(fd, 0, 0, bytes) != 0 ? errno : 0;
    if (fd >= 0)
        close(fd);
    if (fd < 0 || error == ENOSPC || error == EDQUOT)
        return FAIL(error_from_errno(error), "%.1f MB to write: %s", (double)bytes * 1e-6, strerror(error));
    return CAIRN_OK;
}

static cairn_err create(struct dataset_writer *w)
{
    if (!has_file(w))
        return CAIRN_OK;
    hdf5_lock();
    hdf5_quiet();
    cairn_err err = create_structure(w, w->path);
    hdf5_unlock();
    return err;
}

cairn_err dataset_writer_open(MPI_Comm comm, const char *path, const struct dataset_plan *plan, struct dataset_writer **out)
{
    *out = NULL;
    TRY(check_plan(plan));
    struct dataset_writer *w = calloc(1, sizeof *w);
    TRY(comm_agree(comm, w ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for a writer")));
    w->comm = comm;
    MPI_Comm_rank(comm, &w->rank);
    MPI_Comm_size(comm, &w->size);
    w->plan = *plan;
    w->together = plan->compress == 0;
    w->file = -1;
    for (int i = 0; i < SPLIT_COUNT; i++)
        w->tokens[i] = w->checksums[i] = -1;
    w->path = strdup(path);
    cairn_err err = comm_agree(comm, w->path ? reserve(w) : FAIL(CAIRN_ENOMEM, "no memory for a path"));
    if (err == CAIRN_OK)
        err = comm_agree(comm, w->rank == 0 ? try_space(w) : CAIRN_OK);
    if (err != CAIRN_OK) {
        free_writer(w);
        return err;
    }
    err = comm_agree(comm, create(w));
    if (err != CAIRN_OK)
        return dataset_writer_close(w, err);
    *out = w;
    return CAIRN_OK;
}

int64_t dataset_writer_piece(const struct dataset_writer *writer)
{
    return writer->piece_bytes / writer->plan.token_bytes;
}

/* ---- writing ---- */

/* By every rank on its own: a piece is one large stretch of the file, which collective writing could not make larger, and HDF5's leaves the
 * other ranks waiting for ever for one whose write failed (1.10.8, H5FD_mpio_write). */
static cairn_err write_mine(struct dataset_writer *w, int split, int64_t first, int64_t count, const void *bytes)
{
    hsize_t start = (hsize_t)first, extent = (hsize_t)count;
    if (count == 0)
        return CAIRN_OK;
    hid_t where = H5Dget_space(w->tokens[split]), memory = H5Screate_simple(1, &extent, NULL);
    H5Sselect_hyperslab(where, H5S_SELECT_SET, &start, NULL, &extent, NULL);
    cairn_err err = CAIRN_OK;
    if (H5Dwrite(w->tokens[split], stored_type(w->plan.token_bytes), memory, where, H5P_DEFAULT, bytes) < 0)
        err = hdf5_fail(CAIRN_ESYS, "writing %s/tokens", split_name((enum dataset_split)split));
    H5Sclose(memory);
    H5Sclose(where);
    return err;
}

/* Compresses the piece's chunks, the last one padded with zeros as HDF5 pads it. */
static cairn_err compress_piece(struct dataset_writer *w, int split, int64_t bytes_count, const char *bytes, int *chunks)
{
    int64_t chunk = w->chunk_bytes[split];
    char *to = w->packed;
    if (bytes_count == 0)
        return CAIRN_OK;
    *chunks = (int)((bytes_count + chunk - 1) / chunk);
    for (int i = 0; i < *chunks; i++) {
        int64_t have = bytes_count - i * chunk < chunk ? bytes_count - i * chunk : chunk;
        const char *from = bytes + i * chunk;
        if (have < chunk) {
            memset(w->padded, 0, (size_t)chunk);
            memcpy(w->padded, from, (size_t)have);
            from = w->padded;
        }
        uLongf size = w->packed_limit;
        if (compress2((Bytef *)to, &size, (const Bytef *)from, (uLong)chunk, w->plan.compress) != Z_OK)
            return FAIL(CAIRN_ENOMEM, "zlib cannot compress a chunk of %lld bytes", (long long)chunk);
        w->sizes[i] = (uint32_t)size;
        to += size;
    }
    return CAIRN_OK;
}

static cairn_err write_chunks(struct dataset_writer *w, int split, int64_t first, int chunks)
{
    const char *from = w->packed;
    for (int i = 0; i < chunks; i++) {
        hsize_t at = (hsize_t)(first + i * (w->chunk_bytes[split] / w->plan.token_bytes));
        if (H5Dwrite_chunk(w->tokens[split], H5P_DEFAULT, 0, &at, w->sizes[i], from) < 0)
            return hdf5_fail(CAIRN_ESYS, "writing %s/tokens", split_name((enum dataset_split)split));
        from += w->sizes[i];
    }
    return CAIRN_OK;
}

static cairn_err receive_chunks(struct dataset_writer *w, int from, int64_t *first, int *chunks)
{
    static const char what[] = "receiving packed chunks";
    int64_t header[2];
    size_t bytes = 0;
    TRY(mpi_receive(header, 2, MPI_INT64_T, from, TAG_SIZES, w->comm, what));
    *first = header[0];
    *chunks = (int)header[1];
    if (*chunks == 0)
        return CAIRN_OK;
    TRY(mpi_receive(w->sizes, *chunks, MPI_UINT32_T, from, TAG_SIZES, w->comm, what));
    for (int i = 0; i < *chunks; i++)
        bytes += w->sizes[i];
    return mpi_receive(w->packed, (int)bytes, MPI_BYTE, from, TAG_CHUNKS, w->comm, what);
}

static cairn_err send_chunks(struct dataset_writer *w, int64_t first, int chunks)
{
    static const char what[] = "sending packed chunks";
    int64_t header[2] = {first, chunks};
    size_t bytes = 0;
    for (int i = 0; i < chunks; i++)
        bytes += w->sizes[i];
    TRY(mpi_send(header, 2, MPI_INT64_T, 0, TAG_SIZES, w->comm, what));
    if (chunks == 0)
        return CAIRN_OK;
    TRY(mpi_send(w->sizes, chunks, MPI_UINT32_T, 0, TAG_SIZES, w->comm, what));
    return mpi_send(w->packed, (int)bytes, MPI_BYTE, 0, TAG_CHUNKS, w->comm, what);
}

/* Rank 0 takes every rank's chunks in turn, also after a failure, so that no sender waits for ever. */
static cairn_err write_through_first(struct dataset_writer *w, int split, int64_t first, int chunks)
{
    if (w->rank != 0)
        return send_chunks(w, first, chunks);
    hdf5_lock();
    cairn_err err = write_chunks(w, split, first, chunks);
    hdf5_unlock();
    for (int from = 1; from < w->size; from++) {
        TRY_CONTEXT(receive_chunks(w, from, &first, &chunks), "receiving chunks from rank %d", from);
        hdf5_lock();
        if (err == CAIRN_OK)
            err = write_chunks(w, split, first, chunks);
        hdf5_unlock();
    }
    return err;
}

static void sum_piece(struct dataset_writer *w, int split, int64_t first, int64_t bytes_count, const char *bytes)
{
    int64_t block = first * w->plan.token_bytes / CHECKSUM_BYTES;
    for (int64_t at = 0; at < bytes_count; at += CHECKSUM_BYTES, block++) {
        int64_t n = bytes_count - at < CHECKSUM_BYTES ? bytes_count - at : CHECKSUM_BYTES;
        w->sums[split][block] = XXH3_64bits(bytes + at, (size_t)n);
    }
}

cairn_err dataset_writer_write(struct dataset_writer *w, enum dataset_split split, int64_t first, int64_t count, const void *bytes, cairn_err err)
{
    int chunks = 0;
    int64_t bytes_count = count * w->plan.token_bytes;
    if (err == CAIRN_OK) {
        sum_piece(w, (int)split, first, bytes_count, bytes);
        if (!w->together)
            err = compress_piece(w, (int)split, bytes_count, bytes, &chunks);
    }
    TRY(comm_agree(w->comm, err));
    if (w->together) {
        hdf5_lock();
        err = write_mine(w, (int)split, first, count, bytes);
        hdf5_unlock();
    } else {
        err = write_through_first(w, (int)split, first, chunks);
    }
    return comm_agree(w->comm, err); /* where one rank fails, none goes on to the next piece */
}

static cairn_err write_checksums(struct dataset_writer *w)
{
    cairn_err err = CAIRN_OK;
    for (int i = 0; i < SPLIT_COUNT; i++) {
        /* Each block was summed by one rank. */
        const void *from = w->rank == 0 ? MPI_IN_PLACE : w->sums[i];
        TRY_MPI(MPI_Reduce(from, w->sums[i], (int)w->sum_count[i], MPI_UINT64_T, MPI_BOR, 0, w->comm));
        if (err == CAIRN_OK && w->sum_count[i] > 0)
            err = write_by_first(w, w->checksums[i], H5T_NATIVE_UINT64, w->sums[i]);
    }
    return comm_agree(w->comm, err);
}

/* H5Fclose is where HDF5 writes what it still held: a full disk may show only here. */
static cairn_err close_file(struct dataset_writer *w, cairn_err err)
{
    close_handles(w);
    if (w->file < 0)
        return err;
    if (err == CAIRN_OK && H5Fflush(w->file, H5F_SCOPE_GLOBAL) < 0)
        err = hdf5_fail(CAIRN_ESYS, "flushing");
    if (H5Fclose(w->file) < 0 && err == CAIRN_OK)
        err = hdf5_fail(CAIRN_ESYS, "closing");
    H5Eclear2(H5E_DEFAULT);
    return err;
}

cairn_err dataset_writer_close(struct dataset_writer *w, cairn_err err)
{
    MPI_Comm comm = w->comm;
    err = comm_agree(comm, err);
    if (err == CAIRN_OK) {
        hdf5_lock();
        err = write_checksums(w);
        hdf5_unlock();
    }
    /* A file that HDF5 cannot close for want of space makes it crash at the process's end (1.10.8, H5F__close_cb): make room. */
    if (err != CAIRN_OK && w->rank == 0 && truncate(w->path, 0) != 0)
        log_warning("cannot empty %s: %s", w->path, strerror(errno));
    MPI_Barrier(comm);
    hdf5_lock();
    if (has_file(w))
        err = close_file(w, err);
    hdf5_unlock();
    free_writer(w);
    return comm_agree(comm, err);
}
