/* What holds for the actions of one stage. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "schedule_cases.h"

/* Calls TRY for every stage of every case. */
static void each_stage(const struct schedule_desc *desc, void (*try)(const struct schedule_desc *, int, const struct stage_actions *))
{
    for (int stage = 0; stage < desc->stages; stage++) {
        struct stage_actions list;
        cr_assert_eq(schedule_make(desc, stage, &list.actions, &list.count), CAIRN_OK, "%s", cairn_err_message());
        try(desc, stage, &list);
        free(list.actions);
    }
}

enum { KINDS = ACTION_UPDATE + 1 };

/* Every kind of pass comes once for each chunk and microbatch, in the order of microbatches, which makes it once. */
static void counts_passes(const struct schedule_desc *desc, int stage, const struct stage_actions *list)
{
    bool split = desc->kind == SCHEDULE_ZERO_BUBBLE && desc->stages > 1;
    int64_t(*done)[KINDS] = calloc((size_t)desc->chunks, sizeof *done);
    for (int64_t i = 0; i < list->count - 1; i++) {
        const struct action *a = &list->actions[i];
        cr_assert(a->chunk >= 0 && a->chunk < desc->chunks);
        int64_t *of = done[a->chunk], before = of[a->kind]++;
        if (a->kind == ACTION_REDUCE) {
            cr_assert_eq(of[split ? ACTION_BACKWARD_WEIGHT : ACTION_BACKWARD], desc->microbatches, "%s", schedule_text(desc));
            continue;
        }
        cr_assert_eq(a->microbatch, before, "%s: stage %d: chunk %d: action %d of microbatch %lld comes as number %lld",
                     schedule_text(desc), stage, a->chunk, a->kind, (long long)a->microbatch, (long long)before);
        if (a->kind == ACTION_BACKWARD || a->kind == ACTION_BACKWARD_INPUT)
            cr_assert_gt(of[ACTION_FORWARD], before);
        if (a->kind == ACTION_BACKWARD_WEIGHT)
            cr_assert_gt(of[ACTION_BACKWARD_INPUT], before);
    }
    cr_assert_eq(list->actions[list->count - 1].kind, ACTION_UPDATE);
    for (int chunk = 0; chunk < desc->chunks; chunk++) {
        int global = schedule_global_chunk(desc, stage, chunk);
        int64_t m = desc->microbatches, in = desc->stages > 1 && global > 0 ? m : 0;
        int64_t out = desc->stages > 1 && global < desc->stages * desc->chunks - 1 ? m : 0;
        const int64_t expected[KINDS] = {m, split ? 0 : m, split ? m : 0, split ? m : 0, out, in, in, out, 1, 0};
        cr_assert_eq(memcmp(done[chunk], expected, sizeof expected), 0, "%s: stage %d, chunk %d", schedule_text(desc), stage, chunk);
    }
    free(done);
}

static void counts_passes_of(const struct schedule_desc *desc)
{
    each_stage(desc, counts_passes);
}

Test(schedule, every_microbatch_once_a_chunk_in_order)
{
    each_schedule(counts_passes_of);
}

static bool is_message(const struct action *a)
{
    return a->kind >= ACTION_SEND_FORWARD && a->kind <= ACTION_RECEIVE_BACKWARD;
}

/* The pass that a message belongs to: behind a receive, before a send. */
static void messages_stand_at_their_pass(const struct schedule_desc *desc, int stage, const struct stage_actions *list)
{
    for (int64_t i = 0; i < list->count; i++) {
        const struct action *a = &list->actions[i];
        if (!is_message(a)) {
            cr_assert_eq(a->peer, -1);
            continue;
        }
        bool forward = a->kind == ACTION_SEND_FORWARD || a->kind == ACTION_RECEIVE_FORWARD;
        bool sends = a->kind == ACTION_SEND_FORWARD || a->kind == ACTION_SEND_BACKWARD;
        const struct action *pass = sends ? a - 1 : a + 1;
        cr_assert(forward ? pass->kind == ACTION_FORWARD : pass->kind == ACTION_BACKWARD || pass->kind == ACTION_BACKWARD_INPUT);
        cr_assert(pass->chunk == a->chunk && pass->microbatch == a->microbatch && pass->slot == a->slot);
        int other = schedule_global_chunk(desc, stage, a->chunk) + (forward == sends ? 1 : -1);
        cr_assert_eq(a->peer, schedule_stage_of(desc, other), "%s: stage %d: peer %d", schedule_text(desc), stage, a->peer);
    }
}

