/* HDF5's failures as Cairn's errors. */
#ifndef IO_HDF5_ERROR_H
#define IO_HDF5_ERROR_H

#include "base/error.h"

/* HDF5 prints its error stack to standard error unless told not to; from now on it does not. Call under hdf5_lock. */
void hdf5_quiet(void);

/* Sets "text: what HDF5 says", clears HDF5's stack and returns CODE, or CAIRN_ENOSPACE where HDF5 met a full disk or
 * quota. Call right after the failed call, under hdf5_lock. */
cairn_err hdf5_fail(cairn_err code, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
