#include "io/hdf5_error.h"

#include <errno.h>
#include <hdf5.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

struct findings {
    char cause[512]; /* of the innermost call */
    bool no_space;
};

void hdf5_quiet(void)
{
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

/* HDF5 keeps the system's and MPI's errors as text only. */
static bool tells_no_space(const char *text)
{
    return strstr(text, strerror(ENOSPC)) || strstr(text, strerror(EDQUOT)) || strstr(text, "MPI_ERR_NO_SPACE") ||
           strstr(text, "MPI_ERR_QUOTA");
}

static herr_t look(unsigned n, const H5E_error2_t *entry, void *context)
{
    struct findings *found = context;
    const char *text = entry->desc ? entry->desc : "";
    if (n == 0)
        snprintf(found->cause, sizeof found->cause, "%s", text);
    if (tells_no_space(text))
        found->no_space = true;
    return 0;
}

cairn_err hdf5_fail(cairn_err code, const char *format, ...)
{
    char text[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    struct findings found = {"no cause told", false};
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, look, &found);
    H5Eclear2(H5E_DEFAULT);
    found.cause[strcspn(found.cause, "\n")] = 0;
    if (found.no_space)
        return FAIL(CAIRN_ENOSPACE, "%s: %s", text, strerror(ENOSPC));
    return FAIL(code, "%s: HDF5: %s", text, found.cause);
}
