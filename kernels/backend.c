#include "kernels/backend.h"

#include <string.h>

#include "kernels/backends.h"
#include "kernels/plugin.h"

static cairn_err cuda_open(const struct backend_options *options, struct backend **backend)
{
    return plugin_open_backend("cuda", options, backend);
}

static const struct {
    const char *name;
    cairn_err (*open)(const struct backend_options *, struct backend **);
} backends[] = {
    {"reference", reference_open},
    {"cpu", cpu_open},
    {"cuda", cuda_open},
};

cairn_err backend_open(const char *name, const struct backend_options *options, struct backend **backend)
{
    *backend = NULL;
    for (size_t i = 0; i < sizeof backends / sizeof *backends; i++)
        if (strcmp(name, backends[i].name) == 0)
            return backends[i].open(options, backend);
    return FAIL(CAIRN_EUNSUPPORTED, "no backend \"%s\"; there are \"reference\", \"cpu\" and \"cuda\"", name);
}
