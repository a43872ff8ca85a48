/* How this process was started, read off its environment. */
#ifndef JOB_LAUNCH_H
#define JOB_LAUNCH_H

#include <stdbool.h>

#include "job/job.h"

/* Whether the MPI library can start under PMIx without help. May be called before MPI_Init. */
bool launch_mpi_speaks_pmix(void);

/* The same for a library that calls itself VERSION (MPI_Get_library_version). */
bool launch_version_speaks_pmix(const char *version);

/* By the environment alone: PMIx (LAUNCH_PMIX or, unless the MPI library speaks it, LAUNCH_PMIX_BRIDGE), PMI, mpiexec or
 * alone. CAIRN_PMI_BRIDGE=yes or no overrides what is known of the MPI library. */
enum launch_path launch_discover(void);

/* Whether this process is a worker of its own (server/roles.h), which belongs to no world of ranks, whoever launched it: then its number,
 * and what makes MPI_Init find it alone. */
bool launch_is_own_worker(void);
int launch_own_number(void);
void launch_detach(void);

/* Slurm's count of this step's tasks if it started more than one of them, else 0; *TASK is this one's number. */
int launch_slurm_tasks(int *task);

/* The name other programs call this node by: Slurm's, if Slurm started the rank, else the host's. */
void launch_host(enum launch_path path, char *host, int size);

#endif
