/* A worker: takes work from the head server, pulls parameters, computes, pushes gradients, until it is told to leave. */
#ifndef SERVER_WORKER_H
#define SERVER_WORKER_H

#include <mpi.h>
#include <stdbool.h>

#include "base/config.h"
#include "job/job.h"

struct worker_place {
    MPI_Comm self;       /* this process alone */
    const char *servers; /* "TOKEN@ADDRESSES" (server/wire.h) */
    int number;          /* among all workers, for messages */
    bool own;            /* whoever ends it means it alone: SIGTERM makes it leave after its share. Else the wish to stop is for all */
};

/* *EXIT_CODE is what the servers say at the end. A lost server is CAIRN_EPEER. */
cairn_err worker_run(struct job *job, const struct config *config, const struct worker_place *place, int *exit_code);

#endif
