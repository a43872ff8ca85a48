/* A group's way between its ranks' devices, without the processors. Calls return at once: a device carries them out in their order, nobody
 * waits but who asks a device for a result. What goes wrong is kept by the device and told by its finish. Every rank of the group makes
 * the same calls in the same order. */
#ifndef MESH_DEVICE_LINK_H
#define MESH_DEVICE_LINK_H

#include "kernels/backend.h"
#include "mesh/group.h"

struct device_link {
    struct backend *backend;
    struct backend_link *link;
    struct backend_mark *begun; /* where the calls beside computing begin */
    struct link_message *messages;
    int count, room;
    void *scratch; /* the collectives', of the device */
    size_t scratch_bytes;
};

/* Collective over GROUP, which has more than one rank, and no link yet; it is the group's until it is closed. BACKEND must live longer.
 * All ranks fail if one does, and the group has no link then. */
cairn_err device_link_open(struct group *group, struct backend *backend, double seconds);

/* Collective, but after an error. A group without one is fine. */
void device_link_close(struct group *group);

/* What is called between the two is of LANE, and goes on beside computing, after what was called before begin. To come after it, a mark is set
 * before end and waited for later. */
void device_link_begin(struct device_link *link, enum backend_lane lane);
void device_link_end(struct device_link *link);

/* Messages of BYTES, nothing if there are none, that go together when device_link_exchange is called; they are counted in the group. */
cairn_err device_link_receive(struct group *group, int from, void *data, int64_t bytes);
cairn_err device_link_send(struct group *group, int to, const void *data, int64_t bytes);
void device_link_exchange(struct device_link *link);

/* Why BACKEND gave nothing: it has failed before, or has no memory for WHAT. */
cairn_err device_gave_nothing(struct backend *backend, const char *what);

/* The processor's view of a device's memory: pointers to it move, nothing is read. */
static inline void *device_at(const void *data, int64_t elements, enum dtype dtype)
{
    return (char *)data + elements * (int64_t)dtype_size(dtype);
}

#endif
