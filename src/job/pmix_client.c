#include "job/pmix_client.h"

#include <pmix.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct pmix_client {
    pmix_proc_t self;
    int size;
    int *node_of;
    atomic_int exchanges;
};

bool pmix_client_expected(void)
{
    return getenv("PMIX_NAMESPACE") && getenv("PMIX_RANK");
}

static cairn_err check(pmix_status_t status, const char *what)
{
    return status == PMIX_SUCCESS ? CAIRN_OK : FAIL(CAIRN_EPMIX, "%s: %s", what, PMIx_Error_string(status));
}

static void fill_proc(pmix_proc_t *proc, const pmix_proc_t *self, pmix_rank_t rank)
{
    PMIX_PROC_CONSTRUCT(proc);
    memcpy(proc->nspace, self->nspace, sizeof proc->nspace);
    proc->rank = rank;
}

/* An unsigned number that the server knows of RANK; -1 if it does not. */
static long get_number(const struct pmix_client *c, pmix_rank_t rank, const char *key)
{
    pmix_proc_t proc;
    pmix_value_t *value = NULL;
    long number = -1;
    fill_proc(&proc, &c->self, rank);
    if (PMIx_Get(&proc, key, NULL, 0, &value) != PMIX_SUCCESS || !value)
        return -1;
    if (value->type == PMIX_UINT32)
        number = value->data.uint32;
    else if (value->type == PMIX_UINT16)
        number = value->data.uint16;
    PMIX_VALUE_RELEASE(value);
    return number;
}

/* Marks the ranks that the server has on node NAME with NUMBER. */
static cairn_err mark_peers(struct pmix_client *c, const char *name, int number)
{
    pmix_proc_t *peers = NULL;
    size_t count = 0;
    TRY(check(PMIx_Resolve_peers(name, c->self.nspace, &peers, &count), "PMIx_Resolve_peers"));
    for (size_t i = 0; i < count; i++)
        if (peers[i].rank < (pmix_rank_t)c->size)
            c->node_of[peers[i].rank] = number;
    PMIX_PROC_FREE(peers, count);
    return CAIRN_OK;
}

/* Numbers the nodes consecutively in the order of their first ranks. */
static cairn_err renumber(struct pmix_client *c, int nodes)
{
    int *number = malloc((size_t)(nodes + 1) * sizeof *number), next = 0;
    if (!number)
        return FAIL(CAIRN_ENOMEM, "no memory for the map of nodes");
    for (int n = 0; n < nodes; n++)
        number[n] = -1;
    for (int r = 0; r < c->size; r++) {
        int raw = c->node_of[r];
        if (number[raw] < 0)
            number[raw] = next++;
        c->node_of[r] = number[raw];
    }
    free(number);
    return CAIRN_OK;
}

/* The server tells a client the numbers of its own node's ranks only (Slurm's does), but every node's ranks by name. */
static cairn_err map_nodes(struct pmix_client *c)
{
    char *list = NULL, *rest;
    int nodes = 0;
    for (int r = 0; r < c->size; r++)
        c->node_of[r] = -1;
    cairn_err err = check(PMIx_Resolve_nodes(c->self.nspace, &list), "PMIx_Resolve_nodes");
    rest = list;
    for (char *name; !err && rest && (name = strsep(&rest, ",")); nodes++)
        err = mark_peers(c, name, nodes);
    free(list);
    for (int r = 0; r < c->size && !err; r++)
        if (c->node_of[r] < 0)
            err = FAIL(CAIRN_EPMIX, "PMIx does not tell the node of rank %d", r);
    return err ? err : renumber(c, nodes);
}

cairn_err pmix_client_open(struct pmix_client **out)
{
    struct pmix_client *c = calloc(1, sizeof *c);
    if (!c)
        return FAIL(CAIRN_ENOMEM, "no memory for the PMIx client");
    cairn_err err = check(PMIx_Init(&c->self, NULL, 0), "PMIx_Init");
    if (err) {
        free(c);
        return err;
    }
    long size = get_number(c, PMIX_RANK_WILDCARD, PMIX_JOB_SIZE);
    if (size < 1) {
        err = FAIL(CAIRN_EPMIX, "PMIx does not tell the number of ranks");
        goto failed;
    }
    c->size = (int)size;
    c->node_of = calloc((size_t)size, sizeof *c->node_of);
    if (!c->node_of) {
        err = FAIL(CAIRN_ENOMEM, "no memory for the map of nodes");
        goto failed;
    }
    TRY_GOTO(err, map_nodes(c), failed);
    *out = c;
    return CAIRN_OK;
failed:
    pmix_client_close(c);
    return err;
}

int pmix_client_rank(const struct pmix_client *c)
{
    return (int)c->self.rank;
}

int pmix_client_size(const struct pmix_client *c)
{
    return c->size;
}

const int *pmix_client_nodes(const struct pmix_client *c)
{
    return c->node_of;
}

cairn_err pmix_client_put(struct pmix_client *c, const char *key, const char *value)
{
    (void)c;
    pmix_value_t v;
    PMIX_VALUE_CONSTRUCT(&v);
    v.type = PMIX_STRING;
    v.data.string = (char *)value; /* copied by PMIx_Put */
    return check(PMIx_Put(PMIX_GLOBAL, key, &v), "PMIx_Put");
}

cairn_err pmix_client_exchange(struct pmix_client *c)
{
    pmix_proc_t all;
    pmix_info_t collect;
    bool yes = true;
    fill_proc(&all, &c->self, PMIX_RANK_WILDCARD);
    atomic_fetch_add(&c->exchanges, 1);
    TRY(check(PMIx_Commit(), "PMIx_Commit"));
    PMIX_INFO_CONSTRUCT(&collect);
    PMIX_INFO_LOAD(&collect, PMIX_COLLECT_DATA, &yes, PMIX_BOOL);
    pmix_status_t status = PMIx_Fence(&all, 1, &collect, 1);
    PMIX_INFO_DESTRUCT(&collect);
    return check(status, "PMIx_Fence");
}

char *pmix_client_get(struct pmix_client *c, int rank, const char *key)
{
    pmix_proc_t proc;
    pmix_value_t *value = NULL;
    pmix_info_t local;
    bool yes = true;
    char *text = NULL;
    fill_proc(&proc, &c->self, (pmix_rank_t)rank);
    PMIX_INFO_CONSTRUCT(&local);
    PMIX_INFO_LOAD(&local, PMIX_OPTIONAL, &yes, PMIX_BOOL); /* what was collected is here; nothing is asked of others */
    if (PMIx_Get(&proc, key, &local, 1, &value) == PMIX_SUCCESS && value) {
        if (value->type == PMIX_STRING)
            text = strdup(value->data.string);
        PMIX_VALUE_RELEASE(value);
    }
    PMIX_INFO_DESTRUCT(&local);
    return text;
}

int pmix_client_exchanges(const struct pmix_client *c)
{
    return atomic_load(&c->exchanges);
}

void pmix_client_abort(struct pmix_client *c, int code, const char *reason)
{
    (void)c;
    PMIx_Abort(code, reason, NULL, 0);
}

void pmix_client_close(struct pmix_client *c)
{
    if (!c)
        return;
    PMIx_Finalize(NULL, 0);
    free(c->node_of);
    free(c);
}
