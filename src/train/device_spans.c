#include "train/device_spans.h"

#include <stdatomic.h>

#include "base/log.h"
#include "base/trace.h"

/* A layer starts some 50 kernels a microbatch. So many of a step (32 microbatches of 40 layers) are kept, and the newest of all in the
 * trace: 5 MB of memory, some 20 MB of file. */
enum { SPANS_A_STEP = 1 << 16, SPANS = 1 << 17 };

static const enum trace_category categories[BACKEND_LANES] = {[LANE_COMPUTE] = TRACE_KERNELS, [LANE_LINK] = TRACE_LINKS,
                                                                [LANE_SHIFT] = TRACE_LINKS, [LANE_RING ... BACKEND_LANES - 1] = TRACE_LINKS};

static bool traces(const struct backend *b)
{
    return b->table->spans_take && atomic_load(&trace_is_on);
}

cairn_err device_spans_open(struct backend *b)
{
    if (!traces(b))
        return CAIRN_OK;
    TRY(trace_open_device(SPANS));
    return b->table->spans_open(b, SPANS_A_STEP);
}

static void tell_lost(int64_t lost)
{
    static bool told;
    if (lost > 0 && !told)
        log_warning("the trace lacks %lld of a step's kernels: the first %d of each step are in it", (long long)lost, SPANS_A_STEP);
    told = told || lost > 0;
}

void device_spans_take(struct backend *b)
{
    int64_t count, lost;
    if (!traces(b))
        return;
    const struct backend_span *spans = b->table->spans_take(b, &count, &lost);
    for (int64_t i = 0; i < count; i++)
        trace_record_device(spans[i].begun, spans[i].ended, categories[spans[i].lane], spans[i].name);
    tell_lost(lost);
}
