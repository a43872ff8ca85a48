#include "kernels/experts.h"

#include <math.h>
#include <string.h>

#include "base/least.h"

int64_t router_capacity(double factor, int64_t rows, int64_t experts, int64_t choices)
{
    double share = factor * (double)(rows * choices) / (double)experts;
    /* 1.1 * 10 is a little more than 11: that much must not be a row. */
    int64_t capacity = (int64_t)ceil(share * (1 - 1e-12));
    return least(capacity > 1 ? capacity : 1, rows);
}

int64_t routing_dropped(const struct router_desc *d, const struct routing *r)
{
    int64_t dropped = 0;
    for (int64_t e = 0; e < d->experts; e++)
        dropped += r->load[e] - routing_taken(d, r, e);
    return dropped;
}

void routing_place(const struct router_desc *d, const struct routing *r)
{
    memset(r->load, 0, (size_t)d->experts * sizeof *r->load);
    for (int64_t c = 0; c < d->choices; c++) {
        for (int64_t i = c; i < d->rows * d->choices; i += d->choices) {
            int32_t e = r->expert[i], number = r->load[e]++;
            r->place[i] = number < d->capacity ? (int32_t)(e * d->capacity + number) : -1;
        }
    }
}
