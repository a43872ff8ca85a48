#include "io/dataset.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include <zlib.h>

#include "base/hdf5_lock.h"
#include "io/chunk_cache.h"
#include "io/dataset_structure.h"
#include "io/hdf5_error.h"
#include "mesh/comm.h"

/* Decoded chunks that a handle keeps: with 16 KiB chunks 1024 of them, little beside a model. */
enum { CACHE_BYTES = 16 << 20 };

struct buffer {
    void *bytes;
    size_t size;
};

struct dataset {
    char *path;
    int fd;
    struct dataset_structure structure;
    struct buffer raw;     /* token bytes on their way to int32 */
    struct buffer encoded; /* a compressed chunk */
    struct chunk_cache *cache[SPLIT_COUNT];
    hid_t file, set[SPLIT_COUNT]; /* HDF5's own handle, for what pread cannot do; opened at first use */
};

static cairn_err buffer_reserve(struct buffer *buffer, size_t size)
{
    if (size <= buffer->size)
        return CAIRN_OK;
    void *bytes = realloc(buffer->bytes, size);
    if (!bytes)
        return FAIL(CAIRN_ENOMEM, "no memory for %zu bytes of tokens", size);
    buffer->bytes = bytes;
    buffer->size = size;
    return CAIRN_OK;
}

/* ---- opening ---- */

/* What can be said without HDF5, in words that tell more than HDF5's: not there, a folder, no HDF5 file. */
static cairn_err check_file(const char *path)
{
    static const unsigned char signature[8] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
    unsigned char begin[8];
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return FAIL(error_from_errno(errno), "cannot open: %s", strerror(errno));
    cairn_err err = CAIRN_OK;
    if (fstat(fd, &status) != 0)
        err = FAIL(CAIRN_ESYS, "cannot stat: %s", strerror(errno));
    else if (!S_ISREG(status.st_mode))
        err = FAIL(CAIRN_EFORMAT, "not a regular file");
    else if (status.st_size == 0)
        err = FAIL(CAIRN_EFORMAT, "the file is empty");
    /* HDF5 lets its superblock stand at 0, 512, 1024, 2048, ... (File Format Specification, III.A). */
    for (off_t at = 0; err == CAIRN_OK; at = at ? 2 * at : 512) {
        if (pread(fd, begin, sizeof begin, at) != (ssize_t)sizeof begin)
            err = FAIL(CAIRN_EFORMAT, "not an HDF5 file; 'cairn data import' makes a dataset of text");
        else if (memcmp(begin, signature, sizeof begin) == 0)
            break;
    }
    close(fd);
    return err;
}

static cairn_err open_descriptor(struct dataset *dataset, int64_t *file_bytes)
{
    struct stat status;
    dataset->fd = open(dataset->path, O_RDONLY | O_CLOEXEC);
    if (dataset->fd < 0)
        return FAIL(error_from_errno(errno), "cannot open: %s", strerror(errno));
    if (fstat(dataset->fd, &status) != 0)
        return FAIL(CAIRN_ESYS, "cannot stat: %s", strerror(errno));
    *file_bytes = status.st_size;
    return CAIRN_OK;
}

/* Access by one process. Reading needs no lock on the file; many network file systems have none. */
static hid_t open_file_alone(const char *path)
{
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_file_locking(access, false, true);
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, access);
    H5Pclose(access);
    return file;
}

static hid_t open_file_together(MPI_Comm comm, const char *path)
{
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_fapl_mpio(access, comm, MPI_INFO_NULL);
    H5Pset_all_coll_metadata_ops(access, true);
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, access);
    H5Pclose(access);
    return file;
}

static cairn_err read_structure(MPI_Comm comm, struct dataset *dataset, int64_t file_bytes)
{
    cairn_err err;
    hdf5_lock();
    hdf5_quiet();
    hid_t file = comm == MPI_COMM_NULL ? open_file_alone(dataset->path) : open_file_together(comm, dataset->path);
    if (file < 0) {
        err = hdf5_fail(CAIRN_EFORMAT, "the file was cut off or damaged");
    } else {
        err = structure_read(file, file_bytes, &dataset->structure);
        H5Fclose(file);
        H5Eclear2(H5E_DEFAULT);
    }
    hdf5_unlock();
    return err;
}

