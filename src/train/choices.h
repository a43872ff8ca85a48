/* The algorithms that products take on devices. A device's library has several for each, which differ in their last bits: the fastest is found by
 * trying, and then kept, so that a restart, other ranks and other runs on such devices end with the same bits. They are in products.json of the
 * run's folder, and for runs to come in $XDG_CACHE_HOME/cairn, or else ~/.cache/cairn. */
#ifndef TRAIN_CHOICES_H
#define TRAIN_CHOICES_H

#include "kernels/backend.h"
#include "mesh/mesh.h"

/* Collective, before products are planned: takes what is kept, of the cache only where the backend tries algorithms. Nothing where BACKEND is no device.
 * A file that cannot be read, or is of another device, is as none: rank 0 logs it. Where ranks' devices are not alike, all take their
 * library's first choice, which needs no keeping. */
cairn_err choices_load(struct mesh *mesh, struct backend *backend, const char *run_dir);

/* Collective, when all products are planned: all ranks take those of the lowest rank that has a product, and rank 0 keeps them. */
cairn_err choices_agree(struct mesh *mesh, struct backend *backend, const char *run_dir);

#endif
