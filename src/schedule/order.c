#include "schedule/order.h"

#include "base/least.h"

int64_t order_groups(const struct schedule_desc *desc)
{
    int64_t groups = desc->microbatches / desc->stages;
    return groups > 0 ? groups : 1;
}

int64_t order_group_begin(const struct schedule_desc *desc, int64_t group)
{
    int64_t groups = order_groups(desc);
    return group * (desc->microbatches / groups) + least(group, desc->microbatches % groups);
}

/* The group in which pass NUMBER of a stage falls: a group's passes are its microbatches through each chunk. */
static int64_t group_of(const struct schedule_desc *desc, int64_t number)
{
    int64_t groups = order_groups(desc), small = desc->microbatches / groups, larger = desc->microbatches % groups;
    int64_t in_larger = larger * (small + 1) * desc->chunks;
    if (number < in_larger)
        return number / ((small + 1) * desc->chunks);
    return larger + (number - in_larger) / (small * desc->chunks);
}

/* Forward pass NUMBER of a stage, as chunk and microbatch. Backward passes take the chunks the other way round. */
static struct pass pass_of(const struct order *order, enum action_kind kind, int64_t number)
{
    const struct schedule_desc *desc = order->desc;
    if (desc->chunks == 1)
        return (struct pass){kind, 0, number};
    int64_t group = group_of(desc, number), begin = order_group_begin(desc, group);
    int64_t size = order_group_begin(desc, group + 1) - begin, inside = number - begin * desc->chunks;
    int chunk = (int)(inside / size);
    return (struct pass){kind, kind == ACTION_FORWARD ? chunk : desc->chunks - 1 - chunk, begin + inside % size};
}

int64_t order_backwards_of(const struct schedule_desc *desc, int64_t passes, int chunk)
{
    int64_t group = passes < desc->chunks * desc->microbatches ? group_of(desc, passes) : order_groups(desc);
    int64_t begin = order_group_begin(desc, group);
    if (begin == desc->microbatches)
        return begin;
    int64_t size = order_group_begin(desc, group + 1) - begin;
    int64_t inside = passes - begin * desc->chunks - (desc->chunks - 1 - chunk) * size;
    return begin + (inside < 0 ? 0 : least(inside, size));
}

/* The last stage must have brought its last chunk's first microbatch forward before any backward pass: that is pass number
 * (chunks - 1) * (size of the first group). Stages before it are ahead by one pass for each stage that a microbatch goes on
 * and comes back; where stages have one chunk, a pass forward and one backward share that way, and half of it is enough. */
static int64_t forwards_ahead(const struct schedule_desc *desc, int stage)
{
    int64_t behind = desc->stages - 1 - stage;
    if (desc->stages == 1)
        return desc->chunks - 1;
    if (desc->kind == SCHEDULE_GPIPE)
        return desc->microbatches;
    if (desc->kind == SCHEDULE_INTERLEAVED)
        return (desc->chunks - 1) * order_group_begin(desc, 1) + 2 * behind;
    return behind;
}

void order_begin(struct order *order, const struct schedule_desc *desc, int stage)
{
    *order = (struct order){.desc = desc, .passes = desc->chunks * desc->microbatches};
    order->ahead = forwards_ahead(desc, stage);
    order->split = desc->kind == SCHEDULE_ZERO_BUBBLE && desc->stages > 1;
    order->weights_behind = stage;
}

bool order_next(struct order *order, struct pass *pass)
{
    /* A stage that is alone brings a microbatch back through all chunks before it takes the next. */
    int64_t rounds = order->desc->stages == 1 ? order->backwards - order->backwards % order->desc->chunks : order->backwards;
    int64_t owed = order->split ? order->backwards - order->weights : 0;
    if (owed > 0 && (owed > order->weights_behind || order->backwards == order->passes))
        *pass = pass_of(order, ACTION_BACKWARD_WEIGHT, order->weights++);
    else if (order->forwards < order->passes && order->forwards <= rounds + order->ahead)
        *pass = pass_of(order, ACTION_FORWARD, order->forwards++);
    else if (order->backwards < order->passes)
        *pass = pass_of(order, order->split ? ACTION_BACKWARD_INPUT : ACTION_BACKWARD, order->backwards++);
    else
        return false;
    return true;
}

bool order_ends_chunk(const struct order *order, const struct pass *pass)
{
    return pass->microbatch == order->desc->microbatches - 1 &&
           pass->kind == (order->split ? ACTION_BACKWARD_WEIGHT : ACTION_BACKWARD);
}
