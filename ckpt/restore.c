/* Collective reading: rank 0 finds the checkpoint, ranks that want the same slabs read a share each and pass it on. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "ckpt/folder.h"
#include "ckpt/layout.h"
#include "ckpt/reader.h"
#include "ckpt/state.h"
#include "job/mpi_calls.h"
#include "mesh/comm.h"

/* Shares below this are read by one rank. */
enum { SHARE_BYTES = 1 << 20 };

struct restore {
    MPI_Comm comm, same; /* all ranks; those with the same list of shards */
    int rank, size, same_rank, same_size;
    const struct shard *shards;
    int count;
    struct table table;
    int *array_of; /* [count] in the table */
    bool partial;  /* what is not asked for is passed over */
    char *buffer;  /* of shares whose place the processor does not reach */
    size_t buffer_bytes;
};

/* ---- does the checkpoint hold what is asked for? ---- */

static cairn_err match_shard(struct restore *r, int i)
{
    const struct shard *s = &r->shards[i];
    char x[128], y[128];
    int a = r->array_of[i] = table_find(&r->table, s->name);
    if (a < 0)
        return FAIL(CAIRN_ECONFIG, "the checkpoint holds no array %s", s->name);
    const struct table_array *held = &r->table.arrays[a];
    bool same = held->dtype == (int32_t)s->dtype && held->dims == s->dims;
    for (int d = 0; d < s->dims && same; d++)
        same = held->shape[d] == s->shape[d];
    if (!same)
        return FAIL(CAIRN_ECONFIG, "array %s is %s %s in the checkpoint, %s %s here", s->name, dtype_name((enum dtype)held->dtype),
                    shape_text(held->dims, held->shape, x, sizeof x), dtype_name(s->dtype), shape_text(s->dims, s->shape, y, sizeof y));
    return CAIRN_OK;
}

static size_t top_group(const char *name)
{
    return strcspn(name, "/");
}

/* An array that nobody asks for is an error where others of its top group are asked for: the model is not the one saved. */
static cairn_err find_extra(const struct table *t, const char *asked)
{
    for (int a = 0; a < t->array_count; a++) {
        size_t n = top_group(t->arrays[a].name);
        if (asked[a])
            continue;
        for (int b = 0; b < t->array_count; b++)
            if (asked[b] && top_group(t->arrays[b].name) == n && strncmp(t->arrays[a].name, t->arrays[b].name, n) == 0)
                return FAIL(CAIRN_ECONFIG, "the checkpoint holds array %s, which nothing here takes", t->arrays[a].name);
    }
    return CAIRN_OK;
}

static cairn_err match(struct restore *r)
{
    char *asked = calloc((size_t)r->table.array_count + 1, 1);
    free(r->array_of);
    r->array_of = calloc((size_t)r->count + 1, sizeof *r->array_of);
    cairn_err err = asked && r->array_of ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory to match %d arrays", r->count);
    for (int i = 0; i < r->count && err == CAIRN_OK; i++) {
        err = match_shard(r, i);
        if (err == CAIRN_OK)
            asked[r->array_of[i]] = 1;
    }
    TRY_GOTO(err, comm_agree(r->comm, err), done);
    TRY_GOTO(err, mpi_allreduce(MPI_IN_PLACE, asked, r->table.array_count, MPI_CHAR, MPI_MAX, r->comm, "comparing what is read"), done);
    if (!r->partial)
        err = find_extra(&r->table, asked);
done:
    free(asked);
    return err;
}

/* ---- reading ---- */

static int share_count(const struct restore *r, const struct shard *s)
{
    struct box whole = box_of_shard(s);
    int64_t n = (int64_t)shard_bytes(s) / SHARE_BYTES;
    if (n > r->same_size)
        n = r->same_size;
    if (n > box_rows(&whole))
        n = box_rows(&whole);
    return n < 1 ? 1 : (int)n;
}

typedef cairn_err share_function(struct restore *r, struct reader *reader, int shard, const struct box *piece, int owner);

/* Calls EACH for every share of every shard, in the same order on all ranks of the group; owners go round. */
static cairn_err for_each_share(struct restore *r, struct reader *reader, share_function *each)
{
    int owner = 0;
    for (int i = 0; i < r->count; i++) {
        struct box whole = box_of_shard(&r->shards[i]);
        int shares = shard_elements(&r->shards[i]) > 0 ? share_count(r, &r->shards[i]) : 0;
        for (int k = 0; k < shares; k++, owner = (owner + 1) % r->same_size) {
            struct box piece = box_piece(&whole, k, shares);
            TRY(each(r, reader, i, &piece, owner));
        }
    }
    return CAIRN_OK;
}

static void *share_data(const struct restore *r, int shard, const struct box *piece)
{
    const struct shard *s = &r->shards[shard];
    struct box whole = box_of_shard(s);
    return (char *)s->data + (size_t)box_first(&whole, piece) * dtype_size(s->dtype);
}

