/* Attributes of HDF5 objects: short strings and whole numbers. All under hdf5_lock. */
#ifndef IO_HDF5_ATTRIBUTE_H
#define IO_HDF5_ATTRIBUTE_H

#include <hdf5.h>
#include <stdint.h>

#include "base/error.h"

/* Reads a scalar string, of fixed or variable length. One that is not there, is no string or longer than SIZE - 1 bytes is
 * CAIRN_EFORMAT. */
cairn_err attribute_read_string(hid_t object, const char *name, char *text, size_t size);

/* Reads a scalar integer of any type that an int64_t holds. */
cairn_err attribute_read_int(hid_t object, const char *name, int64_t *value);

cairn_err attribute_write_string(hid_t object, const char *name, const char *text);
cairn_err attribute_write_int(hid_t object, const char *name, int64_t value);
cairn_err attribute_write_real(hid_t object, const char *name, double value);

#endif
