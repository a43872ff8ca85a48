#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/permutation.h"
#include "io/loader.h"
#include "tests/unit/dataset_file.h"

static char path[64];
static const struct dataset_file plain = {.tokens = {5000, 700}, .token_bytes = 2, .vocabulary = 3000, .bad_token = -1};

static void make_path(void)
{
    snprintf(path, sizeof path, "/tmp/cairn-test-loader.%d.h5", (int)getpid());
}

static void remove_path(void)
{
    unlink(path);
}

static struct dataset *open_file(const struct dataset_file *file)
{
    struct dataset *dataset;
    dataset_file_make(path, file);
    cr_assert_eq(dataset_open_alone(path, &dataset), CAIRN_OK, "%s", cairn_err_message());
    return dataset;
}

/* Sample R of microbatch M of step S, straight from the contract in io/loader.h. */
static void check_sample(const struct loader_options *o, int64_t n, int64_t s, int64_t m, int64_t r, const int32_t *inputs, const int32_t *targets)
{
    uint64_t p = (uint64_t)((s * o->microbatches + m) * o->samples + r);
    int64_t index = (int64_t)permutation_map((uint64_t)o->seed, p / (uint64_t)n, (uint64_t)n, p % (uint64_t)n);
    for (int64_t i = 0; i < o->context; i++) {
        cr_assert_eq((uint32_t)inputs[r * o->context + i], dataset_file_token(&plain, (int)o->split, index * o->context + i));
        cr_assert_eq((uint32_t)targets[r * o->context + i], dataset_file_token(&plain, (int)o->split, index * o->context + i + 1));
    }
}

static void check_order(struct loader_options o, int steps)
{
    struct dataset *dataset = open_file(&plain);
    struct loader *loader;
    const int32_t *inputs, *targets;
    int64_t n = dataset_samples(dataset, o.split, o.context);
    cr_assert_eq(loader_open(dataset, &o, &loader), CAIRN_OK, "%s", cairn_err_message());
    for (int64_t s = o.step; s < o.step + steps; s++)
        for (int64_t m = o.first; m < o.first + o.count; m++) {
            cr_assert_eq(loader_next(loader, &inputs, &targets), CAIRN_OK, "%s", cairn_err_message());
            for (int64_t r = 0; r < o.samples; r++)
                check_sample(&o, n, s, m, r, inputs, targets);
        }
    loader_close(loader);
    dataset_close(dataset);
}

Test(loader, order_of_all_microbatches, .init = make_path, .fini = remove_path)
{
    check_order((struct loader_options){.seed = 7, .context = 33, .samples = 3, .microbatches = 4, .count = 4, .prefetch = 2}, 40);
}

/* A rank that has only the middle of a step, from a later step on, over several epochs. */
Test(loader, order_of_a_part, .init = make_path, .fini = remove_path)
{
    check_order((struct loader_options){.seed = -3, .context = 64, .samples = 2, .microbatches = 8, .first = 3, .count = 2, .step = 12345,
                .prefetch = 1}, 50);
    check_order((struct loader_options){.split = SPLIT_VALIDATION, .context = 10, .samples = 5, .microbatches = 3, .first = 2, .count = 1,
                .prefetch = 16}, 50);
}

Test(loader, an_epoch_has_every_sample_once, .init = make_path, .fini = remove_path)
{
    struct dataset *dataset = open_file(&plain);
    struct loader *loader;
    struct loader_options o = {.seed = 1, .context = 50, .samples = 11, .microbatches = 1, .count = 1, .prefetch = 3};
    const int32_t *inputs, *targets;
    int seen[99] = {0};
    cr_assert_eq(dataset_samples(dataset, SPLIT_TRAIN, 50), 99);
    cr_assert_eq(loader_open(dataset, &o, &loader), CAIRN_OK);
    for (int batch = 0; batch < 9; batch++) {
        cr_assert_eq(loader_next(loader, &inputs, &targets), CAIRN_OK);
        for (int r = 0; r < 11; r++)
            for (int index = 0; index < 99; index++)
                seen[index] += (uint32_t)inputs[r * 50] == dataset_file_token(&plain, 0, index * 50) &&
                               (uint32_t)inputs[r * 50 + 1] == dataset_file_token(&plain, 0, index * 50 + 1);
    }
    for (int index = 0; index < 99; index++)
        cr_assert_eq(seen[index], 1, "sample %d was met %d times", index, seen[index]);
    loader_close(loader);
    dataset_close(dataset);
}