static size_t share_bytes(const struct restore *r, int shard, const struct box *piece)
{
    return (size_t)box_elements(piece) * dtype_size(r->shards[shard].dtype);
}

/* Where a share is read to: its place, or where the processor does not reach that, the buffer, which share_end copies from. */
static cairn_err share_begin(struct restore *r, int shard, const struct box *piece, void **data)
{
    size_t bytes = share_bytes(r, shard, piece);
    *data = share_data(r, shard, piece);
    if (!r->shards[shard].memory)
        return CAIRN_OK;
    if (bytes > r->buffer_bytes) {
        free(r->buffer);
        r->buffer_bytes = 0;
        r->buffer = malloc(bytes);
        if (!r->buffer)
            return FAIL(CAIRN_ENOMEM, "no memory for %.1f MB of array %s", (double)bytes * 1e-6, r->shards[shard].name);
        r->buffer_bytes = bytes;
    }
    *data = r->buffer;
    return CAIRN_OK;
}

static cairn_err share_end(const struct restore *r, int shard, const struct box *piece)
{
    const struct shard_memory *memory = r->shards[shard].memory;
    if (!memory)
        return CAIRN_OK;
    return memory->write(memory->context, share_data(r, shard, piece), r->buffer, share_bytes(r, shard, piece));
}

static cairn_err read_share(struct restore *r, struct reader *reader, int shard, const struct box *piece, int owner)
{
    if (owner != r->same_rank)
        return CAIRN_OK;
    void *data;
    TRY(share_begin(r, shard, piece, &data));
    TRY(reader_read(reader, r->array_of[shard], piece, data));
    return share_end(r, shard, piece);
}

static cairn_err pass_share(struct restore *r, struct reader *reader, int shard, const struct box *piece, int owner)
{
    (void)reader;
    const struct shard_memory *memory = r->shards[shard].memory;
    size_t bytes = share_bytes(r, shard, piece);
    void *data;
    cairn_err err = share_begin(r, shard, piece, &data);
    if (!err && memory && owner == r->same_rank)
        err = memory->read(memory->context, data, share_data(r, shard, piece), bytes);
    TRY(memory ? comm_agree(r->same, err) : err);
    TRY(comm_broadcast(r->same, data, bytes, owner));
    if (owner != r->same_rank)
        err = share_end(r, shard, piece);
    return memory ? comm_agree(r->same, err) : err;
}

static cairn_err check_and_read(struct restore *r, const char *path)
{
    struct reader *reader;
    cairn_err err = reader_open(path, &r->table, &reader);
    for (int p = r->rank; p < r->table.part_count && err == CAIRN_OK; p += r->size)
        err = reader_check_part(reader, p);
    if (err == CAIRN_OK)
        err = for_each_share(r, reader, read_share);
    reader_close(reader);
    TRY(comm_agree(r->comm, err));
    return r->same_size > 1 ? for_each_share(r, NULL, pass_share) : CAIRN_OK;
}

/* Rank 0's table on all ranks. */
static cairn_err share_table(struct restore *r)
{
    void *data = NULL;
    size_t bytes = 0;
    cairn_err err = r->rank == 0 ? table_pack(&r->table, &data, &bytes) : CAIRN_OK;
    TRY_GOTO(err, comm_agree(r->comm, err), done);
    uint64_t size = bytes;
    TRY_GOTO(err, comm_broadcast(r->comm, &size, sizeof size, 0), done);
    if (r->rank != 0 && !(data = malloc(size)))
        err = FAIL(CAIRN_ENOMEM, "no memory for the table of a checkpoint (%" PRIu64 " bytes)", size);
    TRY_GOTO(err, comm_agree(r->comm, err), done);
    TRY_GOTO(err, comm_broadcast(r->comm, data, size, 0), done);
    if (r->rank != 0)
        err = table_unpack(data, size, &r->table);
    err = comm_agree(r->comm, err);
done:
    free(data);
    return err;
}

static cairn_err try_one(struct restore *r, const char *path)
{
    cairn_err err = r->rank == 0 ? state_read(path, &r->table) : CAIRN_OK;
    TRY(comm_agree(r->comm, err));
    TRY(share_table(r));
    TRY(comm_agree(r->comm, match(r)));
    return check_and_read(r, path);
}

/* ---- which one ---- */

struct candidates {
    struct checkpoint_entry *entries; /* rank 0's */
    int count;                        /* all kinds */
};

static cairn_err list_candidates(const char *dir, struct candidates *c)
{
    cairn_err err = checkpoint_list(dir, &c->entries, &c->count);
    return err == CAIRN_ENOTFOUND ? CAIRN_OK : err; /* no folder yet: a fresh start */
}

/* What made the reading of PATH fail is this thread's message. A folder that cannot be renamed, perhaps since this user may only
 * read it, stays where it is: the next one is tried all the same. */
