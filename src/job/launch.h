/* Which launcher started this process, read off the environment alone. */
#ifndef JOB_LAUNCH_H
#define JOB_LAUNCH_H

#include "job/job.h"

/* What the environment and the MPI library's version tell. */
enum launch_path launch_detect(const char *mpi_library_version);

/* How many tasks srun says there are in this step, 0 outside a step; and which this one is. */
int launch_slurm_tasks(void);
int launch_slurm_task(void);

#endif
