#include "ckpt/layout.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "job/mpi_calls.h"
#include "mesh/comm.h"


/* What names a slab, and zeros elsewhere, so that lists can be compared as bytes. */
static struct shard describe(const struct shard *s)
{
    struct shard d;
    memset(&d, 0, sizeof d);
    strncpy(d.name, s->name, sizeof d.name - 1);
    d.dtype = s->dtype;
    d.dims = s->dims;
    for (int i = 0; i < s->dims && i < SHARD_MAX_DIMS; i++) {
        d.shape[i] = s->shape[i];
        d.offset[i] = s->offset[i];
        d.extent[i] = s->extent[i];
    }
    return d;
}

struct mark {
    uint64_t hash;
    int64_t count;
};

static bool same_mark(const struct mark *a, const struct mark *b)
{
    return a->hash == b->hash && a->count == b->count;
}

/* Numbers the groups by their lowest ranks. */
static int number_groups(const struct mark *marks, struct layout *layout)
{
    int groups = 0;
    for (int r = 0; r < layout->size; r++) {
        int g = 0;
        while (g < groups && !same_mark(&marks[layout->groups[g].first_rank], &marks[r]))
            g++;
        if (g == groups)
            layout->groups[groups++] = (struct layout_group){.count = (int)marks[r].count, .first_rank = r};
        layout->group_of[r] = g;
    }
    return groups;
}

static cairn_err share_lists(MPI_Comm comm, const struct shard *mine, struct layout *layout)
{
    cairn_err err = CAIRN_OK;
    for (int g = 0; g < layout->group_count && err == CAIRN_OK; g++) {
        struct layout_group *group = &layout->groups[g];
        group->shards = malloc(((size_t)group->count + 1) * sizeof *group->shards);
        if (!group->shards)
            err = FAIL(CAIRN_ENOMEM, "no memory for the list of %d slabs", group->count);
        else if (layout->group_of[layout->rank] == g)
            memcpy(group->shards, mine, (size_t)group->count * sizeof *mine);
    }
    TRY(comm_agree(comm, err));
    for (int g = 0; g < layout->group_count && layout->group_count > 1; g++) {
        struct layout_group *group = &layout->groups[g];
        TRY(comm_broadcast(comm, group->shards, (size_t)group->count * sizeof *group->shards, group->first_rank));
    }
    return CAIRN_OK;
}

cairn_err layout_open(MPI_Comm comm, const struct shard *shards, int count, struct layout *layout)
{
    *layout = (struct layout){0};
    TRY_MPI(MPI_Comm_rank(comm, &layout->rank));
    TRY_MPI(MPI_Comm_size(comm, &layout->size));
    size_t size = (size_t)layout->size;
    struct shard *mine = malloc(((size_t)count + 1) * sizeof *mine);
    struct mark *marks = calloc(size, sizeof *marks);
    layout->group_of = calloc(size, sizeof *layout->group_of);
    layout->groups = calloc(size, sizeof *layout->groups);
    cairn_err err = mine && marks && layout->group_of && layout->groups ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for %d slabs", count);
    TRY_GOTO(err, comm_agree(comm, err), done);
    for (int i = 0; i < count; i++)
        mine[i] = describe(&shards[i]);
    struct mark mark = {XXH3_64bits(mine, (size_t)count * sizeof *mine), count};
    TRY_GOTO(err, mpi_allgather(&mark, sizeof mark, MPI_BYTE, marks, comm, "comparing slabs"), done);
    layout->group_count = number_groups(marks, layout);
    err = share_lists(comm, mine, layout);
done:
    free(mine);
    free(marks);
    if (err != CAIRN_OK)
        layout_close(layout);
    return err;
}

void layout_close(struct layout *layout)
{
    for (int g = 0; layout->groups && g < layout->group_count; g++)
        free(layout->groups[g].shards);
    free(layout->groups);
    free(layout->group_of);
    *layout = (struct layout){0};
}
