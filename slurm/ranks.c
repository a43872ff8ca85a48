#include "slurm/ranks.h"

#include <stdio.h>

static int ranks_that_fit(const struct allocation *a)
{
    long ranks = a->tasks_per_node * allocation_healthy(a);
    return (int)(ranks < a->tasks ? ranks : a->tasks);
}

/* Ranks that share products or sequences speak so much that they are packed onto few nodes where some stay idle; others have more
 * of a node's memory each when they are spread over all. Those of which it is not known yet (MAY_SHARE) are packed. */
static int nodes_for(const struct layout *l, bool may_share, const struct allocation *a, int ranks)
{
    int healthy = allocation_healthy(a);
    if (may_share || l->tensor * l->context > 1)
        return (int)((ranks + a->tasks_per_node - 1) / a->tasks_per_node);
    return healthy < ranks ? healthy : ranks;
}

static void tell_idle(struct ranks *r, const struct layout *asked, long long microbatches)
{
    int64_t model = layout_model_ranks(asked);
    if (asked->data)
        snprintf(r->idle, sizeof r->idle, "parallel.data is %d", asked->data);
    else if (asked->expert > 1)
        snprintf(r->idle, sizeof r->idle, "groups of %d ranks share experts", asked->expert);
    else if ((r->used - asked->servers) / model >= microbatches)
        snprintf(r->idle, sizeof r->idle, "there are only %lld microbatches to share (batch.microbatches)", microbatches);
    else
        snprintf(r->idle, sizeof r->idle, "a copy of the model takes %lld", (long long)model);
}

static void tell_short(struct ranks *r, const struct layout *asked, long least, long wanted)
{
    char fit[64], layout[LAYOUT_TEXT_SIZE], *text = r->short_of;
    const size_t room = sizeof r->short_of;
    layout_text(asked, layout);
    snprintf(fit, sizeof fit, "%d rank%s on the healthy nodes", r->fit, r->fit == 1 ? " fits" : "s fit");
    if (r->used > 0 && r->used < r->fit)
        snprintf(text, room, "%d of the %d ranks that fit on the healthy nodes can be used, supervise.min_ranks is %ld", r->used,
                 r->fit, wanted);
    else if (r->used > 0 || least == 1)
        snprintf(text, room, "%s, supervise.min_ranks is %ld", fit, wanted);
    else if (asked->data)
        snprintf(text, room, "%s, but %s needs %ld and cannot shrink (with parallel.data: auto it could)", fit, layout, least);
    else if (asked->servers)
        snprintf(text, room, "%s, but %s need %ld at least", fit, layout, least);
    else
        snprintf(text, room, "%s, but a copy of the model takes %ld (%s)", fit, least, layout);
}

/* Ranks of A that the planner can use. */
static void choose_automatic(struct ranks *r, const struct config *c, const struct layout *last, const struct allocation *a)
{
    char axes[LAYOUT_TEXT_SIZE];
    int node_ranks = (int)a->tasks_per_node, any = layout_automatic_ranks(c, NULL, r->fit, node_ranks);
    r->used = last ? layout_automatic_ranks(c, last, r->fit, node_ranks) : 0;
    if (r->used == 0 || r->used < c->supervise.min_ranks) /* to go on counts for more than the last bits */
        r->used = any;
    snprintf(r->layout, sizeof r->layout, "auto");
    if (r->used > 0 && r->used < any)
        snprintf(r->idle, sizeof r->idle, "no layout of more keeps %s, and so the bits", layout_sums_text(last, axes));
    else if (r->used > 0 && r->used < r->fit)
        snprintf(r->idle, sizeof r->idle, "no layout of more fits %lld microbatches and %lld blocks", (long long)c->batch.microbatches,
                 (long long)c->model.layers);
}

struct ranks ranks_choose(const struct config *config, const struct layout *last, const struct allocation *a)
{
    struct layout asked = layout_asked(config), used = asked;
    struct ranks r = {.fit = ranks_that_fit(a)};
    int64_t least = layout_least_ranks(&asked), wanted = config->supervise.min_ranks > least ? config->supervise.min_ranks : least;
    bool automatic = config_chooses(config, NULL);
    if (automatic)
        choose_automatic(&r, config, last, a);
    else
        r.used = layout_usable_ranks(&asked, r.fit, config->batch.microbatches);
    if (r.used > 0) {
        used.data = (int)((r.used - asked.servers) / layout_model_ranks(&asked));
        r.nodes = nodes_for(&asked, config_chooses(config, "tensor") || config_chooses(config, "context"), a, r.used);
    }
    r.servers = asked.servers;
    if (!automatic)
        layout_text(&used, r.layout);
    r.enough = r.used >= wanted;
    if (!r.enough)
        tell_short(&r, &asked, (long)least, (long)wanted);
    if (r.used > 0 && r.used < r.fit && !automatic)
        tell_idle(&r, &asked, config->batch.microbatches);
    return r;
}
