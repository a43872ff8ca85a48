/* Transfers between the ranks of a group that go on while the caller computes. A transfer is a row of rounds of messages; a channel
 * carries transfers in the order of their starts, which is the same on all ranks, with two rounds under way: while what
 * one brought is worked on, the next one travels. Nothing here blocks: channel_progress posts, tests and hands over.
 * By a link between devices (mesh/device_link.h) a transfer is through as soon as it is started, in the order of the devices' calls: what
 * `finish` computes comes after its round's messages, and whoever uses what a transfer brings waits for its mark (transfer_join). */
#ifndef MESH_CHANNEL_H
#define MESH_CHANNEL_H

#include <stdbool.h>

#include "mesh/group.h"

struct channel;
struct transfer;

/* A round under way. */
struct channel_round {
    struct channel *channel;
    struct transfer *transfer;
    int64_t number; /* in its transfer */
    int half;       /* 0 or 1: no other round under way has the same, so memory cut into two halves is this round's by it */
    MPI_Request *requests;
    int receives, count, done; /* requests: receives come first */
};

/* Filled in by its owner, whose it stays; not to be changed while it is under way. */
struct transfer {
    int64_t rounds; /* at least 1; the same on all ranks */
    const char *name; /* in a trace */
    int id;         /* >= 0: goes with each message, so that ranks which start in unlike orders notice */
    cairn_err (*post)(struct transfer *transfer, struct channel_round *round);  /* channel_receive for all, then channel_send */
    cairn_err (*finish)(struct transfer *transfer, struct channel_round *round);/* its messages are through; NULL: nothing */
    cairn_err (*end)(struct transfer *transfer);                                /* after the last round; NULL: nothing */
    void *owner;
    bool under_way;
    int64_t posted, finished; /* rounds */
    uint64_t begun;           /* base/trace.h */
    struct device_link *link; /* that carries it; NULL: MPI does */
    struct backend_mark *through; /* by a link: its end */
    struct transfer *next;
};

/* Collective over GROUP, which must live longer. No round has more than MESSAGES messages. By the group's LINK, or by MPI. */
cairn_err channel_create(struct group *group, int messages, bool link, struct channel **out);

/* Collective, but after an error. NULL is fine. What a failure left under way is left to MPI, the channel with it. */
void channel_destroy(struct channel *channel);

/* Nothing is under way. */
bool channel_idle(const struct channel *channel);

/* Queues TRANSFER, which must not be under way. */
void channel_start(struct channel *channel, struct transfer *transfer);

/* Between devices: what is computed from now on comes after the last time that TRANSFER was through. Else nothing. */
void transfer_join(const struct transfer *transfer);

/* Frees what the channels made for it. */
void transfer_close(struct transfer *transfer);

/* As far as it goes without waiting. After a failure, fails. */
cairn_err channel_progress(struct channel *channel);

/* Messages of a round, for `post`: N elements, at most 2^31 - 1; nothing if there are none. */
cairn_err channel_receive(struct channel_round *round, int from, void *data, int64_t n, enum dtype dtype);
cairn_err channel_send(struct channel_round *round, int to, const void *data, int64_t n, enum dtype dtype);

/* For `post`, by MPI: the communicator, and where the request of a collective on it goes. */
MPI_Comm channel_comm(const struct channel *channel);
MPI_Request *channel_request(struct channel_round *round);

#endif