static void messages_stand_at_their_pass_of(const struct schedule_desc *desc)
{
    each_stage(desc, messages_stand_at_their_pass);
}

Test(schedule, messages_stand_at_their_pass)
{
    each_schedule(messages_stand_at_their_pass_of);
}

/* What the stores of a stage hold while its actions run. */
struct stores {
    int64_t *owner; /* [chunk][slot]: microbatch + 1, or 0 */
    int64_t width;  /* the most slots of a chunk */
    int64_t *slots, *kept, *most, kept_now, most_now;
};

static void take_and_free(struct stores *stores, const struct schedule_desc *desc, int stage, const struct stage_actions *list, int64_t i)
{
    const struct action *a = &list->actions[i], *next = a + 1;
    if (a->microbatch < 0)
        return;
    int64_t slots = stores->slots[a->chunk], *owner = &stores->owner[a->chunk * stores->width + a->slot];
    cr_assert(a->slot >= 0 && a->slot < slots, "%s: stage %d: slot %d of %lld", schedule_text(desc), stage, a->slot, (long long)slots);
    bool first = a->kind == ACTION_RECEIVE_FORWARD || (a->kind == ACTION_FORWARD && *owner == 0);
    cr_assert_eq(*owner, first ? 0 : a->microbatch + 1, "%s: stage %d: chunk %d: slot %d holds %lld at action %d of %lld",
                 schedule_text(desc), stage, a->chunk, a->slot, (long long)*owner - 1, a->kind, (long long)a->microbatch);
    if (first) {
        *owner = a->microbatch + 1;
        if (++stores->kept[a->chunk] > stores->most[a->chunk])
            stores->most[a->chunk]++;
        if (++stores->kept_now > stores->most_now)
            stores->most_now++;
    }
    bool split = desc->kind == SCHEDULE_ZERO_BUBBLE && desc->stages > 1;
    bool sent_next = next->kind == ACTION_SEND_BACKWARD && next->microbatch == a->microbatch;
    bool last = split ? a->kind == ACTION_BACKWARD_WEIGHT : (a->kind == ACTION_BACKWARD && !sent_next) || a->kind == ACTION_SEND_BACKWARD;
    if (last) {
        *owner = 0;
        stores->kept[a->chunk]--;
        stores->kept_now--;
    }
}

static void stores_are_the_formula(const struct schedule_desc *desc, int stage, const struct stage_actions *list)
{
    size_t chunks = (size_t)desc->chunks;
    struct stores stores = {.slots = calloc(chunks, sizeof(int64_t)), .kept = calloc(chunks, sizeof(int64_t)),
                            .most = calloc(chunks, sizeof(int64_t))};
    for (int chunk = 0; chunk < desc->chunks; chunk++) {
        stores.slots[chunk] = schedule_slots(desc, stage, chunk);
        stores.width = stores.slots[chunk] > stores.width ? stores.slots[chunk] : stores.width;
    }
    stores.owner = calloc(chunks * (size_t)stores.width, sizeof(int64_t));
    for (int64_t i = 0; i < list->count; i++)
        take_and_free(&stores, desc, stage, list, i);
    cr_assert_eq(stores.kept_now, 0);
    cr_assert_eq(stores.most_now, schedule_peak(desc, stage), "%s: stage %d keeps %lld, not %lld", schedule_text(desc), stage,
                 (long long)stores.most_now, (long long)schedule_peak(desc, stage));
    for (int chunk = 0; chunk < desc->chunks; chunk++)
        cr_assert_eq(stores.most[chunk], stores.slots[chunk], "%s: stage %d, chunk %d keeps %lld, not %lld", schedule_text(desc),
                     stage, chunk, (long long)stores.most[chunk], (long long)stores.slots[chunk]);
    free(stores.owner);
    free(stores.slots);
    free(stores.kept);
    free(stores.most);
}

