/* This process as a client of the PMIx server that started it. */
#ifndef JOB_PMIX_CLIENT_H
#define JOB_PMIX_CLIENT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

struct pmix_client;

/* Whether the environment tells of a PMIx server. */
bool pmix_client_expected(void);

cairn_err pmix_client_open(struct pmix_client **out);
int pmix_client_rank(const struct pmix_client *client);
int pmix_client_size(const struct pmix_client *client);

/* Which node each rank is on, numbered by first appearance; owned by the client. */
const int *pmix_client_nodes(const struct pmix_client *client);

/* Publishes VALUE under KEY; seen by others after the next exchange. */
cairn_err pmix_client_put(struct pmix_client *client, const char *key, const char *value);

/* A fence over all ranks that collects what was put. From any thread. */
cairn_err pmix_client_exchange(struct pmix_client *client);

/* What RANK put under KEY, if it did: a string that the caller frees; else NULL. Never waits. */
char *pmix_client_get(struct pmix_client *client, int rank, const char *key);

/* How many exchanges there were: the cost of starting up. */
int pmix_client_exchanges(const struct pmix_client *client);

/* Ends all ranks of the job step. */
void pmix_client_abort(struct pmix_client *client, int code, const char *reason);
void pmix_client_close(struct pmix_client *client);

#endif
