#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "server/server_private.h"
#include "train/learning_rate.h"
#include "train/optimizer.h"
#include "train/partial_sums.h"
#include "train/shares.h"

struct store {
    struct sums *sums;        /* synchronous */
    int64_t applied;          /* steps; asynchronous: shares */
    int64_t updates;          /* of the weights, ever */
    bool squared;             /* the sums were, and wait for the norm */
    double *squares;
    int64_t base;             /* asynchronous: all before is applied */
    struct applied_share *shares; /* and these after it */
    int share_count, share_room;
    struct wire_block **snapshot; /* by bucket: the parameters as of applied, to be sent; NULL: not made */
};

/* ---- opening ---- */

cairn_err store_open(struct server *s)
{
    int buckets = graph_bucket_count(s->graph);
    struct store *st = s->store = calloc(1, sizeof *st);
    if (!st)
        return FAIL(CAIRN_ENOMEM, "no memory for the server");
    st->applied = st->base = s->t->step;
    st->updates = s->t->step + s->t->extra_updates;
    st->snapshot = calloc((size_t)buckets + 1, sizeof(struct wire_block *));
    int64_t most = 0;
    for (int b = 0; b < buckets; b++)
        most = graph_bucket_at(s->graph, b)->elements > most ? graph_bucket_at(s->graph, b)->elements : most;
    st->squares = calloc((size_t)(most / NORM_CHUNK) + 2, sizeof *st->squares);
    if (!st->snapshot || !st->squares)
        return FAIL(CAIRN_ENOMEM, "no memory for the server");
    return sums_open(s->t->backend, s->graph, s->config->batch.microbatches, s->mesh->size, s->mesh->rank, &st->sums);
}

static void forget_snapshot(struct server *s)
{
    for (int b = 0; b < graph_bucket_count(s->graph); b++) {
        wire_block_drop(s->store->snapshot[b]);
        s->store->snapshot[b] = NULL;
    }
}

void store_close(struct server *s)
{
    struct store *st = s->store;
    if (!st)
        return;
    if (st->snapshot)
        forget_snapshot(s);
    sums_close(st->sums);
    free(st->snapshot);
    free(st->squares);
    free(st->shares);
    free(st);
    s->store = NULL;
}

int64_t store_applied(const struct server *s)
{
    return s->store->applied;
}

size_t store_largest(const struct server *s)
{
    size_t most = 0;
    for (int b = 0; b < graph_bucket_count(s->graph); b++)
        most = sums_bytes(s->store->sums, b) > most ? sums_bytes(s->store->sums, b) : most;
    return most;
}

int64_t store_updates(const struct server *s)
{
    return s->store->updates;
}

/* ---- parameters ---- */

static cairn_err make_snapshot(struct server *s, int bucket)
{
    const struct weights_own own = weights_own(&s->t->weights[0], bucket);
    size_t bytes = (size_t)own.elements * dtype_size(s->t->backend->act);
    struct wire_block *block = wire_block_new(bytes);
    if (!block)
        return FAIL(CAIRN_ENOMEM, "no memory to send %.1f MB of parameters", (double)bytes * 1e-6);
    memcpy(block->data, own.compute, bytes);
    s->store->snapshot[bucket] = block;
    return CAIRN_OK;
}

static cairn_err send_parameters(struct server *s, struct peer *peer)
{
    for (int b = 0; b < graph_bucket_count(s->graph); b++) {
        if (graph_bucket_at(s->graph, b)->lookup_of >= 0)
            continue;
        if (!s->store->snapshot[b])
            TRY(make_snapshot(s, b));
        const int64_t field[WIRE_FIELDS] = {s->store->applied, b};
        peer_send(peer, MESSAGE_PARAMETERS, field, s->store->snapshot[b]);
    }
    return CAIRN_OK;
}

cairn_err store_answer(struct server *s)
{
    for (int i = 0; i < s->peer_count; i++) {
        struct peer *p = s->peers[i];
        if (p->lost || p->wants < 0 || (s->synchronous && p->wants > s->store->applied))
            continue;
        p->wants = -1;
        TRY(send_parameters(s, p));
    }
    return CAIRN_OK;
}

/* ---- synchronous: sums of a step ---- */

