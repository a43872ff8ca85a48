/* One rank's side of a PMI-1 conversation: what an MPI library asks, answered out of an exchange between the ranks. Knows
 * no socket, no thread and no PMIx, so that tests can hold the conversation in memory. */
#ifndef JOB_PMI_SESSION_H
#define JOB_PMI_SESSION_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "job/pmi_wire.h"

/* How the ranks exchange what they put. Rounds are numbered 0, 1, ... and are the same on every rank. */
struct pmi_exchange {
    void *context;
    /* Publishes this rank's BYTES of round ROUND and returns when every rank has published its own. */
    cairn_err (*fence)(void *context, int round, const void *data, size_t bytes);
    /* What RANK published in ROUND, a past one; the caller frees *DATA (NULL when *BYTES is 0). */
    cairn_err (*fetch)(void *context, int round, int rank, void **data, size_t *bytes);
};

struct pmi_session;

/* NODE_OF (of each rank, may be NULL when not known) is read at once and not kept. NAME is the job's. */
cairn_err pmi_session_open(const char *name, int rank, int size, const int *node_of, const struct pmi_exchange *exchange,
                           struct pmi_session **out);
void pmi_session_close(struct pmi_session *session);

enum pmi_outcome {
    PMI_ANSWERED,  /* ANSWER is to be sent; empty: nothing is */
    PMI_FINISHED,  /* ANSWER is to be sent, then the conversation is over */
    PMI_ABORTED,   /* the rank asked to end the job with *EXITCODE */
};

/* Answers one line (without its newline; at most PMI_LINE_MAX are looked at). ANSWER has room for PMI_LINE_MAX bytes. */
enum pmi_outcome pmi_session_answer(struct pmi_session *session, const char *line, char *answer, int *exitcode);

/* Barriers so far: each was one fence. */
int pmi_session_fences(const struct pmi_session *session);

/* Whether the conversation ended with a finalize. */
bool pmi_session_finished(const struct pmi_session *session);

#endif
