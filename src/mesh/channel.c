#include "mesh/channel.h"

#include <stdlib.h>

#include "base/trace.h"
#include "job/mpi_calls.h"
#include "mesh/comm.h"
#include "mesh/device_link.h"

struct channel {
    struct group *group;
    struct device_link *link; /* NULL: by MPI */
    MPI_Comm comm;
    int tags; /* 0..tags-1 are there */
    cairn_err failed;
    struct transfer *first, *last, *posting; /* those under way; the one whose rounds are being posted */
    struct channel_round rounds[2];
    int64_t posted, finished; /* rounds: at most two are under way */
    MPI_Request *requests;
};

cairn_err channel_create(struct group *group, int messages, bool link, struct channel **out)
{
    struct channel *c = calloc(1, sizeof *c);
    MPI_Request *requests = malloc(2 * (size_t)(messages + 1) * sizeof *requests);
    cairn_err err = !c || !requests ? FAIL(CAIRN_ENOMEM, "no memory for a channel of %d messages", messages) : CAIRN_OK;
    err = comm_agree(group->comm, err);
    if (!err)
        err = mpi_check(MPI_Comm_dup(group->comm, &c->comm), "making a channel's communicator");
    if (err) {
        free(c);
        free(requests);
        return err;
    }
    MPI_Comm_set_errhandler(c->comm, MPI_ERRORS_RETURN);
    void *highest;
    int known;
    MPI_Comm_get_attr(c->comm, MPI_TAG_UB, &highest, &known);
    c->tags = known ? *(int *)highest : 32767; /* which the standard promises */
    c->group = group;
    c->link = link ? group->device : NULL;
    c->requests = requests;
    for (int half = 0; half < 2; half++)
        c->rounds[half] = (struct channel_round){.channel = c, .half = half, .requests = requests + half * (messages + 1)};
    *out = c;
    return CAIRN_OK;
}

void channel_destroy(struct channel *c)
{
    if (!c)
        return;
    if (!channel_idle(c)) /* another communicator in this one's place would get its messages */
        return;
    MPI_Comm_free(&c->comm);
    free(c->requests);
    free(c);
}

bool channel_idle(const struct channel *c)
{
    return c->posted == c->finished && !c->first;
}

void channel_start(struct channel *c, struct transfer *t)
{
    t->under_way = true;
    t->link = c->link;
    t->posted = t->finished = 0;
    t->begun = c->group->size > 1 && !c->link ? trace_begin() : 0; /* a device's own spans tell of links */
    t->next = NULL;
    if (c->first)
        c->last->next = t;
    else
        c->first = t;
    c->last = t;
    if (!c->posting)
        c->posting = t;
}

void transfer_join(const struct transfer *t)
{
    if (t->through)
        t->link->backend->table->mark_wait(t->through);
}

void transfer_close(struct transfer *t)
{
    if (t->through)
        t->link->backend->table->mark_destroy(t->through);
    t->through = NULL;
}

static cairn_err set_through(struct transfer *t)
{
    struct backend *b = t->link->backend;
    if (!t->through)
        t->through = b->table->mark_create(b);
    if (!t->through)
        return device_gave_nothing(b, "a transfer between devices");
    b->table->mark_set(t->through);
    return CAIRN_OK;
}

static int tag_of(const struct channel *c, const struct transfer *t)
{
    return t->id % c->tags;
}

cairn_err channel_receive(struct channel_round *round, int from, void *data, int64_t n, enum dtype dtype)
{
    struct channel *c = round->channel;
    if (c->link)
        return device_link_receive(c->group, from, data, n * (int64_t)dtype_size(dtype));
    if (n <= 0)
        return CAIRN_OK;
    c->group->bytes_received += n * (int64_t)dtype_size(dtype);
    round->receives++; /* the next message of FROM, whatever its tag: a wrong one is an error, not waited past */
    TRY_MPI(MPI_Irecv(data, (int)n, group_mpi_type(dtype), from, MPI_ANY_TAG, c->comm, channel_request(round)));
    return CAIRN_OK;
}

cairn_err channel_send(struct channel_round *round, int to, const void *data, int64_t n, enum dtype dtype)
{
    struct channel *c = round->channel;
    if (c->link)
        return device_link_send(c->group, to, data, n * (int64_t)dtype_size(dtype));
    if (n <= 0)
        return CAIRN_OK;
    c->group->bytes_sent += n * (int64_t)dtype_size(dtype);
    TRY_MPI(MPI_Isend(data, (int)n, group_mpi_type(dtype), to, tag_of(c, round->transfer), c->comm, channel_request(round)));
    return CAIRN_OK;
}

MPI_Comm channel_comm(const struct channel *c)
{
    return c->comm;
}

MPI_Request *channel_request(struct channel_round *round)
{
    return &round->requests[round->count++];
}

static cairn_err post_rounds(struct channel *c)
{
    while (c->posting && c->posted - c->finished < 2) {
        struct transfer *t = c->posting;
        struct channel_round *round = &c->rounds[c->posted++ % 2];
        round->transfer = t;
        round->number = t->posted++;
        round->receives = round->count = round->done = 0;
        if (t->posted == t->rounds)
            c->posting = t->next;
        TRY(t->post(t, round));
        if (c->link)
            device_link_exchange(c->link);
    }
    return CAIRN_OK;
}

/* Whether all messages of ROUND are through. */
static cairn_err test_round(struct channel *c, struct channel_round *round, bool *complete)
{
    *complete = false;
    while (round->done < round->count) {
        int flag, tag = tag_of(c, round->transfer);
        MPI_Status status;
        TRY_CONTEXT(mpi_check(MPI_Test(&round->requests[round->done], &flag, &status), "exchanging between ranks"),
                    "transfer %d, round %lld (do all ranks start them in one order?)", round->transfer->id, (long long)round->number);
        if (!flag)
            return CAIRN_OK;
        if (round->done < round->receives && status.MPI_TAG != tag)
            return FAIL(CAIRN_EMPI, "rank %d of a group sent of transfer %d where transfer %d is expected: ranks start them in unlike orders",
                        status.MPI_SOURCE, status.MPI_TAG, tag);
        round->done++;
    }
    *complete = true;
    return CAIRN_OK;
}

static cairn_err finish_round(struct channel *c, struct channel_round *round)
{
    struct transfer *t = round->transfer;
    if (t->finish)
        TRY(t->finish(t, round));
    c->finished++;
    if (++t->finished < t->rounds)
        return CAIRN_OK;
    c->first = t->next;
    t->under_way = false;
    if (c->link)
        TRY(set_through(t));
    trace_end(t->begun, TRACE_COMMUNICATION, t->name, t->id);
    return t->end ? t->end(t) : CAIRN_OK;
}

static cairn_err advance(struct channel *c)
{
    TRY(post_rounds(c));
    while (c->finished < c->posted) {
        struct channel_round *round = &c->rounds[c->finished % 2];
        bool complete;
        TRY(test_round(c, round, &complete));
        if (!complete)
            return CAIRN_OK;
        TRY(finish_round(c, round));
        TRY(post_rounds(c));
    }
    return CAIRN_OK;
}

cairn_err channel_progress(struct channel *c)
{
    if (c->failed)
        return FAIL(c->failed, "an exchange between ranks failed before");
    if (!c->link || channel_idle(c))
        return c->failed = advance(c);
    device_link_begin(c->link, LANE_LINK);
    c->failed = advance(c);
    device_link_end(c->link);
    return c->failed;
}