static const void *gradient_of_sums(const void *context, int bucket)
{
    return sums_of(context, bucket);
}

/* The squares of this share of the gradient, to the head. */
static cairn_err tell_squares(struct server *s)
{
    struct store *st = s->store;
    struct exact_sum total = {0};
    const struct weights *w = &s->t->weights[0];
    sums_join(st->sums);
    for (int i = 0; i < w->count; i++) {
        const struct parameter *p = &w->parameters[i];
        const struct weights_own own = weights_own(w, p->bucket);
        int64_t first, count = share_of_parameter(p, own.offset, own.elements, &first);
        const char *sum = sums_of(st->sums, p->bucket);
        if (count > 0)
            partial_sums_squares(w->backend, sum + (size_t)(p->offset + first - own.offset) * dtype_size(w->backend->acc), count, st->squares,
                                 &total);
    }
    exact_sum_normalize(&total);
    st->squared = true;
    if (server_is_head(s))
        return head_squares(s, st->applied, total.words);
    struct wire_block *words = wire_block_new(sizeof total.words);
    if (!words)
        return FAIL(CAIRN_ENOMEM, "no memory for a message");
    memcpy(words->data, total.words, sizeof total.words);
    const int64_t field[WIRE_FIELDS] = {st->applied};
    peer_send(s->to_head, MESSAGE_SQUARES, field, words);
    wire_block_drop(words);
    return CAIRN_OK;
}

cairn_err store_apply(struct server *s, int64_t step, double norm)
{
    struct store *st = s->store;
    if (step != st->applied || !st->squared)
        return FAIL(CAIRN_EINVAL, "the head tells the norm of step %lld, this server waits for that of step %lld", (long long)step,
                    (long long)st->applied);
    const struct optimizer_step update = {learning_rate_at(s->config, step), norm, ++st->updates};
    optimizer_apply(s->config, &s->t->weights[0], &update, gradient_of_sums, st->sums);
    sums_clear(st->sums);
    forget_snapshot(s);
    st->squared = false;
    st->applied++;
    return store_answer(s);
}

static cairn_err add_to_sums(struct server *s, struct peer *peer, const struct wire_head *head, struct wire_block *payload)
{
    const int64_t *f = head->field;
    struct store *st = s->store;
    if (f[0] < st->applied) { /* of a share that another has done meanwhile */
        wire_block_drop(payload);
        return CAIRN_OK;
    }
    if (f[0] > st->applied || f[3] < 0 || f[3] > INT32_MAX || f[4] < 0 || f[4] > INT32_MAX) {
        wire_block_drop(payload);
        FAIL(CAIRN_EFORMAT, "it sends a gradient of step %lld, the servers are at step %lld", (long long)f[0], (long long)st->applied);
        peer_fault(peer);
        return CAIRN_OK;
    }
    cairn_err err = sums_add(st->sums, (int)f[3], (struct tree_node){(int)f[4], f[5]}, payload);
    if (err == CAIRN_EFORMAT) {
        peer_fault(peer);
        return CAIRN_OK;
    }
    TRY(err);
    return sums_are_whole(st->sums) && !st->squared ? tell_squares(s) : CAIRN_OK;
}

/* ---- asynchronous: a share at a time ---- */

static bool was_applied(const struct store *st, int64_t step, int64_t first)
{
    bool found = step < st->base;
    for (int i = 0; i < st->share_count; i++)
        found = found || (st->shares[i].step == step && st->shares[i].first == first);
    return found;
}

static cairn_err remember(struct store *st, int64_t step, int64_t first)
{
    if (st->share_count == st->share_room) {
        int room = 2 * st->share_room + 16;
        struct applied_share *shares = realloc(st->shares, (size_t)room * sizeof *shares);
        if (!shares)
            return FAIL(CAIRN_ENOMEM, "no memory for the list of what was applied");
        st->shares = shares;
        st->share_room = room;
    }
    st->shares[st->share_count++] = (struct applied_share){step, first};
    return CAIRN_OK;
}

void store_forget(struct server *s, int64_t base)
{
    struct store *st = s->store;
    int kept = 0;
    st->base = base;
    for (int i = 0; i < st->share_count; i++)
        if (st->shares[i].step >= base)
            st->shares[kept++] = st->shares[i];
    st->share_count = kept;
}