static cairn_err make_handle(const char *path, struct dataset **out)
{
    struct dataset *dataset = calloc(1, sizeof *dataset);
    if (!dataset)
        return FAIL(CAIRN_ENOMEM, "no memory for a dataset");
    dataset->fd = -1;
    dataset->file = dataset->set[0] = dataset->set[1] = -1;
    dataset->path = strdup(path);
    *out = dataset;
    return dataset->path ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for a dataset");
}

/* All but the naming of the file. Each stage ends in an agreement, since a rank that goes on alone into HDF5's collective calls
 * waits for ever. */
static cairn_err open_together(MPI_Comm comm, const char *path, struct dataset **out)
{
    int rank;
    int64_t file_bytes = 0;
    MPI_Comm_rank(comm, &rank);
    TRY(comm_agree(comm, rank == 0 ? check_file(path) : CAIRN_OK));
    cairn_err err = make_handle(path, out);
    if (err == CAIRN_OK)
        err = open_descriptor(*out, &file_bytes);
    TRY(comm_agree(comm, err));
    /* A node of a network file system may still know an older size: with that its rank alone would find the file cut off. */
    TRY(comm_broadcast(comm, &file_bytes, sizeof file_bytes, 0));
    return comm_agree(comm, read_structure(comm, *out, file_bytes));
}

static cairn_err open_alone(const char *path, struct dataset **out)
{
    int64_t file_bytes = 0;
    TRY(check_file(path));
    TRY(make_handle(path, out));
    TRY(open_descriptor(*out, &file_bytes));
    return read_structure(MPI_COMM_NULL, *out, file_bytes);
}

cairn_err dataset_open(MPI_Comm comm, const char *path, struct dataset **out)
{
    *out = NULL;
    cairn_err err = open_together(comm, path, out);
    if (err == CAIRN_OK)
        return CAIRN_OK;
    dataset_close(*out);
    *out = NULL;
    return error_context(err, "dataset %s", path);
}

cairn_err dataset_open_alone(const char *path, struct dataset **out)
{
    *out = NULL;
    cairn_err err = open_alone(path, out);
    if (err == CAIRN_OK)
        return CAIRN_OK;
    dataset_close(*out);
    *out = NULL;
    return error_context(err, "dataset %s", path);
}

void dataset_close(struct dataset *dataset)
{
    if (!dataset)
        return;
    if (dataset->file >= 0) {
        hdf5_lock();
        for (int i = 0; i < SPLIT_COUNT; i++)
            if (dataset->set[i] >= 0)
                H5Dclose(dataset->set[i]);
        H5Fclose(dataset->file);
        hdf5_unlock();
    }
    for (int i = 0; i < SPLIT_COUNT; i++)
        chunk_cache_free(dataset->cache[i]);
    if (dataset->fd >= 0)
        close(dataset->fd);
    structure_free(&dataset->structure);
    free(dataset->raw.bytes);
    free(dataset->encoded.bytes);
    free(dataset->path);
    free(dataset);
}

/* ---- reading ---- */

