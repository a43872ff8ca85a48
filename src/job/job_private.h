/* What the files of job/ share. */
#ifndef JOB_JOB_PRIVATE_H
#define JOB_JOB_PRIVATE_H

#include "job/job.h"
#include "job/pmi_bridge.h"
#include "job/pmix_client.h"
#include "job/time_left.h"
#include "job/watchdog.h"

struct job {
    enum launch_path path;
    int number; /* as the supervisor knows it */
    int rank, size;
    int node, nodes;
    int local_rank, local_size;
    int *node_of;
    char host[64];
    MPI_Comm comm;
    bool mpi_started_here;
    int pmi_fd; /* the launcher's own PMI-1 descriptor, -1 if there is none */
    struct pmix_client *pmix;   /* NULL unless started through PMIx */
    struct pmi_bridge *bridge;  /* NULL unless needed */
    struct watchdog watchdog;
    struct time_left *time_left;
};

#endif
