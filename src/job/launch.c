#include "job/launch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *launch_path_name(enum launch_path path)
{
    switch (path) {
    case LAUNCH_ALONE: return "alone";
    case LAUNCH_PMIX: return "PMIx";
    case LAUNCH_PMIX_BRIDGE: return "PMIx with the PMI bridge";
    case LAUNCH_PMI: return "PMI";
    case LAUNCH_MPIEXEC: return "mpiexec";
    }
    return "unknown";
}

/* MPICH tells the options it was configured with. An MPI library of another name is left to itself: if it then finds itself
 * alone, the count of ranks shows it. */
bool launch_version_speaks_pmix(const char *version)
{
    if (strncmp(version, "MPICH", 5) != 0)
        return true;
    return strstr(version, "--with-pmi=pmix") || strstr(version, "--with-pmix");
}

bool launch_mpi_speaks_pmix(void)
{
    char version[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int length;
    MPI_Get_library_version(version, &length);
    return launch_version_speaks_pmix(version);
}

static bool use_bridge(void)
{
    const char *wish = getenv("CAIRN_PMI_BRIDGE");
    if (wish && strcmp(wish, "yes") == 0)
        return true;
    if (wish && strcmp(wish, "no") == 0)
        return false;
    return !launch_mpi_speaks_pmix();
}

enum launch_path launch_discover(void)
{
    /* MPICH's mpiexec inside of a PMIx step passes PMIX_ on to ranks that are not the step's: the nearer launcher wins. */
    if (getenv("PMI_RANK"))
        return getenv("PMI_JOBID") && getenv("SLURM_STEP_ID") && !getenv("HYDI_CONTROL_FD") ? LAUNCH_PMI : LAUNCH_MPIEXEC;
    if (getenv("PMIX_RANK") && getenv("PMIX_NAMESPACE"))
        return use_bridge() ? LAUNCH_PMIX_BRIDGE : LAUNCH_PMIX;
    return LAUNCH_ALONE;
}

bool launch_is_own_worker(void)
{
    return getenv("CAIRN_SERVERS") != NULL;
}

int launch_own_number(void)
{
    const char *number = getenv("CAIRN_WORKER");
    if (!number || !*number)
        number = getenv("SLURM_PROCID");
    return number && *number ? atoi(number) : 0;
}

void launch_detach(void)
{
    static const char *const variables[] = {"PMI_FD", "PMI_RANK", "PMI_SIZE", "PMI_PORT", "PMI_ID", "PMI_JOBID", "PMIX_RANK", "PMIX_NAMESPACE",
                                            "HYDI_CONTROL_FD"};
    for (size_t i = 0; i < sizeof variables / sizeof variables[0]; i++)
        unsetenv(variables[i]);
}

int launch_slurm_tasks(int *task)
{
    const char *count = getenv("SLURM_STEP_NUM_TASKS"), *number = getenv("SLURM_PROCID");
    if (!count || !number || !getenv("SLURM_STEP_ID") || launch_is_own_worker())
        return 0;
    *task = atoi(number);
    return atoi(count) > 1 ? atoi(count) : 0;
}

void launch_host(enum launch_path path, char *host, int size)
{
    const char *name = getenv("SLURMD_NODENAME");
    bool by_slurm = path == LAUNCH_PMIX || path == LAUNCH_PMIX_BRIDGE || path == LAUNCH_PMI || launch_is_own_worker();
    if (name && *name && by_slurm) {
        snprintf(host, (size_t)size, "%s", name);
        return;
    }
    if (gethostname(host, (size_t)size) != 0)
        snprintf(host, (size_t)size, "?");
    host[size - 1] = '\0';
}
