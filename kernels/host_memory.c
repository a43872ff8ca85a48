#include "kernels/host_memory.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

struct backend_mark {
    double seconds;
};

void host_memory_copy(struct backend *b, void *to, const void *from, size_t bytes)
{
    (void)b;
    if (bytes > 0)
        memcpy(to, from, bytes);
}

void host_memory_zero(struct backend *b, void *p, size_t bytes)
{
    (void)b;
    if (bytes > 0)
        memset(p, 0, bytes);
}

cairn_err host_memory_finish(struct backend *b)
{
    (void)b;
    return CAIRN_OK;
}

struct backend_mark *host_memory_mark_create(struct backend *b)
{
    (void)b;
    return calloc(1, sizeof(struct backend_mark));
}

void host_memory_mark_set(struct backend_mark *mark)
{
    mark->seconds = clock_seconds();
}

double host_memory_mark_seconds(const struct backend_mark *from, const struct backend_mark *to)
{
    return to->seconds - from->seconds;
}

void host_memory_mark_destroy(struct backend_mark *mark)
{
    free(mark);
}
