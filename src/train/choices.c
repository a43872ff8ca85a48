#include "train/choices.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/log.h"
#include "base/make_folders.h"
#include "job/mpi_calls.h"

enum { PATH_SIZE = 4096 };
static const char file_name[] = "products.json";

struct list {
    struct product_choice *at;
    int count;
};

/* ---- files ---- */

static bool run_path(const char *run_dir, char *path)
{
    return snprintf(path, PATH_SIZE, "%s/%s", run_dir, file_name) < PATH_SIZE;
}

/* False where the environment names no such folder. */
static bool cache_folder(char *path)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (cache && *cache == '/')
        return snprintf(path, PATH_SIZE, "%s/cairn", cache) < PATH_SIZE;
    return home && *home == '/' && snprintf(path, PATH_SIZE, "%s/.cache/cairn", home) < PATH_SIZE;
}

static bool cache_path(struct backend *b, char *path)
{
    char folder[PATH_SIZE];
    return cache_folder(folder) &&
           snprintf(path, PATH_SIZE, "%s/products-%016llx.json", folder, (unsigned long long)XXH3_64bits(b->products, strlen(b->products))) < PATH_SIZE;
}

static void to_hex(const unsigned char *bytes, size_t count, char *text)
{
    for (size_t i = 0; i < count; i++)
        snprintf(text + 2 * i, 3, "%02x", bytes[i]);
}

static bool from_hex(const char *text, unsigned char *bytes, size_t count)
{
    if (!text || strlen(text) != 2 * count)
        return false;
    for (size_t i = 0; i < count; i++) {
        unsigned byte;
        if (sscanf(text + 2 * i, "%2x", &byte) != 1)
            return false;
        bytes[i] = (unsigned char)byte;
    }
    return true;
}

/* A file's products; NULL with *WHY where it has none for this device, and an empty *WHY where there is no file. Freed by json_decref. */
static json_t *read_products(struct backend *b, const char *path, char *why, size_t size)
{
    json_error_t error;
    json_t *root = json_load_file(path, 0, &error);
    *why = 0;
    if (!root) {
        if (json_error_code(&error) != json_error_cannot_open_file)
            snprintf(why, size, "%s cannot be read: %s", path, error.text);
        return NULL;
    }
    const char *device = json_string_value(json_object_get(root, "device"));
    json_t *products = json_object_get(root, "products");
    if (!device || !json_is_object(products))
        snprintf(why, size, "%s is not a file of products", path);
    else if (strcmp(device, b->products) != 0)
        snprintf(why, size, "%s is of another device: %s", path, device);
    else
        json_incref(products);
    json_decref(root);
    return *why ? NULL : products;
}

static json_t *to_json(const struct product_choice *c)
{
    char algorithm[2 * sizeof c->algorithm + 1];
    to_hex(c->algorithm, sizeof c->algorithm, algorithm);
    return json_pack("{s:s, s:I, s:b}", "algorithm", algorithm, "workspace", (json_int_t)c->workspace_bytes, "timed", (int)c->timed);
}

static bool from_json(const char *product, const json_t *value, struct product_choice *c)
{
    json_t *workspace = json_object_get(value, "workspace");
    *c = (struct product_choice){.workspace_bytes = (uint64_t)json_integer_value(workspace),
                                 .timed = json_is_true(json_object_get(value, "timed"))};
    snprintf(c->product, sizeof c->product, "%s", product);
    return json_is_integer(workspace) && json_integer_value(workspace) >= 0 &&
           from_hex(json_string_value(json_object_get(value, "algorithm")), c->algorithm, sizeof c->algorithm);
}

static cairn_err write_products(struct backend *b, const char *path, json_t *products)
{
    char temporary[PATH_SIZE + 32];
    json_t *root = json_pack("{s:s, s:O}", "device", b->products, "products", products);
    snprintf(temporary, sizeof temporary, "%s.%d.tmp", path, (int)getpid());
    errno = 0;
    bool ok = root && json_dump_file(root, temporary, JSON_INDENT(1)) == 0 && rename(temporary, path) == 0;
    json_decref(root);
    return ok ? CAIRN_OK : FAIL(CAIRN_ESYS, "cannot write %s: %s", path, errno ? strerror(errno) : "no memory");
}

/* ---- what is kept, on rank 0 ---- */

static cairn_err list_of_json(json_t *products, struct list *list)
{
    const char *product;
    json_t *value;
    list->at = calloc(json_object_size(products) + 1, sizeof *list->at);
    if (!list->at)
        return FAIL(CAIRN_ENOMEM, "no memory for the products' algorithms");
    json_object_foreach(products, product, value)
        list->count += from_json(product, value, &list->at[list->count]);
    return CAIRN_OK;
}

static cairn_err read_kept(struct backend *b, const char *run_dir, struct list *list)
{
    char path[PATH_SIZE], why[PATH_SIZE + 256] = "";
    json_t *products = run_path(run_dir, path) ? read_products(b, path, why, sizeof why) : NULL, *cached = NULL;
    if (*why)
        log_warning("the algorithms of products are chosen anew, last bits may differ: %s", why);
    if (b->timed_products && cache_path(b, path))
        cached = read_products(b, path, why, sizeof why);
    if (products && cached)
        json_object_update_missing(products, cached);
    cairn_err err = products || cached ? list_of_json(products ? products : cached, list) : CAIRN_OK;
    json_decref(products);
    json_decref(cached);
    return err;
}

static json_t *json_of(const struct list *list, bool timed_alone)
{
    json_t *products = json_object();
    for (int i = 0; i < list->count && products; i++)
        if (list->at[i].timed || !timed_alone)
            json_object_set_new(products, list->at[i].product, to_json(&list->at[i]));
    return products;
}

