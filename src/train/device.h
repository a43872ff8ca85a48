/* Which backend a config's `device` stands for. */
#ifndef TRAIN_DEVICE_H
#define TRAIN_DEVICE_H

#include "base/config.h"
#include "job/job.h"
#include "kernels/backend.h"
#include "mesh/mesh.h"

/* Collective over the mesh: all ranks compute on GPUs or none does. With device auto on GPUs if every rank finds one of its own, and the
 * config asks for nothing that is not done there, else on processors; where a GPU might be expected, rank 0 logs why. A rank takes
 * the GPU of its number among the ranks of its node, of those that it sees, and unless a launcher bound it to some cores already, is bound
 * to those near the GPU. */
cairn_err device_open(const struct config *config, struct mesh *mesh, const struct job *job, int threads, struct backend **out);

/* The same for this rank alone. */
cairn_err device_open_alone(const struct config *config, int local_rank, int threads, struct backend **out);

/* Collective. How many ranks compute on a GPU that a lower rank of their node computes on too, and whether this one does. */
cairn_err device_count_sharing(struct mesh *mesh, const struct backend *backend, int *sharing, bool *mine);

/* CAIRN_ECONFIG, with what to set instead, for what CONFIG asks that is not done on BACKEND. */
cairn_err device_check(const struct config *config, const struct backend *backend);

#endif
