#include "job/pmix_client.h"

#include <pmix.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct pmix_client {
    pmix_proc_t self;
    int size;
    int *node_of;
};

static cairn_err pmix_failed(pmix_status_t status, const char *what)
{
    return FAIL(CAIRN_EPMIX, "%s: %s", what, PMIx_Error_string(status));
}

/* A whole number that PMIx knows of RANK (or, by PMIX_RANK_WILDCARD, of the job) from the start: asks the node's own server at
 * most, never another node. */
static pmix_status_t get_number(const pmix_proc_t *self, pmix_rank_t rank, const char *key, int *out)
{
    pmix_proc_t proc;
    PMIX_PROC_LOAD(&proc, self->nspace, rank);
    pmix_info_t optional;
    bool yes = true;
    PMIX_INFO_LOAD(&optional, PMIX_OPTIONAL, &yes, PMIX_BOOL);
    pmix_value_t *value = NULL;
    pmix_status_t status = PMIx_Get(&proc, key, &optional, 1, &value);
    PMIX_INFO_DESTRUCT(&optional);
    if (status != PMIX_SUCCESS)
        return status;
    switch (value->type) {
    case PMIX_UINT32: *out = (int)value->data.uint32; break;
    case PMIX_INT32: *out = value->data.int32; break;
    case PMIX_INT: *out = value->data.integer; break;
    case PMIX_UINT: *out = (int)value->data.uint; break;
    case PMIX_SIZE: *out = (int)value->data.size; break;
    default: status = PMIX_ERR_TYPE_MISMATCH; break;
    }
    PMIX_VALUE_RELEASE(value);
    return status;
}

/* Marks the ranks that run on node NAME with NUMBER. */
static pmix_status_t mark_peers(struct pmix_client *c, const char *name, int number)
{
    pmix_proc_t *peers = NULL;
    size_t count = 0;
    pmix_status_t status = PMIx_Resolve_peers(name, c->self.nspace, &peers, &count);
    for (size_t i = 0; status == PMIX_SUCCESS && i < count; i++)
        if (peers[i].rank < (pmix_rank_t)c->size)
            c->node_of[peers[i].rank] = number;
    PMIX_PROC_FREE(peers, count);
    return status;
}

/* Slurm's server tells a client PMIX_NODEID of its own node's ranks only, but every node's ranks by the node's name. */
static bool resolve_nodes(struct pmix_client *c)
{
    char *list = NULL;
    pmix_status_t status = PMIx_Resolve_nodes(c->self.nspace, &list);
    char *rest = list;
    int number = 0;
    for (char *name; status == PMIX_SUCCESS && rest && (name = strsep(&rest, ",")); number++)
        status = mark_peers(c, name, number);
    free(list);
    return status == PMIX_SUCCESS && number > 0;
}

/* Not an error when PMIx does not tell: MPI libraries then compare host names. */
static void read_nodes(struct pmix_client *c)
{
    c->node_of = malloc((size_t)c->size * sizeof *c->node_of);
    for (int r = 0; c->node_of && r < c->size; r++)
        c->node_of[r] = -1;
    bool known = c->node_of && resolve_nodes(c);
    for (int r = 0; known && r < c->size; r++)
        known = c->node_of[r] >= 0;
    if (!known) {
        free(c->node_of);
        c->node_of = NULL;
    }
}

cairn_err pmix_client_open(struct pmix_client **out)
{
    struct pmix_client *c = calloc(1, sizeof *c);
    if (!c)
        return FAIL(CAIRN_ENOMEM, "no memory for the PMIx client");
    pmix_status_t status = PMIx_Init(&c->self, NULL, 0);
    if (status != PMIX_SUCCESS) {
        free(c);
        return pmix_failed(status, "PMIx_Init");
    }
    status = get_number(&c->self, PMIX_RANK_WILDCARD, PMIX_JOB_SIZE, &c->size);
    if (status == PMIX_SUCCESS && (c->size < 1 || c->self.rank >= (pmix_rank_t)c->size))
        status = PMIX_ERR_BAD_PARAM;
    if (status != PMIX_SUCCESS) {
        PMIx_Finalize(NULL, 0);
        free(c);
        return pmix_failed(status, "asking PMIx for the number of ranks");
    }
    read_nodes(c);
    *out = c;
    return CAIRN_OK;
}

