#include "schedule_cases.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

const char *schedule_text(const struct schedule_desc *desc)
{
    static const char *const names[] = {"gpipe", "1f1b", "interleaved", "zero bubble"};
    static char text[96];
    snprintf(text, sizeof text, "%s, %d stages, %d chunks, %lld microbatches", names[desc->kind], desc->stages, desc->chunks,
             (long long)desc->microbatches);
    return text;
}

static void each_kind(int stages, int64_t microbatches, int chunks_most, void (*try)(const struct schedule_desc *desc))
{
    for (enum schedule_kind kind = SCHEDULE_GPIPE; kind <= SCHEDULE_ZERO_BUBBLE; kind++) {
        bool interleaved = kind == SCHEDULE_INTERLEAVED;
        for (int chunks = interleaved ? 2 : 1; chunks <= (interleaved ? chunks_most : 1); chunks++) {
            struct schedule_desc desc = {kind, stages, chunks, microbatches};
            cr_assert_eq(schedule_check(&desc), CAIRN_OK, "%s: %s", schedule_text(&desc), cairn_err_message());
            try(&desc);
        }
    }
}

void each_small_schedule(void (*try)(const struct schedule_desc *desc))
{
    for (int stages = 1; stages <= 8; stages++)
        for (int64_t microbatches = 1; microbatches <= 20; microbatches++)
            each_kind(stages, microbatches, 4, try);
}

void each_schedule(void (*try)(const struct schedule_desc *desc))
{
    static const struct {
        int stages;
        int64_t microbatches;
    } large[] = {{1, 10000}, {2, 5000}, {3, 3333}, {7, 1428}, {16, 625}, {60, 119}, {64, 156}, {100, 100}, {101, 99}, {625, 16}, {5000, 2}, {10000, 1}};
    each_small_schedule(try);
    for (size_t i = 0; i < sizeof large / sizeof large[0]; i++)
        each_kind(large[i].stages, large[i].microbatches, 3, try);
}

struct stage_actions *schedule_actions(const struct schedule_desc *desc)
{
    struct stage_actions *stages = calloc((size_t)desc->stages, sizeof *stages);
    for (int s = 0; s < desc->stages; s++)
        cr_assert_eq(schedule_make(desc, s, &stages[s].actions, &stages[s].count), CAIRN_OK, "%s", cairn_err_message());
    return stages;
}

void schedule_actions_free(const struct schedule_desc *desc, struct stage_actions *stages)
{
    for (int s = 0; s < desc->stages; s++)
        free(stages[s].actions);
    free(stages);
}

uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
