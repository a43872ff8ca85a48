#include "server/worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "io/dataset.h"
#include "server/greeting.h"
#include "server/message.h"
#include "server/replica.h"
#include "server/wire.h"
#include "server/work.h"
#include "train/device.h"
#include "train/shares.h"
#include "train/trainer.h"

/* Seconds: a server that is there answers a connection at once; between two looks at signals and silent servers; and a wait for work or
 * for servers that write a checkpoint, which the watchdog is not to take for a hang. */
static const double connect_limit = 10, look_every = 0.5, no_limit = 1e9;

enum { MOST_SERVERS = 1 << 16 }; /* that a welcome may tell of */

struct worker {
    struct job *job;
    const struct config *config;
    const struct worker_place *place;
    struct dataset *train, *validation;
    struct backend *backend;
    struct replica *replica;
    struct wire **wires; /* to the servers, the head first */
    int count;           /* of servers that it has a place for in WIRES */
    int64_t told;        /* servers that the head tells of */
    int id;
    bool stop_told;
    /* what has come */
    struct work_item item;
    bool has_item, leaves;
    int exit_code;
    int64_t version;  /* steps applied in the parameters held; -1: none held */
    int missing;      /* answers that are waited for: buckets of parameters, or servers that have a push */
    struct wire_block *welcome;
    int threads;
    bool welcomed;
};

/* ---- what comes ---- */

static cairn_err place_parameters(struct worker *w, int server, const struct wire_head *head, const struct wire_block *payload)
{
    const struct graph *g = replica_graph(w->replica);
    int64_t begin, length, bucket = head->field[1];
    if (bucket < 0 || bucket >= graph_bucket_count(g))
        return FAIL(CAIRN_EFORMAT, "%s sends parameters that the model does not have", wire_name(w->wires[server]));
    share_of_bucket(g, (int)bucket, w->count, server, &begin, &length);
    if ((payload ? payload->bytes : 0) != (size_t)length * dtype_size(w->backend->act))
        return FAIL(CAIRN_EFORMAT, "%s sends %zu bytes of parameters where %lld elements are its share", wire_name(w->wires[server]),
                    payload ? payload->bytes : 0, (long long)length);
    if (payload)
        replica_set_parameters(w->replica, (int)bucket, begin, length, payload->data);
    w->missing--;
    return CAIRN_OK;
}

static cairn_err handle(struct worker *w, int server, const struct wire_head *head, struct wire_block *payload)
{
    const int64_t *f = head->field;
    switch (head->type) {
    case MESSAGE_WELCOME:
        wire_block_drop(w->welcome);
        w->welcome = payload ? wire_block_hold(payload) : NULL;
        w->welcomed = true;
        if (server == 0) {
            w->id = (int)f[0];
            w->threads = (int)f[1];
            w->told = f[2];
        }
        return CAIRN_OK;
    case MESSAGE_REFUSED:
        return FAIL(f[0] ? CAIRN_ECONFIG : CAIRN_EPEER, "%s refuses this worker: %.*s", wire_name(w->wires[server]),
                    payload ? (int)payload->bytes : 0, payload ? (const char *)payload->data : "");
    case MESSAGE_WORK:
        w->item = (struct work_item){.kind = (enum work_kind)f[0], .step = f[1], .first = f[2], .count = f[3]};
        w->has_item = true;
        return CAIRN_OK;
    case MESSAGE_LEAVE:
        w->leaves = true;
        w->exit_code = (int)f[0];
        return CAIRN_OK;
    case MESSAGE_PARAMETERS: return place_parameters(w, server, head, payload);
    case MESSAGE_PUSHED: w->missing--; return CAIRN_OK;
    default: return FAIL(CAIRN_EFORMAT, "%s sends a message of unknown type %u", wire_name(w->wires[server]), head->type);
    }
}

static cairn_err receive(struct worker *w, int server)
{
    struct wire_head head;
    struct wire_block *payload;
    bool got = true;
    while (got && !w->leaves) {
        TRY(wire_receive(w->wires[server], &head, &payload, &got));
        if (!got)
            break;
        cairn_err err = handle(w, server, &head, payload);
        wire_block_drop(payload);
        TRY(err);
    }
    return CAIRN_OK;
}

