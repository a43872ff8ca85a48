#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "server/server_private.h"
#include "train/learning_rate.h"
#include "train/validation.h"

/* Seconds that the first step waits for workers that are expected, once one is there: they start together, but do not open files at the
 * same speed. */
static const double gather_limit = 10;

/* Seconds that the last workers are kept when all would leave: if the whole job is asked to end, the servers hear of it meanwhile, and need
 * them for what has begun before their checkpoint. */
static const double last_limit = 5;

/* What is known of a step that has begun. */
struct record {
    struct record *next;
    int64_t step;
    double begun, waited, norm; /* asynchronous: the sum of the shares' squared norms, by their parts of the step */
    double losses[];
};

struct head {
    struct work *work;
    struct record *first; /* by step */
    int64_t told;         /* steps before are in the metrics */
    int64_t base;         /* the other servers know of */
    int next_id, expected, ready;
    bool gathered, stopping;
    double first_ready, alone_since; /* alone: no worker lives */
    double last_told;     /* when the step before was done */
    int64_t last_sent;    /* bytes until then */
    /* the norm that is gathered */
    struct exact_sum total;
    int squared;
    /* the validation that goes on */
    double *validation, validation_begun;
    int64_t validation_count, validation_tokens;
};

/* ---- opening ---- */

cairn_err head_open(struct server *s)
{
    const struct config *c = s->config;
    struct head *h = s->head = calloc(1, sizeof *h);
    if (!h)
        return FAIL(CAIRN_ENOMEM, "no memory for the head server");
    if (c->validation.every)
        h->validation_count = validation_extent(s->t->dataset, c->validation.microbatches, c->batch.samples, c->model.context,
                                                &h->validation_tokens);
    h->validation = calloc((size_t)h->validation_count + 1, sizeof *h->validation);
    if (!h->validation)
        return FAIL(CAIRN_ENOMEM, "no memory for validation losses");
    h->told = h->base = s->t->step;
    h->alone_since = h->last_told = clock_seconds();
    const struct work_options options = {.first_step = s->t->step, .steps = c->steps, .saved = server_is_done(s), .microbatches = c->batch.microbatches,
                                         .validation_microbatches = h->validation_count, .staleness = c->parallel.staleness,
                                         .checkpoint_every = c->checkpoint.every, .validation_every = c->validation.every};
    return work_open(&options, &h->work);
}

void head_close(struct server *s)
{
    struct head *h = s->head;
    if (!h)
        return;
    for (struct record *next; h->first; h->first = next) {
        next = h->first->next;
        free(h->first);
    }
    work_close(h->work);
    free(h->validation);
    free(h);
    s->head = NULL;
}

void head_expect(struct server *s, int workers)
{
    s->head->expected = workers;
    s->head->alone_since = clock_seconds();
}

/* ---- workers ---- */

static void let_leave(const struct server *s, struct peer *peer)
{
    const int64_t code[WIRE_FIELDS] = {s->stopped || !s->ended ? EXIT_CODE_RESTART : EXIT_CODE_DONE};
    peer_send(peer, MESSAGE_LEAVE, code, NULL);
}

cairn_err head_welcome(struct server *s, struct peer *peer)
{
    size_t room = (size_t)s->mesh->size * SERVER_INVITATION_SIZE;
    char *text = calloc(room, 1);
    size_t used = 0;
    for (int i = 0; text && i < s->mesh->size; i++)
        used += (size_t)snprintf(text + used, room - used, "%s\n", s->addresses + (size_t)i * SERVER_INVITATION_SIZE);
    struct wire_block *block = text ? wire_block_new(used) : NULL;
    if (block)
        memcpy(block->data, text, used);
    free(text);
    if (!block)
        return FAIL(CAIRN_ENOMEM, "no memory to welcome a worker");
    peer->id = s->head->next_id++;
    const int64_t field[WIRE_FIELDS] = {peer->id, s->t->threads, s->mesh->size};
    peer_send(peer, MESSAGE_WELCOME, field, block);
    wire_block_drop(block);
    if (s->ended)
        let_leave(s, peer);
    return CAIRN_OK;
}

