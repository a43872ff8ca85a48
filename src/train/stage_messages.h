/* What goes between the stages of a pipeline. */
#ifndef TRAIN_STAGE_MESSAGES_H
#define TRAIN_STAGE_MESSAGES_H

#include <stddef.h>

#include "kernels/backend.h"
#include "mesh/device_ring.h"
#include "mesh/group.h"

struct messages;

/* Messages of up to BYTES between ranks of PIPELINE, from and to BACKEND's memory; in each direction DEPTH may be sent and not received
 * yet. By PIPELINE's ring between devices, where it has one, else by MPI. */
cairn_err messages_open(struct group *pipeline, struct backend *backend, size_t bytes, int depth, struct messages **out);
void messages_close(struct messages *messages);

/* To the neighbour in DIRECTION, PEER. Copies DATA and returns, unless DEPTH messages are still on their way: then it waits for the oldest. */
cairn_err messages_send(struct messages *messages, enum ring_direction direction, int peer, const void *data, size_t bytes);
/* From the neighbour that sends in DIRECTION, PEER. */
cairn_err messages_receive(struct messages *messages, enum ring_direction direction, int peer, void *data, size_t bytes);

#endif
