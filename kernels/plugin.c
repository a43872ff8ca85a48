#include "kernels/plugin.h"

#include <config.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH_SIZE = 4096 };

/* Whether there is such a file. */
static bool find(const char *name, char path[static PATH_SIZE])
{
    const char *folder = getenv("CAIRN_PLUGIN_DIR");
    if (!folder || !*folder)
        folder = CAIRN_PLUGIN_DIR;
    return snprintf(path, PATH_SIZE, "%s/%s.so", folder, name) < PATH_SIZE && access(path, F_OK) == 0;
}

bool plugin_is_there(const char *name)
{
    char path[PATH_SIZE];
    return find(name, path);
}

static cairn_err check_stamp(const struct plugin_stamp *theirs, const char *path)
{
    const struct plugin_stamp ours = PLUGIN_STAMP;
    if (strncmp(theirs->version, ours.version, sizeof ours.version) == 0 && theirs->interface == ours.interface && theirs->table_bytes == ours.table_bytes &&
        theirs->options_bytes == ours.options_bytes && theirs->plugin_bytes == ours.plugin_bytes)
        return CAIRN_OK;
    return FAIL(CAIRN_EUNSUPPORTED,
                "%s is of another build of Cairn (%.*s, with a table of %llu bytes) than this program (%s, %llu bytes): install both "
                "from one build",
                path, PLUGIN_VERSION_SIZE, theirs->version, (unsigned long long)theirs->table_bytes, ours.version,
                (unsigned long long)ours.table_bytes);
}

/* Loading it again gives the one that is there. */
static cairn_err load(const char *path, struct plugin **out)
{
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle)
        return FAIL(CAIRN_ENODEVICE, "the backend cannot be loaded: %s", dlerror());
    struct plugin *plugin = dlsym(handle, "cairn_backend_plugin");
    if (!plugin)
        return FAIL(CAIRN_EUNSUPPORTED, "%s is no backend of Cairn's", path);
    TRY(check_stamp(&plugin->stamp, path));
    plugin->error_set = error_set;
    plugin->error_context = error_context;
    *out = plugin;
    return CAIRN_OK;
}

cairn_err plugin_open_backend(const char *name, const struct backend_options *options, struct backend **backend)
{
    char path[PATH_SIZE];
    struct plugin *plugin = NULL;
    *backend = NULL;
    if (!find(name, path))
        return FAIL(CAIRN_EUNSUPPORTED, "this installation has no %s backend (%s): configure --with-%s builds it", name, path, name);
    TRY(load(path, &plugin));
    return plugin->open(options, backend);
}
