#include "server/server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "job/mpi_calls.h"
#include "mesh/comm.h"
#include "server/server_private.h"
#include "server/whole.h"
#include "train/numerics.h"
#include "train/trainer_arrays.h"

/* Seconds: between two looks at signals and silent peers; until the head answers another server; for workers to say farewell; for a stranger
 * to say who it is; and waiting for workers is no hang, however long. */
static const double look_every = 0.5, connect_limit = 10, farewell_limit = 5, stranger_limit = 10, no_limit = 1e9;

enum { MOST_STRANGERS = 64 }; /* the oldest goes when more come: whoever belongs here says so at once */

/* ---- peers ---- */

void peer_fault(struct peer *p)
{
    if (!p->lost)
        snprintf(p->why, sizeof p->why, "%s", cairn_err_message());
    p->lost = true;
}

void peer_send(struct peer *p, enum message_type type, const int64_t field[WIRE_FIELDS], struct wire_block *payload)
{
    if (!p->lost && wire_send(p->wire, type, field, payload) != CAIRN_OK)
        peer_fault(p);
}

void server_tell_servers(struct server *s, enum message_type type, const int64_t field[WIRE_FIELDS])
{
    for (int i = 0; i < s->peer_count; i++)
        if (s->peers[i]->kind == PEER_SERVER)
            peer_send(s->peers[i], type, field, NULL);
}

int64_t server_bytes_sent(const struct server *s)
{
    int64_t sent = s->sent_before;
    for (int i = 0; i < s->peer_count; i++)
        sent += wire_bytes_sent(s->peers[i]->wire);
    return sent;
}

static cairn_err add_peer(struct server *s, struct wire *wire, struct peer **out)
{
    struct peer *p = calloc(1, sizeof *p);
    if (p && s->peer_count == s->peer_room) {
        int room = 2 * s->peer_room + 16;
        struct peer **peers = realloc(s->peers, (size_t)room * sizeof(struct peer *));
        if (peers) {
            s->peers = peers;
            s->peer_room = room;
        }
    }
    if (!p || s->peer_count == s->peer_room) {
        free(p);
        wire_close(wire);
        return FAIL(CAIRN_ENOMEM, "no memory for a connection");
    }
    *p = (struct peer){.wire = wire, .id = -1, .wants = -1, .since = clock_seconds()};
    s->peers[s->peer_count++] = p;
    if (out)
        *out = p;
    return CAIRN_OK;
}

static void close_peer(struct server *s, struct peer *p)
{
    store_drop_peer(s, p);
    s->sent_before += wire_bytes_sent(p->wire);
    wire_close(p->wire);
    free(p);
}

/* Closes those that are lost; of the other servers that is an error. */
static cairn_err drop_lost(struct server *s)
{
    int kept = 0;
    cairn_err err = CAIRN_OK;
    for (int i = 0; i < s->peer_count; i++) {
        struct peer *p = s->peers[i];
        if (!p->lost) {
            s->peers[kept++] = p;
            continue;
        }
        if (p->kind == PEER_SERVER && !s->ended)
            err = FAIL(CAIRN_EPEER, "%s", p->why);
        else if (p->kind == PEER_WORKER && s->head)
            head_drop_worker(s, p);
        else if (p->kind == PEER_STRANGER)
            log_warning("a connection is refused: %s", p->why);
        if (p == s->to_head)
            s->to_head = NULL;
        close_peer(s, p);
    }
    s->peer_count = kept;
    return err;
}

/* ---- greetings ---- */

static void refuse(struct peer *p, cairn_err why)
{
    const char *text = cairn_err_message();
    struct wire_block *block = wire_block_new(strlen(text));
    const int64_t field[WIRE_FIELDS] = {why == CAIRN_ECONFIG};
    if (block) {
        memcpy(block->data, text, strlen(text));
        peer_send(p, MESSAGE_REFUSED, field, block);
        wire_block_drop(block);
    }
    error_set(why, "%s", text);
    peer_fault(p);
}

