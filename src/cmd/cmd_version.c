#include <dnnl.h>
#include <hdf5.h>
#include <libfyaml.h>
#include <mpi.h>
#include <pmix_version.h>
#include <stdio.h>
#include <string.h>

#include "base/exit_code.h"
#include "cmd/command.h"

int cmd_version(int argc, char **argv)
{
    const struct command_spec spec = {"cairn version", "Prints the version of Cairn and of the libraries it runs with.", NULL, NULL};
    int exit_code;
    if (!command_begin(&spec, &argc, argv, &exit_code))
        return exit_code;
    char mpi[MPI_MAX_LIBRARY_VERSION_STRING];
    int length;
    MPI_Get_library_version(mpi, &length);
    mpi[strcspn(mpi, "\n")] = 0;
    unsigned major, minor, release;
    H5get_libversion(&major, &minor, &release);
    const dnnl_version_t *dnnl = dnnl_version();
    printf("cairn %s\n%s\nHDF5 %u.%u.%u\nPMIx %ld.%ld.%ld (built with)\noneDNN %d.%d.%d\nlibfyaml %s\n", cairn_version(), mpi, major,
           minor, release, PMIX_VERSION_MAJOR, PMIX_VERSION_MINOR, PMIX_VERSION_RELEASE, dnnl->major, dnnl->minor, dnnl->patch,
           fy_library_version());
    return EXIT_CODE_DONE;
}
