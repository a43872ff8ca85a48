/* A worker: takes work from the head server, pulls parameters, computes, pushes gradients, until it is told to leave. */
#ifndef SERVER_WORKER_H
#define SERVER_WORKER_H

#include <mpi.h>
#include <stdbool.h>

#include "base/config.h"
#include "job/job.h"

struct worker_place {
    MPI_Comm self;       /* this process alone */
    const char *servers; /* "TOKEN@ADDRESSES" (server/wire.h); empty: the run is done already */
    int number;          /* among all workers, for messages */
    bool own;            /* whoever ends it may mean it alone: SIGTERM makes it ask the head, which lets it go after its share, or,
                          * where all end, at the checkpoint. Else the wish to stop is for all */
};

/* *EXIT_CODE is what the servers say at the end. A lost server is CAIRN_EPEER. */
cairn_err worker_run(struct job *job, const struct config *config, const struct worker_place *place, int *exit_code);

#endif
