/* Shared by server.c, head.c and store.c alone. */
#ifndef SERVER_SERVER_PRIVATE_H
#define SERVER_SERVER_PRIVATE_H

#include "base/exact_sum.h"
#include "job/watchdog.h"
#include "server/greeting.h"
#include "server/message.h"
#include "server/server.h"
#include "server/sums.h"
#include "server/wire.h"
#include "server/work.h"

enum peer_kind { PEER_STRANGER, PEER_WORKER, PEER_SERVER };

/* Whoever has connected. */
struct peer {
    struct wire *wire;
    enum peer_kind kind;
    bool lost;           /* to be closed */
    char why[256];
    int id;              /* the head's number for a worker; a server's number */
    double since;        /* when it connected */
    int64_t wants;       /* parameters after so many steps; -1: none */
    /* the head, of workers */
    bool ready, asks;
    double farewell;     /* when it was asked to leave; 0: it was not */
    struct work_item item;
    bool has_item;
    double given;        /* when it got the item */
    struct phase_watch pace; /* of each kind of work: seconds for a microbatch */
    /* where workers are asynchronous: what it has pushed of a share, by bucket */
    struct wire_block **pushed;
};

/* A share whose gradient was applied. */
struct applied_share {
    int64_t step, first;
};

struct store;
struct head;

struct server {
    struct trainer *t;
    const struct config *config;
    struct mesh *mesh;        /* of the servers */
    struct graph *graph;
    bool synchronous;         /* staleness 0 */
    char token[MESSAGE_TOKEN_SIZE + 1];
    char invitation[SERVER_INVITATION_SIZE];
    char *addresses;          /* of all servers, SERVER_INVITATION_SIZE each */
    int listener;
    struct peer **peers;
    int peer_count, peer_room;
    struct peer *to_head;     /* of the other servers; in peers */
    int64_t sent_before;      /* bytes, to peers that are gone */
    struct store *store;
    struct head *head;        /* NULL: not here */
    double full_since;        /* no room for newcomers since then; 0: there is */
    bool ended, stopped, stop_told, failed_together;
};

static inline bool server_is_head(const struct server *s)
{
    return s->mesh->rank == 0;
}

/* The last step is done and its checkpoint written, by a run before this one. */
static inline bool server_is_done(const struct server *s)
{
    return s->t->step >= s->config->steps && s->t->committed == s->t->step;
}

/* PEER is at fault: it is closed when all its messages are dealt with; the thread's message says why. */
void peer_fault(struct peer *peer);
/* Sends; an error is the peer's loss. */
void peer_send(struct peer *peer, enum message_type type, const int64_t field[WIRE_FIELDS], struct wire_block *payload);
/* To all other servers. */
void server_tell_servers(struct server *s, enum message_type type, const int64_t field[WIRE_FIELDS]);
int64_t server_bytes_sent(const struct server *s);
/* Collective over the servers. */
cairn_err server_save(struct server *s, int64_t step);

/* ---- store.c: this server's share ---- */
cairn_err store_open(struct server *s);
void store_close(struct server *s);
int64_t store_applied(const struct server *s); /* steps, where they are synchronous */
size_t store_largest(const struct server *s); /* bytes of a gradient that a worker sends at once */
int64_t store_updates(const struct server *s); /* of the weights, ever */
/* Messages from workers: PULL, PUSH, PUSH_END. */
cairn_err store_push(struct server *s, struct peer *peer, const struct wire_head *head, struct wire_block *payload);
cairn_err store_push_end(struct server *s, struct peer *peer, const struct wire_head *head);
/* Answers those who wait for what is there now. */
cairn_err store_answer(struct server *s);
/* Every server has squared its share of STEP's gradient: NORM. */
cairn_err store_apply(struct server *s, int64_t step, double norm);
/* Steps before BASE are done whole. */
void store_forget(struct server *s, int64_t base);
void store_drop_peer(struct server *s, struct peer *peer);

/* ---- head.c: work and its story ---- */
cairn_err head_open(struct server *s);
void head_close(struct server *s);
void head_expect(struct server *s, int workers);
cairn_err head_welcome(struct server *s, struct peer *peer); /* a worker */
cairn_err head_ready(struct server *s, struct peer *peer, const struct wire_block *signature);
cairn_err head_done(struct server *s, struct peer *peer, const struct wire_head *head, const struct wire_block *losses);
cairn_err head_squares(struct server *s, int64_t step, const int64_t words[EXACT_SUM_WORDS]);
cairn_err head_norm_of_share(struct server *s, int64_t step, int64_t count, double norm); /* asynchronous */
void head_stop(struct server *s);
void head_farewell(struct server *s, struct peer *peer); /* a worker would leave */
void head_drop_worker(struct server *s, struct peer *peer);
size_t head_largest(const struct server *s); /* bytes of the losses of the most work that is given at once */
int64_t head_step(const struct server *s); /* steps that are done */
/* After any change: gives out work, tells steps that are done, meets. */
cairn_err head_go_on(struct server *s);

#endif