static cairn_err keep_in_run(struct backend *b, const char *run_dir, const struct list *list)
{
    char path[PATH_SIZE], why[PATH_SIZE + 256];
    if (!run_path(run_dir, path))
        return CAIRN_OK;
    json_t *all = json_of(list, false), *before = read_products(b, path, why, sizeof why);
    cairn_err err = before && json_equal(before, all) ? CAIRN_OK : write_products(b, path, all);
    json_decref(before);
    json_decref(all);
    return err;
}

/* What it has it keeps; of what it has not it gets what was found by trying. */
static void keep_in_cache(struct backend *b, const struct list *list)
{
    char folder[PATH_SIZE], path[PATH_SIZE], why[PATH_SIZE + 256];
    if (!b->timed_products || !cache_path(b, path) || !cache_folder(folder) || make_folders(folder) != CAIRN_OK)
        return;
    json_t *all = json_of(list, true), *before = read_products(b, path, why, sizeof why);
    size_t size = before ? json_object_size(before) : 0;
    if (before)
        json_object_update(all, before);
    if (json_object_size(all) > size && write_products(b, path, all) != CAIRN_OK)
        log_info("algorithms of products are not kept for other runs: %s", cairn_err_message());
    json_decref(before);
    json_decref(all);
}

/* ---- among ranks ---- */

static cairn_err share(struct mesh *mesh, struct backend *b, struct list *list)
{
    TRY(mesh_broadcast(mesh, &list->count, sizeof list->count, 0));
    if (mesh->rank != 0) {
        free(list->at);
        list->at = calloc((size_t)list->count + 1, sizeof *list->at);
    }
    TRY(mesh_agree(mesh, list->at || list->count == 0 ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for the products' algorithms")));
    if (list->count == 0)
        return CAIRN_OK;
    TRY(mesh_broadcast(mesh, list->at, (int64_t)((size_t)list->count * sizeof *list->at), 0));
    return mesh_agree(mesh, b->table->choose(b, list->at, list->count));
}

/* Whether all ranks' devices and libraries are alike; else algorithms of one mean nothing to another. */
static cairn_err alike(struct mesh *mesh, struct backend *b, bool *same)
{
    int64_t own = (int64_t)XXH3_64bits(b->products, strlen(b->products)), low, high;
    TRY(mpi_allreduce(&own, &low, 1, MPI_INT64_T, MPI_MIN, mesh->world, "comparing devices"));
    TRY(mpi_allreduce(&own, &high, 1, MPI_INT64_T, MPI_MAX, mesh->world, "comparing devices"));
    *same = low == high;
    return CAIRN_OK;
}

cairn_err choices_load(struct mesh *mesh, struct backend *b, const char *run_dir)
{
    struct list list = {0};
    bool same;
    if (b->table->host_memory)
        return CAIRN_OK;
    TRY(alike(mesh, b, &same));
    if (!same) {
        b->timed_products = false;
        return CAIRN_OK;
    }
    cairn_err err = mesh_agree(mesh, mesh->rank == 0 ? read_kept(b, run_dir, &list) : CAIRN_OK);
    if (!err)
        err = share(mesh, b, &list);
    free(list.at);
    return err;
}

static int by_product(const void *a, const void *b)
{
    return strcmp(((const struct product_choice *)a)->product, ((const struct product_choice *)b)->product);
}

/* Of equal products the first stays. */
static void merge(struct list *list)
{
    int kept = 0;
    for (int i = 0; i < list->count; i++) {
        bool there = false;
        for (int k = 0; k < kept && !there; k++)
            there = strcmp(list->at[k].product, list->at[i].product) == 0;
        if (!there)
            list->at[kept++] = list->at[i];
    }
    list->count = kept;
    qsort(list->at, (size_t)kept, sizeof *list->at, by_product);
}

/* All ranks' lists, one after the other, on rank 0. */
static cairn_err gather(struct mesh *mesh, const struct product_choice *own, int count, struct list *list)
{
    int bytes = count * (int)sizeof *own, *sizes = calloc(2 * (size_t)mesh->size, sizeof *sizes), *starts = sizes ? sizes + mesh->size : NULL, all = 0;
    cairn_err err = mesh_agree(mesh, sizes ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for the products' algorithms"));
    if (!err)
        err = mpi_allgather(&bytes, 1, MPI_INT, sizes, mesh->world, "comparing algorithms");
    for (int r = 0; r < mesh->size && !err; r++) {
        starts[r] = all;
        all += sizes[r];
    }
    if (!err && mesh->rank == 0)
        list->at = malloc((size_t)all + 1);
    if (!err)
        err = mesh_agree(mesh, mesh->rank == 0 && !list->at ? FAIL(CAIRN_ENOMEM, "no memory for the products' algorithms") : CAIRN_OK);
    if (!err)
        err = mpi_gatherv(own, bytes, list->at, sizes, starts, 0, mesh->world, "comparing algorithms");
    list->count = all / (int)sizeof *own;
    free(sizes);
    return err;
}

cairn_err choices_agree(struct mesh *mesh, struct backend *b, const char *run_dir)
{
    struct list list = {0};
    const struct product_choice *own;
    bool same;
    if (b->table->host_memory)
        return CAIRN_OK;
    TRY(alike(mesh, b, &same));
    if (!same)
        return CAIRN_OK;
    int count = b->table->choices(b, &own);
    cairn_err err = gather(mesh, own, count, &list);
    if (!err && mesh->rank == 0)
        merge(&list);
    if (!err)
        err = share(mesh, b, &list);
    if (!err)
        err = mesh_agree(mesh, mesh->rank == 0 ? keep_in_run(b, run_dir, &list) : CAIRN_OK);
    if (!err && mesh->rank == 0)
        keep_in_cache(b, &list);
    free(list.at);
    return err;
}
