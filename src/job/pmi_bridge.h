/* The PMI bridge: answers the PMI-1 requests of an MPI library that does not know PMIx (a stock MPICH) out of PMIx, so that under
 * `srun --mpi=pmix` its ranks find each other. A thread serves one end of a socket pair; the library inherits the other as PMI_FD. */
#ifndef JOB_PMI_BRIDGE_H
#define JOB_PMI_BRIDGE_H

#include "job/pmix_client.h"

struct pmi_bridge;

/* Before MPI_Init: sets PMI_FD, PMI_RANK and PMI_SIZE in the environment and starts the thread. ON_ABORT is called from it when
 * the library asks for the end of the job. */
cairn_err pmi_bridge_start(struct pmix_client *client, void (*on_abort)(void *context, int code), void *context,
                           struct pmi_bridge **out);

/* After MPI_Finalize, or never. */
void pmi_bridge_stop(struct pmi_bridge *bridge);

/* ---- for tests: the answers alone ---- */

/* Answers request LINE (no newline) into ANSWER; an empty answer: none is due. False when the client has finalized. */
bool pmi_bridge_answer(struct pmi_bridge *bridge, const char *line, char *answer, size_t size);

#endif