int pmix_client_rank(const struct pmix_client *client)
{
    return (int)client->self.rank;
}

int pmix_client_size(const struct pmix_client *client)
{
    return client->size;
}

const char *pmix_client_name(const struct pmix_client *client)
{
    return client->self.nspace;
}

const int *pmix_client_node_of(const struct pmix_client *client)
{
    return client->node_of;
}

static pmix_status_t fence(const struct pmix_client *c, bool collect)
{
    pmix_proc_t all;
    PMIX_PROC_LOAD(&all, c->self.nspace, PMIX_RANK_WILDCARD);
    pmix_info_t info;
    PMIX_INFO_LOAD(&info, PMIX_COLLECT_DATA, &collect, PMIX_BOOL);
    pmix_status_t status = PMIx_Fence(&all, 1, &info, 1);
    PMIX_INFO_DESTRUCT(&info);
    return status;
}

static void round_key(int round, char key[PMIX_MAX_KEYLEN + 1])
{
    snprintf(key, PMIX_MAX_KEYLEN + 1, "cairn.pmi.%d", round);
}

/* A rank that put nothing publishes one byte all the same: a fetch then finds something and need not wait or ask. */
static cairn_err exchange_fence(void *context, int round, const void *data, size_t bytes)
{
    struct pmix_client *c = context;
    char key[PMIX_MAX_KEYLEN + 1], nothing = '\0';
    round_key(round, key);
    pmix_value_t value;
    memset(&value, 0, sizeof value);
    value.type = PMIX_BYTE_OBJECT;
    value.data.bo.bytes = bytes ? (char *)data : &nothing; /* PMIx_Put copies */
    value.data.bo.size = bytes ? bytes : 1;
    pmix_status_t status = PMIx_Put(PMIX_GLOBAL, key, &value);
    if (status != PMIX_SUCCESS)
        return pmix_failed(status, "PMIx_Put");
    status = PMIx_Commit();
    if (status != PMIX_SUCCESS)
        return pmix_failed(status, "PMIx_Commit");
    status = fence(c, true);
    return status == PMIX_SUCCESS ? CAIRN_OK : pmix_failed(status, "PMIx_Fence");
}

static cairn_err exchange_fetch(void *context, int round, int rank, void **data, size_t *bytes)
{
    struct pmix_client *c = context;
    char key[PMIX_MAX_KEYLEN + 1];
    round_key(round, key);
    pmix_proc_t proc;
    PMIX_PROC_LOAD(&proc, c->self.nspace, (pmix_rank_t)rank);
    pmix_value_t *value = NULL;
    pmix_status_t status = PMIx_Get(&proc, key, NULL, 0, &value);
    if (status != PMIX_SUCCESS)
        return pmix_failed(status, "PMIx_Get");
    *data = NULL;
    *bytes = 0;
    cairn_err err = CAIRN_OK;
    if (value->type != PMIX_BYTE_OBJECT)
        err = FAIL(CAIRN_EPMIX, "PMIx_Get: rank %d has put a value of another type under %s", rank, key);
    else if (value->data.bo.size > 1) {
        *data = value->data.bo.bytes; /* taken over */
        *bytes = value->data.bo.size;
        value->data.bo.bytes = NULL;
        value->data.bo.size = 0;
    }
    PMIX_VALUE_RELEASE(value);
    return err;
}

struct pmi_exchange pmix_client_exchange(struct pmix_client *client)
{
    return (struct pmi_exchange){client, exchange_fence, exchange_fetch};
}

cairn_err pmix_client_fence(struct pmix_client *client)
{
    pmix_status_t status = fence(client, false);
    return status == PMIX_SUCCESS ? CAIRN_OK : pmix_failed(status, "PMIx_Fence");
}

void pmix_client_abort(int code, const char *reason)
{
    PMIx_Abort(code, reason, NULL, 0);
}

void pmix_client_finalize(void)
{
    PMIx_Finalize(NULL, 0);
}
