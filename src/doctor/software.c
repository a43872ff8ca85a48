#include <hdf5.h>
#include <mpi.h>
#include <stdlib.h>
#include <string.h>

#include "doctor/parts.h"
#include "job/launch.h"
#include "slurm/child.h"

static const double command_seconds = 5;

static void tell_mpi(struct facts *f)
{
    char version[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int length;
    const char *wish = getenv("CAIRN_PMI_BRIDGE");
    bool speaks = launch_mpi_speaks_pmix(), without = !speaks && wish && strcmp(wish, "no") == 0;
    MPI_Get_library_version(version, &length);
    version[strcspn(version, "\n")] = 0;
    for (char *c = version; *c; c++)
        *c = *c == '\t' ? ' ' : *c;
    fact_number(f, "speaks_pmix", speaks);
    fact_tell(f, without ? MARK_WARNING : MARK_OK, "MPI",
              "under srun --mpi=pmix each rank would believe that it is alone: unset CAIRN_PMI_BRIDGE", "%s; %s", version,
              speaks    ? "it starts under srun --mpi=pmix by itself"
              : without ? "it knows no PMIx, and CAIRN_PMI_BRIDGE=no turns the bridge off"
                        : "it knows no PMIx: under srun --mpi=pmix the PMI bridge serves it");
}

static void tell_hdf5(struct facts *f)
{
    unsigned major = 0, minor = 0, release = 0;
    H5get_libversion(&major, &minor, &release);
#ifdef H5_HAVE_PARALLEL
    const bool parallel = true;
#else
    const bool parallel = false;
#endif
    fact_number(f, "parallel", parallel);
    fact_tell(f, parallel ? MARK_OK : MARK_TROUBLE, "HDF5", "build Cairn with a parallel HDF5 (Debian: libhdf5-mpich-dev)",
              "%u.%u.%u, %s", major, minor, release, parallel ? "parallel" : "not parallel");
}

/* srun lists what --mpi takes on its standard error up to Slurm 20.11, since then on its standard output. */
static void tell_mpi_plugins(struct facts *f)
{
    char list[1024];
    if (child_run((char *[]){"sh", "-c", "srun --mpi=list 2>&1", NULL}, command_seconds, list, sizeof list) != 0)
        return;
    bool pmix = strstr(list, "pmix") != NULL, pmi2 = strstr(list, "pmi2") != NULL;
    fact_number(f, "pmix", pmix);
    fact_number(f, "pmi2", pmi2);
    fact_tell(f, pmix ? MARK_OK : MARK_WARNING, "Slurm, ways to start ranks",
              pmi2 ? "supervise.mpi: pmi2 starts ranks; aborts tell no reasons then"
                   : "install Slurm's PMIx plug-in: cairn run starts ranks by srun --mpi=pmix",
              "%s%s%s", pmix ? "pmix" : "", pmix && pmi2 ? ", " : "", pmi2 ? "pmi2" : pmix ? "" : "neither pmix nor pmi2");
}

static void tell_slurm(struct facts *f)
{
    char version[128];
    const char *job = getenv("SLURM_JOB_ID");
    int status = child_run((char *[]){"srun", "--version", NULL}, command_seconds, version, sizeof version);
    version[strcspn(version, "\n")] = 0;
    if (status == 0 && *version) {
        fact_tell(f, MARK_OK, "Slurm", NULL, "%s, %s%s", version, job ? "in job " : "in no job", job ? job : "");
        tell_mpi_plugins(f);
    } else if (job) {
        fact_tell(f, MARK_TROUBLE, "Slurm", "put Slurm's commands into PATH: cairn run starts and ends ranks by them",
                  "in job %s, but srun cannot be run here", job);
    } else {
        fact_tell(f, MARK_OK, "Slurm", NULL, "no srun here: cairn run starts ranks by mpiexec");
    }
}

void examine_software(struct facts *f, int unused)
{
    (void)unused;
    fact_tell(f, MARK_OK, "Cairn", NULL, "%s", cairn_version());
    tell_mpi(f);
    tell_hdf5(f);
    tell_slurm(f);
}
