/* A worker: takes work from the head server, pulls parameters, computes, pushes gradients, until it is told to leave. */
#ifndef SERVER_WORKER_H
#define SERVER_WORKER_H

#include <mpi.h>

#include "base/config.h"
#include "job/job.h"

/* SERVERS is "TOKEN@ADDRESSES" (server/wire.h), NUMBER this worker's among all, for messages. SELF has this process alone. *EXIT_CODE is
 * what the servers say at the end. A lost server is CAIRN_EPEER. */
cairn_err worker_run(struct job *job, MPI_Comm self, const struct config *config, const char *servers, int number, int *exit_code);

#endif