static bool leaves_alone(const struct worker *w)
{
    return w->place->own && job_asked_to_end(w->job);
}

/* A signal to one is a wish to stop all: the head finds the step for it. SIGTERM to a worker of its own may be for it alone or for all, which
 * the head knows: it says when to leave. */
static cairn_err tell_stop(struct worker *w)
{
    if (w->stop_told || !job_stop_requested(w->job))
        return CAIRN_OK;
    const int64_t field[WIRE_FIELDS] = {leaves_alone(w)};
    w->stop_told = true;
    return wire_send(w->wires[0], MESSAGE_STOP, field, NULL);
}

static cairn_err check_servers(const struct worker *w, int servers)
{
    for (int i = 0; i < servers; i++)
        if (wire_is_silent(w->wires[i], w->config->supervise.silent_seconds))
            return FAIL(CAIRN_EPEER, "nothing comes from the server at %s for %.1f s", wire_name(w->wires[i]), wire_quiet(w->wires[i]));
    return CAIRN_OK;
}

typedef bool condition(const struct worker *w);

static bool is_welcome(const struct worker *w)
{
    return w->welcomed;
}

static bool has_all(const struct worker *w)
{
    return w->missing == 0;
}

static bool has_work(const struct worker *w)
{
    return w->has_item;
}

/* Until DONE, or the head says to leave. SERVERS are connected. */
static cairn_err wait_until(struct worker *w, int servers, condition *done)
{
    for (;;) {
        for (int i = 0; i < servers && !w->leaves; i++) {
            TRY(wire_flush(w->wires[i]));
            TRY(receive(w, i));
        }
        if (w->leaves || done(w))
            return CAIRN_OK;
        TRY(check_servers(w, servers));
        if (w->replica)
            TRY(tell_stop(w));
        TRY(wire_wait(w->wires, servers, -1, look_every));
    }
}

/* ---- what goes ---- */

/* Hook of the replica: each server gets its share of the bucket. */
static cairn_err push_partial(void *context, int bucket, struct tree_node node, const void *elements)
{
    struct worker *w = context;
    const size_t acc = dtype_size(w->backend->acc);
    const int64_t field[WIRE_FIELDS] = {w->item.step, w->item.first, w->item.count, bucket, node.level, node.index};
    for (int s = 0; s < w->count; s++) {
        int64_t begin, length;
        share_of_bucket(replica_graph(w->replica), bucket, w->count, s, &begin, &length);
        struct wire_block *block = wire_block_new((size_t)length * acc);
        if (!block)
            return FAIL(CAIRN_ENOMEM, "no memory to send %.1f MB of a gradient", (double)length * (double)acc * 1e-6);
        memcpy(block->data, (const char *)elements + (size_t)begin * acc, (size_t)length * acc);
        cairn_err err = wire_send(w->wires[s], MESSAGE_PUSH, field, block);
        wire_block_drop(block);
        TRY(err);
    }
    return CAIRN_OK;
}

static cairn_err progress(void *context)
{
    struct worker *w = context;
    for (int s = 0; s < w->count; s++)
        if (!wire_is_sent(w->wires[s]))
            TRY(wire_flush(w->wires[s]));
    return tell_stop(w);
}

static int own_buckets(const struct worker *w)
{
    const struct graph *g = replica_graph(w->replica);
    int n = 0;
    for (int b = 0; b < graph_bucket_count(g); b++)
        n += graph_bucket_at(g, b)->lookup_of < 0;
    return n;
}

/* The parameters after STEP steps; where workers are asynchronous, the newest. */
static cairn_err pull(struct worker *w, int64_t step)
{
    if (w->config->parallel.staleness == 0 && w->version == step)
        return CAIRN_OK;
    const int64_t field[WIRE_FIELDS] = {w->config->parallel.staleness == 0 ? step : 0};
    job_phase(w->job, "pull", step, no_limit);
    w->missing = w->count * own_buckets(w);
    for (int s = 0; s < w->count; s++)
        TRY(wire_send(w->wires[s], MESSAGE_PULL, field, NULL));
    TRY(wait_until(w, w->count, has_all));
    w->version = step;
    return CAIRN_OK;
}

