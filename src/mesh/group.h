/* The ranks that share one kind of parallelism (tensor, data, context, ...): a communicator with what the collectives
 * (mesh/collective.h) need of memory, made ahead, and with counters of the bytes that they moved. All calls come from one
 * thread; every rank of a group makes the same calls in the same order. */
#ifndef MESH_GROUP_H
#define MESH_GROUP_H

#include <mpi.h>
#include <stdint.h>

#include "base/error.h"
#include "tensor/dtype.h"

/* Called again and again while a collective waits, so that other asynchronous work moves on. Must not call collectives of the
 * group that waits. An error ends the wait. */
typedef cairn_err group_progress(void *context);

struct device_link; /* mesh/device_link.h */
struct device_ring; /* mesh/device_ring.h */

struct group {
    MPI_Comm comm; /* not the group's to free */
    int rank, size;
    int64_t bytes_sent, bytes_received; /* so far, by collectives, sums and gathers: a reader subtracts what was before */
    double seconds_waited;              /* so far, for other ranks */
    group_progress *progress;           /* NULL: none */
    void *progress_context;
    char *scratch; /* the collectives' */
    int64_t scratch_bytes;
    MPI_Request *requests; /* room for 4 * size */
    int64_t *shares;       /* room for 2 * size */
    struct device_link *device; /* between the memories of the ranks' devices; NULL: none */
    struct device_ring *ring;   /* the same between neighbours alone */
};

/* A group of COMM's ranks. SCRATCH_BYTES bound what sums hold of other ranks' data at a time (at least 1 kB for each other rank is
 * taken). COMM must live longer than the group, and none but the group should send on it. Local: nothing is exchanged. */
cairn_err group_open(struct group *group, MPI_Comm comm, int64_t scratch_bytes);

/* A zeroed group is fine. */
void group_close(struct group *group);

/* What MPI calls an element type. */
MPI_Datatype group_mpi_type(enum dtype dtype);

/* Without waiting: *DONE, 0 at first, grows by the requests that are complete, up to COUNT; they complete in any order but are
 * counted from the first. WHAT begins the message of a failure. */
cairn_err group_test(MPI_Request *requests, int count, int *done, const char *what);

/* What a rank does between two looks at what it waits for: the group's progress, and others' work. */
cairn_err group_idle(struct group *group);

/* Waits for COUNT requests, with the group's progress between tests. */
cairn_err group_wait(struct group *group, MPI_Request *requests, int count, const char *what);

#endif
