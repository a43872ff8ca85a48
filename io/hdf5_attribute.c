#include "io/hdf5_attribute.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "io/hdf5_error.h"

static bool is_scalar(hid_t attribute)
{
    hid_t space = H5Aget_space(attribute);
    if (space < 0)
        return false;
    hssize_t points = H5Sget_simple_extent_npoints(space);
    H5Sclose(space);
    return points == 1;
}

/* Opens the scalar attribute NAME and its type, which must be of KIND. */
static cairn_err open_scalar(hid_t object, const char *name, H5T_class_t kind, hid_t *attribute, hid_t *type)
{
    if (H5Aexists(object, name) <= 0)
        return FAIL(CAIRN_EFORMAT, "it has no attribute '%s'", name);
    *attribute = H5Aopen(object, name, H5P_DEFAULT);
    if (*attribute < 0)
        return hdf5_fail(CAIRN_EFORMAT, "attribute '%s' cannot be opened", name);
    *type = H5Aget_type(*attribute);
    if (*type >= 0 && H5Tget_class(*type) == kind && is_scalar(*attribute))
        return CAIRN_OK;
    if (*type >= 0)
        H5Tclose(*type);
    H5Aclose(*attribute);
    return FAIL(CAIRN_EFORMAT, "attribute '%s' is not one %s", name, kind == H5T_STRING ? "string" : "whole number");
}

static cairn_err read_fixed(hid_t attribute, hid_t type, const char *name, char *text, size_t size)
{
    size_t stored = H5Tget_size(type);
    if (stored >= size)
        return FAIL(CAIRN_EFORMAT, "attribute '%s' has %zu bytes; expected fewer than %zu", name, stored, size);
    memset(text, 0, size);
    if (H5Aread(attribute, type, text) < 0)
        return hdf5_fail(CAIRN_EFORMAT, "attribute '%s' cannot be read", name);
    if (H5Tget_strpad(type) == H5T_STR_SPACEPAD)
        for (size_t end = strlen(text); end > 0 && text[end - 1] == ' '; end--)
            text[end - 1] = 0;
    return CAIRN_OK;
}

static cairn_err read_variable(hid_t attribute, hid_t type, const char *name, char *text, size_t size)
{
    char *stored = NULL;
    if (H5Aread(attribute, type, &stored) < 0)
        return hdf5_fail(CAIRN_EFORMAT, "attribute '%s' cannot be read", name);
    size_t length = stored ? strlen(stored) : 0;
    if (length < size) {
        memcpy(text, stored ? stored : "", length);
        text[length] = 0;
    }
    H5free_memory(stored);
    if (length >= size)
        return FAIL(CAIRN_EFORMAT, "attribute '%s' has %zu bytes; expected fewer than %zu", name, length, size);
    return CAIRN_OK;
}

cairn_err attribute_read_string(hid_t object, const char *name, char *text, size_t size)
{
    hid_t attribute, type;
    TRY(open_scalar(object, name, H5T_STRING, &attribute, &type));
    cairn_err err = H5Tis_variable_str(type) > 0 ? read_variable(attribute, type, name, text, size)
                                                 : read_fixed(attribute, type, name, text, size);
    H5Tclose(type);
    H5Aclose(attribute);
    return err;
}

cairn_err attribute_read_int(hid_t object, const char *name, int64_t *value)
{
    hid_t attribute, type;
    TRY(open_scalar(object, name, H5T_INTEGER, &attribute, &type));
    cairn_err err = CAIRN_OK;
    if (H5Aread(attribute, H5T_NATIVE_INT64, value) < 0)
        err = hdf5_fail(CAIRN_EFORMAT, "attribute '%s' cannot be read", name);
    H5Tclose(type);
    H5Aclose(attribute);
    return err;
}

static cairn_err write_scalar(hid_t object, const char *name, hid_t stored, hid_t given, const void *value)
{
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t attribute = space < 0 ? -1 : H5Acreate2(object, name, stored, space, H5P_DEFAULT, H5P_DEFAULT);
    bool written = attribute >= 0 && H5Awrite(attribute, given, value) >= 0;
    cairn_err err = written ? CAIRN_OK : hdf5_fail(CAIRN_ELIBRARY, "attribute '%s' cannot be written", name);
    if (attribute >= 0)
        H5Aclose(attribute);
    if (space >= 0)
        H5Sclose(space);
    return err;
}

cairn_err attribute_write_string(hid_t object, const char *name, const char *text)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    if (type < 0 || H5Tset_size(type, strlen(text) + 1) < 0 || H5Tset_cset(type, H5T_CSET_UTF8) < 0)
        return hdf5_fail(CAIRN_ELIBRARY, "attribute '%s' cannot be made", name);
    cairn_err err = write_scalar(object, name, type, type, text);
    H5Tclose(type);
    return err;
}

cairn_err attribute_write_int(hid_t object, const char *name, int64_t value)
{
    return write_scalar(object, name, H5T_STD_I64LE, H5T_NATIVE_INT64, &value);
}

cairn_err attribute_write_real(hid_t object, const char *name, double value)
{
    return write_scalar(object, name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, &value);
}
