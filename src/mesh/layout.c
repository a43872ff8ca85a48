#include "mesh/layout.h"

#include <math.h>
#include <stdio.h>

#include "base/least.h"

struct layout_place layout_place_of(const struct layout *l, int rank)
{
    struct layout_place p;
    p.tensor = rank % l->tensor;
    p.context = rank / l->tensor % l->context;
    p.data = rank / (l->tensor * l->context) % l->data;
    p.pipeline = rank / (l->tensor * l->context * l->data);
    return p;
}

int layout_rank_at(const struct layout *l, struct layout_place p)
{
    return ((p.pipeline * l->data + p.data) * l->context + p.context) * l->tensor + p.tensor;
}

struct layout layout_asked(const struct config *c)
{
    struct layout l = {.data = (int)c->parallel.data, .tensor = (int)c->parallel.tensor, .context = (int)c->parallel.context,
                       .pipeline = (int)c->parallel.pipeline, .chunks = (int)c->parallel.chunks,
                       .expert = (int)c->parallel.expert,
                       .servers = c->parallel.sync == SYNC_SERVER ? (int)c->parallel.servers : 0};
    const struct {
        const char *key;
        int *axis, open;
    } axes[] = {{"data", &l.data, 0}, {"tensor", &l.tensor, 1}, {"context", &l.context, 1}, {"pipeline", &l.pipeline, 1}, {"chunks", &l.chunks, 1},
                {"expert", &l.expert, 1}};
    for (size_t i = 0; i < sizeof axes / sizeof axes[0]; i++)
        if (config_chooses(c, axes[i].key))
            *axes[i].axis = axes[i].open;
    return l;
}

int64_t layout_least_ranks(const struct layout *l)
{
    int64_t model = layout_model_ranks(l), least;
    bool over = __builtin_mul_overflow(model, l->data ? l->data : l->expert > 1 ? l->expert : 1, &least);
    return over || __builtin_add_overflow(least, l->servers, &least) ? INT64_MAX : least;
}

/* Whether DATA replicas, in whole groups of experts, can share MICROBATCHES. */
static bool can_share(const struct layout *l, int64_t data, int64_t microbatches)
{
    return data <= microbatches && (l->expert <= 1 || data % l->expert == 0);
}

int layout_usable_ranks(const struct layout *l, int ranks, int64_t microbatches)
{
    int64_t model = layout_model_ranks(l), data = ranks > l->servers ? (ranks - l->servers) / model : 0;
    if (l->data)
        return data >= l->data ? (int)(model * l->data) + l->servers : 0;
    if (data > microbatches)
        data = microbatches;
    while (data > 0 && !can_share(l, data, microbatches))
        data--;
    return data > 0 ? (int)(data * model) + l->servers : 0;
}

/* Whether some number of stages and copies makes RANKS ranks of L, whose tensor and context axes stand. */
static bool has_stages(const struct config *c, const struct layout *l, int ranks)
{
    bool open = config_chooses(c, "pipeline");
    for (int stages = open ? 1 : l->pipeline; stages <= (open ? c->model.layers : l->pipeline); stages++) {
        int64_t copy = (int64_t)l->tensor * l->context * stages, data = ranks / copy;
        if (ranks % copy == 0 && (l->data ? data == l->data : data >= 1 && can_share(l, data, c->batch.microbatches)))
            return true;
    }
    return false;
}

int layout_automatic_ranks(const struct config *c, const struct layout *kept, int ranks, int node_ranks)
{
    struct layout l = layout_asked(c);
    bool open = config_chooses(c, "tensor");
    if (kept && open)
        l.tensor = kept->tensor;
    if (kept && config_chooses(c, "context"))
        l.context = kept->context;
    if (kept && config_chooses(c, "expert"))
        l.expert = kept->expert;
    int first = l.tensor, last = open && !kept ? (int)least(node_ranks, c->model.heads) : first;
    for (; ranks > 0; ranks--)
        for (l.tensor = first; l.tensor <= last; l.tensor++)
            if ((first == last || (node_ranks % l.tensor == 0 && c->model.heads % l.tensor == 0)) && has_stages(c, &l, ranks))
                return ranks;
    return 0;
}