static cairn_err take_hello(struct server *s, struct peer *p, const struct wire_head *head, const struct wire_block *payload)
{
    static const enum peer_kind kinds[] = {PEER_WORKER, PEER_WORKER, PEER_SERVER}; /* by enum message_role */
    char host[64], name[96];
    const int64_t role = head->field[1];
    cairn_err err = head->type == MESSAGE_HELLO ? greeting_check(head, payload, s->token, s->config, s->t->dataset, host, sizeof host)
                                                : FAIL(CAIRN_EFORMAT, "it does not say hello");
    if (!err && (role < 0 || role > ROLE_SERVER || (role == ROLE_WORKER_BESIDE) == (s->head != NULL)))
        err = FAIL(CAIRN_EFORMAT, "it speaks to the wrong server");
    if (err) {
        refuse(p, err);
        return CAIRN_OK;
    }
    p->kind = kinds[role];
    p->id = (int)head->field[2];
    snprintf(name, sizeof name, "%s %lld on %s", role == ROLE_SERVER ? "server" : "worker", (long long)head->field[2], host);
    wire_set_name(p->wire, name);
    wire_set_limit(p->wire, store_largest(s) + (s->head ? head_largest(s) : 0) + WIRE_FIRST_LIMIT);
    if (role == ROLE_WORKER)
        return head_welcome(s, p);
    peer_send(p, MESSAGE_WELCOME, NULL, NULL);
    return CAIRN_OK;
}

/* ---- messages ---- */

static cairn_err from_worker(struct server *s, struct peer *p, const struct wire_head *head, struct wire_block *payload)
{
    switch (head->type) {
    case MESSAGE_PULL: p->wants = head->field[0]; return store_answer(s);
    case MESSAGE_PUSH: return store_push(s, p, head, payload ? wire_block_hold(payload) : NULL);
    case MESSAGE_PUSH_END: return store_push_end(s, p, head);
    case MESSAGE_READY: return s->head ? head_ready(s, p, payload) : CAIRN_OK;
    case MESSAGE_DONE: return s->head ? head_done(s, p, head, payload) : CAIRN_OK;
    case MESSAGE_STOP:
        if (s->head && head->field[0])
            head_farewell(s, p);
        else if (s->head)
            head_stop(s);
        return CAIRN_OK;
    default:
        FAIL(CAIRN_EFORMAT, "it sends a message of unknown type %u", head->type);
        peer_fault(p);
        return CAIRN_OK;
    }
}

static cairn_err from_server(struct server *s, const struct wire_head *head, const struct wire_block *payload)
{
    const int64_t *f = head->field;
    switch (head->type) {
    case MESSAGE_WELCOME: return CAIRN_OK;
    case MESSAGE_REFUSED:
        return FAIL(CAIRN_ECONFIG, "the head server refuses this one: %.*s", payload ? (int)payload->bytes : 0,
                    payload ? (const char *)payload->data : "");
    case MESSAGE_STOP:
        if (s->head)
            head_stop(s);
        return CAIRN_OK;
    case MESSAGE_SQUARES:
        if (!s->head || !payload || payload->bytes != EXACT_SUM_WORDS * sizeof(int64_t))
            break;
        return head_squares(s, f[0], (const int64_t *)payload->data);
    case MESSAGE_NORM: return store_apply(s, f[0], wire_to_double(f[1]));
    case MESSAGE_BASE: store_forget(s, f[0]); return CAIRN_OK;
    case MESSAGE_SAVE: return server_save(s, f[0]);
    case MESSAGE_END:
        s->ended = true;
        s->stopped = f[0] != 0;
        return CAIRN_OK;
    default: break;
    }
    return FAIL(CAIRN_EFORMAT, "a server sends a message of type %u that does not fit", head->type);
}

static cairn_err handle(struct server *s, struct peer *p, const struct wire_head *head, struct wire_block *payload)
{
    switch (p->kind) {
    case PEER_STRANGER: return take_hello(s, p, head, payload);
    case PEER_WORKER: return from_worker(s, p, head, payload);
    case PEER_SERVER: return from_server(s, head, payload);
    }
    return CAIRN_OK;
}

static cairn_err receive(struct server *s, struct peer *p)
{
    struct wire_head head;
    struct wire_block *payload;
    bool got = true;
    while (!p->lost) {
        if (wire_receive(p->wire, &head, &payload, &got) != CAIRN_OK)
            peer_fault(p);
        else if (!got)
            break;
        else {
            cairn_err err = handle(s, p, &head, payload);
            wire_block_drop(payload);
            TRY(err);
        }
    }
    return CAIRN_OK;
}

/* ---- the loop ---- */

/* The oldest, if there are too many, or FULL. Peers are in the order in which they came. */
static void drop_strangers(struct server *s, bool full)
{
    int count = 0;
    for (int i = 0; i < s->peer_count; i++)
        count += s->peers[i]->kind == PEER_STRANGER && !s->peers[i]->lost;
    int over = count > MOST_STRANGERS ? count - MOST_STRANGERS : full && count > 0;
    for (int i = 0; i < s->peer_count && over > 0; i++)
        if (s->peers[i]->kind == PEER_STRANGER && !s->peers[i]->lost) {
            FAIL(CAIRN_ENOMEM, "too many have come, and it does not say who it is");
            peer_fault(s->peers[i]);
            over--;
        }
}

