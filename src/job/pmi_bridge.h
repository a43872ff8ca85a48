/* Lets an MPI library that speaks only PMI-1 start under PMIx: it finds a descriptor in PMI_FD, and a thread of ours at the other
 * end of it answers out of an exchange between the ranks. */
#ifndef JOB_PMI_BRIDGE_H
#define JOB_PMI_BRIDGE_H

#include "job/pmi_session.h"

struct pmi_bridge;

/* Opens the socket pair, exports PMI_FD, PMI_RANK and PMI_SIZE, and starts the thread. Call before MPI_Init. An abort that the
 * MPI library asks for is passed to ABORT(CONTEXT, exit code), which must not return. */
cairn_err pmi_bridge_open(const char *name, int rank, int size, const int *node_of, const struct pmi_exchange *exchange,
                          void (*abort)(void *context, int exitcode), struct pmi_bridge **out);

/* Takes PMI_FD and the others out of the environment again, so that a child process does not believe it is a rank. */
void pmi_bridge_hide(void);

/* Fences so far. */
int pmi_bridge_fences(struct pmi_bridge *bridge);

/* Ends the thread and frees everything. The MPI library must be done with its end of the pair, which it closes in MPI_Finalize. */
void pmi_bridge_close(struct pmi_bridge *bridge);

#endif