cairn_err head_ready(struct server *s, struct peer *peer, const struct wire_block *signature)
{
    struct head *h = s->head;
    const char *own = s->t->backend->table->signature(s->t->backend);
    if (peer->ready)
        return CAIRN_OK;
    TRY(work_join(h->work, peer->id));
    if (h->ready++ == 0)
        h->first_ready = clock_seconds();
    peer->ready = peer->asks = true;
    int living = work_living(h->work);
    log_info("%s is here: %d worker%s", wire_name(peer->wire), living, living == 1 ? "" : "s");
    if (s->synchronous && (!signature || signature->bytes != strlen(own) || memcmp(signature->data, own, signature->bytes) != 0))
        log_warning("%s differs in its numerics: %.*s there, %s here; the last bits depend on which worker computed what", wire_name(peer->wire),
                    signature ? (int)signature->bytes : 0, signature ? (const char *)signature->data : "", own);
    return CAIRN_OK;
}

void head_drop_worker(struct server *s, struct peer *peer)
{
    struct head *h = s->head;
    if (!peer->ready || s->ended)
        return;
    work_leave(h->work, peer->id);
    int left = work_living(h->work);
    if (left == 0)
        h->alone_since = clock_seconds();
    log_warning("%s is lost (%s): %d worker%s left%s", wire_name(peer->wire), peer->why, left, left == 1 ? "" : "s",
                peer->has_item ? "; what it had not done is given out again" : "");
}

void head_farewell(struct server *s, struct peer *peer)
{
    (void)s;
    peer->farewell = clock_seconds();
}

/* A worker that would leave may do so at once while others stay; what a stop still needs is done first. */
static bool may_leave(const struct server *s, const struct peer *peer)
{
    bool others = false;
    for (int i = 0; i < s->peer_count; i++)
        others = others || (s->peers[i]->ready && !s->peers[i]->lost && s->peers[i]->farewell == 0);
    return !s->head->stopping && (others || clock_seconds() - peer->farewell > last_limit);
}

static void grant_leave(struct server *s, struct peer *peer)
{
    struct head *h = s->head;
    peer->ready = peer->asks = false;
    work_leave(h->work, peer->id);
    int left = work_living(h->work);
    if (left == 0)
        h->alone_since = clock_seconds();
    log_info("%s leaves: %d worker%s left", wire_name(peer->wire), left, left == 1 ? "" : "s");
    let_leave(s, peer);
}

/* ---- what a step came to ---- */

static struct record *find_record(struct head *h, int64_t step)
{
    for (struct record *r = h->first; r; r = r->next)
        if (r->step == step)
            return r;
    return NULL;
}

/* Of STEP, whose work is being given out; a new one stands last. */
static cairn_err make_record(struct server *s, int64_t step)
{
    struct head *h = s->head;
    struct record **last = &h->first;
    for (; *last; last = &(*last)->next)
        if ((*last)->step == step)
            return CAIRN_OK;
    *last = calloc(1, sizeof **last + (size_t)s->config->batch.microbatches * sizeof(double));
    if (!*last)
        return FAIL(CAIRN_ENOMEM, "no memory for a step's losses");
    (*last)->step = step;
    (*last)->begun = clock_seconds();
    return CAIRN_OK;
}

cairn_err head_norm_of_share(struct server *s, int64_t step, int64_t count, double norm)
{
    struct record *r = find_record(s->head, step);
    if (r)
        r->norm += norm * norm * (double)count / (double)s->config->batch.microbatches;
    return CAIRN_OK;
}

cairn_err head_squares(struct server *s, int64_t step, const int64_t words[EXACT_SUM_WORDS])
{
    struct head *h = s->head;
    for (int i = 0; i < EXACT_SUM_WORDS; i++)
        h->total.words[i] += words[i];
    if (++h->squared < s->mesh->size)
        return CAIRN_OK;
    exact_sum_normalize(&h->total);
    double norm = sqrt(exact_sum_round(&h->total));
    h->total = (struct exact_sum){0};
    h->squared = 0;
    if (!isfinite(norm))
        return FAIL(CAIRN_EINVAL, "step %lld: gradient norm %g: the training has diverged; weights of the checkpoint before are kept; a lower "
                    "optimizer.learning_rate or more warm-up may help", (long long)step, norm);
    struct record *r = find_record(h, step);
    if (r)
        r->norm = norm * norm;
    const int64_t field[WIRE_FIELDS] = {step, wire_from_double(norm)};
    server_tell_servers(s, MESSAGE_NORM, field);
    return store_apply(s, step, norm);
}

