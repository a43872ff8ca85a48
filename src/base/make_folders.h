/* Folders. */
#ifndef BASE_MAKE_FOLDERS_H
#define BASE_MAKE_FOLDERS_H

#include "base/error.h"

/* Makes PATH and the folders above it that are missing; one that is there is fine. */
cairn_err make_folders(const char *path);

#endif
