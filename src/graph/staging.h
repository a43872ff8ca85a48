/* The collectives of mesh/collective.h on a backend's memory. Where that is a device's, by the group's link (mesh/device_collective.h); a group
 * that has none exchanges by way of the processor's memory: what goes out is downloaded, what comes in uploaded. */
#ifndef GRAPH_STAGING_H
#define GRAPH_STAGING_H

#include "kernels/backend.h"
#include "mesh/collective.h"

/* Zeroed but for BACKEND. What was used once is kept: after a first step nothing is allocated. */
struct staging {
    struct backend *backend;
    struct {
        void *data;
        size_t bytes;
    } out, in;
    struct backend_mark *shifted; /* by a link */
};

void staging_close(struct staging *staging);

cairn_err staged_all_reduce(struct staging *staging, struct group *group, void *data, int64_t n, enum dtype dtype);
cairn_err staged_reduce_scatter(struct staging *staging, struct group *group, void *out, const void *in, const int64_t *begins,
                                const int64_t *counts, enum dtype dtype);
cairn_err staged_all_gather(struct staging *staging, struct group *group, void *whole, const int64_t *begins, const int64_t *counts,
                            enum dtype dtype);
/* What this rank sends begins and is as long as what it receives. */
cairn_err staged_all_to_all(struct staging *staging, struct group *group, const void *in, void *out, const int64_t *begins,
                            const int64_t *counts, enum dtype dtype);

/* group_shift_start and group_shift_finish; one at a time of a staging. */
struct staged_shift {
    struct group_shift shift;
    void *in;
    size_t in_bytes;
};
cairn_err staged_shift_start(struct staging *staging, struct group *group, struct staged_shift *shift, const void *out,
                             int64_t out_count, void *in, int64_t in_count, enum dtype dtype);
cairn_err staged_shift_finish(struct staging *staging, struct group *group, struct staged_shift *shift);
cairn_err staged_shift(struct staging *staging, struct group *group, const void *out, int64_t out_count, void *in, int64_t in_count,
                       enum dtype dtype);

#endif