/* What was read before the failure still comes; then the failure, again and again. */
Test(loader, failure_comes_out_in_its_turn, .init = make_path, .fini = remove_path)
{
    struct dataset_file file = plain;
    file.bad_token = 2500;
    struct dataset *dataset = open_file(&file);
    struct loader *loader;
    struct loader_options o = {.seed = 1, .context = 50, .samples = 1, .microbatches = 1, .count = 1, .prefetch = 8};
    const int32_t *inputs, *targets;
    int good = 0, expected = 0;
    while (permutation_map(1, 0, 99, (uint64_t)expected) != 49 && permutation_map(1, 0, 99, (uint64_t)expected) != 50)
        expected++; /* token 2500 is the last of sample 49's targets and the first of sample 50 */
    cr_assert_eq(loader_open(dataset, &o, &loader), CAIRN_OK);
    while (loader_next(loader, &inputs, &targets) == CAIRN_OK)
        good++;
    cr_assert_eq(good, expected);
    for (int again = 0; again < 3; again++) {
        cr_assert_eq(loader_next(loader, &inputs, &targets), CAIRN_EFORMAT);
        cr_assert(strstr(cairn_err_message(), "token 3000"), "%s", cairn_err_message());
    }
    loader_close(loader);
    dataset_close(dataset);
}

/* Closed while the thread reads, waits for room, or has just begun. */
Test(loader, closes_at_any_moment, .init = make_path, .fini = remove_path)
{
    struct dataset *dataset = open_file(&plain);
    struct loader_options o = {.seed = 1, .context = 50, .samples = 4, .microbatches = 1, .count = 1, .prefetch = 2};
    const int32_t *inputs, *targets;
    for (int taken = 0; taken < 30; taken++) {
        struct loader *loader;
        cr_assert_eq(loader_open(dataset, &o, &loader), CAIRN_OK);
        for (int i = 0; i < taken % 7; i++)
            cr_assert_eq(loader_next(loader, &inputs, &targets), CAIRN_OK);
        nanosleep(&(struct timespec){0, taken % 5 * 100000}, NULL);
        loader_close(loader);
    }
    dataset_close(dataset);
}

/* The buffers of the last loader_next stay as they are while the thread goes on reading. */
Test(loader, buffers_are_the_callers_until_the_next_call, .init = make_path, .fini = remove_path)
{
    struct dataset *dataset = open_file(&plain);
    struct loader *loader;
    struct loader_options o = {.seed = 1, .context = 50, .samples = 4, .microbatches = 1, .count = 1, .prefetch = 1};
    const int32_t *inputs, *targets;
    int32_t kept[200];
    cr_assert_eq(loader_open(dataset, &o, &loader), CAIRN_OK);
    for (int i = 0; i < 50; i++) {
        cr_assert_eq(loader_next(loader, &inputs, &targets), CAIRN_OK);
        memcpy(kept, inputs, sizeof kept);
        nanosleep(&(struct timespec){0, 200000}, NULL);
        cr_assert_eq(memcmp(kept, inputs, sizeof kept), 0, "microbatch %d changed", i);
    }
    cr_assert_geq(loader_waited(loader), 0);
    cr_assert_eq(loader_waited(loader), 0);
    loader_close(loader);
    dataset_close(dataset);
}

Test(loader, refuses_bad_options, .init = make_path, .fini = remove_path)
{
    struct dataset *dataset = open_file(&plain);
    struct loader *loader;
    const struct loader_options good = {.context = 50, .samples = 1, .microbatches = 2, .count = 1, .prefetch = 1};
    struct loader_options bad[6] = {good, good, good, good, good, good};
    bad[0].context = 5000;
    bad[1].count = 3;
    bad[2].prefetch = 0;
    bad[3].samples = 0;
    bad[4].first = 2;
    bad[5].step = -1;
    for (int i = 0; i < 6; i++) {
        cr_assert_eq(loader_open(dataset, &bad[i], &loader), CAIRN_EINVAL, "options %d", i);
        cr_assert_null(loader);
    }
    dataset_close(dataset);
}
