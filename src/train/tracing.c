#include "train/tracing.h"

#include <math.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/trace.h"
#include "job/mpi_calls.h"

/* Spans that a rank keeps, the newest ones: 2.6 MB of memory, some 9 MB of file. A step of a large model has a few hundred. */
enum { SPANS = 1 << 16 };

/* Looks at rank 0's clock; the first, while rank 0 may still serve others, does not count. */
enum { LOOKS = 16, CLOCK_TAG = 1, PATH_SIZE = 4096 };

/* The ranks of a node have one clock. */
static bool shares_clock(const struct mesh *mesh, int rank)
{
    return mesh->node_of[rank] == mesh->node_of[0];
}

/* Rank 0's clock is taken to have been read halfway between question and answer; the quickest answer errs least (F. Cristian, 1989).
 * With more ranks than cores most answers take milliseconds: the median of nine was 5 ms off. */
static cairn_err ask_clock(struct mesh *mesh)
{
    double quickest = INFINITY, theirs = 0;
    for (int i = 0; i < LOOKS; i++) {
        double asked = clock_seconds();
        TRY_MPI(MPI_Sendrecv(&asked, 1, MPI_DOUBLE, 0, CLOCK_TAG, &theirs, 1, MPI_DOUBLE, 0, CLOCK_TAG, mesh->world, MPI_STATUS_IGNORE));
        double answered = clock_seconds();
        if (i == 0 || answered - asked >= quickest)
            continue;
        quickest = answered - asked;
        trace_set_clock_offset(theirs - (asked + answered) / 2);
    }
    return CAIRN_OK;
}

static cairn_err tell_clock(struct mesh *mesh)
{
    for (int rank = 1; rank < mesh->size; rank++) {
        for (int i = 0; i < LOOKS && !shares_clock(mesh, rank); i++) {
            double asked;
            TRY(mpi_receive(&asked, 1, MPI_DOUBLE, rank, CLOCK_TAG, mesh->world, "comparing clocks"));
            double now = clock_seconds();
            TRY_MPI(MPI_Send(&now, 1, MPI_DOUBLE, rank, CLOCK_TAG, mesh->world));
        }
    }
    return CAIRN_OK;
}

static cairn_err path_in_run(const struct config *config, const char *name, char *path)
{
    if (snprintf(path, PATH_SIZE, "%s/%s", config->run_dir, name) >= PATH_SIZE)
        return FAIL(CAIRN_EINVAL, "the path of the run's folder is too long: %s", config->run_dir);
    return CAIRN_OK;
}

cairn_err tracing_open(struct mesh *mesh, const struct config *config)
{
    char folder[PATH_SIZE];
    if (!config->trace)
        return CAIRN_OK;
    cairn_err err = path_in_run(config, "trace", folder);
    if (!err)
        err = trace_open(folder, mesh->rank, SPANS);
    TRY(mesh_agree(mesh, err));
    if (mesh->rank > 0)
        err = shares_clock(mesh, mesh->rank) ? CAIRN_OK : ask_clock(mesh);
    return mesh_agree(mesh, mesh->rank == 0 ? tell_clock(mesh) : err);
}

void tracing_write(void)
{
    if (trace_write() != CAIRN_OK)
        log_warning("the trace is not written: %s", cairn_err_message());
}

static cairn_err join(const struct mesh *mesh, const struct config *config, int *missing)
{
    char folder[PATH_SIZE], path[PATH_SIZE];
    TRY(path_in_run(config, "trace", folder));
    TRY(path_in_run(config, "trace.json", path));
    return trace_join(folder, mesh->size, path, missing);
}

cairn_err tracing_join(struct mesh *mesh, const struct config *config)
{
    int missing = 0;
    if (!config->trace)
        return CAIRN_OK;
    tracing_write();
    TRY(mesh_barrier(mesh));
    if (mesh->rank != 0)
        return CAIRN_OK;
    if (join(mesh, config, &missing) != CAIRN_OK)
        log_warning("the ranks' traces are not joined: %s", cairn_err_message());
    else if (missing > 0)
        log_warning("%s/trace.json lacks %d of %d ranks", config->run_dir, missing, mesh->size);
    return CAIRN_OK;
}
