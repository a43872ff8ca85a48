#include "kernels/experts.h"

#include <math.h>
#include <stdbool.h>
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
    int64_t dropped = d->rows * d->choices;
    for (int64_t e = 0; e < d->experts; e++)
        dropped -= r->taken[e];
    return dropped;
}

void routing_count(const struct router_desc *d, const struct routing *r, int64_t first, int64_t rows, int32_t *counts)
{
    memset(counts, 0, (size_t)(d->choices * d->experts) * sizeof *counts);
    for (int64_t i = first * d->choices; i < (first + rows) * d->choices; i++)
        counts[i % d->choices * d->experts + r->expert[i]]++;
}

void routing_deal(const struct router_desc *d, int64_t capacity, const int32_t *counts, int32_t *load, int32_t *most)
{
    for (int64_t e = 0; e < d->experts; e++) {
        int64_t left = load[e] < capacity ? capacity - load[e] : 0;
        if (most != NULL)
            most[e] += (int32_t)least(left, counts[e]);
        load[e] += counts[e];
    }
}

void routing_place(const struct router_desc *d, const struct routing *r, const int32_t *most)
{
    memset(r->taken, 0, (size_t)d->experts * sizeof *r->taken);
    if (most == NULL)
        memset(r->load, 0, (size_t)d->experts * sizeof *r->load);
    for (int64_t c = 0; c < d->choices; c++) {
        for (int64_t i = c; i < d->rows * d->choices; i += d->choices) {
            int32_t e = r->expert[i];
            bool takes = r->taken[e] < (most != NULL ? most[e] : d->capacity);
            r->place[i] = takes ? (int32_t)(e * d->capacity + r->taken[e]++) : -1;
            r->load[e] += most == NULL;
        }
    }
}
