/* How backend_open opens each backend; the options are those it was given. */
#ifndef KERNELS_BACKENDS_H
#define KERNELS_BACKENDS_H

#include "kernels/backend.h"

cairn_err reference_open(const struct backend_options *, struct backend **);
cairn_err cpu_open(const struct backend_options *, struct backend **);

#endif
