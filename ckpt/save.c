/* Collective writing: replicas split the slabs, one rank a node writes its part, rank 0 commits. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "ckpt/folder.h"
#include "ckpt/part.h"
#include "ckpt/plan.h"
#include "ckpt/state.h"
#include "job/mpi_calls.h"
#include "mesh/comm.h"

/* Bytes of one message to a writer: bounds the writer's memory. Whole blocks. */
enum { MESSAGE_BYTES = 8 * CHECKPOINT_BLOCK, MESSAGE_TAG = 0x636b };

struct place {
    int64_t data_at, checksums_at;
};

struct save {
    MPI_Comm comm;
    int rank;
    const struct shard *shards;
    int shard_count;
    struct layout layout;
    struct plan plan;
    char tmp[FOLDER_PATH_SIZE], final[FOLDER_PATH_SIZE];
    int my_part; /* -1: this rank writes none */
    struct part_piece *pieces; /* of my part */
    int *piece_of;             /* their indices in the plan */
    int piece_count;
    struct table_part part;
};

static cairn_err check_shards(const struct shard *shards, int count)
{
    for (int i = 0; i < count; i++) {
        TRY(shard_check(&shards[i]));
        TRY(table_check_name(shards[i].name));
        if (!shards[i].data && shard_elements(&shards[i]) > 0)
            return FAIL(CAIRN_EINVAL, "array %s has no data", shards[i].name);
    }
    return CAIRN_OK;
}

static cairn_err collect_my_pieces(struct save *s)
{
    s->my_part = -1;
    for (int p = 0; p < s->plan.part_count; p++)
        if (s->plan.writer[p] == s->rank)
            s->my_part = p;
    s->pieces = calloc((size_t)s->plan.piece_count + 1, sizeof *s->pieces);
    s->piece_of = calloc((size_t)s->plan.piece_count + 1, sizeof *s->piece_of);
    if (!s->pieces || !s->piece_of)
        return FAIL(CAIRN_ENOMEM, "no memory for the pieces of a checkpoint");
    for (int i = 0; i < s->plan.piece_count; i++) {
        const struct plan_piece *p = &s->plan.pieces[i];
        if (p->part != s->my_part)
            continue;
        s->piece_of[s->piece_count] = i;
        s->pieces[s->piece_count++] = (struct part_piece){.array = s->plan.arrays[p->array], .box = p->box};
    }
    return CAIRN_OK;
}

static cairn_err make_folder(const struct save *s, const char *dir)
{
    TRY(folder_make(dir));
    TRY(folder_remove_unfinished(dir, INT64_MAX));
    if (mkdir(s->tmp, 0777) != 0)
        return FAIL(error_from_errno(errno), "cannot make folder %s: %s", s->tmp, strerror(errno));
    return CAIRN_OK;
}

/* After a failed read the rest is still sent, so that no writer waits for ever. */
static cairn_err send_piece(const struct save *s, const struct plan_piece *p, char *buffer, cairn_err err)
{
    const struct shard *from = &s->shards[p->shard];
    size_t size = dtype_size(from->dtype), bytes = (size_t)box_elements(&p->box) * size;
    const char *data = (const char *)from->data + (size_t)p->first * size;
    for (size_t at = 0; at < bytes; at += MESSAGE_BYTES) {
        size_t n = bytes - at < MESSAGE_BYTES ? bytes - at : MESSAGE_BYTES;
        const void *next = data + at;
        if (from->memory) {
            if (err == CAIRN_OK)
                err = from->memory->read(from->memory->context, buffer, next, n);
            next = buffer;
        }
        TRY(mpi_send(next, (int)n, MPI_BYTE, s->plan.writer[p->part], MESSAGE_TAG, s->comm, "sending arrays to be written"));
    }
    return err;
}

/* After a failed write the rest is still received, so that no sender waits for ever. */
static cairn_err receive_piece(const struct save *s, struct part *part, int index, const struct plan_piece *p, char *buffer, cairn_err err)
{
    size_t bytes = part_piece_bytes(&s->pieces[index]);
    for (size_t at = 0; at < bytes; at += MESSAGE_BYTES) {
        size_t n = bytes - at < MESSAGE_BYTES ? bytes - at : MESSAGE_BYTES;
        TRY(mpi_receive(buffer, (int)n, MPI_BYTE, p->sender, MESSAGE_TAG, s->comm, "receiving arrays to write"));
        if (err == CAIRN_OK)
            err = part_write(part, index, (int64_t)at, buffer, n);
    }
    return err;
}