static void stores_are_the_formula_of(const struct schedule_desc *desc)
{
    each_stage(desc, stores_are_the_formula);
}

Test(schedule, stores_are_the_formula_and_never_reused_while_kept)
{
    each_schedule(stores_are_the_formula_of);
}

static int64_t at_most(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* The published peaks: arXiv 1811.06965, 2104.04473 (1F1B: stages - stage; interleaved as Megatron's warm-up has it) and
 * 2401.10241, table 2 (zero bubble: as many as 1F1B on its first stage). */
static void peak_is_published(const struct schedule_desc *desc)
{
    int64_t p = desc->stages, v = desc->chunks, m = desc->microbatches;
    if (p == 1 || (desc->kind == SCHEDULE_INTERLEAVED && m % p))
        return;
    for (int s = 0; s < p; s++) {
        const int64_t expected[] = {m, at_most(m, p - s), at_most(v * m, (v - 1) * p + 2 * (p - 1 - s) + 1), at_most(m, p)};
        cr_assert_eq(schedule_peak(desc, s), expected[desc->kind], "%s: stage %d", schedule_text(desc), s);
    }
}

Test(schedule, peaks_are_the_published_ones)
{
    each_schedule(peak_is_published);
}

static void one_stage_keeps_one(const struct schedule_desc *desc)
{
    struct stage_actions *list = schedule_actions(desc);
    for (int64_t i = 0; desc->stages == 1 && i < list->count - 1; i++) {
        const struct action *a = &list->actions[i], *next = a + 1;
        if (a->kind == ACTION_FORWARD)
            cr_assert(next->microbatch == a->microbatch && next->kind == (a->chunk < desc->chunks - 1 ? ACTION_FORWARD : ACTION_BACKWARD) &&
                      next->chunk == at_most(a->chunk + 1, desc->chunks - 1));
        if (a->kind == ACTION_BACKWARD && a->chunk > 0) {
            next += next->kind == ACTION_REDUCE;
            cr_assert(next->kind == ACTION_BACKWARD && next->microbatch == a->microbatch && next->chunk == a->chunk - 1);
        }
    }
    schedule_actions_free(desc, list);
}

Test(schedule, one_stage_hands_over_at_once)
{
    each_small_schedule(one_stage_keeps_one);
}

static void expect_refusal(struct schedule_desc desc, const char *part)
{
    cr_assert_eq(schedule_check(&desc), CAIRN_ECONFIG);
    cr_assert(strstr(cairn_err_message(), part), "%s", cairn_err_message());
}

Test(schedule, refuses_what_does_not_fit)
{
    expect_refusal((struct schedule_desc){SCHEDULE_1F1B, 0, 1, 8}, "at least 1");
    expect_refusal((struct schedule_desc){SCHEDULE_1F1B, 4, 0, 8}, "at least 1");
    expect_refusal((struct schedule_desc){SCHEDULE_1F1B, 4, 1, 0}, "at least 1");
    expect_refusal((struct schedule_desc){SCHEDULE_INTERLEAVED, 4, 1, 8}, "at least 2 chunks");
    expect_refusal((struct schedule_desc){SCHEDULE_1F1B, 4, 2, 8}, "interleaved");
    expect_refusal((struct schedule_desc){SCHEDULE_ZERO_BUBBLE, 4, 2, 8}, "interleaved");
    expect_refusal((struct schedule_desc){(enum schedule_kind)4, 4, 1, 8}, "no schedule");
    expect_refusal((struct schedule_desc){SCHEDULE_GPIPE, 1 << 20, 1, INT64_MAX / 4}, "too large");
    expect_refusal((struct schedule_desc){SCHEDULE_INTERLEAVED, 1 << 20, 1 << 20, 1}, "too large");
}
