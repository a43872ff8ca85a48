/* The collectives of mesh/collective.h on the memories of devices, for a group that has a link (mesh/device_link.h): the same sums in the
 * same order of ranks. They are part of what the device computes: what follows comes after them. */
#ifndef MESH_DEVICE_COLLECTIVE_H
#define MESH_DEVICE_COLLECTIVE_H

#include "mesh/device_link.h"

/* DTYPE is the backend's act or acc. */
cairn_err device_all_reduce(struct group *group, void *data, int64_t n, enum dtype dtype);
cairn_err device_reduce_scatter(struct group *group, void *out, const void *in, const int64_t *begins, const int64_t *counts, enum dtype dtype);

cairn_err device_all_gather(struct group *group, void *whole, const int64_t *begins, const int64_t *counts, enum dtype dtype);

/* What this rank sends begins and is as long as what it receives. */
cairn_err device_all_to_all(struct group *group, const void *in, void *out, const int64_t *begins, const int64_t *counts, enum dtype dtype);

/* OUT goes to the right neighbour while IN comes from the left one, beside computing. DONE: a mark that is set when it is through. */
cairn_err device_shift_start(struct group *group, const void *out, int64_t out_count, void *in, int64_t in_count, enum dtype dtype,
                             struct backend_mark *done);

#endif
