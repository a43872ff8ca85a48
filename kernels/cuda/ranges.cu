/* Ranges for NVIDIA's profilers (NVTX, whose headers load the profiler that runs the program, if one does). */
#include "kernels/cuda/cuda.h"

#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

static void range_begin(struct backend *, const char *name, int64_t number)
{
    char text[64];
    if (number >= 0) {
        snprintf(text, sizeof text, "%s %lld", name, static_cast<long long>(number));
        name = text;
    }
    nvtxRangePushA(name);
}

static void range_end(struct backend *)
{
    nvtxRangePop();
}

void ranges_fill(struct backend_table *t)
{
    const char *asked = getenv("CAIRN_PROFILE");
    bool profiles = asked != nullptr && *asked != '\0' && strcmp(asked, "0") != 0;
    t->range_begin = profiles ? range_begin : nullptr;
    t->range_end = profiles ? range_end : nullptr;
}
#else
void ranges_fill(struct backend_table *)
{
}
#endif