static cairn_err write_own_piece(const struct save *s, struct part *part, int index, const struct plan_piece *p, char *buffer)
{
    const struct shard *from = &s->shards[p->shard];
    const char *data = (const char *)from->data + (size_t)p->first * dtype_size(from->dtype);
    size_t bytes = part_piece_bytes(&s->pieces[index]);
    if (!from->memory)
        return part_write(part, index, 0, data, bytes);
    for (size_t at = 0; at < bytes; at += MESSAGE_BYTES) {
        size_t n = bytes - at < MESSAGE_BYTES ? bytes - at : MESSAGE_BYTES;
        TRY(from->memory->read(from->memory->context, buffer, data + at, n));
        TRY(part_write(part, index, (int64_t)at, buffer, n));
    }
    return CAIRN_OK;
}

static cairn_err write_pieces(const struct save *s, struct part *part, char *buffer, cairn_err err)
{
    for (int i = 0; i < s->piece_count; i++) {
        const struct plan_piece *p = &s->plan.pieces[s->piece_of[i]];
        if (p->sender != s->rank) {
            err = receive_piece(s, part, i, p, buffer, err);
        } else if (err == CAIRN_OK) {
            err = write_own_piece(s, part, i, p, buffer);
        }
    }
    return err;
}

static cairn_err write_part(struct save *s, char *buffer)
{
    char name[FOLDER_PART_NAME_SIZE], path[FOLDER_PATH_SIZE];
    struct part *part = NULL;
    folder_part_name(s->my_part, name);
    cairn_err err = folder_join(s->tmp, name, path);
    if (err == CAIRN_OK)
        err = part_open(path, s->pieces, s->piece_count, &part);
    err = write_pieces(s, part, buffer, err);
    if (err == CAIRN_OK)
        err = part_finish(part, &s->part);
    part_close(part);
    return err;
}

static cairn_err write_or_send(struct save *s, char *buffer)
{
    if (s->my_part >= 0)
        return write_part(s, buffer);
    cairn_err err = CAIRN_OK;
    for (int i = 0; i < s->plan.piece_count; i++)
        if (s->plan.pieces[i].sender == s->rank)
            err = send_piece(s, &s->plan.pieces[i], buffer, err);
    return err;
}

/* ---- the state, on rank 0 ---- */

static cairn_err gather(const struct save *s, struct place *places, struct table_part *parts)
{
    int n = s->my_part < 0 ? 0 : s->piece_count;
    int *sizes = calloc(2 * (size_t)s->layout.size, sizeof *sizes), *starts = sizes + s->layout.size;
    struct place *mine = calloc((size_t)n + 1, sizeof *mine);
    cairn_err err = sizes && mine ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory to commit a checkpoint");
    TRY_GOTO(err, comm_agree(s->comm, err), done);
    for (int i = 0; i < n; i++)
        mine[i] = (struct place){s->pieces[i].data_at, s->pieces[i].checksums_at};
    for (int i = 0; i < s->plan.piece_count; i++)
        sizes[s->plan.writer[s->plan.pieces[i].part]] += (int)sizeof(struct place);
    for (int r = 1; r < s->layout.size; r++)
        starts[r] = starts[r - 1] + sizes[r - 1];
    err = mpi_gatherv(mine, n * (int)sizeof *mine, places, sizes, starts, 0, s->comm, "gathering the places of arrays");
    for (int r = 0; r < s->layout.size; r++)
        sizes[r] = 0;
    for (int p = 0; p < s->plan.part_count; p++)
        sizes[s->plan.writer[p]] = (int)sizeof *parts;
    for (int r = 1; r < s->layout.size; r++)
        starts[r] = starts[r - 1] + sizes[r - 1];
    if (!err)
        err = mpi_gatherv(&s->part, s->my_part < 0 ? 0 : (int)sizeof *parts, parts, sizes, starts, 0, s->comm, "gathering the parts");
done:
    free(sizes);
    free(mine);
    return err;
}

/* PLACES are in the order of the parts, and in each part in the order of the plan. */
static cairn_err fill_table(const struct save *s, const struct place *places, struct table *t)
{
    int *next = calloc((size_t)s->plan.part_count + 1, sizeof *next);
    if (!next)
        return FAIL(CAIRN_ENOMEM, "no memory to commit a checkpoint");
    for (int i = 0; i < s->plan.piece_count; i++)
        next[s->plan.pieces[i].part + 1]++;
    for (int p = 1; p < s->plan.part_count; p++)
        next[p] += next[p - 1];
    memcpy(t->arrays, s->plan.arrays, (size_t)t->array_count * sizeof *t->arrays);
    for (int i = 0; i < t->slab_count; i++) {
        const struct plan_piece *p = &s->plan.pieces[i];
        const struct place *at = &places[next[p->part]++];
        struct table_slab *slab = &t->slabs[i];
        slab->array = p->array;
        slab->part = p->part;
        slab->data_at = at->data_at;
        slab->checksums_at = at->checksums_at;
        memcpy(slab->offset, p->box.offset, (size_t)p->box.dims * sizeof *slab->offset);
        memcpy(slab->extent, p->box.extent, (size_t)p->box.dims * sizeof *slab->extent);
    }
    free(next);
    return table_check(t);
}

