#include "ckpt/image.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/hdf5_lock.h"

static H5E_auto2_t printer;
static void *printer_data;

cairn_err image_create(int *fd, char path[IMAGE_PATH_SIZE])
{
    *fd = memfd_create("checkpoint", MFD_CLOEXEC);
    if (*fd < 0)
        return FAIL(error_from_errno(errno), "memfd_create: %s", strerror(errno));
    snprintf(path, IMAGE_PATH_SIZE, "/proc/self/fd/%d", *fd);
    return CAIRN_OK;
}

int64_t image_bytes(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 ? st.st_size : -1;
}

/* Not HDF5's usual driver: that one asks for the real path of what it opens, and a file in memory has none. */
hid_t image_access(void)
{
    hid_t how = H5Pcreate(H5P_FILE_ACCESS);
    if (how >= 0)
        H5Pset_fapl_stdio(how);
    return how;
}

void h5_enter(void)
{
    hdf5_lock();
    H5Eget_auto2(H5E_DEFAULT, &printer, &printer_data);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

void h5_leave(void)
{
    H5Eset_auto2(H5E_DEFAULT, printer, printer_data);
    hdf5_unlock();
}

struct failure {
    char cause[256];
    bool memory; /* is what was short */
};

static herr_t take_in(unsigned n, const H5E_error2_t *error, void *out)
{
    struct failure *failure = out;
    if (n == 0 && error->desc)
        snprintf(failure->cause, sizeof failure->cause, "%s", error->desc);
    failure->memory = failure->memory || error->maj_num == H5E_RESOURCE;
    return 0;
}

cairn_err h5_fail(const char *what)
{
    struct failure failure = {.cause = "no cause told"};
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_in, &failure);
    return FAIL(failure.memory ? CAIRN_ENOMEM : CAIRN_ELIBRARY, "HDF5: %.60s: %s", what, failure.cause);
}

static cairn_err put_attribute(hid_t object, const char *name, hid_t file_type, hid_t memory_type, hid_t space, const void *value)
{
    hid_t a = H5Acreate2(object, name, file_type, space, H5P_DEFAULT, H5P_DEFAULT);
    herr_t status = a < 0 ? -1 : H5Awrite(a, memory_type, value);
    cairn_err err = status < 0 ? h5_fail(name) : CAIRN_OK;
    if (a >= 0)
        H5Aclose(a);
    H5Sclose(space);
    return err;
}

cairn_err h5_put_int(hid_t object, const char *name, int64_t value)
{
    return put_attribute(object, name, H5T_STD_I64LE, H5T_NATIVE_INT64, H5Screate(H5S_SCALAR), &value);
}

cairn_err h5_put_ints(hid_t object, const char *name, const int64_t *values, int count)
{
    hsize_t n = (hsize_t)count;
    return put_attribute(object, name, H5T_STD_I64LE, H5T_NATIVE_INT64, H5Screate_simple(1, &n, NULL), values);
}

cairn_err h5_put_text(hid_t object, const char *name, const char *value)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, strlen(value) + 1);
    cairn_err err = put_attribute(object, name, type, type, H5Screate(H5S_SCALAR), value);
    H5Tclose(type);
    return err;
}

cairn_err h5_get_int(hid_t object, const char *name, int64_t *value)
{
    hid_t a = H5Aopen(object, name, H5P_DEFAULT);
    herr_t status = a < 0 ? -1 : H5Aread(a, H5T_NATIVE_INT64, value);
    cairn_err err = status < 0 ? h5_fail(name) : CAIRN_OK;
    if (a >= 0)
        H5Aclose(a);
    return err;
}

hid_t h5_type_of(enum dtype t)
{
    switch (t) {
    case DTYPE_BF16: return H5T_STD_U16LE;
    case DTYPE_F64: return H5T_IEEE_F64LE;
    case DTYPE_I32: return H5T_STD_I32LE;
    case DTYPE_F32: break;
    }
    return H5T_IEEE_F32LE;
}
