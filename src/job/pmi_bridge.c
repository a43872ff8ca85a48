#include "job/pmi_bridge.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "job/pmi_wire.h"

static const char kvsname[] = "cairn";

struct entry {
    char *key, *value;
};

/* What any rank has put: an open-addressed table of strings. */
struct store {
    struct entry *entries;
    size_t room, count;
};

struct pmi_bridge {
    struct pmix_client *client;
    int fd;               /* our end */
    pthread_t thread;
    void (*on_abort)(void *, int);
    void *context;
    char *pending;        /* what this rank put since the last exchange: "key=value\n" each */
    size_t pending_size;
    int epoch;            /* exchanges so far */
    struct store store;
};

static size_t hash_of(const char *key)
{
    size_t h = 14695981039346656037u; /* FNV-1a */
    for (; *key; key++)
        h = (h ^ (unsigned char)*key) * 1099511628211u;
    return h;
}

static struct entry *find(const struct store *s, const char *key)
{
    if (!s->room)
        return NULL;
    size_t i = hash_of(key) % s->room;
    while (s->entries[i].key && strcmp(s->entries[i].key, key) != 0)
        i = (i + 1) % s->room;
    return &s->entries[i];
}

static bool grow(struct store *s)
{
    struct store bigger = {.room = s->room ? 2 * s->room : 256, .count = s->count};
    bigger.entries = calloc(bigger.room, sizeof *bigger.entries);
    if (!bigger.entries)
        return false;
    for (size_t i = 0; i < s->room; i++)
        if (s->entries[i].key)
            *find(&bigger, s->entries[i].key) = s->entries[i];
    free(s->entries);
    *s = bigger;
    return true;
}

static bool set(struct store *s, const char *key, const char *value)
{
    if (2 * s->count >= s->room && !grow(s))
        return false;
    struct entry *e = find(s, key);
    char *copy = strdup(value);
    if (!copy)
        return false;
    if (e->key) {
        free(e->value);
    } else {
        if (!(e->key = strdup(key))) {
            free(copy);
            return false;
        }
        s->count++;
    }
    e->value = copy;
    return true;
}

static void store_free(struct store *s)
{
    for (size_t i = 0; i < s->room; i++) {
        free(s->entries[i].key);
        free(s->entries[i].value);
    }
    free(s->entries);
}

/* Puts what RANKs have put since the last exchange into the store. TEXT is consumed. */
static bool absorb(struct store *s, char *text)
{
    bool ok = true;
    char *rest = text;
    for (char *line; (line = strsep(&rest, "\n")) && *line;) {
        char *value = strchr(line, '=');
        if (!value)
            continue;
        *value++ = 0;
        ok = set(s, line, value) && ok;
    }
    return ok;
}

/* A PMI barrier: everything put before it is seen by all after it. One PMIx exchange. */
static bool exchange(struct pmi_bridge *b)
{
    char name[32];
    snprintf(name, sizeof name, "cairn.pmi.%d", b->epoch++);
    cairn_err err = b->pending ? pmix_client_put(b->client, name, b->pending) : CAIRN_OK;
    if (!err)
        err = pmix_client_exchange(b->client);
    free(b->pending);
    b->pending = NULL;
    b->pending_size = 0;
    if (err) {
        log_error("PMI bridge: %s", cairn_err_message());
        return false;
    }
    bool ok = true;
    for (int r = 0; r < pmix_client_size(b->client); r++) {
        char *text = pmix_client_get(b->client, r, name);
        if (text)
            ok = absorb(&b->store, text) && ok;
        free(text);
    }
    return ok;
}

static void answer_put(struct pmi_bridge *b, const char *line, char *answer, size_t size)
{
    char key[PMI_KEY_MAX], value[PMI_VALUE_MAX];
    if (!pmi_wire_value(line, "key", false, key, sizeof key) || !pmi_wire_value(line, "value", true, value, sizeof value)) {
        snprintf(answer, size, "cmd=put_result rc=-1 msg=key_or_value_missing_or_too_long\n");
        return;
    }
    size_t more = strlen(key) + strlen(value) + 2;
    char *grown = realloc(b->pending, b->pending_size + more + 1);
    if (!grown) {
        snprintf(answer, size, "cmd=put_result rc=-1 msg=no_memory\n");
        return;
    }
    b->pending = grown;
    b->pending_size += (size_t)sprintf(grown + b->pending_size, "%s=%s\n", key, value);
    snprintf(answer, size, "cmd=put_result rc=0 msg=success\n");
}

static void answer_get(struct pmi_bridge *b, const char *line, char *answer, size_t size)
{
    char key[PMI_KEY_MAX], mapping[PMI_VALUE_MAX];
    const char *value = NULL;
    if (pmi_wire_value(line, "key", false, key, sizeof key)) {
        if (strcmp(key, "PMI_process_mapping") == 0) {
            if (pmi_wire_mapping(pmix_client_nodes(b->client), pmix_client_size(b->client), mapping, sizeof mapping))
                value = mapping;
        } else {
            const struct entry *e = find(&b->store, key);
            value = e ? e->value : NULL;
        }
    }
    if (value)
        snprintf(answer, size, "cmd=get_result rc=0 msg=success value=%s\n", value);
    else
        snprintf(answer, size, "cmd=get_result rc=-1 msg=key_not_found value=unknown\n");
}

