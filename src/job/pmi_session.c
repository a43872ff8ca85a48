#include "job/pmi_session.h"

#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

static const char mapping_key[] = "PMI_process_mapping";

/* A pair of the key-value space; the value follows the key's NUL. */
struct pair {
    char *key;
    const char *value;
};

/* What this rank put since the last barrier: "key\0value\0key\0value\0...". One value a barrier and rank, not one a key:
 * then it is known ahead which values there are, so nobody ever waits for one that was not put. */
struct pending {
    char *data;
    size_t bytes, room;
};

struct pmi_session {
    char name[PMI_NAME_MAX];
    int rank, size;
    char mapping[PMI_VALUE_MAX]; /* empty: not known, or too long to be told */
    struct pmi_exchange exchange;
    struct pending pending;
    void *pairs;        /* tree of struct pair */
    int fences;         /* rounds done */
    int loaded;         /* rounds whose pairs are in the tree */
    bool in_multiline;  /* inside "mcmd=" ... "endcmd" */
    bool finished;
};

static int compare_pairs(const void *a, const void *b)
{
    return strcmp(((const struct pair *)a)->key, ((const struct pair *)b)->key);
}

static void free_pair(void *pair)
{
    free(((struct pair *)pair)->key);
    free(pair);
}

cairn_err pmi_session_open(const char *name, int rank, int size, const int *node_of, const struct pmi_exchange *exchange,
                           struct pmi_session **out)
{
    struct pmi_session *s = calloc(1, sizeof *s);
    if (!s)
        return FAIL(CAIRN_ENOMEM, "no memory for the PMI bridge");
    snprintf(s->name, sizeof s->name, "%s", name);
    for (char *c = s->name; *c; c++)
        if (*c == ' ' || *c == '=' || *c == '\n')
            *c = '_';
    s->rank = rank;
    s->size = size;
    s->exchange = *exchange;
    /* Without a mapping MPICH finds out by host names, at the cost of one more barrier. */
    if (node_of && !pmi_mapping_write(node_of, size, s->mapping, sizeof s->mapping))
        s->mapping[0] = '\0';
    *out = s;
    return CAIRN_OK;
}

void pmi_session_close(struct pmi_session *s)
{
    if (!s)
        return;
    tdestroy(s->pairs, free_pair);
    free(s->pending.data);
    free(s);
}

static cairn_err pending_add(struct pending *p, const char *key, const char *value)
{
    size_t key_bytes = strlen(key) + 1, value_bytes = strlen(value) + 1, need = p->bytes + key_bytes + value_bytes;
    if (need > p->room) {
        size_t room = need * 2;
        char *data = realloc(p->data, room);
        if (!data)
            return FAIL(CAIRN_ENOMEM, "no memory for a PMI value");
        p->data = data;
        p->room = room;
    }
    memcpy(p->data + p->bytes, key, key_bytes);
    memcpy(p->data + p->bytes + key_bytes, value, value_bytes);
    p->bytes = need;
    return CAIRN_OK;
}

/* Puts KEY = VALUE into the tree; a later value replaces the one before. */
static cairn_err keep_pair(struct pmi_session *s, const char *key, const char *value)
{
    size_t key_bytes = strlen(key) + 1, value_bytes = strlen(value) + 1;
    struct pair *pair = malloc(sizeof *pair);
    char *text = malloc(key_bytes + value_bytes);
    if (!pair || !text) {
        free(pair);
        free(text);
        return FAIL(CAIRN_ENOMEM, "no memory for a PMI value");
    }
    memcpy(text, key, key_bytes);
    memcpy(text + key_bytes, value, value_bytes);
    *pair = (struct pair){text, text + key_bytes};
    struct pair **found = tsearch(pair, &s->pairs, compare_pairs);
    if (!found) {
        free_pair(pair);
        return FAIL(CAIRN_ENOMEM, "no memory for a PMI value");
    }
    if (*found != pair) {
        free_pair(*found);
        *found = pair;
    }
    return CAIRN_OK;
}

static cairn_err keep_blob(struct pmi_session *s, const char *data, size_t bytes)
{
    const char *end = data + bytes;
    while (data < end) {
        const char *value = memchr(data, '\0', (size_t)(end - data));
        const char *stop = value ? memchr(value + 1, '\0', (size_t)(end - value - 1)) : NULL;
        if (!stop)
            return FAIL(CAIRN_EPMIX, "the PMI bridge of another rank sent a broken value");
        TRY(keep_pair(s, data, value + 1));
        data = stop + 1;
    }
    return CAIRN_OK;
}

/* Takes in what all ranks put before the past barriers. Done at the first get after a barrier, not at the barrier: ranks that
 * share a node with a lower one never ask. */
static cairn_err load_rounds(struct pmi_session *s)
{
    for (; s->loaded < s->fences; s->loaded++)
        for (int r = 0; r < s->size; r++) {
            void *data = NULL;
            size_t bytes = 0;
            TRY(s->exchange.fetch(s->exchange.context, s->loaded, r, &data, &bytes));
            cairn_err err = keep_blob(s, data, bytes);
            free(data);
            TRY(err);
        }
    return CAIRN_OK;
}

static void answer_put(struct pmi_session *s, const struct pmi_request *q, char *answer)
{
    if (strcmp(q->kvsname, s->name) != 0)
        snprintf(answer, PMI_LINE_MAX, "cmd=put_result rc=-1 msg=unknown_kvs\n");
    else if (pending_add(&s->pending, q->key, q->value) != CAIRN_OK)
        snprintf(answer, PMI_LINE_MAX, "cmd=put_result rc=-1 msg=no_memory\n");
    else
        snprintf(answer, PMI_LINE_MAX, "cmd=put_result rc=0 msg=success\n");
}