static const char *kind_name(const struct peer *p)
{
    return p->item.kind == WORK_VALIDATE ? "validate" : "train";
}

static void time_share(struct peer *p)
{
    phase_watch_enter(&p->pace, kind_name(p), p->item.step, 0, 0);
    phase_watch_enter(&p->pace, NULL, p->item.step, 0, (clock_seconds() - p->given) / (double)p->item.count);
}

/* Twice the time that the worker's watchdog gives, which ends it sooner if it can. */
static double limit_of_share(const struct server *s, struct peer *p)
{
    const struct config *c = s->config;
    const struct hang_rule rule = {.factor = c->supervise.hang_factor * (double)p->item.count, .seconds = c->supervise.hang_seconds};
    phase_watch_enter(&p->pace, kind_name(p), p->item.step, 0, 0);
    double limit = phase_watch_limit(&p->pace, rule);
    p->pace.name = NULL; /* this was no share that ended */
    return 2 * limit;
}

/* A worker that was stopped, or hangs with its watchdog: its machine lives, so nothing else shows it. */
static void drop_hung(struct server *s)
{
    for (int i = 0; i < s->peer_count; i++) {
        struct peer *p = s->peers[i];
        if (p->lost || !p->has_item)
            continue;
        double limit = limit_of_share(s, p);
        if (clock_seconds() - p->given > limit) {
            FAIL(CAIRN_ETIMEOUT, "its share of step %lld is not done after %.1f s", (long long)p->item.step, limit);
            peer_fault(p);
        }
    }
}

cairn_err head_done(struct server *s, struct peer *peer, const struct wire_head *head, const struct wire_block *losses)
{
    struct head *h = s->head;
    const int64_t *f = head->field;
    const struct work_item item = {(enum work_kind)f[0], f[1], f[2], f[3]};
    if (!peer->has_item || !losses || losses->bytes != (size_t)peer->item.count * sizeof(double) ||
        work_done(h->work, peer->id, &item) != CAIRN_OK) {
        FAIL(CAIRN_EFORMAT, "it tells of work that it was not given");
        peer_fault(peer);
        return CAIRN_OK;
    }
    time_share(peer);
    peer->has_item = false;
    peer->asks = true;
    if (item.kind == WORK_VALIDATE) {
        memcpy(h->validation + item.first, losses->data, losses->bytes);
        return CAIRN_OK;
    }
    struct record *r = find_record(h, item.step);
    if (!r)
        return FAIL(CAIRN_EINVAL, "a share of step %lld is done, which never began", (long long)item.step);
    memcpy(r->losses + item.first, losses->data, losses->bytes);
    double waited = wire_to_double(f[4]);
    r->waited = waited > r->waited ? waited : r->waited;
    return CAIRN_OK;
}

static cairn_err tell_step(struct server *s, const struct record *r)
{
    struct head *h = s->head;
    const struct config *c = s->config;
    double sum = 0, now = clock_seconds();
    for (int64_t i = 0; i < c->batch.microbatches; i++)
        sum += r->losses[i];
    struct metrics_step m = {.step = r->step + 1, .loss = sum / (double)c->batch.microbatches, .gradient_norm = sqrt(r->norm),
                             .learning_rate = learning_rate_at(c, r->step), .seconds = now - h->last_told, .data_seconds = r->waited,
                             .tokens = c->batch.microbatches * c->batch.samples * c->model.context, .bytes_sent = server_bytes_sent(s) - h->last_sent, .workers = work_living(h->work),
                             .lead = work_lead(h->work)};
    h->last_told = now;
    h->last_sent += m.bytes_sent;
    if (!isfinite(m.loss))
        return FAIL(CAIRN_EINVAL, "step %lld: loss %g: the training has diverged; weights of the checkpoint before are kept; a lower "
                    "optimizer.learning_rate or more warm-up may help", (long long)r->step, m.loss);
    metrics_step(s->t->metrics, &m);
    return CAIRN_OK;
}

/* Steps before which all is done and applied. */
static int64_t base_of(const struct server *s)
{
    int64_t base = work_base(s->head->work);
    return s->synchronous && store_applied(s) < base ? store_applied(s) : base;
}