static void answer_abort(struct pmi_bridge *b, const char *line)
{
    char code[16];
    b->on_abort(b->context, pmi_wire_value(line, "exitcode", false, code, sizeof code) ? atoi(code) : 1);
}

bool pmi_bridge_answer(struct pmi_bridge *b, const char *line, char *answer, size_t size)
{
    char command[64];
    answer[0] = 0;
    if (!pmi_wire_value(line, "cmd", false, command, sizeof command))
        command[0] = 0;
    if (strcmp(command, "init") == 0)
        snprintf(answer, size, "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=0\n");
    else if (strcmp(command, "get_maxes") == 0)
        snprintf(answer, size, "cmd=maxes kvsname_max=%d keylen_max=%d vallen_max=%d\n", PMI_KVSNAME_MAX, PMI_KEY_MAX, PMI_VALUE_MAX);
    else if (strcmp(command, "get_appnum") == 0)
        snprintf(answer, size, "cmd=appnum appnum=0\n");
    else if (strcmp(command, "get_my_kvsname") == 0)
        snprintf(answer, size, "cmd=my_kvsname kvsname=%s\n", kvsname);
    else if (strcmp(command, "get_universe_size") == 0)
        snprintf(answer, size, "cmd=universe_size size=%d\n", pmix_client_size(b->client));
    else if (strcmp(command, "put") == 0)
        answer_put(b, line, answer, size);
    else if (strcmp(command, "get") == 0)
        answer_get(b, line, answer, size);
    else if (strcmp(command, "barrier_in") == 0)
        snprintf(answer, size, "cmd=barrier_out rc=%d msg=%s\n", exchange(b) ? 0 : -1, "barrier");
    else if (strcmp(command, "abort") == 0)
        answer_abort(b, line);
    else if (strcmp(command, "finalize") == 0)
        snprintf(answer, size, "cmd=finalize_ack\n");
    else
        snprintf(answer, size, "cmd=%s rc=-1 msg=not_supported_under_the_PMI_bridge\n", command[0] ? command : "unknown");
    return strcmp(command, "finalize") != 0;
}

static bool send_all(int fd, const char *text)
{
    for (size_t left = strlen(text); left;) {
        ssize_t n = send(fd, text, left, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        text += n;
        left -= (size_t)n;
    }
    return true;
}

/* Serves until the client finalizes or closes its end. A line that does not fit is answered as a wrong one. */
static void *serve(void *argument)
{
    struct pmi_bridge *b = argument;
    char buffer[4 * PMI_LINE_SIZE], answer[PMI_LINE_SIZE];
    size_t held = 0;
    for (;;) {
        ssize_t n = recv(b->fd, buffer + held, sizeof buffer - 1 - held, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return NULL;
        held += (size_t)n;
        buffer[held] = 0;
        char *line = buffer;
        for (char *end; (end = strchr(line, '\n')); line = end + 1) {
            *end = 0;
            bool more = pmi_bridge_answer(b, line, answer, sizeof answer);
            if ((*answer && !send_all(b->fd, answer)) || !more)
                return NULL;
        }
        held = strlen(line);
        memmove(buffer, line, held + 1);
        if (held == sizeof buffer - 1)
            held = 0;
    }
}

static cairn_err export_ends(struct pmi_bridge *b, int theirs)
{
    char text[16];
    snprintf(text, sizeof text, "%d", theirs);
    int bad = setenv("PMI_FD", text, 1);
    snprintf(text, sizeof text, "%d", pmix_client_rank(b->client));
    bad |= setenv("PMI_RANK", text, 1);
    snprintf(text, sizeof text, "%d", pmix_client_size(b->client));
    bad |= setenv("PMI_SIZE", text, 1);
    return bad ? FAIL(CAIRN_ENOMEM, "no memory for the PMI bridge's environment") : CAIRN_OK;
}

cairn_err pmi_bridge_start(struct pmix_client *client, void (*on_abort)(void *, int), void *context, struct pmi_bridge **out)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends))
        return FAIL(CAIRN_ESYS, "PMI bridge: cannot make a socket pair: %s", strerror(errno));
    struct pmi_bridge *b = calloc(1, sizeof *b);
    cairn_err err = b ? CAIRN_OK : FAIL(CAIRN_ENOMEM, "no memory for the PMI bridge");
    if (!err) {
        *b = (struct pmi_bridge){.client = client, .fd = ends[0], .on_abort = on_abort, .context = context};
        err = export_ends(b, ends[1]);
    }
    int code = err ? 0 : pthread_create(&b->thread, NULL, serve, b);
    if (code)
        err = FAIL(CAIRN_ESYS, "PMI bridge: cannot start its thread: %s", strerror(code));
    if (err) {
        close(ends[0]);
        close(ends[1]);
        free(b);
        return err;
    }
    *out = b;
    return CAIRN_OK;
}

void pmi_bridge_stop(struct pmi_bridge *b)
{
    if (!b)
        return;
    shutdown(b->fd, SHUT_RDWR);
    pthread_join(b->thread, NULL);
    close(b->fd);
    free(b->pending);
    store_free(&b->store);
    free(b);
}
