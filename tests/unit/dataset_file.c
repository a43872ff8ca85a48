#include "tests/unit/dataset_file.h"

#include <hdf5.h>
#include <stdlib.h>
#include <string.h>

#include "io/hdf5_attribute.h"

static int64_t vocabulary(const struct dataset_file *file)
{
    return file->vocabulary ? file->vocabulary : 256;
}

uint32_t dataset_file_token(const struct dataset_file *file, int split, int64_t i)
{
    if (split == 0 && i == file->bad_token)
        return (uint32_t)vocabulary(file);
    /* A cheap hash, so that neighbours, chunks and splits all differ. */
    uint64_t x = ((uint64_t)i * 2 + (uint64_t)split) * 0x9e3779b97f4a7c15u;
    return (uint32_t)((x >> 33) % (uint64_t)vocabulary(file));
}

static bool wanted(const struct dataset_file *file, const char *name)
{
    return !file->leave_out || strcmp(file->leave_out, name) != 0;
}

static void make_split(hid_t h, const struct dataset_file *file, int split)
{
    static const char *const names[] = {"train", "validation"};
    if (!wanted(file, names[split]))
        return;
    hsize_t count = (hsize_t)file->tokens[split], chunk = (hsize_t)file->chunk_tokens;
    hid_t group = H5Gcreate2(h, names[split], H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    hid_t properties = H5Pcreate(H5P_DATASET_CREATE), space = H5Screate_simple(1, &count, NULL);
    if (chunk)
        H5Pset_chunk(properties, 1, &chunk);
    if (file->deflate)
        H5Pset_deflate(properties, (unsigned)file->deflate);
    hid_t type = file->token_bytes == 1 ? H5T_STD_U8LE : file->token_bytes == 2 ? H5T_STD_U16LE : H5T_STD_U32LE;
    hid_t set = H5Dcreate2(group, "tokens", type, space, H5P_DEFAULT, properties, H5P_DEFAULT);
    uint32_t *tokens = malloc((size_t)count * sizeof *tokens + 1);
    for (int64_t i = 0; i < (int64_t)count; i++)
        tokens[i] = dataset_file_token(file, split, i);
    H5Dwrite(set, H5T_NATIVE_UINT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, tokens);
    free(tokens);
    H5Dclose(set);
    H5Sclose(space);
    H5Pclose(properties);
    H5Gclose(group);
}

void dataset_file_make(const char *path, const struct dataset_file *file)
{
    hid_t h = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    if (wanted(file, "format"))
        attribute_write_string(h, "format", file->format ? file->format : "cairn-dataset");
    if (wanted(file, "version"))
        attribute_write_int(h, "version", file->version ? file->version : 1);
    if (wanted(file, "kind"))
        attribute_write_string(h, "kind", file->kind ? file->kind : "tokens");
    if (wanted(file, "tokenizer"))
        attribute_write_string(h, "tokenizer", "hash");
    if (wanted(file, "vocabulary"))
        attribute_write_int(h, "vocabulary", vocabulary(file));
    make_split(h, file, 0);
    make_split(h, file, 1);
    H5Fclose(h);
}