static cairn_err read_at(struct dataset *dataset, uint64_t offset, size_t bytes, void *out)
{
    char *to = out;
    while (bytes > 0) {
        ssize_t n = pread(dataset->fd, to, bytes, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return FAIL(CAIRN_ESYS, "reading %zu bytes at byte %llu: %s", bytes, (unsigned long long)offset, strerror(errno));
        if (n == 0)
            return FAIL(CAIRN_EFORMAT, "the file ends at byte %llu, %zu bytes early: it was cut off since it was opened",
                        (unsigned long long)offset, bytes);
        to += n;
        offset += (uint64_t)n;
        bytes -= (size_t)n;
    }
    return CAIRN_OK;
}

/* HDF5's own handle of SPLIT's tokens; under hdf5_lock. */
static cairn_err library_handle(struct dataset *dataset, enum dataset_split split)
{
    hdf5_quiet();
    if (dataset->file < 0)
        dataset->file = open_file_alone(dataset->path);
    if (dataset->file < 0)
        return hdf5_fail(CAIRN_EFORMAT, "cannot be opened again");
    if (dataset->set[split] < 0)
        dataset->set[split] = H5Dopen2(dataset->file, split == SPLIT_TRAIN ? "/train/tokens" : "/validation/tokens", H5P_DEFAULT);
    return dataset->set[split] < 0 ? hdf5_fail(CAIRN_EFORMAT, "cannot be opened again") : CAIRN_OK;
}

static hid_t memory_type(int token_bytes)
{
    return token_bytes == 1 ? H5T_STD_U8LE : token_bytes == 2 ? H5T_STD_U16LE : H5T_STD_U32LE;
}

static cairn_err select_and_read(hid_t set, int token_bytes, hsize_t first, hsize_t count, void *bytes)
{
    hid_t where = H5Dget_space(set), memory = H5Screate_simple(1, &count, NULL);
    bool done = where >= 0 && memory >= 0 && H5Sselect_hyperslab(where, H5S_SELECT_SET, &first, NULL, &count, NULL) >= 0 &&
                H5Dread(set, memory_type(token_bytes), memory, where, H5P_DEFAULT, bytes) >= 0;
    cairn_err err = done ? CAIRN_OK : hdf5_fail(CAIRN_ECORRUPT, "tokens from %llu on cannot be read", (unsigned long long)first);
    if (memory >= 0)
        H5Sclose(memory);
    if (where >= 0)
        H5Sclose(where);
    return err;
}

static cairn_err read_library(struct dataset *dataset, enum dataset_split split, int64_t first, int64_t count, void *bytes)
{
    int token_bytes = dataset->structure.split[split].token_bytes;
    hdf5_lock();
    cairn_err err = library_handle(dataset, split);
    if (err == CAIRN_OK)
        err = select_and_read(dataset->set[split], token_bytes, (hsize_t)first, (hsize_t)count, bytes);
    hdf5_unlock();
    return err;
}

/* The stored bytes of a chunk that stands in no table. */
static cairn_err fetch_chunk_locked(struct dataset *dataset, enum dataset_split split, int64_t chunk, struct chunk_place *place)
{
    const struct split_structure *s = &dataset->structure.split[split];
    hsize_t coordinate = (hsize_t)(chunk * s->chunk_tokens), bytes = 0;
    uint32_t skipped = 0;
    TRY(library_handle(dataset, split));
    if (H5Dget_chunk_storage_size(dataset->set[split], &coordinate, &bytes) < 0)
        return hdf5_fail(CAIRN_EFORMAT, "chunk %lld cannot be found", (long long)chunk);
    if (bytes == 0 || bytes > CHUNK_BYTES_LIMIT)
        return FAIL(CAIRN_EFORMAT, "chunk %lld has %llu stored bytes", (long long)chunk, (unsigned long long)bytes);
    TRY(buffer_reserve(&dataset->encoded, bytes));
    if (H5Dread_chunk(dataset->set[split], H5P_DEFAULT, &coordinate, &skipped, dataset->encoded.bytes) < 0)
        return hdf5_fail(CAIRN_EFORMAT, "chunk %lld cannot be read", (long long)chunk);
    *place = (struct chunk_place){0, (uint32_t)bytes, skipped};
    return CAIRN_OK;
}

static cairn_err fetch_chunk(struct dataset *dataset, enum dataset_split split, int64_t chunk, struct chunk_place *place)
{
    const struct split_structure *s = &dataset->structure.split[split];
    if (s->places) {
        *place = s->places[chunk];
        TRY(buffer_reserve(&dataset->encoded, place->bytes));
        return read_at(dataset, place->offset, place->bytes, dataset->encoded.bytes);
    }
    hdf5_lock();
    cairn_err err = fetch_chunk_locked(dataset, split, chunk, place);
    hdf5_unlock();
    return err;
}

static cairn_err decode_chunk(struct dataset *dataset, enum dataset_split split, int64_t chunk, void *out)
{
    const struct split_structure *s = &dataset->structure.split[split];
    uLongf bytes = (uLongf)s->chunk_tokens * (uLongf)s->token_bytes, expected = bytes;
    struct chunk_place place = {0};
    TRY(fetch_chunk(dataset, split, chunk, &place));
    if (place.skipped_filters & 1) { /* HDF5 stores a chunk as it is where deflate does not make it smaller */
        if (place.bytes != expected)
            return FAIL(CAIRN_ECORRUPT, "chunk %lld has %u stored bytes; expected %lu", (long long)chunk, place.bytes, expected);
        memcpy(out, dataset->encoded.bytes, expected);
        return CAIRN_OK;
    }
    int result = uncompress(out, &bytes, dataset->encoded.bytes, place.bytes);
    if (result != Z_OK || bytes != expected)
        return FAIL(CAIRN_ECORRUPT, "chunk %lld (%u bytes at byte %llu) cannot be decompressed: %s", (long long)chunk, place.bytes,
                    (unsigned long long)place.offset, result == Z_OK ? "it is too short" : zError(result));
    return CAIRN_OK;
}

static cairn_err decoded_chunk(struct dataset *dataset, enum dataset_split split, int64_t chunk, const char **out)
{
    const struct split_structure *s = &dataset->structure.split[split];
    struct chunk_cache **cache = &dataset->cache[split];
    if (!*cache)
        TRY(chunk_cache_make(CACHE_BYTES, (size_t)s->chunk_tokens * (size_t)s->token_bytes, cache));
    *out = chunk_cache_find(*cache, chunk);
    if (*out)
        return CAIRN_OK;
    char *bytes = chunk_cache_claim(*cache, chunk);
    if (!bytes)
        return FAIL(CAIRN_ENOMEM, "no memory for a chunk of %lld tokens", (long long)s->chunk_tokens);
    cairn_err err = decode_chunk(dataset, split, chunk, bytes);
    if (err != CAIRN_OK)
        chunk_cache_forget(*cache, chunk);
    *out = bytes;
    return err;
}

static cairn_err read_chunks(struct dataset *dataset, enum dataset_split split, int64_t first, int64_t count, char *bytes)
{
    const struct split_structure *s = &dataset->structure.split[split];
    size_t width = (size_t)s->token_bytes;
    while (count > 0) {
        int64_t chunk = first / s->chunk_tokens, inside = first % s->chunk_tokens;
        int64_t n = s->chunk_tokens - inside < count ? s->chunk_tokens - inside : count;
        if (s->storage == STORAGE_CHUNKED) {
            TRY(read_at(dataset, s->places[chunk].offset + (uint64_t)inside * width, (size_t)n * width, bytes));
        } else {
            const char *decoded;
            TRY(decoded_chunk(dataset, split, chunk, &decoded));
            memcpy(bytes, decoded + (size_t)inside * width, (size_t)n * width);
        }
        first += n;
        count -= n;
        bytes += (size_t)n * width;
    }
    return CAIRN_OK;
}

static cairn_err read_storage(struct dataset *dataset, enum dataset_split split, int64_t first, int64_t count, void *bytes)
{
    const struct split_structure *s = &dataset->structure.split[split];
    size_t width = (size_t)s->token_bytes;
    switch (s->storage) {
    case STORAGE_EMPTY: return CAIRN_OK;
    case STORAGE_CONTIGUOUS: return read_at(dataset, s->offset + (uint64_t)first * width, (size_t)count * width, bytes);
    case STORAGE_CHUNKED:
    case STORAGE_DEFLATE: return read_chunks(dataset, split, first, count, bytes);
    case STORAGE_LIBRARY: return read_library(dataset, split, first, count, bytes);
    }
    return FAIL(CAIRN_EINVAL, "unknown storage %d", (int)s->storage);
}

static cairn_err check_request(const struct dataset *dataset, enum dataset_split split, int64_t first, int64_t count)
{
    int64_t tokens = dataset->structure.split[split].tokens;
    if (first < 0 || count < 0 || count > tokens || first > tokens - count)
        return FAIL(CAIRN_EINVAL, "dataset %s: tokens %lld to %lld of %s were asked for, which has %lld", dataset->path, (long long)first,
                    (long long)(first + count), split_name(split), (long long)tokens);
    return CAIRN_OK;
}

cairn_err dataset_read_bytes(struct dataset *dataset, enum dataset_split split, int64_t first, int64_t count, void *bytes)
{
    TRY(check_request(dataset, split, first, count));
    if (count == 0)
        return CAIRN_OK;
    TRY_CONTEXT(read_storage(dataset, split, first, count, bytes), "dataset %s: %s/tokens", dataset->path, split_name(split));
    return CAIRN_OK;
}

/* The file's bytes are little-endian, as every machine Cairn is built for. */
uint32_t tokens_widen(const void *bytes, int width, int64_t count, int32_t *tokens)
{
    uint32_t largest = 0;
    const uint8_t *byte = bytes;
    const uint16_t *half = bytes;
    const uint32_t *word = bytes;
    for (int64_t i = 0; i < count; i++) {
        uint32_t token = width == 1 ? byte[i] : width == 2 ? half[i] : word[i];
        if (tokens)
            tokens[i] = (int32_t)token;
        largest = token > largest ? token : largest;
    }
    return largest;
}

cairn_err dataset_read(struct dataset *dataset, enum dataset_split split, int64_t first, int64_t count, int32_t *tokens)
{
    const struct split_structure *s = &dataset->structure.split[split];
    TRY(check_request(dataset, split, first, count));
    TRY(buffer_reserve(&dataset->raw, (size_t)count * (size_t)s->token_bytes));
    TRY(dataset_read_bytes(dataset, split, first, count, dataset->raw.bytes));
    uint32_t largest = tokens_widen(dataset->raw.bytes, s->token_bytes, count, tokens);
    if (count > 0 && largest >= dataset->structure.vocabulary)
        return FAIL(CAIRN_EFORMAT, "dataset %s: %s/tokens: token %u among tokens %lld to %lld; the vocabulary has %lld", dataset->path,
                    split_name(split), largest, (long long)first, (long long)(first + count - 1), (long long)dataset->structure.vocabulary);
    return CAIRN_OK;
}

/* ---- facts ---- */

int64_t dataset_vocabulary(const struct dataset *dataset)
{
    return dataset->structure.vocabulary;
}

int64_t dataset_tokens(const struct dataset *dataset, enum dataset_split split)
{
    return dataset->structure.split[split].tokens;
}

int64_t dataset_samples(const struct dataset *dataset, enum dataset_split split, int64_t context)
{
    int64_t tokens = dataset_tokens(dataset, split);
    return tokens > 0 ? (tokens - 1) / context : 0;
}

const char *dataset_tokenizer(const struct dataset *dataset)
{
    return dataset->structure.tokenizer;
}

const char *dataset_path(const struct dataset *dataset)
{
    return dataset->path;
}

const struct dataset_structure *dataset_get_structure(const struct dataset *dataset)
{
    return &dataset->structure;
}

bool dataset_file_range(const struct dataset *dataset, enum dataset_split split, int64_t first, int64_t count, int64_t *begin,
                        int64_t *end)
{
    const struct split_structure *s = &dataset->structure.split[split];
    if (count < 1 || (s->storage != STORAGE_CONTIGUOUS && !s->places))
        return false;
    if (s->storage == STORAGE_CONTIGUOUS) {
        *begin = (int64_t)s->offset + first * s->token_bytes;
        *end = *begin + count * s->token_bytes;
        return true;
    }
    *begin = INT64_MAX;
    *end = 0;
    for (int64_t chunk = first / s->chunk_tokens; chunk <= (first + count - 1) / s->chunk_tokens; chunk++) {
        const struct chunk_place *place = &s->places[chunk];
        int64_t offset = (int64_t)place->offset;
        *begin = offset < *begin ? offset : *begin;
        *end = offset + place->bytes > *end ? offset + place->bytes : *end;
    }
    return true;
}

uint64_t dataset_fingerprint(const struct dataset *dataset)
{
    const struct dataset_structure *structure = &dataset->structure;
    uint64_t hash = XXH3_64bits_withSeed(structure->tokenizer, strlen(structure->tokenizer), (uint64_t)structure->vocabulary);
    for (int i = 0; i < SPLIT_COUNT; i++) {
        const struct split_structure *s = &structure->split[i];
        int64_t facts[3] = {s->tokens, s->token_bytes, s->checksum_bytes};
        hash = XXH3_64bits_withSeed(facts, sizeof facts, hash);
        if (s->checksum_count > 0)
            hash = XXH3_64bits_withSeed(s->checksums, (size_t)s->checksum_count * sizeof *s->checksums, hash);
    }
    return hash;
}
