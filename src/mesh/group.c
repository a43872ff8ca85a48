#include "mesh/group.h"

#include <sched.h>
#include <stdlib.h>

#include "base/clock.h"
#include "job/mpi_calls.h"
#include "mesh/device_link.h"
#include "mesh/device_ring.h"

/* Bytes for each other rank: room for GROUP_SMALL doubles, and below it messages cost more to start than to send. */
enum { LEAST_SCRATCH = 1024 };

cairn_err group_open(struct group *group, MPI_Comm comm, int64_t scratch_bytes)
{
    *group = (struct group){.comm = comm};
    TRY_MPI(MPI_Comm_rank(comm, &group->rank));
    TRY_MPI(MPI_Comm_size(comm, &group->size));
    if (group->size == 1)
        return CAIRN_OK;
    int64_t needed = (int64_t)LEAST_SCRATCH * (group->size - 1);
    group->scratch_bytes = scratch_bytes > needed ? scratch_bytes : needed;
    group->scratch = malloc((size_t)group->scratch_bytes);
    group->requests = malloc(4 * (size_t)group->size * sizeof *group->requests);
    group->shares = malloc(2 * (size_t)group->size * sizeof *group->shares);
    if (!group->scratch || !group->requests || !group->shares) {
        group_close(group);
        return FAIL(CAIRN_ENOMEM, "no memory for %lld bytes of scratch of a group of ranks", (long long)scratch_bytes);
    }
    return CAIRN_OK;
}

void group_close(struct group *group)
{
    device_link_close(group);
    device_ring_close(group);
    free(group->scratch);
    free(group->requests);
    free(group->shares);
    *group = (struct group){.comm = MPI_COMM_NULL};
}

MPI_Datatype group_mpi_type(enum dtype dtype)
{
    switch (dtype) {
    case DTYPE_BF16: return MPI_UINT16_T;
    case DTYPE_F64: return MPI_DOUBLE;
    case DTYPE_I32: return MPI_INT32_T;
    case DTYPE_F32: break;
    }
    return MPI_FLOAT;
}

cairn_err group_test(MPI_Request *requests, int count, int *done, const char *what)
{
    int complete = 1;
    while (complete && *done < count) {
        TRY(mpi_check(MPI_Test(&requests[*done], &complete, MPI_STATUS_IGNORE), what));
        *done += complete;
    }
    return CAIRN_OK;
}

cairn_err group_idle(struct group *group)
{
    /* This rank's other threads have work, and so have other ranks where there are more than cores: 8 ranks on 2 cores took
     * a third of the time (tests/ranks/collectives: 9 s, not 29). */
    sched_yield();
    return group->progress ? group->progress(group->progress_context) : CAIRN_OK;
}

cairn_err group_wait(struct group *group, MPI_Request *requests, int count, const char *what)
{
    double start = clock_seconds();
    int done = 0;
    TRY(group_test(requests, count, &done, what));
    while (done < count) {
        TRY(group_idle(group));
        TRY(group_test(requests, count, &done, what));
    }
    group->seconds_waited += clock_seconds() - start;
    return CAIRN_OK;
}