static cairn_err train(struct worker *w, double *losses, double *waited)
{
    const struct work_item *i = &w->item;
    double norm;
    job_phase(w->job, "step", i->step, 0);
    TRY(replica_train(w->replica, i->step, i->first, i->count, losses, &norm, waited));
    const int64_t field[WIRE_FIELDS] = {i->step, i->first, i->count, wire_from_double(norm)};
    job_phase(w->job, "push", i->step, no_limit);
    w->missing = w->count;
    for (int s = 0; s < w->count; s++)
        TRY(wire_send(w->wires[s], MESSAGE_PUSH_END, field, NULL));
    return wait_until(w, w->count, has_all);
}

static cairn_err do_item(struct worker *w)
{
    const struct work_item *i = &w->item;
    double waited = 0;
    if (i->count < 1 || i->count > INT32_MAX)
        return FAIL(CAIRN_EFORMAT, "the head gives %lld microbatches of work", (long long)i->count);
    TRY(pull(w, i->step));
    struct wire_block *losses = wire_block_new((size_t)i->count * sizeof(double));
    if (!losses)
        return FAIL(CAIRN_ENOMEM, "no memory for losses");
    cairn_err err;
    if (i->kind == WORK_VALIDATE) {
        job_phase(w->job, "validate", i->step, 0);
        err = replica_validate(w->replica, i->first, i->count, (double *)losses->data);
    } else
        err = train(w, (double *)losses->data, &waited);
    const int64_t field[WIRE_FIELDS] = {i->kind, i->step, i->first, i->count, wire_from_double(waited)};
    w->has_item = false;
    if (!err && !w->leaves)
        err = wire_send(w->wires[0], MESSAGE_DONE, field, losses);
    wire_block_drop(losses);
    return error_context(err, "step %lld", (long long)i->step);
}

/* ---- opening ---- */

static cairn_err say_hello(struct worker *w, int server, enum message_role role, const char *token, int number)
{
    struct wire_block *greeting;
    TRY(greeting_write(token, w->config, w->train, job_host(w->job), &greeting));
    const int64_t field[WIRE_FIELDS] = {MESSAGE_VERSION, role, number};
    cairn_err err = wire_send(w->wires[server], MESSAGE_HELLO, field, greeting);
    wire_block_drop(greeting);
    w->welcomed = false;
    return err ? err : wait_until(w, server + 1, is_welcome);
}

static cairn_err connect_head(struct worker *w, const char *addresses, const char *token, int number)
{
    w->wires = calloc(1, sizeof *w->wires);
    if (!w->wires)
        return FAIL(CAIRN_ENOMEM, "no memory for connections");
    TRY(wire_connect(addresses, connect_limit, &w->wires[0]));
    w->count = 1;
    return say_hello(w, 0, ROLE_WORKER, token, number);
}

/* The addresses of all servers stand in the head's welcome, a line each. */
static cairn_err connect_others(struct worker *w, const char *token)
{
    if (w->told < 1 || w->told > MOST_SERVERS || !w->welcome)
        return FAIL(CAIRN_EFORMAT, "the head tells of %lld servers", (long long)w->told);
    const int servers = (int)w->told;
    struct wire **wires = realloc(w->wires, (size_t)servers * sizeof(struct wire *));
    char *text = strndup((const char *)w->welcome->data, w->welcome->bytes), *left = text, *line;
    cairn_err err = wires && text ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for connections to %d servers", servers);
    if (wires) {
        w->wires = wires;
        w->count = servers;
        for (int s = 1; s < servers; s++)
            wires[s] = NULL;
    }
    for (int s = 0; s < servers && !err && !w->leaves; s++) {
        line = strsep(&left, "\n");
        if (!line || !*line)
            err = FAIL(CAIRN_EFORMAT, "the head tells %d addresses of %d servers", s, servers);
        else if (s > 0)
            err = wire_connect(line, connect_limit, &w->wires[s]);
        if (!err && s > 0)
            err = say_hello(w, s, ROLE_WORKER_BESIDE, token, w->id);
    }
    free(text);
    return err;
}

