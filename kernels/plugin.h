/* Backends that are loaded when they are asked for: what they need (a GPU's libraries) is on few machines.
 *
 * A plug-in is a shared object NAME.so that exports one variable, cairn_backend_plugin. It is linked with nothing of the program
 * that loads it, neither the command nor a program with libcairn: all that it needs of it is handed over in that variable.
 * kernels/plugin_side.c is the plug-in's own half. */
#ifndef KERNELS_PLUGIN_H
#define KERNELS_PLUGIN_H

#include "kernels/backend.h"

enum { PLUGIN_VERSION_SIZE = 32 };

/* Backend and program are of one build, or the table's entries may be others. This is never changed: any version must be able
 * to read that of any other. */
struct plugin_stamp {
    char version[PLUGIN_VERSION_SIZE];
    uint64_t interface; /* PLUGIN_INTERFACE */
    uint64_t table_bytes, options_bytes, plugin_bytes;
};

/* Of kernels/backend.h and what it includes: raised with every change that keeps the sizes. */
enum { PLUGIN_INTERFACE = 4 };

struct plugin {
    struct plugin_stamp stamp; /* first */
    cairn_err (*open)(const struct backend_options *, struct backend **);
    /* The program's error_set and error_context, so that there is one last message; set by the loader before open. */
    cairn_err (*error_set)(cairn_err, const char *format, ...);
    cairn_err (*error_context)(cairn_err, const char *format, ...);
};

/* Needs configure's config.h. */
#define PLUGIN_STAMP                                                                             \
    {                                                                                            \
        .version = PACKAGE_VERSION, .interface = PLUGIN_INTERFACE, .table_bytes = sizeof(struct backend_table),                 \
        .options_bytes = sizeof(struct backend_options), .plugin_bytes = sizeof(struct plugin)   \
    }

/* Opens the backend of NAME.so in the folder $CAIRN_PLUGIN_DIR, or if that is not set where Cairn is installed. Fails with
 * CAIRN_EUNSUPPORTED where there is no such file or it is of another build, with CAIRN_ENODEVICE where it cannot be loaded (its
 * libraries are missing). What was loaded stays. */
cairn_err plugin_open_backend(const char *name, const struct backend_options *, struct backend **);

/* Whether there is such a file. */
bool plugin_is_there(const char *name);

#endif