/* A flood of connections, or a low limit of open files, does not end the training: who finds no room is asked in later. */
static cairn_err accept_all(struct server *s)
{
    struct wire *wire = NULL;
    cairn_err err;
    if (s->full_since > 0 && clock_seconds() - s->full_since < look_every)
        return CAIRN_OK;
    while ((err = wire_accept(s->listener, &wire)) == CAIRN_OK && wire)
        TRY(add_peer(s, wire, NULL));
    if (err && err != CAIRN_ENOMEM)
        return err;
    if (err && s->full_since == 0)
        log_warning("%s; it is tried again", cairn_err_message());
    s->full_since = err ? clock_seconds() : 0;
    drop_strangers(s, err != CAIRN_OK);
    return CAIRN_OK;
}

static void check_silent(struct server *s)
{
    for (int i = 0; i < s->peer_count; i++) {
        struct peer *p = s->peers[i];
        if (p->kind == PEER_STRANGER && clock_seconds() - p->since > stranger_limit) {
            FAIL(CAIRN_ETIMEOUT, "it does not say who it is");
            peer_fault(p);
        } else if (wire_is_silent(p->wire, s->config->supervise.silent_seconds)) {
            FAIL(CAIRN_ETIMEOUT, "nothing comes from its machine for %.1f s", wire_quiet(p->wire));
            peer_fault(p);
        }
    }
}

static void look_for_stop(struct server *s)
{
    if (s->stop_told || s->ended || !job_stop_requested(s->t->job))
        return;
    s->stop_told = true;
    if (s->head)
        head_stop(s);
    else if (s->to_head)
        peer_send(s->to_head, MESSAGE_STOP, NULL, NULL);
}

static cairn_err wait_for_messages(struct server *s, double seconds)
{
    struct wire **wires = calloc((size_t)s->peer_count + 1, sizeof(struct wire *));
    if (!wires)
        return FAIL(CAIRN_ENOMEM, "no memory to wait for messages");
    for (int i = 0; i < s->peer_count; i++)
        wires[i] = s->peers[i]->wire;
    cairn_err err = wire_wait(wires, s->peer_count, s->full_since > 0 ? -1 : s->listener, seconds);
    free(wires);
    return err;
}

static cairn_err turn(struct server *s)
{
    TRY(wait_for_messages(s, look_every));
    TRY(accept_all(s));
    for (int i = 0; i < s->peer_count; i++) {
        struct peer *p = s->peers[i];
        if (!p->lost && wire_flush(p->wire) != CAIRN_OK)
            peer_fault(p);
        TRY(receive(s, p));
    }
    check_silent(s);
    TRY(drop_lost(s));
    look_for_stop(s);
    if (s->head)
        TRY(head_go_on(s));
    job_phase(s->t->job, "serve", s->head ? head_step(s) : store_applied(s), no_limit);
    return CAIRN_OK;
}

static bool has_workers(const struct server *s)
{
    bool any = false;
    for (int i = 0; i < s->peer_count; i++)
        any = any || s->peers[i]->kind == PEER_WORKER || !wire_is_sent(s->peers[i]->wire);
    return any;
}

cairn_err server_run(struct server *s, int workers, bool *stopped)
{
    *stopped = false;
    if (server_is_done(s)) {
        if (s->head)
            log_info("nothing to do: the checkpoint is of step %lld of %lld", (long long)s->t->step, (long long)s->config->steps);
        return CAIRN_OK;
    }
    if (s->head)
        head_expect(s, workers);
    job_phase(s->t->job, "serve", s->t->step, no_limit);
    if (s->head)
        TRY(head_go_on(s));
    while (!s->ended)
        TRY(turn(s));
    /* Workers close first: a server that is gone too early looks to them like one that died. */
    for (double until = clock_seconds() + farewell_limit; has_workers(s) && clock_seconds() < until;)
        TRY(turn(s));
    *stopped = s->stopped;
    return trainer_tell_memory(s->t);
}

cairn_err server_save(struct server *s, int64_t step)
{
    struct trainer *t = s->t;
    t->step = step;
    t->extra_updates = store_updates(s) - step;
    cairn_err err = trainer_save(t);
    s->failed_together = err != CAIRN_OK;
    return err;
}

bool server_failed_together(const struct server *s)
{
    return s->failed_together;
}

/* ---- opening ---- */