/* Bytes of the largest share of a bucket that SERVER sends. */
static size_t most_parameters(const struct worker *w, int server)
{
    const struct graph *g = replica_graph(w->replica);
    int64_t most = 0, begin, length;
    for (int b = 0; b < graph_bucket_count(g); b++) {
        share_of_bucket(g, b, w->count, server, &begin, &length);
        most = length > most ? length : most;
    }
    return (size_t)most * dtype_size(w->backend->act);
}

static cairn_err open_replica(struct worker *w)
{
    const struct replica_options options = {.joined = w->config->parallel.staleness > 0,
                                            .hooks = {.context = w, .partial = push_partial, .progress = progress}};
    TRY(device_open_alone(w->config, 0, w->threads, &w->backend));
    TRY(device_check(w->config, w->backend));
    TRY(replica_open(w->backend, w->config, w->train, w->validation, &options, &w->replica));
    for (int s = 0; s < w->count; s++)
        wire_set_limit(w->wires[s], most_parameters(w, s) + WIRE_FIRST_LIMIT);
    return CAIRN_OK;
}

static cairn_err say_ready(struct worker *w)
{
    const char *signature = w->backend->table->signature(w->backend);
    struct wire_block *block = wire_block_new(strlen(signature));
    if (!block)
        return FAIL(CAIRN_ENOMEM, "no memory for a message");
    memcpy(block->data, signature, strlen(signature));
    cairn_err err = wire_send(w->wires[0], MESSAGE_READY, NULL, block);
    wire_block_drop(block);
    return err;
}

static cairn_err work(struct worker *w)
{
    const struct worker_place *p = w->place;
    char token[MESSAGE_TOKEN_SIZE + 1];
    const char *addresses;
    bool told = false;
    TRY(greeting_parse(p->servers, token, &addresses));
    job_phase(w->job, "open", 0, 0);
    TRY(dataset_open(p->self, w->config->data.path, &w->train));
    if (w->config->validation.every)
        TRY(dataset_open(p->self, w->config->data.path, &w->validation));
    TRY(connect_head(w, addresses, token, p->number));
    if (!w->leaves) /* it may have come too late */
        TRY(connect_others(w, token));
    if (!w->leaves)
        TRY(open_replica(w));
    if (!w->leaves)
        TRY(say_ready(w));
    while (!w->leaves) {
        job_phase(w->job, "wait", w->version < 0 ? 0 : w->version, no_limit);
        TRY(wait_until(w, w->count, has_work));
        if (!w->leaves)
            TRY(do_item(w));
        if (!w->leaves && w->place->number == 0 && !told) {
            log_info("a worker: %.0f MB parameters, gradients and activations", (double)replica_memory(w->replica) * 1e-6);
            told = true;
        }
    }
    if (leaves_alone(w))
        log_info("leaves: %s", job_stop_reason(w->job));
    return CAIRN_OK;
}

static void close_worker(struct worker *w)
{
    replica_close(w->replica);
    for (int s = 0; w->wires && s < w->count; s++)
        wire_close(w->wires[s]);
    free(w->wires);
    wire_block_drop(w->welcome);
    if (w->train)
        dataset_close(w->train);
    if (w->validation)
        dataset_close(w->validation);
    if (w->backend)
        w->backend->table->close(w->backend);
}

cairn_err worker_run(struct job *job, const struct config *config, const struct worker_place *place, int *exit_code)
{
    if (!*place->servers) { /* the run is done */
        *exit_code = EXIT_CODE_DONE;
        return CAIRN_OK;
    }
    struct worker w = {.job = job, .config = config, .place = place, .version = -1};
    cairn_err err = work(&w);
    *exit_code = w.exit_code;
    close_worker(&w);
    return err;
}
