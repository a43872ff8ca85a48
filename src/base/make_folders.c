#include "base/make_folders.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

cairn_err make_folders(const char *path)
{
    char partial[4096];
    snprintf(partial, sizeof partial, "%s", path);
    for (char *slash = partial + 1;; slash++) {
        if (*slash != '/' && *slash)
            continue;
        char end = *slash;
        *slash = 0;
        if (mkdir(partial, 0777) && errno != EEXIST)
            return FAIL(error_from_errno(errno), "cannot make folder %s: %s", partial, strerror(errno));
        *slash = end;
        if (!end)
            return CAIRN_OK;
    }
}
