/* The book of work: random workers that ask, die and come back, at every staleness. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"
#include "base/error.h"
#include "server/work.h"

enum { WORKERS = 6, STEPS = 23, MOST_MICROBATCHES = 11 };

struct play {
    struct work_options options;
    struct work *work;
    unsigned seed;
    bool here[WORKERS], holds[WORKERS];
    int id[WORKERS], ids; /* one that comes back is another */
    struct work_item item[WORKERS];
    int done[STEPS][MOST_MICROBATCHES];
    int validated[STEPS + 1]; /* microbatches, at meeting points */
    int64_t met;              /* the last meeting point */
    int64_t most_lead;
    int deaths, meetings;
};

static unsigned draw(struct play *p, unsigned below)
{
    return (unsigned)(rand_r(&p->seed) >> 4) % below;
}

/* Steps before it are done whole, counted by what was told as done. */
static int64_t base_of(const struct play *p)
{
    int64_t step = 0;
    for (; step < STEPS; step++)
        for (int64_t m = 0; m < p->options.microbatches; m++)
            if (p->done[step][m] == 0)
                return step;
    return step;
}

static int64_t next_point(const struct play *p)
{
    for (int64_t step = p->met + 1; step < STEPS; step++)
        if ((p->options.checkpoint_every && step % p->options.checkpoint_every == 0) ||
            (p->options.validation_every && step % p->options.validation_every == 0))
            return step;
    return STEPS;
}

/* Worker ID asks; true if it got something. */
static bool ask(struct play *p, int id)
{
    struct work_item *item = &p->item[id];
    cr_assert_eq(work_ask(p->work, p->id[id], item), CAIRN_OK, "%s", cairn_err_message());
    if (item->kind == WORK_WAIT || item->kind == WORK_LEAVE)
        return false;
    p->holds[id] = true;
    cr_assert(item->count > 0);
    if (item->kind == WORK_VALIDATE) {
        cr_assert_eq(item->step, base_of(p), "validation sees the weights of all steps before");
        return true;
    }
    cr_assert(item->first >= 0 && item->first + item->count <= p->options.microbatches && item->step < STEPS);
    cr_assert(item->step < next_point(p), "step %lld is beyond the meeting at %lld", (long long)item->step, (long long)next_point(p));
    int64_t lead = item->step - base_of(p);
    cr_assert(p->options.staleness >= CONFIG_ENDLESS || lead <= p->options.staleness, "lead %lld", (long long)lead);
    p->most_lead = lead > p->most_lead ? lead : p->most_lead;
    return true;
}

static void finish(struct play *p, int id)
{
    const struct work_item *item = &p->item[id];
    cr_assert_eq(work_done(p->work, p->id[id], item), CAIRN_OK, "%s", cairn_err_message());
    cr_assert_eq(work_done(p->work, p->id[id], item), CAIRN_EINVAL, "no share is done twice");
    p->holds[id] = false;
    for (int64_t m = item->first; m < item->first + item->count; m++)
        if (item->kind == WORK_VALIDATE)
            p->validated[item->step]++;
        else
            cr_assert_eq(++p->done[item->step][m], 1, "microbatch %lld of step %lld is done again", (long long)m, (long long)item->step);
}

static void die(struct play *p, int id)
{
    work_leave(p->work, p->id[id]);
    p->here[id] = p->holds[id] = false;
    p->deaths++;
}

static void join(struct play *p, int id)
{
    p->id[id] = (p->ids += 7) % 1001; /* in no order */
    cr_assert_eq(work_join(p->work, p->id[id]), CAIRN_OK);
    cr_assert_eq(work_join(p->work, p->id[id]), CAIRN_EINVAL);
    p->here[id] = true;
}

/* What the head does after each change. */
static bool meet(struct play *p)
{
    bool checkpoint;
    bool meets = work_meets(p->work, &checkpoint);
    if (work_validates(p->work)) {
        cr_assert_not(meets, "before the validation");
        return true;
    }
    if (!work_meets(p->work, &checkpoint))
        return false;
    int64_t step = base_of(p);
    cr_assert_eq(work_begun(p->work), step, "all that has begun is done");
    cr_assert_eq(step, next_point(p));
    const struct work_options *o = &p->options;
    bool due = o->checkpoint_every && (step % o->checkpoint_every == 0 || step == STEPS);
    cr_assert_eq(checkpoint, due || step == STEPS);
    if (o->validation_every && (step % o->validation_every == 0 || step == STEPS))
        cr_assert_eq(p->validated[step], o->validation_microbatches, "at step %lld", (long long)step);
    p->met = step;
    p->meetings++;
    work_met(p->work);
    return true;
}

