#include "server/work.h"

#include <stdlib.h>

#include "base/config.h"
#include "base/least.h"
#include "mesh/tree.h"

enum {
    NOBODY = -1,
    ENDLESS_LEAD = 1024, /* what has begun is kept until all before is done: even where no lead is too far, it has to end somewhere */
};

/* A share that is not done yet. */
struct share {
    struct work_item item;
    int owner; /* NOBODY: whoever asks first */
    bool out;  /* its owner works on it */
    bool given; /* ever: servers may have some of it */
};

enum phase { PHASE_TRAINS, PHASE_VALIDATES, PHASE_VALIDATED, PHASE_ENDED };

struct work {
    struct work_options options;
    int *living; /* ids, ascending */
    int living_count, living_room;
    struct share *shares; /* in the order of their steps */
    int64_t share_count, share_room;
    int64_t begun, point; /* the next meeting point */
    int64_t lead;
    enum phase phase;
    bool stopping;
};

/* ---- meeting points ---- */

static int64_t next_multiple(int64_t after, int64_t every)
{
    return every > 0 ? (after / every + 1) * every : INT64_MAX;
}

static int64_t point_after(const struct work_options *o, int64_t step)
{
    return least(o->steps, least(next_multiple(step, o->checkpoint_every), next_multiple(step, o->validation_every)));
}

static bool at_point(const struct work *w)
{
    return w->begun >= w->point && w->share_count == 0;
}

static bool is_due(const struct work *w, int64_t every)
{
    return every > 0 && (w->point % every == 0 || w->point == w->options.steps);
}

bool work_meets(const struct work *w, bool *checkpoint)
{
    bool validates = is_due(w, w->options.validation_every) && !w->stopping;
    *checkpoint = is_due(w, w->options.checkpoint_every) || w->point == w->options.steps || w->stopping;
    return at_point(w) && (w->phase == PHASE_VALIDATED || (w->phase == PHASE_TRAINS && !validates));
}

void work_met(struct work *w)
{
    bool last = w->stopping || w->point >= w->options.steps;
    w->phase = last ? PHASE_ENDED : PHASE_TRAINS;
    w->point = point_after(&w->options, w->point);
}

/* The last step that has begun, if nobody ever got a share of it, is not begun: whoever would do it may be gone soon. */
static bool take_back(struct work *w)
{
    int64_t count = 0, first = w->share_count;
    bool given = false;
    for (; first > 0 && w->shares[first - 1].item.step == w->begun - 1; first--) {
        count += w->shares[first - 1].item.count;
        given = given || w->shares[first - 1].given;
    }
    if (given || count < w->options.microbatches)
        return false;
    w->share_count = first;
    w->begun--;
    return true;
}

void work_stop(struct work *w)
{
    w->stopping = true;
    while (w->phase == PHASE_TRAINS && take_back(w))
        ;
    if (w->phase == PHASE_TRAINS)
        w->point = w->begun;
}

bool work_ended(const struct work *w)
{
    return w->phase == PHASE_ENDED;
}

/* ---- opening ---- */

cairn_err work_open(const struct work_options *options, struct work **out)
{
    struct work *w = calloc(1, sizeof *w);
    if (!w)
        return FAIL(CAIRN_ENOMEM, "no memory for the book of work");
    *w = (struct work){.options = *options, .begun = options->first_step, .point = point_after(options, options->first_step)};
    if (options->saved && options->first_step >= options->steps)
        w->phase = PHASE_ENDED;
    *out = w;
    return CAIRN_OK;
}

void work_close(struct work *w)
{
    if (!w)
        return;
    free(w->living);
    free(w->shares);
    free(w);
}

/* ---- workers ---- */

cairn_err work_join(struct work *w, int id)
{
    int at = 0;
    if (w->living_count == w->living_room) {
        int room = 2 * w->living_room + 8;
        int *living = realloc(w->living, (size_t)room * sizeof *living);
        if (!living)
            return FAIL(CAIRN_ENOMEM, "no memory for %d workers", room);
        w->living = living;
        w->living_room = room;
    }
    while (at < w->living_count && w->living[at] < id)
        at++;
    if (at < w->living_count && w->living[at] == id)
        return FAIL(CAIRN_EINVAL, "worker %d is here already", id);
    for (int i = w->living_count++; i > at; i--)
        w->living[i] = w->living[i - 1];
    w->living[at] = id;
    return CAIRN_OK;
}

void work_leave(struct work *w, int id)
{
    int kept = 0;
    for (int i = 0; i < w->living_count; i++)
        if (w->living[i] != id)
            w->living[kept++] = w->living[i];
    w->living_count = kept;
    for (int64_t i = 0; i < w->share_count; i++)
        if (w->shares[i].owner == id) {
            w->shares[i].owner = NOBODY;
            w->shares[i].out = false;
        }
}

int work_living(const struct work *w)
{
    return w->living_count;
}

/* ---- who is where ---- */

