/* This process as a PMIx client: who it is, where every rank runs, and the exchange the PMI bridge stands on. */
#ifndef JOB_PMIX_CLIENT_H
#define JOB_PMIX_CLIENT_H

#include "base/error.h"
#include "job/pmi_session.h"

struct pmix_client;

/* PMIx_Init and the facts of the job. */
cairn_err pmix_client_open(struct pmix_client **out);

int pmix_client_rank(const struct pmix_client *client);
int pmix_client_size(const struct pmix_client *client);
const char *pmix_client_name(const struct pmix_client *client); /* the PMIx namespace */

/* The node of each rank, numbers as PMIx gives them; NULL if it does not tell. The client's. */
const int *pmix_client_node_of(const struct pmix_client *client);

/* Put, commit and a collecting fence: after it every rank's values lie in the node's own PMIx server, so that a fetch asks no
 * other node. */
struct pmi_exchange pmix_client_exchange(struct pmix_client *client);

/* Returns when every rank of the job has called it. */
cairn_err pmix_client_fence(struct pmix_client *client);

/* Ends the whole job step. May return; the caller leaves then. From any thread. */
void pmix_client_abort(int code, const char *reason);

/* PMIx_Finalize. From any thread, once; the client is not freed, since other threads may still look at it. */
void pmix_client_finalize(void);

#endif