/* Until the end; FAULTS of 100 events are deaths. */
static void play(struct play *p, unsigned faults)
{
    cr_assert_eq(work_open(&p->options, &p->work), CAIRN_OK);
    for (int64_t idle = 0; !work_ended(p->work); idle++) {
        int id = (int)draw(p, WORKERS);
        cr_assert(idle < 3000, "nothing goes on at step %lld", (long long)base_of(p));
        if (!p->here[id])
            join(p, id);
        else if (draw(p, 100) < faults)
            die(p, id);
        else if (p->holds[id]) {
            if (draw(p, 3) == 0) { /* some are slow */
                finish(p, id);
                idle = 0;
            }
        } else if (ask(p, id))
            idle = 0;
        if (meet(p))
            idle = 0;
    }
    for (int64_t step = 0; step < STEPS; step++)
        for (int64_t m = 0; m < p->options.microbatches; m++)
            cr_assert_eq(p->done[step][m], 1, "microbatch %lld of step %lld", (long long)m, (long long)step);
    cr_assert(p->options.staleness >= CONFIG_ENDLESS || work_lead(p->work) == p->most_lead);
    struct work_item item;
    cr_assert_eq(work_join(p->work, 2000), CAIRN_OK);
    cr_assert_eq(work_ask(p->work, 2000, &item), CAIRN_OK);
    cr_assert_eq(item.kind, WORK_LEAVE);
    work_close(p->work);
}

Test(work, every_microbatch_once_however_workers_die)
{
    static const int64_t staleness[] = {0, 1, 2, 5, CONFIG_ENDLESS};
    for (unsigned seed = 1; seed <= 60; seed++)
        for (size_t k = 0; k < sizeof staleness / sizeof staleness[0]; k++) {
            struct play p = {.seed = seed};
            p.options = (struct work_options){.steps = STEPS, .microbatches = 1 + draw(&p, MOST_MICROBATCHES), .staleness = staleness[k],
                                              .validation_microbatches = 1 + draw(&p, 5), .checkpoint_every = draw(&p, 9),
                                              .validation_every = draw(&p, 9)};
            unsigned faults = seed % 3 == 0 ? 0 : draw(&p, 20);
            play(&p, faults);
            cr_expect(p.meetings >= 1 && (faults > 0 || p.deaths == 0));
        }
}

Test(work, workers_do_run_ahead)
{
    int64_t most[2] = {0, 0};
    for (unsigned seed = 1; seed <= 20; seed++)
        for (int k = 0; k < 2; k++) {
            struct play p = {.seed = seed};
            p.options = (struct work_options){.steps = STEPS, .microbatches = 8, .staleness = k ? 3 : 0};
            play(&p, 0);
            most[k] = p.most_lead > most[k] ? p.most_lead : most[k];
        }
    cr_assert_eq(most[0], 0);
    cr_assert_eq(most[1], 3);
}

static struct work *begin(int64_t staleness, int workers)
{
    const struct work_options options = {.steps = STEPS, .microbatches = 8, .staleness = staleness};
    struct work *w;
    cr_assert_eq(work_open(&options, &w), CAIRN_OK);
    for (int id = 0; id < workers; id++)
        cr_assert_eq(work_join(w, id), CAIRN_OK);
    return w;
}

static struct work_item given(struct work *w, int id)
{
    struct work_item item;
    cr_assert_eq(work_ask(w, id, &item), CAIRN_OK, "%s", cairn_err_message());
    return item;
}

Test(work, a_dead_workers_share_comes_before_anything_new)
{
    struct work *w = begin(2, 2);
    struct work_item a = given(w, 0), b = given(w, 1), c;
    cr_assert(a.step == 0 && b.step == 0 && a.count + b.count == 8);
    cr_assert_eq(work_done(w, 1, &b), CAIRN_OK);
    work_leave(w, 0);
    cr_assert_eq(work_done(w, 0, &a), CAIRN_EINVAL, "the dead tell nothing");
    c = given(w, 1);
    cr_assert(c.step == 0 && c.first == a.first && c.count == a.count);
    cr_assert_eq(work_done(w, 1, &c), CAIRN_OK);
    cr_assert_eq(work_base(w), 1);
    work_close(w);
}

Test(work, even_before_a_workers_own)
{
    struct work *w = begin(2, 2);
    struct work_item a = given(w, 0), b = given(w, 1);
    cr_assert_eq(work_done(w, 1, &b), CAIRN_OK);
    b = given(w, 1);
    cr_assert_eq(b.step, 1);
    work_leave(w, 1);
    cr_assert_eq(work_done(w, 0, &a), CAIRN_OK);
    a = given(w, 0);
    cr_assert(a.step == 1 && a.first == b.first, "the dead worker's, not the own share of the step");
    work_close(w);
}

Test(work, a_newcomer_shares_the_next_step)
{
    struct work *w = begin(0, 1);
    struct work_item a = given(w, 0);
    cr_assert_eq(a.count, 8);
    cr_assert_eq(work_join(w, 7), CAIRN_OK);
    cr_assert_eq(given(w, 7).kind, WORK_WAIT);
    cr_assert_eq(work_done(w, 0, &a), CAIRN_OK);
    struct work_item b = given(w, 7);
    cr_assert(b.step == 1 && b.count == 4);
    work_close(w);
}

