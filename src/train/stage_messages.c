#include "train/stage_messages.h"

#include <limits.h>
#include <stdlib.h>

#include "job/mpi_calls.h"

/* Copies of what was sent, used in turn. */
struct outbox {
    int next;
    MPI_Request *requests;
    char *copies;
};

struct messages {
    struct group *group;
    struct backend *backend;
    char *received; /* on its way to a device; else NULL */
    size_t bytes;
    int depth;
    struct outbox outbox[2]; /* by direction */
};

cairn_err messages_open(struct group *pipeline, struct backend *backend, size_t bytes, int depth, struct messages **out)
{
    struct messages *m = calloc(1, sizeof *m);
    if (!m)
        return FAIL(CAIRN_ENOMEM, "no memory for messages");
    *m = (struct messages){.group = pipeline, .backend = backend, .bytes = bytes, .depth = depth};
    *out = m;
    if (bytes > INT_MAX)
        return FAIL(CAIRN_EUNSUPPORTED, "a microbatch's activations between two stages are %.1f GB, MPI takes 2.1 GB at once: smaller "
                    "batch.samples are needed", (double)bytes * 1e-9);
    for (int d = 0; d < 2; d++) {
        struct outbox *o = &m->outbox[d];
        o->requests = malloc((size_t)depth * sizeof *o->requests);
        o->copies = malloc((size_t)depth * bytes + 1);
        if (!o->requests || !o->copies)
            return FAIL(CAIRN_ENOMEM, "no memory for messages of %.1f MB", (double)bytes * 1e-6);
        for (int i = 0; i < depth; i++)
            o->requests[i] = MPI_REQUEST_NULL;
    }
    if (!backend->table->host_memory && !(m->received = malloc(bytes + 1)))
        return FAIL(CAIRN_ENOMEM, "no memory for messages of %.1f MB", (double)bytes * 1e-6);
    return CAIRN_OK;
}

void messages_close(struct messages *m)
{
    if (!m)
        return;
    for (int d = 0; d < 2; d++) {
        struct outbox *o = &m->outbox[d];
        for (int i = 0; i < m->depth && o->requests && o->copies; i++)
            MPI_Wait(&o->requests[i], MPI_STATUS_IGNORE); /* each, whatever became of the others, and without a message of its own */
        free(o->requests);
        free(o->copies);
    }
    free(m->received);
    free(m);
}

cairn_err messages_send(struct messages *m, enum message_direction direction, int peer, const void *data, size_t bytes)
{
    struct outbox *o = &m->outbox[direction];
    int i = o->next;
    char *copy = o->copies + (size_t)i * m->bytes;
    o->next = (i + 1) % m->depth;
    TRY(group_wait(m->group, &o->requests[i], 1, "sending to another stage"));
    m->backend->table->download(m->backend, copy, data, bytes);
    m->group->bytes_sent += (int64_t)bytes;
    return mpi_check(MPI_Isend(copy, (int)bytes, MPI_BYTE, peer, (int)direction, m->group->comm, &o->requests[i]),
                     "sending to another stage");
}

cairn_err messages_receive(struct messages *m, enum message_direction direction, int peer, void *data, size_t bytes)
{
    MPI_Request request;
    void *place = m->received ? m->received : data;
    m->group->bytes_received += (int64_t)bytes;
    TRY(mpi_check(MPI_Irecv(place, (int)bytes, MPI_BYTE, peer, (int)direction, m->group->comm, &request), "receiving from another stage"));
    TRY(group_wait(m->group, &request, 1, "receiving from another stage"));
    if (m->received)
        m->backend->table->upload(m->backend, data, m->received, bytes);
    return CAIRN_OK;
}