/* Shares are in the order of steps, and each is a living worker's or waits for one: the first is the slowest's. */
int64_t work_base(const struct work *w)
{
    return w->share_count && w->phase == PHASE_TRAINS ? w->shares[0].item.step : w->begun;
}

int64_t work_begun(const struct work *w)
{
    return w->begun;
}

int64_t work_lead(const struct work *w)
{
    return w->lead;
}

static bool is_endless(const struct work *w)
{
    return w->options.staleness >= CONFIG_ENDLESS;
}

/* ---- giving out ---- */

static cairn_err reserve(struct work *w, int64_t more)
{
    if (w->share_count + more <= w->share_room)
        return CAIRN_OK;
    int64_t room = 2 * w->share_room + more;
    struct share *shares = realloc(w->shares, (size_t)room * sizeof *shares);
    if (!shares)
        return FAIL(CAIRN_ENOMEM, "no memory for %lld shares of work", (long long)room);
    w->shares = shares;
    w->share_room = room;
    return CAIRN_OK;
}

/* COUNT microbatches become a share for each of PARTS, the living workers where OWNED. */
static void cut(struct work *w, enum work_kind kind, int64_t step, int64_t count, int parts, bool owned)
{
    for (int i = 0; i < parts; i++) {
        struct share s = {.item = {.kind = kind, .step = step}, .owner = owned ? w->living[i] : NOBODY};
        tree_share(count, parts, i, &s.item.first, &s.item.count);
        if (s.item.count > 0)
            w->shares[w->share_count++] = s;
    }
}

bool work_validates(struct work *w)
{
    if (!at_point(w) || w->phase != PHASE_TRAINS || w->stopping || !is_due(w, w->options.validation_every))
        return false;
    int parts = w->living_count ? w->living_count : 1;
    w->phase = PHASE_VALIDATES;
    if (w->options.validation_microbatches == 0 || reserve(w, parts))
        w->phase = PHASE_VALIDATED; /* no memory for a few numbers: the training matters more */
    else
        cut(w, WORK_VALIDATE, w->point, w->options.validation_microbatches, parts, false);
    return w->phase == PHASE_VALIDATES;
}

/* Begins the next step, if none is in the way. */
static cairn_err begin(struct work *w, bool *begun)
{
    *begun = w->phase == PHASE_TRAINS && w->begun < w->point && w->begun - work_base(w) <= (is_endless(w) ? ENDLESS_LEAD : w->options.staleness);
    if (!*begun)
        return CAIRN_OK;
    TRY(reserve(w, w->living_count));
    cut(w, WORK_TRAIN, w->begun, w->options.microbatches, w->living_count, !is_endless(w));
    w->begun++;
    return CAIRN_OK;
}

/* The first share that worker ID may take: of nobody's, else of its own. */
static struct share *find(struct work *w, int id)
{
    struct share *own = NULL;
    for (int64_t i = 0; i < w->share_count; i++) {
        struct share *s = &w->shares[i];
        if (s->owner == NOBODY)
            return s;
        if (s->owner == id && !own)
            own = s;
    }
    return own;
}

cairn_err work_ask(struct work *w, int id, struct work_item *item)
{
    bool begun = false;
    *item = (struct work_item){.kind = w->phase == PHASE_ENDED ? WORK_LEAVE : WORK_WAIT};
    for (int64_t i = 0; i < w->share_count; i++)
        if (w->shares[i].owner == id && w->shares[i].out)
            return FAIL(CAIRN_EINVAL, "worker %d asks for work and has not done what it got", id);
    struct share *s = find(w, id);
    if (!s) {
        TRY(begin(w, &begun));
        s = begun ? find(w, id) : NULL;
    }
    if (!s)
        return CAIRN_OK;
    int64_t lead = s->item.kind == WORK_TRAIN ? s->item.step - work_base(w) : 0;
    if (!is_endless(w) && lead > w->options.staleness)
        return FAIL(CAIRN_EINVAL, "worker %d would be %lld steps ahead of the slowest, parallel.staleness is %lld", id, (long long)lead,
                    (long long)w->options.staleness);
    w->lead = lead > w->lead ? lead : w->lead;
    s->owner = id;
    s->out = s->given = true;
    *item = s->item;
    return CAIRN_OK;
}

cairn_err work_done(struct work *w, int id, const struct work_item *item)
{
    for (int64_t i = 0; i < w->share_count; i++) {
        const struct share *s = &w->shares[i];
        if (s->owner != id || !s->out || s->item.kind != item->kind || s->item.step != item->step || s->item.first != item->first ||
            s->item.count != item->count)
            continue;
        for (w->share_count--; i < w->share_count; i++)
            w->shares[i] = w->shares[i + 1];
        if (w->share_count == 0 && w->phase == PHASE_VALIDATES)
            w->phase = PHASE_VALIDATED;
        return CAIRN_OK;
    }
    return FAIL(CAIRN_EINVAL, "worker %d tells that microbatches %lld to %lld of step %lld are done, which it was not given", id,
                (long long)item->first, (long long)(item->first + item->count - 1), (long long)item->step);
}