void store_drop_peer(struct server *s, struct peer *peer)
{
    for (int b = 0; peer->pushed && b < graph_bucket_count(s->graph); b++)
        wire_block_drop(peer->pushed[b]);
    free(peer->pushed);
    peer->pushed = NULL;
}

static cairn_err keep_pushed(struct server *s, struct peer *peer, const struct wire_head *head, struct wire_block *payload)
{
    int64_t b = head->field[3];
    bool fits = b >= 0 && b < graph_bucket_count(s->graph) && (payload ? payload->bytes : 0) == sums_bytes(s->store->sums, (int)b);
    if (!peer->pushed)
        peer->pushed = calloc((size_t)graph_bucket_count(s->graph) + 1, sizeof(struct wire_block *));
    if (!fits || !peer->pushed) {
        wire_block_drop(payload);
        if (!peer->pushed)
            return FAIL(CAIRN_ENOMEM, "no memory for a gradient");
        FAIL(CAIRN_EFORMAT, "it sends a gradient that does not fit the model");
        peer_fault(peer);
        return CAIRN_OK;
    }
    wire_block_drop(peer->pushed[b]);
    peer->pushed[b] = payload;
    return CAIRN_OK;
}

static const void *gradient_of_peer(const void *context, int bucket)
{
    struct wire_block *const *pushed = context;
    return pushed[bucket] ? pushed[bucket]->data : NULL;
}

static bool is_pushed_whole(const struct server *s, const struct peer *peer)
{
    bool whole = peer->pushed != NULL;
    for (int b = 0; whole && b < graph_bucket_count(s->graph); b++)
        whole = graph_bucket_at(s->graph, b)->lookup_of >= 0 || peer->pushed[b] || sums_bytes(s->store->sums, b) == 0;
    return whole;
}

/* The share moves the weights as far as its part of the step's microbatches does in a step that all do together. */
static cairn_err apply_share(struct server *s, struct peer *peer, int64_t step, int64_t count, double norm)
{
    struct store *st = s->store;
    const struct config *c = s->config;
    const struct optimizer_step update = {learning_rate_at(c, step) * (double)count / (double)c->batch.microbatches, norm,
                                          ++st->updates};
    optimizer_apply(c, &s->t->weights[0], &update, gradient_of_peer, peer->pushed);
    st->applied++;
    forget_snapshot(s);
    return CAIRN_OK;
}

static cairn_err end_share(struct server *s, struct peer *peer, const struct wire_head *head)
{
    const int64_t *f = head->field;
    double norm = wire_to_double(f[3]);
    if (was_applied(s->store, f[0], f[1]))
        return CAIRN_OK;
    if (!is_pushed_whole(s, peer) || f[2] < 1 || f[2] > s->config->batch.microbatches) {
        FAIL(CAIRN_EFORMAT, "it ends a gradient that is not whole");
        peer_fault(peer);
        return CAIRN_OK;
    }
    if (!isfinite(norm))
        return FAIL(CAIRN_EINVAL, "step %lld: gradient norm %g: the training has diverged; weights of the checkpoint before are kept; a lower "
                    "optimizer.learning_rate or more warm-up may help", (long long)f[0], norm);
    TRY(remember(s->store, f[0], f[1]));
    TRY(apply_share(s, peer, f[0], f[2], norm));
    return server_is_head(s) ? head_norm_of_share(s, f[0], f[2], norm) : CAIRN_OK;
}

/* ---- both ---- */

cairn_err store_push(struct server *s, struct peer *peer, const struct wire_head *head, struct wire_block *payload)
{
    return s->synchronous ? add_to_sums(s, peer, head, payload) : keep_pushed(s, peer, head, payload);
}

cairn_err store_push_end(struct server *s, struct peer *peer, const struct wire_head *head)
{
    if (!s->synchronous) {
        TRY(end_share(s, peer, head));
        store_drop_peer(s, peer);
    }
    const int64_t field[WIRE_FIELDS] = {head->field[0], head->field[1]};
    if (!peer->lost)
        peer_send(peer, MESSAGE_PUSHED, field, NULL);
    return CAIRN_OK;
}