static char *servers_text(const struct layout *l, char *out)
{
    int used = snprintf(out, LAYOUT_TEXT_SIZE, "%d server%s and ", l->servers, l->servers == 1 ? "" : "s");
    if (l->data)
        snprintf(out + used, LAYOUT_TEXT_SIZE - (size_t)used, "%d worker%s", l->data, l->data == 1 ? "" : "s");
    else
        snprintf(out + used, LAYOUT_TEXT_SIZE - (size_t)used, "workers");
    return out;
}

char *layout_text(const struct layout *l, char *out)
{
    const struct {
        const char *name;
        int size;
    } axes[] = {{"data", l->data}, {"tensor", l->tensor}, {"context", l->context}, {"pipeline", l->pipeline},
                {"chunks", l->chunks}, {"expert", l->expert}};
    size_t used = 0;
    if (l->servers)
        return servers_text(l, out);
    for (size_t i = 0; i < sizeof axes / sizeof axes[0]; i++)
        if (axes[i].size > 1)
            used += (size_t)snprintf(out + used, LAYOUT_TEXT_SIZE - used, "%s%s %d", used ? " x " : "", axes[i].name, axes[i].size);
    if (!used)
        snprintf(out, LAYOUT_TEXT_SIZE, "one rank");
    return out;
}

char *layout_sums_text(const struct layout *l, char *out)
{
    int used = snprintf(out, LAYOUT_TEXT_SIZE, "tensor %d and context %d", l->tensor, l->context);
    if (l->expert > 1)
        snprintf(out + used, LAYOUT_TEXT_SIZE - (size_t)used, " and expert %d", l->expert);
    return out;
}

/* What is wrong with LAYOUT whatever the world's size; NULL: nothing. TEXT is room for the answer. */
static const char *objection(const struct layout *l, const struct layout_limits *m, char *text, size_t size)
{
    if (l->tensor > m->heads)
        snprintf(text, size, "parallel.tensor is %d, but there are only %lld heads to share", l->tensor, (long long)m->heads);
    else if (l->tensor > m->vocabulary)
        snprintf(text, size, "parallel.tensor is %d, but there are only %lld different tokens to share", l->tensor,
                 (long long)m->vocabulary);
    else if (l->context > 1 && 2 * l->context > m->context)
        snprintf(text, size, "parallel.context is %d, but a sample of %lld tokens has at most %lld pairs of pieces", l->context,
                 (long long)m->context, (long long)m->context / 2);
    else if (l->chunks > 1 && l->pipeline == 1)
        snprintf(text, size, "parallel.chunks is %d, but without a pipeline a rank holds the whole model", l->chunks);
    else if ((int64_t)l->pipeline * l->chunks > m->layers)
        snprintf(text, size, "parallel.pipeline %d x parallel.chunks %d are %d pieces, but the model has only %lld blocks", l->pipeline,
                 l->chunks, l->pipeline * l->chunks, (long long)m->layers);
    else if (l->data > m->microbatches)
        snprintf(text, size, "%d data-parallel ranks but batch.microbatches is %lld: each needs one at least", l->data,
                 (long long)m->microbatches);
    else if (!can_share(l, l->data, m->microbatches))
        snprintf(text, size, "parallel.expert is %d, which does not divide the data axis of %d", l->expert, l->data);
    else if (l->expert > 1 && m->experts % l->expert != 0)
        snprintf(text, size, "parallel.expert is %d, which does not divide the %lld experts of a block", l->expert, (long long)m->experts);
    else
        return NULL;
    return text;
}

/* How far apart two layouts are: the factors between their axes. */
static double distance(const struct layout *a, const struct layout *b)
{
    return fabs(log((double)a->tensor / b->tensor)) + fabs(log((double)a->context / b->context)) +
           fabs(log((double)a->pipeline / b->pipeline)) + 0.1 * fabs(log((double)a->chunks / b->chunks)) +
           0.1 * fabs(log((double)a->expert / b->expert));
}

