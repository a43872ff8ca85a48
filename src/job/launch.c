#include "job/launch.h"

#include <stdlib.h>
#include <string.h>

#include "job/pmix_client.h"

enum launch_path launch_detect(const char *mpi_library_version)
{
    /* A launcher that speaks PMI-1 to its own processes comes first: mpiexec starts its proxies with srun, whose PMIX_ variables
     * then reach the ranks, but belong to the proxies. */
    if (getenv("PMI_FD") || getenv("PMI_PORT"))
        return getenv("PMI_JOBID") && getenv("SLURM_PROCID") ? LAUNCH_PMI : LAUNCH_MPIEXEC; /* PMI_JOBID: Slurm's pmi2 plugin */
    if (!pmix_client_expected())
        return LAUNCH_ALONE;
    /* MPICH speaks PMIx only where it was configured to; its version text then has "pmix" among the options. */
    bool speaks_pmix = !strstr(mpi_library_version, "MPICH") || strstr(mpi_library_version, "--with-pmix");
    return speaks_pmix ? LAUNCH_PMIX : LAUNCH_PMIX_BRIDGE;
}

static int number_of(const char *variable)
{
    const char *text = getenv(variable);
    return text ? atoi(text) : 0;
}

int launch_slurm_tasks(void)
{
    return getenv("SLURM_PROCID") && getenv("SLURM_STEP_ID") ? number_of("SLURM_STEP_NUM_TASKS") : 0;
}

int launch_slurm_task(void)
{
    return number_of("SLURM_PROCID");
}

const char *launch_path_name(enum launch_path path)
{
    switch (path) {
    case LAUNCH_PMIX: return "PMIx";
    case LAUNCH_PMIX_BRIDGE: return "PMIx with the PMI bridge";
    case LAUNCH_PMI: return "PMI of the launcher";
    case LAUNCH_MPIEXEC: return "mpiexec";
    case LAUNCH_ALONE: break;
    }
    return "no launcher";
}