static void answer_get(struct pmi_session *s, const struct pmi_request *q, char *answer)
{
    const char *value = NULL, *wrong = "key_not_found";
    struct pair want = {(char *)q->key, NULL}, **found;
    if (strcmp(q->kvsname, s->name) != 0)
        wrong = "unknown_kvs";
    else if (strcmp(q->key, mapping_key) == 0)
        value = *s->mapping ? s->mapping : NULL;
    else if (load_rounds(s) != CAIRN_OK)
        wrong = "exchange_failed";
    else if ((found = tfind(&want, &s->pairs, compare_pairs)))
        value = (*found)->value;
    if (value)
        snprintf(answer, PMI_LINE_MAX, "cmd=get_result rc=0 msg=success value=%s\n", value);
    else
        snprintf(answer, PMI_LINE_MAX, "cmd=get_result rc=-1 msg=%s\n", wrong);
}

static void answer_barrier(struct pmi_session *s, char *answer)
{
    cairn_err err = s->exchange.fence(s->exchange.context, s->fences, s->pending.data, s->pending.bytes);
    if (err) {
        log_error("PMI bridge: barrier: %s", cairn_err_message());
        snprintf(answer, PMI_LINE_MAX, "cmd=barrier_out rc=-1 msg=fence_failed\n");
        return;
    }
    s->pending.bytes = 0;
    s->fences++;
    snprintf(answer, PMI_LINE_MAX, "cmd=barrier_out rc=0\n");
}

/* The name of the answer to a command, which is not always the command's own. */
static const char *answer_name(enum pmi_command command)
{
    switch (command) {
    case PMI_INIT: return "response_to_init";
    case PMI_PUT: return "put_result";
    case PMI_GET: return "get_result";
    case PMI_GETBYIDX: return "getbyidx_results";
    case PMI_BARRIER: return "barrier_out";
    case PMI_SPAWN: return "spawn_result";
    case PMI_PUBLISH: return "publish_result";
    case PMI_UNPUBLISH: return "unpublish_result";
    case PMI_LOOKUP: return "lookup_result";
    default: return "error";
    }
}

/* Message words go without spaces: a client reads msg= up to the next one. */
static void answer_refusal(const struct pmi_request *q, const char *why, char *answer)
{
    snprintf(answer, PMI_LINE_MAX, "cmd=%s rc=-1 msg=%s\n", answer_name(q->command), why);
    for (char *c = strstr(answer, "msg="); *c != '\n'; c++)
        if (*c == ' ')
            *c = '_';
}

static enum pmi_outcome answer_request(struct pmi_session *s, const struct pmi_request *q, char *answer, int *exitcode)
{
    switch (q->command) {
    case PMI_INIT: snprintf(answer, PMI_LINE_MAX, "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=%d\n", q->version == 1 ? 0 : -1); break;
    case PMI_GET_MAXES:
        snprintf(answer, PMI_LINE_MAX, "cmd=maxes kvsname_max=%d keylen_max=%d vallen_max=%d\n", PMI_NAME_MAX, PMI_KEY_MAX, PMI_VALUE_MAX);
        break;
    case PMI_GET_APPNUM: snprintf(answer, PMI_LINE_MAX, "cmd=appnum appnum=0 rc=0\n"); break;
    case PMI_GET_UNIVERSE_SIZE: snprintf(answer, PMI_LINE_MAX, "cmd=universe_size size=%d rc=0\n", s->size); break;
    case PMI_GET_MY_KVSNAME: snprintf(answer, PMI_LINE_MAX, "cmd=my_kvsname kvsname=%s rc=0\n", s->name); break;
    case PMI_PUT: answer_put(s, q, answer); break;
    case PMI_GET: answer_get(s, q, answer); break;
    case PMI_BARRIER: answer_barrier(s, answer); break;
    case PMI_FINALIZE:
        s->finished = true;
        snprintf(answer, PMI_LINE_MAX, "cmd=finalize_ack rc=0\n");
        return PMI_FINISHED;
    case PMI_ABORT: *exitcode = q->exitcode; return PMI_ABORTED;
    default: answer_refusal(q, "not supported by the PMI bridge", answer); break;
    }
    return PMI_ANSWERED;
}

enum pmi_outcome pmi_session_answer(struct pmi_session *s, const char *line, char *answer, int *exitcode)
{
    answer[0] = '\0';
    *exitcode = 0;
    struct pmi_request q;
    if (s->in_multiline) {
        if (strcmp(line, "endcmd") != 0)
            return PMI_ANSWERED;
        s->in_multiline = false;
        answer_refusal(&(struct pmi_request){.command = PMI_SPAWN}, "not supported by the PMI bridge", answer);
        return PMI_ANSWERED;
    }
    if (strncmp(line, "mcmd=", 5) == 0) { /* spawn is the only one there is */
        s->in_multiline = true;
        return PMI_ANSWERED;
    }
    pmi_request_parse(line, &q);
    if (q.wrong) {
        answer_refusal(&q, q.wrong, answer);
        return PMI_ANSWERED;
    }
    return answer_request(s, &q, answer, exitcode);
}

int pmi_session_fences(const struct pmi_session *session)
{
    return session->fences;
}

bool pmi_session_finished(const struct pmi_session *session)
{
    return session->finished;
}
