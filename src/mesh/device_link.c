#include "mesh/device_link.h"

#include <stdlib.h>

#include "mesh/comm.h"

/* What its first rank makes and all must know. */
struct invitation {
    unsigned char id[LINK_ID_BYTES];
};

static cairn_err invite(struct group *g, struct backend *b, struct invitation *invitation)
{
    cairn_err err = CAIRN_OK;
    if (!b->table->link_id)
        err = FAIL(CAIRN_EUNSUPPORTED, "this build knows no way between devices (it was made without NCCL)");
    else if (g->rank == 0)
        err = b->table->link_id(b, invitation->id);
    TRY(comm_agree(g->comm, err));
    return comm_broadcast(g->comm, invitation, sizeof *invitation, 0);
}

cairn_err device_link_open(struct group *g, struct backend *b, double seconds)
{
    struct invitation invitation;
    TRY(invite(g, b, &invitation));
    struct device_link *l = g->device = calloc(1, sizeof *l);
    cairn_err err = CAIRN_OK;
    if (l) {
        *l = (struct device_link){.backend = b, .begun = b->table->mark_create(b)};
        err = b->table->link_open(b, invitation.id, g->size, g->rank, seconds, &l->link);
    }
    if (!err && (!l || !l->begun))
        err = device_gave_nothing(b, "a link between devices");
    err = comm_agree(g->comm, err);
    if (err)
        device_link_close(g);
    return err;
}

cairn_err device_gave_nothing(struct backend *b, const char *what)
{
    TRY(b->table->finish(b));
    return FAIL(CAIRN_ENOMEM, "no memory for %s", what);
}

void device_link_close(struct group *g)
{
    struct device_link *l = g->device;
    if (!l)
        return;
    if (l->link)
        l->backend->table->link_close(l->link);
    l->backend->table->mark_destroy(l->begun);
    if (l->scratch)
        l->backend->table->free(l->backend, l->scratch, l->scratch_bytes);
    free(l->messages);
    free(l);
    g->device = NULL;
}

void device_link_begin(struct device_link *l, enum backend_lane lane)
{
    const struct backend_table *t = l->backend->table;
    t->mark_set(l->begun);
    t->lane(l->backend, lane);
    t->mark_wait(l->begun);
}

void device_link_end(struct device_link *l)
{
    l->backend->table->lane(l->backend, LANE_COMPUTE);
}

static cairn_err post(struct device_link *l, struct link_message message)
{
    if (l->count == l->room) {
        int room = 2 * l->room + 16;
        struct link_message *more = realloc(l->messages, (size_t)room * sizeof *more);
        if (!more)
            return FAIL(CAIRN_ENOMEM, "no memory for %d messages between devices", room);
        l->messages = more;
        l->room = room;
    }
    l->messages[l->count++] = message;
    return CAIRN_OK;
}

cairn_err device_link_receive(struct group *g, int from, void *data, int64_t bytes)
{
    if (bytes <= 0)
        return CAIRN_OK;
    g->bytes_received += bytes;
    return post(g->device, (struct link_message){.data = data, .bytes = (size_t)bytes, .rank = from, .receive = true});
}

cairn_err device_link_send(struct group *g, int to, const void *data, int64_t bytes)
{
    if (bytes <= 0)
        return CAIRN_OK;
    g->bytes_sent += bytes;
    return post(g->device, (struct link_message){.data = (void *)data, .bytes = (size_t)bytes, .rank = to});
}

void device_link_exchange(struct device_link *l)
{
    l->backend->table->link_exchange(l->link, l->messages, l->count);
    l->count = 0;
}
