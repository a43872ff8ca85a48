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

static void enter_group(struct order_cursor *cursor, const struct schedule_desc *desc, int64_t group)
{
    cursor->group = group;
    cursor->begin = order_group_begin(desc, group);
    cursor->size = order_group_begin(desc, group + 1) - cursor->begin;
}

/* Backward passes take the chunks the other way round. */
static struct pass take(struct order_cursor *cursor, const struct schedule_desc *desc, enum action_kind kind)
{
    int chunk = kind == ACTION_FORWARD ? cursor->round : desc->chunks - 1 - cursor->round;
    struct pass pass = {kind, chunk, cursor->begin + cursor->inside};
    cursor->done++;
    if (++cursor->inside == cursor->size) {
        cursor->inside = 0;
        if (++cursor->round == desc->chunks) {
            cursor->round = 0;
            enter_group(cursor, desc, cursor->group + 1);
        }
    }
    return pass;
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
 * (chunks - 1) * (size of the first group). With several chunks the stages before it are ahead by two passes for each stage
 * behind them, as in Megatron-LM, where 1F1B has one: the second hides the time of messages. Simulated with 8 stages, 2 chunks
 * and 32 microbatches, messages a tenth of a forward pass, one makes the step 4.4 % longer than two; with free messages
 * they are alike. */
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
    enter_group(&order->forwards, desc, 0);
    order->backwards = order->weights = order->forwards;
}

bool order_next(struct order *order, struct pass *pass)
{
    const struct schedule_desc *desc = order->desc;
    int64_t forwards = order->forwards.done, backwards = order->backwards.done;
    int64_t owed = order->split ? backwards - order->weights.done : 0;
    /* A stage that is alone brings a microbatch back through all chunks before it takes the next. */
    int64_t paired = desc->stages == 1 ? backwards - order->backwards.round : backwards;
    if (owed > 0 && (owed > order->weights_behind || backwards == order->passes))
        *pass = take(&order->weights, desc, ACTION_BACKWARD_WEIGHT);
    else if (forwards < order->passes && forwards <= paired + order->ahead)
        *pass = take(&order->forwards, desc, ACTION_FORWARD);
    else if (backwards < order->passes)
        *pass = take(&order->backwards, desc, order->split ? ACTION_BACKWARD_INPUT : ACTION_BACKWARD);
    else
        return false;
    return true;
}

bool order_ends_chunk(const struct order *order, const struct pass *pass)
{
    return pass->microbatch == order->desc->microbatches - 1 &&
           pass->kind == (order->split ? ACTION_BACKWARD_WEIGHT : ACTION_BACKWARD);
}
