/* The state as slabs of global arrays. A share of a parameter is a run of elements, which is a box or a few. */
#include <stdio.h>
#include <string.h>

#include "base/least.h"
#include "train/shares.h"
#include "train/weights.h"

/* Calls of these give the boxes, in the order of elements, whose elements one after the other are FIRST.. of a slab of EXTENT. */
struct cutter {
    int dims;
    const int64_t *extent;
    int64_t next, left;
};

/* The largest box that begins at the next element: whole trailing dimensions, and as many of the one before as fit. */
static bool cut(struct cutter *c, int64_t *offset, int64_t *extent)
{
    int64_t stride = 1, at = c->next;
    int d = c->dims - 1;
    if (c->left == 0)
        return false;
    while (d > 0 && c->next % (stride * c->extent[d]) == 0 && c->left >= stride * c->extent[d])
        stride *= c->extent[d--];
    for (int k = c->dims - 1; k >= 0; k--) {
        offset[k] = at % c->extent[k];
        at /= c->extent[k];
        extent[k] = k > d ? c->extent[k] : 1;
    }
    extent[d] = least(c->extent[d] - offset[d], c->left / stride);
    c->next += extent[d] * stride;
    c->left -= extent[d] * stride;
    return true;
}

typedef void take_box(const struct weights *w, const struct parameter *p, const struct weights_own *own, int64_t at, const int64_t *offset,
                      const int64_t *extent, void *context);

/* TAKE for every box of this replica's share of the parameters; AT is where it begins in the bucket's own vectors. */
static void for_each_box(const struct weights *w, take_box *take, void *context)
{
    for (int i = 0; i < w->count; i++) {
        const struct parameter *p = &w->parameters[i];
        struct weights_own own = weights_own(w, p->bucket);
        int64_t first, count = share_of_parameter(p, own.offset, own.elements, &first), offset[SHARD_MAX_DIMS], extent[SHARD_MAX_DIMS];
        struct cutter c = {.dims = p->dims, .extent = p->extent, .next = first, .left = count};
        for (int64_t at = c.next; cut(&c, offset, extent); at = c.next)
            take(w, p, &own, p->offset + at - own.offset, offset, extent, context);
    }
}

static void count_box(const struct weights *w, const struct parameter *p, const struct weights_own *own, int64_t at,
                      const int64_t *offset, const int64_t *extent, void *context)
{
    (void)w, (void)p, (void)own, (void)at, (void)offset, (void)extent;
    ++*(int *)context;
}

int weights_shard_count(const struct weights *w)
{
    int boxes = 0;
    for_each_box(w, count_box, &boxes);
    return boxes * (w->moment1 ? 3 : 1);
}

struct list {
    struct shard *next;
    int group;
};

static void add_shard(const struct weights *w, const struct parameter *p, const struct weights_own *own, int64_t at,
                      const int64_t *offset, const int64_t *extent, void *context)
{
    static const char *const groups[] = {"weights", "moment1", "moment2"};
    struct list *list = context;
    void *const vectors[] = {own->master, own->moment1, own->moment2};
    struct shard *s = list->next++;
    *s = (struct shard){.dtype = w->backend->acc, .dims = p->dims};
    snprintf(s->name, sizeof s->name, "%s/%s", groups[list->group], p->name);
    for (int d = 0; d < p->dims; d++) {
        s->shape[d] = p->shape[d];
        s->offset[d] = p->first[d] + offset[d];
        s->extent[d] = extent[d];
    }
    s->memory = w->backend->table->host_memory ? NULL : &w->memory;
    s->data = (char *)vectors[list->group] + (size_t)at * dtype_size(s->dtype);
}

void weights_shards(const struct weights *w, struct shard *shards)
{
    struct list list = {.next = shards};
    for (; list.group < (w->moment1 ? 3 : 1); list.group++)
        for_each_box(w, add_shard, &list);
}
