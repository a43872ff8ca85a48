/* Ways between the devices of ranks that follow one another, as the stages of a pipeline do: one for each pair of neighbours and each
 * direction, and one between the first and the last. What goes one way meets no order but its own, so the ranks need none that all of them
 * share. Calls return at once, as those of a device_link. */
#ifndef MESH_DEVICE_RING_H
#define MESH_DEVICE_RING_H

#include "kernels/backend.h"
#include "mesh/group.h"

struct device_ring;

enum ring_direction { RING_FORWARD, RING_BACKWARD }; /* to the next rank, to the one before */

/* Collective over GROUP, which has more than one rank and no ring yet; it is the group's until it is closed. CLOSED: the first rank follows
 * the last. ENDS: the two will join something. BACKEND must live longer. All ranks fail if one does, and the group has no ring then. */
cairn_err device_ring_open(struct group *group, struct backend *backend, bool closed, bool ends, double seconds);

/* Collective, but after an error. A group without one is fine. */
void device_ring_close(struct group *group);

/* BYTES to the neighbour in DIRECTION, beside computing, after what was called before; SENT is set when they are gone, and DATA may not
 * change before. */
cairn_err device_ring_send(struct group *group, enum ring_direction direction, const void *data, size_t bytes, struct backend_mark *sent);

/* The same from the neighbour that sends in DIRECTION. What is called from now on comes after it. */
cairn_err device_ring_receive(struct group *group, enum ring_direction direction, void *data, size_t bytes);

/* Of the first rank and the last, of a ring with ENDS: OWN[n] (acc) becomes the last's plus the first's, on both. Carried out as computing is. */
cairn_err device_ring_join_ends(struct group *group, void *own, int64_t n);

#endif