static cairn_err tell_steps(struct server *s)
{
    struct head *h = s->head;
    int64_t base = base_of(s);
    while (h->first && h->first->step < base) {
        struct record *r = h->first;
        cairn_err err = tell_step(s, r);
        h->first = r->next;
        free(r);
        TRY(err);
    }
    if (base > h->base) {
        const int64_t field[WIRE_FIELDS] = {base};
        h->base = base;
        if (!s->synchronous) {
            store_forget(s, base);
            server_tell_servers(s, MESSAGE_BASE, field);
        }
    }
    return CAIRN_OK;
}

/* ---- meeting points ---- */

static void tell_validation(struct server *s)
{
    struct head *h = s->head;
    double loss = 0;
    for (int64_t i = 0; i < h->validation_count; i++)
        loss += h->validation[i] / (double)h->validation_tokens;
    metrics_validation(s->t->metrics, work_begun(h->work), loss, clock_seconds() - h->validation_begun);
    h->validation_begun = 0;
}

/* All leave. */
static void end(struct server *s)
{
    s->ended = true;
    s->stopped = work_begun(s->head->work) < s->config->steps;
    const int64_t field[WIRE_FIELDS] = {s->stopped};
    server_tell_servers(s, MESSAGE_END, field);
    for (int i = 0; i < s->peer_count; i++)
        if (s->peers[i]->kind == PEER_WORKER && !s->peers[i]->lost)
            let_leave(s, s->peers[i]);
}

static cairn_err meet(struct server *s)
{
    struct head *h = s->head;
    bool checkpoint;
    int64_t step = work_begun(h->work);
    if (base_of(s) == step && work_validates(h->work))
        h->validation_begun = clock_seconds();
    if (base_of(s) < step || !work_meets(h->work, &checkpoint))
        return CAIRN_OK;
    if (h->validation_begun > 0)
        tell_validation(s);
    if (checkpoint && s->t->committed != step) {
        const int64_t field[WIRE_FIELDS] = {step};
        server_tell_servers(s, MESSAGE_SAVE, field);
        TRY(server_save(s, step));
    }
    work_met(h->work);
    return CAIRN_OK;
}

void head_stop(struct server *s)
{
    s->head->stopping = true;
    work_stop(s->head->work);
}

/* ---- giving out ---- */

static bool is_gathered(struct head *h)
{
    if (!h->gathered)
        h->gathered = h->ready >= h->expected || (h->ready > 0 && clock_seconds() - h->first_ready > gather_limit);
    return h->gathered;
}

static cairn_err give_out(struct server *s)
{
    struct head *h = s->head;
    for (int i = 0; i < s->peer_count && is_gathered(h); i++) {
        struct peer *p = s->peers[i];
        if (p->kind != PEER_WORKER || p->lost || !p->asks)
            continue;
        if (p->farewell > 0 && may_leave(s, p)) {
            grant_leave(s, p);
            continue;
        }
        TRY(work_ask(h->work, p->id, &p->item));
        if (p->item.kind != WORK_TRAIN && p->item.kind != WORK_VALIDATE)
            continue;
        if (p->item.kind == WORK_TRAIN)
            TRY(make_record(s, p->item.step));
        const int64_t field[WIRE_FIELDS] = {p->item.kind, p->item.step, p->item.first, p->item.count};
        p->asks = false;
        p->has_item = true;
        p->given = clock_seconds();
        peer_send(p, MESSAGE_WORK, field, NULL);
    }
    return CAIRN_OK;
}

static cairn_err check_alone(const struct server *s)
{
    const struct head *h = s->head;
    double limit = s->config->supervise.start_seconds;
    if (s->ended || work_living(h->work) > 0 || clock_seconds() - h->alone_since < limit)
        return CAIRN_OK;
    return FAIL(CAIRN_EPEER, "no worker lives, and none has come for %.0f s (supervise.start_seconds)", limit);
}

cairn_err head_go_on(struct server *s)
{
    if (s->ended)
        return CAIRN_OK;
    TRY(tell_steps(s));
    TRY(meet(s));
    if (work_ended(s->head->work)) {
        end(s);
        return CAIRN_OK;
    }
    TRY(give_out(s));
    drop_hung(s);
    return check_alone(s);
}

size_t head_largest(const struct server *s)
{
    const int64_t microbatches = s->config->batch.microbatches, validated = s->head->validation_count;
    return (size_t)(microbatches > validated ? microbatches : validated) * sizeof(double);
}

int64_t head_step(const struct server *s)
{
    return base_of(s);
}
