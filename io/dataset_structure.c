#include "io/dataset_structure.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/hdf5_attribute.h"
#include "io/hdf5_error.h"

const char *split_name(enum dataset_split split)
{
    return split == SPLIT_TRAIN ? "/train" : "/validation";
}

static cairn_err read_header(hid_t file, struct dataset_structure *s)
{
    char text[64];
    int64_t version;
    if (H5Aexists(file, "format") <= 0)
        return FAIL(CAIRN_EFORMAT, "an HDF5 file, but no Cairn dataset: it has no attribute 'format'; 'cairn data import' makes one");
    TRY(attribute_read_string(file, "format", text, sizeof text));
    if (strcmp(text, "cairn-dataset") != 0)
        return FAIL(CAIRN_EFORMAT, "an HDF5 file, but no Cairn dataset: its attribute 'format' is '%s', expected 'cairn-dataset'", text);
    TRY(attribute_read_int(file, "version", &version));
    if (version < 1 || version > DATASET_VERSION)
        return FAIL(CAIRN_EFORMAT, "dataset format version %lld; this Cairn reads up to version %d", (long long)version, DATASET_VERSION);
    TRY(attribute_read_string(file, "kind", text, sizeof text));
    if (strcmp(text, "tokens") != 0)
        return FAIL(CAIRN_EUNSUPPORTED, "a dataset of kind '%s'; this Cairn reads kind 'tokens'", text);
    TRY(attribute_read_string(file, "tokenizer", s->tokenizer, sizeof s->tokenizer));
    TRY(attribute_read_int(file, "vocabulary", &s->vocabulary));
    if (s->vocabulary < 1 || s->vocabulary > INT32_MAX)
        return FAIL(CAIRN_EFORMAT, "vocabulary of %lld; expected 1 to %d", (long long)s->vocabulary, INT32_MAX);
    if (H5Aexists(file, "created_by") > 0)
        TRY(attribute_read_string(file, "created_by", s->created_by, sizeof s->created_by));
    return CAIRN_OK;
}

static cairn_err read_source(hid_t file, struct dataset_structure *s)
{
    s->source_files = s->source_bytes = -1;
    if (H5Lexists(file, "source", H5P_DEFAULT) <= 0)
        return CAIRN_OK;
    hid_t group = H5Oopen(file, "source", H5P_DEFAULT);
    if (group < 0)
        return hdf5_fail(CAIRN_EFORMAT, "/source cannot be opened");
    cairn_err err = CAIRN_OK;
    if (H5Aexists(group, "files") > 0)
        err = attribute_read_int(group, "files", &s->source_files);
    if (err == CAIRN_OK && H5Aexists(group, "bytes") > 0)
        err = attribute_read_int(group, "bytes", &s->source_bytes);
    H5Oclose(group);
    return err;
}

/* Sets *NATIVE when the bytes in the file are the machine's (little-endian, or of one byte). */
static cairn_err read_type(hid_t set, struct split_structure *s, bool *native)
{
    hid_t type = H5Dget_type(set);
    if (type < 0)
        return hdf5_fail(CAIRN_EFORMAT, "the type cannot be read");
    size_t bytes = H5Tget_size(type);
    bool whole = H5Tget_class(type) == H5T_INTEGER && H5Tget_sign(type) == H5T_SGN_NONE;
    *native = whole && (bytes == 1 || H5Tget_order(type) == H5T_ORDER_LE) && H5Tget_precision(type) == 8 * bytes;
    H5Tclose(type);
    if (!whole || (bytes != 1 && bytes != 2 && bytes != 4))
        return FAIL(CAIRN_EFORMAT, "tokens of a type of %zu bytes that is not an unsigned integer of 1, 2 or 4 bytes", bytes);
    s->token_bytes = (int)bytes;
    return CAIRN_OK;
}