Test(work, asking_twice_is_a_mistake)
{
    struct work *w = begin(3, 2);
    struct work_item item;
    given(w, 0);
    cr_assert_eq(work_ask(w, 0, &item), CAIRN_EINVAL);
    work_close(w);
}

Test(work, a_stop_meets_where_the_work_stands)
{
    struct work *w = begin(4, 2);
    struct work_item a = given(w, 0), b = given(w, 1), c;
    bool checkpoint;
    cr_assert_eq(work_done(w, 0, &a), CAIRN_OK);
    c = given(w, 0);
    cr_assert_eq(c.step, 1);
    work_stop(w);
    cr_assert_eq(work_done(w, 0, &c), CAIRN_OK);
    cr_assert_eq(given(w, 0).kind, WORK_WAIT, "nothing new is begun");
    cr_assert_not(work_meets(w, &checkpoint));
    cr_assert_eq(work_done(w, 1, &b), CAIRN_OK);
    b = given(w, 1);
    cr_assert_eq(b.step, 1, "what was begun is done whole");
    cr_assert_eq(work_done(w, 1, &b), CAIRN_OK);
    cr_assert(work_meets(w, &checkpoint) && checkpoint);
    cr_assert_eq(work_begun(w), 2);
    work_met(w);
    cr_assert(work_ended(w));
    cr_assert_eq(given(w, 0).kind, WORK_LEAVE);
    work_close(w);
}

Test(work, a_stop_takes_back_what_nobody_has_begun)
{
    const struct work_options options = {.steps = STEPS, .microbatches = 2, .staleness = 3};
    struct work *w;
    bool checkpoint;
    cr_assert_eq(work_open(&options, &w), CAIRN_OK);
    for (int id = 0; id < 3; id++)
        cr_assert_eq(work_join(w, id), CAIRN_OK);
    struct work_item a = given(w, 0), b = given(w, 1);
    cr_assert_eq(given(w, 2).kind, WORK_WAIT, "two microbatches for three, but it looked a step ahead");
    cr_assert_eq(work_begun(w), 2);
    cr_assert_eq(work_done(w, 0, &a), CAIRN_OK);
    work_leave(w, 0);
    work_stop(w);
    cr_assert_not(work_meets(w, &checkpoint));
    cr_assert_eq(work_done(w, 1, &b), CAIRN_OK);
    cr_assert_eq(work_begun(w), 1);
    cr_assert(work_meets(w, &checkpoint) && checkpoint);
    work_close(w);
}

Test(work, a_stop_keeps_what_was_ever_given_out)
{
    struct work *w = begin(3, 1);
    struct work_item a = given(w, 0);
    bool checkpoint;
    work_leave(w, 0); /* its gradient may have come to some of the servers */
    work_stop(w);
    cr_assert_not(work_meets(w, &checkpoint));
    cr_assert_eq(work_join(w, 1), CAIRN_OK);
    struct work_item b = given(w, 1);
    cr_assert(b.step == a.step && b.first == a.first && b.count == a.count);
    work_close(w);
}

Test(work, no_lead_is_without_end)
{
    const struct work_options options = {.steps = 5000, .microbatches = 2, .staleness = CONFIG_ENDLESS};
    struct work *w;
    cr_assert_eq(work_open(&options, &w), CAIRN_OK);
    cr_assert(work_join(w, 0) == CAIRN_OK && work_join(w, 1) == CAIRN_OK);
    struct work_item slow = given(w, 0), item;
    while ((item = given(w, 1)).kind == WORK_TRAIN && item.step < 4000)
        cr_assert_eq(work_done(w, 1, &item), CAIRN_OK);
    cr_assert_eq(item.kind, WORK_WAIT);
    cr_assert_eq(work_lead(w), 1024);
    cr_assert_eq(work_done(w, 0, &slow), CAIRN_OK);
    cr_assert_eq(given(w, 1).kind, WORK_TRAIN);
    work_close(w);
}

Test(work, a_training_that_is_done_and_saved_is_over)
{
    const struct work_options options = {.first_step = STEPS, .saved = true, .steps = STEPS, .microbatches = 8, .validation_every = 4, .validation_microbatches = 3};
    struct work *w;
    cr_assert_eq(work_open(&options, &w), CAIRN_OK);
    cr_assert(work_ended(w) && !work_validates(w));
    cr_assert_eq(work_join(w, 0), CAIRN_OK);
    cr_assert_eq(given(w, 0).kind, WORK_LEAVE);
    work_close(w);
}

Test(work, nothing_is_left_of_a_training_that_is_done)
{
    const struct work_options options = {.first_step = STEPS, .steps = STEPS, .microbatches = 8};
    struct work *w;
    bool checkpoint;
    cr_assert_eq(work_open(&options, &w), CAIRN_OK);
    cr_assert(work_meets(w, &checkpoint), "its checkpoint may be missing");
    work_met(w);
    cr_assert(work_ended(w));
    work_close(w);
}