static cairn_err commit(const struct save *s, const char *dir, const struct checkpoint_facts *facts, const struct place *places,
                        struct table *t)
{
    TRY(fill_table(s, places, t));
    t->time = clock_wall();
    t->ranks = s->layout.size;
    struct table written = *t;
    written.facts = *facts;
    TRY(state_write(s->tmp, &written));
    if (!state_sizes_match(s->tmp))
        return FAIL(CAIRN_ESYS, "%s: the files on the disk are not those that were written", s->tmp);
    return folder_commit(dir, s->tmp, s->final);
}

static cairn_err gather_and_commit(const struct save *s, const char *dir, const struct checkpoint_facts *facts)
{
    struct table t = {0};
    struct place *places = NULL;
    cairn_err err = CAIRN_OK;
    if (s->rank == 0) {
        err = table_allocate(&t, s->plan.array_count, s->plan.piece_count, s->plan.part_count);
        places = calloc((size_t)s->plan.piece_count + 1, sizeof *places);
        if (err == CAIRN_OK && !places)
            err = FAIL(CAIRN_ENOMEM, "no memory to commit a checkpoint");
    }
    TRY_GOTO(err, comm_agree(s->comm, err), done);
    TRY_GOTO(err, gather(s, places, t.parts), done);
    if (s->rank == 0)
        err = commit(s, dir, facts, places, &t);
    err = comm_agree(s->comm, err);
done:
    free(places);
    table_free(&t);
    return err;
}

static cairn_err plan_locally(struct save *s, const struct checkpoint_group *group, const char *dir, int64_t step)
{
    TRY(plan_make(&s->layout, group->node_of, &s->plan));
    TRY(folder_step_path(dir, step, ".tmp", s->tmp));
    TRY(folder_step_path(dir, step, "", s->final));
    TRY(collect_my_pieces(s));
    return s->rank == 0 ? make_folder(s, dir) : CAIRN_OK;
}

/* Only the ranks that receive need it, and those whose arrays the processor does not reach. */
static cairn_err message_buffer(const struct save *s, char **buffer)
{
    bool needed = false;
    for (int i = 0; i < s->piece_count; i++)
        needed |= s->my_part >= 0 && s->plan.pieces[s->piece_of[i]].sender != s->rank;
    for (int i = 0; i < s->shard_count; i++)
        needed |= s->shards[i].memory != NULL;
    *buffer = needed ? malloc(MESSAGE_BYTES) : NULL;
    return needed && !*buffer ? FAIL(CAIRN_ENOMEM, "no memory to pass slabs on") : CAIRN_OK;
}

static cairn_err run(struct save *s, const struct checkpoint_group *group, const char *dir, const struct checkpoint_facts *facts)
{
    char *buffer = NULL;
    cairn_err err = plan_locally(s, group, dir, facts->step);
    if (err == CAIRN_OK)
        err = message_buffer(s, &buffer);
    TRY_GOTO(err, comm_agree(s->comm, err), done);
    err = write_or_send(s, buffer);
    TRY_GOTO(err, comm_agree(s->comm, err), done);
    err = gather_and_commit(s, dir, facts);
done:
    free(buffer);
    return err;
}

cairn_err checkpoint_save(const struct checkpoint_group *group, const char *dir, const struct checkpoint_facts *facts,
                          const struct shard *shards, int count)
{
    struct save s = {.comm = group->comm, .shards = shards, .shard_count = count};
    TRY_MPI(MPI_Comm_rank(group->comm, &s.rank));
    cairn_err err = check_shards(shards, count);
    if (err == CAIRN_OK && facts->step < 0)
        err = FAIL(CAIRN_EINVAL, "step %" PRId64 " of a checkpoint is negative", facts->step);
    TRY(comm_agree(s.comm, err));
    TRY(layout_open(s.comm, shards, count, &s.layout));
    err = run(&s, group, dir, facts);
    if (err != CAIRN_OK && s.rank == 0 && s.tmp[0]) {
        char why[4096];
        snprintf(why, sizeof why, "%s", cairn_err_message());
        folder_remove(s.tmp);
        error_set(err, "%s", why);
    }
    plan_free(&s.plan);
    layout_close(&s.layout);
    free(s.pieces);
    free(s.piece_of);
    return err == CAIRN_OK ? CAIRN_OK : error_context(err, "saving checkpoint of step %" PRId64 " in %s", facts->step, dir);
}