/* The servers' state: each has its share of every bucket, and of the parameters too. */
static cairn_err open_state(struct server *s)
{
    struct trainer *t = s->t;
    const struct weights_sharing sharing = {.replicas = s->mesh->size, .replica = s->mesh->rank, .zero = 3};
    TRY(whole_graph(t->backend, s->config, dataset_vocabulary(t->dataset), &s->graph));
    t->weights = calloc(1, sizeof *t->weights);
    if (!t->weights)
        return FAIL(CAIRN_ENOMEM, "no memory for the weights");
    TRY(weights_open(t->backend, s->graph, true, &sharing, &t->weights[0]));
    t->weights_count = 1;
    if (server_is_head(s)) {
        char model[256];
        log_info("%s; a server: %.0f MB state; %s", trainer_model_text(t, model, sizeof model), (double)trainer_state_memory(t) * 1e-6,
                 t->backend->table->signature(t->backend));
    }
    return trainer_list_arrays(t);
}

/* Listens, and tells all servers where each is. */
static cairn_err open_listener(struct server *s)
{
    int port;
    char own[SERVER_INVITATION_SIZE - MESSAGE_TOKEN_SIZE - 1] = "", line[SERVER_INVITATION_SIZE] = "";
    s->addresses = calloc((size_t)s->mesh->size, SERVER_INVITATION_SIZE);
    cairn_err err = s->addresses ? wire_listen(&s->listener, &port) : FAIL(CAIRN_ENOMEM, "no memory for %d addresses", s->mesh->size);
    if (!err && server_is_head(s))
        err = greeting_token(s->token);
    TRY(mesh_agree(s->mesh, err));
    wire_addresses(s->mesh->host, port, own, sizeof own);
    snprintf(line, sizeof line, "%s", own);
    TRY(mpi_allgather(line, SERVER_INVITATION_SIZE, MPI_CHAR, s->addresses, s->mesh->world, "exchanging the servers' addresses"));
    TRY(mesh_broadcast(s->mesh, s->token, sizeof s->token, 0));
    if (!server_is_done(s))
        snprintf(s->invitation, sizeof s->invitation, "%s@%.*s", s->token, SERVER_INVITATION_SIZE - MESSAGE_TOKEN_SIZE - 2, s->addresses);
    return CAIRN_OK;
}

/* The other servers connect to the head. */
static cairn_err connect_head(struct server *s)
{
    struct wire *wire;
    struct wire_block *greeting;
    if (server_is_head(s))
        return CAIRN_OK;
    TRY(wire_connect(s->addresses, connect_limit, &wire));
    wire_set_name(wire, "the head server");
    TRY(add_peer(s, wire, &s->to_head));
    s->to_head->kind = PEER_SERVER;
    TRY(greeting_write(s->token, s->config, s->t->dataset, s->mesh->host, &greeting));
    const int64_t field[WIRE_FIELDS] = {MESSAGE_VERSION, ROLE_SERVER, s->mesh->rank};
    peer_send(s->to_head, MESSAGE_HELLO, field, greeting);
    wire_block_drop(greeting);
    return CAIRN_OK;
}

static cairn_err open_server(struct server *s, struct job *job)
{
    struct trainer *t = s->t;
    TRY(trainer_open_run(t, job, s->mesh, s->config));
    TRY(numerics_compare(t));
    TRY(mesh_agree(s->mesh, open_state(s)));
    TRY(trainer_restore(t));
    cairn_err err = server_is_head(s) ? trainer_open_metrics(t) : CAIRN_OK;
    if (!err)
        err = store_open(s);
    if (!err && server_is_head(s))
        err = head_open(s);
    TRY(mesh_agree(s->mesh, err));
    TRY(open_listener(s));
    return mesh_agree(s->mesh, connect_head(s));
}

cairn_err server_open(struct trainer *trainer, struct job *job, struct mesh *mesh, const struct config *config, struct server **out)
{
    struct server *s = calloc(1, sizeof *s);
    if (!s)
        return FAIL(CAIRN_ENOMEM, "no memory for the server");
    *s = (struct server){.t = trainer, .config = config, .mesh = mesh, .synchronous = config->parallel.staleness == 0, .listener = -1};
    cairn_err err = open_server(s, job);
    if (err)
        server_close(s);
    else
        *out = s;
    return err;
}

void server_close(struct server *s)
{
    if (!s)
        return;
    for (int i = 0; i < s->peer_count; i++)
        close_peer(s, s->peers[i]);
    if (s->listener >= 0)
        close(s->listener);
    head_close(s);
    store_close(s);
    graph_free(s->graph);
    free(s->peers);
    free(s->addresses);
    free(s);
}

const char *server_invitation(const struct server *s)
{
    return s->invitation;
}