static cairn_err read_extent(hid_t set, int64_t *count)
{
    hid_t space = H5Dget_space(set);
    if (space < 0)
        return hdf5_fail(CAIRN_EFORMAT, "the extent cannot be read");
    hsize_t extent[H5S_MAX_RANK] = {0};
    int dimensions = H5Sget_simple_extent_ndims(space);
    if (dimensions == 1)
        H5Sget_simple_extent_dims(space, extent, NULL);
    H5Sclose(space);
    if (dimensions != 1)
        return FAIL(CAIRN_EFORMAT, "%d dimensions; expected 1", dimensions);
    if (extent[0] > INT64_MAX / 8)
        return FAIL(CAIRN_EFORMAT, "%llu elements: too many", (unsigned long long)extent[0]);
    *count = (int64_t)extent[0];
    return CAIRN_OK;
}

static cairn_err check_range(uint64_t offset, uint64_t bytes, int64_t file_bytes, const char *what, int64_t number)
{
    if (offset == HADDR_UNDEF || bytes > (uint64_t)file_bytes || offset > (uint64_t)file_bytes - bytes)
        return FAIL(CAIRN_EFORMAT, "%s %lld lies at bytes %llu to %llu of a file of %lld: the file was cut off or damaged", what,
                    (long long)number, (unsigned long long)offset, (unsigned long long)(offset + bytes), (long long)file_bytes);
    return CAIRN_OK;
}

static cairn_err read_contiguous(hid_t set, struct split_structure *s, int64_t file_bytes)
{
    haddr_t offset = H5Dget_offset(set);
    H5Eclear2(H5E_DEFAULT);
    if (offset == HADDR_UNDEF)
        return FAIL(CAIRN_EFORMAT, "its %lld tokens were never written", (long long)s->tokens);
    s->storage = STORAGE_CONTIGUOUS;
    s->offset = offset;
    return check_range(offset, (uint64_t)s->tokens * (uint64_t)s->token_bytes, file_bytes, "block", 0);
}

static cairn_err read_place(hid_t set, struct split_structure *s, int64_t chunk, int64_t file_bytes, struct chunk_place *place)
{
    hsize_t coordinate = (hsize_t)(chunk * s->chunk_tokens), bytes = 0;
    haddr_t offset = HADDR_UNDEF;
    unsigned mask = 0;
    if (H5Dget_chunk_info_by_coord(set, &coordinate, &mask, &offset, &bytes) < 0)
        return hdf5_fail(CAIRN_EFORMAT, "the place of chunk %lld cannot be read", (long long)chunk);
    if (offset == HADDR_UNDEF || bytes == 0)
        return FAIL(CAIRN_EFORMAT, "chunk %lld of %lld was never written", (long long)chunk, (long long)s->chunks);
    if (bytes > CHUNK_BYTES_LIMIT)
        return FAIL(CAIRN_EFORMAT, "chunk %lld has %llu stored bytes: too many", (long long)chunk, (unsigned long long)bytes);
    *place = (struct chunk_place){offset, (uint32_t)bytes, mask};
    TRY(check_range(offset, bytes, file_bytes, "chunk", chunk));
    if ((s->storage == STORAGE_CHUNKED || (mask & 1)) && bytes != (uint64_t)s->chunk_tokens * (uint64_t)s->token_bytes)
        return FAIL(CAIRN_EFORMAT, "chunk %lld has %llu stored bytes; expected %llu", (long long)chunk, (unsigned long long)bytes,
                    (unsigned long long)s->chunk_tokens * (unsigned long long)s->token_bytes);
    return CAIRN_OK;
}

/* Chunks written before any data ("implicit" index) lie in one row: their table is the place of the first. */
static cairn_err read_row_of_chunks(hid_t set, struct split_structure *s, int64_t file_bytes)
{
    struct chunk_place first;
    TRY(read_place(set, s, 0, file_bytes, &first));
    uint64_t bytes = (uint64_t)s->chunks * first.bytes;
    TRY(check_range(first.offset, bytes, file_bytes, "row of chunks", 0));
    s->storage = STORAGE_CONTIGUOUS; /* the last chunk's end is padding that nobody asks for */
    s->offset = first.offset;
    return CAIRN_OK;
}