static void set_aside(const char *path)
{
    char why[4096], new_path[FOLDER_PATH_SIZE];
    snprintf(why, sizeof why, "%s", cairn_err_message());
    if (folder_set_aside(path, why, new_path) == CAIRN_OK)
        log_warning("%s is broken (%s): set aside as %s, trying the one before it", path, why, new_path);
    else
        log_warning("%s is broken (%s), and could not be set aside (%s): trying the one before it", path, why, cairn_err_message());
}

static cairn_err none_left(const char *dir, const struct candidates *c, int broken)
{
    if (broken > 0)
        return FAIL(CAIRN_ECORRUPT, "no checkpoint in %s is sound (%d set aside just now); started again, the training would begin anew",
                    dir, broken);
    for (int i = 0; i < c->count; i++)
        if (c->entries[i].state == CHECKPOINT_BROKEN) {
            log_warning("%s holds broken checkpoints alone", dir);
            break;
        }
    return FAIL(CAIRN_ENOTFOUND, "no checkpoint in %s", dir);
}

/* Rank 0's next candidate below *AT, or an error if there is none, on all ranks. */
static cairn_err next_candidate(const struct restore *r, const char *dir, const struct candidates *c, int *at, int broken,
                                char path[FOLDER_PATH_SIZE])
{
    cairn_err err = CAIRN_OK;
    if (r->rank == 0) {
        do
            --*at;
        while (*at >= 0 && c->entries[*at].state != CHECKPOINT_COMPLETE);
        if (*at < 0)
            err = none_left(dir, c, broken);
        else
            snprintf(path, FOLDER_PATH_SIZE, "%s", c->entries[*at].path);
    }
    TRY(comm_agree(r->comm, err));
    return comm_broadcast(r->comm, path, FOLDER_PATH_SIZE, 0);
}

static cairn_err try_all(struct restore *r, const char *dir, const struct candidates *c)
{
    char path[FOLDER_PATH_SIZE] = "";
    int at = c->count;
    for (int broken = 0;; broken++) {
        TRY(next_candidate(r, dir, c, &at, broken, path));
        cairn_err err = try_one(r, path);
        if (err == CAIRN_OK)
            return CAIRN_OK;
        if (err != CAIRN_ECORRUPT && err != CAIRN_ENOTFOUND)
            return error_context(err, "loading checkpoint %s", path);
        table_free(&r->table);
        if (r->rank == 0 && err == CAIRN_ECORRUPT)
            set_aside(path);
        else if (r->rank == 0)
            log_warning("checkpoint %s is gone since it was listed: does another run use this folder?", path);
    }
}

static cairn_err open_group(struct restore *r)
{
    struct layout layout;
    TRY_MPI(MPI_Comm_rank(r->comm, &r->rank));
    TRY_MPI(MPI_Comm_size(r->comm, &r->size));
    cairn_err err = CAIRN_OK;
    for (int i = 0; i < r->count && err == CAIRN_OK; i++) {
        err = shard_check(&r->shards[i]);
        if (err == CAIRN_OK && !r->shards[i].data && shard_elements(&r->shards[i]) > 0)
            err = FAIL(CAIRN_EINVAL, "array %s has no room for its data", r->shards[i].name);
    }
    TRY(comm_agree(r->comm, err));
    TRY(layout_open(r->comm, r->shards, r->count, &layout));
    int color = layout.group_of[r->rank];
    layout_close(&layout);
    TRY_MPI(MPI_Comm_split(r->comm, color, r->rank, &r->same));
    TRY_MPI(MPI_Comm_rank(r->same, &r->same_rank));
    TRY_MPI(MPI_Comm_size(r->same, &r->same_size));
    return CAIRN_OK;
}

static void close_group(struct restore *r)
{
    free(r->array_of);
    free(r->buffer);
    table_free(&r->table);
    if (r->same != MPI_COMM_NULL)
        MPI_Comm_free(&r->same);
}

cairn_err checkpoint_restore(const struct checkpoint_group *group, const char *dir, struct checkpoint_facts *facts,
                             const struct shard *shards, int count)
{
    struct restore r = {.comm = group->comm, .same = MPI_COMM_NULL, .shards = shards, .count = count};
    struct candidates c = {0};
    *facts = (struct checkpoint_facts){0};
    TRY(open_group(&r));
    cairn_err err = r.rank == 0 ? list_candidates(dir, &c) : CAIRN_OK;
    err = comm_agree(r.comm, err);
    if (err == CAIRN_OK)
        err = try_all(&r, dir, &c);
    if (err == CAIRN_OK) {
        *facts = r.table.facts;
        r.table.facts = (struct checkpoint_facts){0};
    }
    free(c.entries);
    close_group(&r);
    return err;
}

cairn_err checkpoint_load(const struct checkpoint_group *group, const char *path, const struct shard *shards, int count)
{
    struct restore r = {.comm = group->comm, .same = MPI_COMM_NULL, .shards = shards, .count = count, .partial = true};
    TRY(open_group(&r));
    cairn_err err = try_one(&r, path);
    close_group(&r);
    return err == CAIRN_OK ? CAIRN_OK : error_context(err, "loading checkpoint %s", path);
}
