/* The ways between the GPUs of a training's ranks. */
#ifndef TRAIN_LINKS_H
#define TRAIN_LINKS_H

#include "base/config.h"
#include "kernels/backend.h"
#include "mesh/mesh.h"

/* Collective, after mesh_arrange: each group of several ranks whose members exchange what lies on devices gets a link (mesh/device_link.h), or
 * none does, and they exchange by way of the processors: as config->parallel.links has it. Nothing where BACKEND is no device. */
cairn_err links_open(const struct config *config, struct mesh *mesh, struct backend *backend);

/* Before the backend is closed. */
void links_close(struct mesh *mesh);

#endif