static cairn_err read_chunks(hid_t set, struct split_structure *s, int64_t file_bytes, int filters)
{
    s->storage = filters ? STORAGE_DEFLATE : STORAGE_CHUNKED;
    H5D_chunk_index_t index;
    if (!filters && H5Dget_chunk_index_type(set, &index) >= 0 && index == H5D_CHUNK_IDX_NONE)
        return read_row_of_chunks(set, s, file_bytes);
    if (s->chunks > CHUNK_TABLE_LIMIT) {
        if (!filters)
            s->storage = STORAGE_LIBRARY;
        return CAIRN_OK;
    }
    s->places = calloc((size_t)s->chunks, sizeof *s->places);
    if (!s->places)
        return FAIL(CAIRN_ENOMEM, "no memory for a table of %lld chunks", (long long)s->chunks);
    for (int64_t i = 0; i < s->chunks; i++)
        TRY(read_place(set, s, i, file_bytes, &s->places[i]));
    return CAIRN_OK;
}

/* Filters that HDF5 itself can undo, each one by name. *DEFLATE: it is the only one. */
static cairn_err read_filters(hid_t properties, int *count, bool *deflate)
{
    *count = H5Pget_nfilters(properties);
    *deflate = false;
    for (int i = 0; i < *count; i++) {
        unsigned flags, info;
        size_t values = 0;
        char name[64] = "";
        H5Z_filter_t filter = H5Pget_filter2(properties, (unsigned)i, &flags, &values, NULL, sizeof name, name, &info);
        if (filter < 0)
            return hdf5_fail(CAIRN_EFORMAT, "filter %d cannot be read", i);
        if (H5Zfilter_avail(filter) <= 0)
            return FAIL(CAIRN_EUNSUPPORTED, "compressed by filter %d (%s), which this HDF5 does not have", (int)filter, name);
        *deflate = *count == 1 && filter == H5Z_FILTER_DEFLATE;
    }
    return CAIRN_OK;
}

static cairn_err read_storage(hid_t set, hid_t properties, bool direct, struct split_structure *s, int64_t file_bytes)
{
    H5D_layout_t layout = H5Pget_layout(properties);
    int filters = 0;
    bool deflate = false;
    s->storage = s->tokens ? STORAGE_LIBRARY : STORAGE_EMPTY;
    if (layout == H5D_CHUNKED) {
        hsize_t chunk = 0;
        if (H5Pget_chunk(properties, 1, &chunk) != 1 || chunk == 0)
            return hdf5_fail(CAIRN_EFORMAT, "the size of chunks cannot be read");
        if (chunk > (hsize_t)(CHUNK_BYTES_LIMIT / s->token_bytes))
            return FAIL(CAIRN_EFORMAT, "chunks of %llu tokens: too large", (unsigned long long)chunk);
        TRY(read_filters(properties, &filters, &deflate));
        s->chunk_tokens = (int64_t)chunk;
        s->chunks = (s->tokens + s->chunk_tokens - 1) / s->chunk_tokens;
    }
    if (!direct || s->tokens == 0)
        return CAIRN_OK;
    if (layout == H5D_CONTIGUOUS && H5Pget_external_count(properties) == 0)
        return read_contiguous(set, s, file_bytes);
    if (layout == H5D_CHUNKED && (filters == 0 || deflate))
        return read_chunks(set, s, file_bytes, filters);
    return CAIRN_OK;
}

static cairn_err read_tokens(hid_t set, bool direct, struct split_structure *s, int64_t file_bytes)
{
    bool native = false;
    TRY(read_type(set, s, &native));
    TRY(read_extent(set, &s->tokens));
    hid_t properties = H5Dget_create_plist(set);
    if (properties < 0)
        return hdf5_fail(CAIRN_EFORMAT, "the layout cannot be read");
    cairn_err err = read_storage(set, properties, direct && native, s, file_bytes);
    H5Pclose(properties);
    return err;
}