/* Whether RANKS ranks can be arranged as L's axes, data free, within the limits. */
static bool arrange(struct layout *l, int ranks, const struct layout_limits *m)
{
    char text[256];
    int64_t model = layout_model_ranks(l);
    if (ranks % model != 0)
        return false;
    l->data = (int)(ranks / model);
    return objection(l, m, text, sizeof text) == NULL;
}

/* The layout of RANKS ranks that is nearest to WANTED; false: there is none. */
static bool nearest(const struct layout *wanted, int ranks, const struct layout_limits *m, struct layout *best)
{
    bool found = false;
    for (int tensor = 1; tensor <= ranks; tensor++)
        for (int context = 1; ranks % tensor == 0 && context <= ranks / tensor; context++)
            for (int pipeline = 1; ranks / tensor % context == 0 && pipeline <= ranks / tensor / context; pipeline++)
                for (int chunks = pipeline > 1 ? wanted->chunks : 1; chunks >= 1; chunks--)
                    for (int expert = wanted->expert; expert >= 1; expert--) {
                        struct layout l = {.tensor = tensor, .context = context, .pipeline = pipeline, .chunks = chunks, .expert = expert};
                        if (arrange(&l, ranks, m) && (!found || distance(&l, wanted) < distance(best, wanted))) {
                            *best = l;
                            found = true;
                        }
                    }
    return found;
}

static cairn_err refuse(const struct layout *wanted, int ranks, const struct layout_limits *m, const char *why)
{
    struct layout best;
    char text[LAYOUT_TEXT_SIZE];
    if (nearest(wanted, ranks, m, &best))
        return FAIL(CAIRN_ECONFIG, "%s; the nearest layout of %d rank%s that fits: %s", why, ranks, ranks == 1 ? "" : "s",
                    layout_text(&best, text));
    return FAIL(CAIRN_ECONFIG, "%s; no layout of %d ranks fits this model and batch", why, ranks);
}

/* A world of servers and workers. */
static cairn_err fit_servers(struct layout *l, int ranks, const struct layout_limits *limits)
{
    char text[LAYOUT_TEXT_SIZE];
    int workers = l->data ? l->data : ranks - l->servers;
    if (workers < 1 || workers != ranks - l->servers)
        return FAIL(CAIRN_ECONFIG, "%s need %s%lld ranks, but there %s %d", layout_text(l, text), l->data ? "" : "at least ",
                    (long long)layout_least_ranks(l), ranks == 1 ? "is" : "are", ranks);
    if (workers > limits->microbatches)
        return FAIL(CAIRN_ECONFIG, "%d workers but batch.microbatches is %lld: each needs one at least", workers,
                    (long long)limits->microbatches);
    l->data = workers;
    return CAIRN_OK;
}

cairn_err layout_fit(struct layout *l, int ranks, const struct layout_limits *limits)
{
    if (l->servers)
        return fit_servers(l, ranks, limits);
    char text[256], axes[LAYOUT_TEXT_SIZE];
    const struct layout wanted = *l;
    int64_t model = layout_model_ranks(l);
    int64_t data = l->data && model <= ranks ? l->data : ranks / model, needed = model * (l->data && data ? data : 1);
    if (model * data != ranks || data == 0) {
        int usable = layout_usable_ranks(l, ranks, limits->microbatches);
        int used = snprintf(text, sizeof text, "%s needs %s%lld rank%s, but there %s %d", layout_text(l, axes),
                            l->data ? "" : "a multiple of ", (long long)needed, needed == 1 ? "" : "s", ranks == 1 ? "is" : "are", ranks);
        if (!l->data && usable > 0)
            snprintf(text + used, sizeof text - (size_t)used, " (%d of them would do)", usable);
        return refuse(&wanted, ranks, limits, text);
    }
    l->data = (int)data;
    if (objection(l, limits, text, sizeof text))
        return refuse(&wanted, ranks, limits, text);
    return CAIRN_OK;
}
