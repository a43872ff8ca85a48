#include "train/stage_messages.h"

#include <limits.h>
#include <stdlib.h>

#include "job/mpi_calls.h"
#include "mesh/device_link.h"

/* Copies of what was sent, used in turn: in the processor's memory with a request each, or, where devices exchange, in theirs with a mark. */
struct outbox {
    int next;
    char *copies;
    MPI_Request *requests;
    struct backend_mark **sent;
};

struct messages {
    struct group *group;
    struct backend *backend;
    bool linked;    /* devices exchange */
    char *received; /* on its way to a device; else NULL */
    size_t bytes;
    int depth;
    struct outbox outbox[2]; /* by direction */
};

#define TABLE(m) ((m)->backend->table)

static cairn_err no_memory(const struct messages *m)
{
    return FAIL(CAIRN_ENOMEM, "no memory for messages of %.1f MB", (double)m->bytes * 1e-6);
}

static cairn_err open_staged(struct messages *m, struct outbox *o)
{
    o->requests = malloc((size_t)m->depth * sizeof *o->requests);
    o->copies = malloc((size_t)m->depth * m->bytes + 1);
    if (!o->requests || !o->copies)
        return no_memory(m);
    for (int i = 0; i < m->depth; i++)
        o->requests[i] = MPI_REQUEST_NULL;
    return CAIRN_OK;
}

static cairn_err open_linked(struct messages *m, struct outbox *o)
{
    o->sent = calloc((size_t)m->depth, sizeof *o->sent);
    o->copies = TABLE(m)->alloc(m->backend, (size_t)m->depth * m->bytes);
    bool memory = o->sent && o->copies;
    for (int i = 0; i < m->depth && memory; i++) {
        o->sent[i] = TABLE(m)->mark_create(m->backend);
        memory = o->sent[i] != NULL;
    }
    return memory ? CAIRN_OK : device_gave_nothing(m->backend, "messages between stages");
}

cairn_err messages_open(struct group *pipeline, struct backend *backend, size_t bytes, int depth, struct messages **out)
{
    struct messages *m = calloc(1, sizeof *m);
    if (!m)
        return FAIL(CAIRN_ENOMEM, "no memory for messages");
    *m = (struct messages){.group = pipeline, .backend = backend, .bytes = bytes, .depth = depth, .linked = pipeline->ring};
    *out = m;
    if (bytes > INT_MAX && !m->linked)
        return FAIL(CAIRN_EUNSUPPORTED, "a microbatch's activations between two stages are %.1f GB, MPI takes 2.1 GB at once: smaller "
                    "batch.samples are needed", (double)bytes * 1e-9);
    for (int d = 0; d < 2; d++)
        TRY((m->linked ? open_linked : open_staged)(m, &m->outbox[d]));
    if (!backend->table->host_memory && !m->linked && !(m->received = malloc(bytes + 1)))
        return no_memory(m);
    return CAIRN_OK;
}

static void close_staged(struct messages *m, struct outbox *o)
{
    for (int i = 0; i < m->depth && o->requests && o->copies; i++)
        MPI_Wait(&o->requests[i], MPI_STATUS_IGNORE); /* each, whatever became of the others, and without a message of its own */
    free(o->requests);
    free(o->copies);
}

static void close_linked(struct messages *m, struct outbox *o)
{
    for (int i = 0; i < m->depth && o->sent; i++)
        if (o->sent[i])
            TABLE(m)->mark_destroy(o->sent[i]);
    free(o->sent);
    if (o->copies)
        TABLE(m)->free(m->backend, o->copies, (size_t)m->depth * m->bytes);
}

void messages_close(struct messages *m)
{
    if (!m)
        return;
    for (int d = 0; d < 2; d++)
        (m->linked ? close_linked : close_staged)(m, &m->outbox[d]);
    free(m->received);
    free(m);
}

cairn_err messages_send(struct messages *m, enum ring_direction direction, int peer, const void *data, size_t bytes)
{
    struct outbox *o = &m->outbox[direction];
    int i = o->next;
    char *copy = o->copies + (size_t)i * m->bytes;
    o->next = (i + 1) % m->depth;
    m->group->bytes_sent += (int64_t)bytes;
    if (m->linked) {
        TABLE(m)->mark_wait(o->sent[i]);
        TABLE(m)->copy(m->backend, copy, data, bytes);
        return device_ring_send(m->group, direction, copy, bytes, o->sent[i]);
    }
    TRY(group_wait(m->group, &o->requests[i], 1, "sending to another stage"));
    TABLE(m)->download(m->backend, copy, data, bytes);
    return mpi_check(MPI_Isend(copy, (int)bytes, MPI_BYTE, peer, (int)direction, m->group->comm, &o->requests[i]),
                     "sending to another stage");
}

cairn_err messages_receive(struct messages *m, enum ring_direction direction, int peer, void *data, size_t bytes)
{
    MPI_Request request;
    void *place = m->received ? m->received : data;
    m->group->bytes_received += (int64_t)bytes;
    if (m->linked)
        return device_ring_receive(m->group, direction, data, bytes);
    TRY(mpi_check(MPI_Irecv(place, (int)bytes, MPI_BYTE, peer, (int)direction, m->group->comm, &request), "receiving from another stage"));
    TRY(group_wait(m->group, &request, 1, "receiving from another stage"));
    if (m->received)
        TABLE(m)->upload(m->backend, data, m->received, bytes);
    return CAIRN_OK;
}