static cairn_err read_checksums(hid_t set, struct split_structure *s)
{
    char algorithm[16];
    int64_t bytes, count;
    TRY(attribute_read_string(set, "algorithm", algorithm, sizeof algorithm));
    if (strcmp(algorithm, "xxh3-64") != 0)
        return FAIL(CAIRN_EUNSUPPORTED, "algorithm '%s'; expected 'xxh3-64'", algorithm);
    TRY(attribute_read_int(set, "block_bytes", &bytes));
    TRY(read_extent(set, &count));
    if (bytes < 1 || bytes > CHUNK_BYTES_LIMIT || bytes % s->token_bytes)
        return FAIL(CAIRN_EFORMAT, "blocks of %lld bytes", (long long)bytes);
    int64_t expected = (s->tokens * s->token_bytes + bytes - 1) / bytes;
    if (count != expected)
        return FAIL(CAIRN_EFORMAT, "%lld checksums; expected %lld", (long long)count, (long long)expected);
    s->checksum_bytes = bytes;
    if (count == 0)
        return CAIRN_OK;
    s->checksums = calloc((size_t)count, sizeof *s->checksums);
    if (!s->checksums)
        return FAIL(CAIRN_ENOMEM, "no memory for %lld checksums", (long long)count);
    if (H5Dread(set, H5T_NATIVE_UINT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, s->checksums) < 0)
        return hdf5_fail(CAIRN_EFORMAT, "cannot be read");
    s->checksum_count = count;
    return CAIRN_OK;
}

static cairn_err read_split(hid_t file, enum dataset_split split, bool direct, struct dataset_structure *structure)
{
    struct split_structure *s = &structure->split[split];
    char name[64];
    snprintf(name, sizeof name, "%s/tokens", split_name(split));
    if (H5Lexists(file, split_name(split), H5P_DEFAULT) <= 0 || H5Lexists(file, name, H5P_DEFAULT) <= 0)
        return FAIL(CAIRN_EFORMAT, "it has no %s", name);
    hid_t set = H5Dopen2(file, name, H5P_DEFAULT);
    if (set < 0)
        return hdf5_fail(CAIRN_EFORMAT, "%s cannot be opened", name);
    cairn_err err = read_tokens(set, direct, s, structure->file_bytes);
    H5Dclose(set);
    if (err != CAIRN_OK)
        return error_context(err, "%s", name);
    snprintf(name, sizeof name, "%s/checksums", split_name(split));
    if (H5Lexists(file, name, H5P_DEFAULT) <= 0)
        return CAIRN_OK;
    set = H5Dopen2(file, name, H5P_DEFAULT);
    if (set < 0)
        return hdf5_fail(CAIRN_EFORMAT, "%s cannot be opened", name);
    err = read_checksums(set, s);
    H5Dclose(set);
    return err == CAIRN_OK ? err : error_context(err, "%s", name);
}

/* Offsets count from the end of a user block, which no Cairn writes: such files are left to HDF5. */
static bool has_user_block(hid_t file)
{
    hsize_t bytes = 0;
    hid_t properties = H5Fget_create_plist(file);
    if (properties < 0)
        return false;
    H5Pget_userblock(properties, &bytes);
    H5Pclose(properties);
    return bytes != 0;
}

cairn_err structure_read(hid_t file, int64_t file_bytes, struct dataset_structure *structure)
{
    memset(structure, 0, sizeof *structure);
    structure->file_bytes = file_bytes;
    bool direct = !has_user_block(file);
    TRY(read_header(file, structure));
    TRY(read_source(file, structure));
    TRY(read_split(file, SPLIT_TRAIN, direct, structure));
    return read_split(file, SPLIT_VALIDATION, direct, structure);
}

void structure_free(struct dataset_structure *structure)
{
    for (int i = 0; i < SPLIT_COUNT; i++) {
        free(structure->split[i].places);
        free(structure->split[i].checksums);
        structure->split[i].places = NULL;
        structure->split[i].checksums = NULL;
    }
}
