/* HDF5 files made and read in memory: the library never meets a full disk, and never bytes whose checksum was not compared. */
#ifndef CKPT_IMAGE_H
#define CKPT_IMAGE_H

#include <hdf5.h>

#include "base/error.h"
#include "tensor/dtype.h"

/* A file in memory alone, which HDF5 opens at PATH. Descriptor in *FD. */
enum { IMAGE_PATH_SIZE = 48 };
cairn_err image_create(int *fd, char path[IMAGE_PATH_SIZE]);
int64_t image_bytes(int fd);

/* File access properties under which HDF5 opens it. Inside h5_enter. */
hid_t image_access(void);

/* Between these HDF5 is this thread's and prints no errors. */
void h5_enter(void);
void h5_leave(void);

/* CAIRN_ELIBRARY with WHAT and what HDF5 says was the cause. Inside h5_enter. */
cairn_err h5_fail(const char *what);

#define TRY_H5(call)                \
    do {                            \
        if ((call) < 0)             \
            return h5_fail(#call);  \
    } while (0)

/* How elements are stored. */
hid_t h5_type_of(enum dtype t);

cairn_err h5_put_int(hid_t object, const char *name, int64_t value);
cairn_err h5_put_ints(hid_t object, const char *name, const int64_t *values, int count);
cairn_err h5_put_text(hid_t object, const char *name, const char *value);
cairn_err h5_get_int(hid_t object, const char *name, int64_t *value);

#endif
