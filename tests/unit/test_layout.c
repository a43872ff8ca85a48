/* Places of ranks, and which layouts fit. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/error.h"
#include "mesh/layout.h"

static const struct layout_limits limits = {.layers = 6, .heads = 4, .vocabulary = 61, .context = 32, .microbatches = 8};

Test(layout, places_and_ranks_are_inverse)
{
    const struct layout l = {.data = 3, .tensor = 2, .context = 2, .pipeline = 4, .chunks = 1, .expert = 1};
    for (int rank = 0; rank < 48; rank++) {
        struct layout_place p = layout_place_of(&l, rank);
        cr_assert(p.tensor < 2 && p.context < 2 && p.data < 3 && p.pipeline < 4);
        cr_assert_eq(layout_rank_at(&l, p), rank);
    }
    cr_assert_eq(layout_place_of(&l, 1).tensor, 1, "tensor neighbours are innermost");
    cr_assert_eq(layout_place_of(&l, 2).context, 1);
    cr_assert_eq(layout_place_of(&l, 4).data, 1);
    cr_assert_eq(layout_place_of(&l, 12).pipeline, 1);
}

static struct layout axes(int data, int tensor, int context, int pipeline)
{
    return (struct layout){.data = data, .tensor = tensor, .context = context, .pipeline = pipeline, .chunks = 1, .expert = 1};
}

Test(layout, data_takes_what_is_left)
{
    struct layout l = axes(0, 2, 1, 2);
    cr_assert_eq(layout_fit(&l, 8, &limits), CAIRN_OK);
    cr_assert_eq(l.data, 2);
    l = axes(0, 1, 1, 1);
    cr_assert_eq(layout_fit(&l, 5, &limits), CAIRN_OK);
    cr_assert_eq(l.data, 5);
}

static int usable(struct layout l, int ranks)
{
    return layout_usable_ranks(&l, ranks, limits.microbatches);
}

Test(layout, usable_ranks_are_whole_copies_of_the_model)
{
    for (int ranks = 0; ranks <= 40; ranks++) {
        cr_expect_eq(usable(axes(0, 1, 1, 1), ranks), ranks < 8 ? ranks : 8, "8 microbatches, %d ranks", ranks);
        cr_expect_eq(usable(axes(0, 2, 1, 2), ranks), ranks < 32 ? ranks / 4 * 4 : 32, "%d ranks", ranks);
        cr_expect_eq(usable(axes(2, 1, 1, 2), ranks), ranks < 4 ? 0 : 4, "data given, %d ranks", ranks);
        struct layout l = axes(0, 1, 1, 2);
        int used = usable(l, ranks);
        cr_expect(used == 0 || layout_fit(&l, used, &limits) == CAIRN_OK, "%d of %d ranks", used, ranks);
    }
    struct layout experts = axes(0, 2, 1, 1);
    experts.expert = 2;
    cr_expect_eq(usable(experts, 15), 12, "data 6: groups of 2");
    cr_expect_eq(usable(experts, 3), 0);
}

Test(layout, the_fewest_ranks)
{
    struct layout l = axes(0, 2, 3, 2);
    cr_expect_eq(layout_least_ranks(&l), 12);
    l.expert = 2;
    cr_expect_eq(layout_least_ranks(&l), 24);
    l.data = 4;
    cr_expect_eq(layout_least_ranks(&l), 48);
    l = axes(1 << 20, 1 << 20, 1 << 20, 1 << 20);
    cr_expect_eq(layout_least_ranks(&l), INT64_MAX);
    cr_expect_eq(usable(l, 1 << 20), 0);
}

Test(layout, a_config_asks)
{
    const struct config config = {.parallel = {.data = 2, .tensor = 3, .context = 4, .pipeline = 5, .expert = 7, .chunks = 6}};
    struct layout l = layout_asked(&config);
    cr_expect_eq(l.servers, 0);
    cr_expect(l.data == 2 && l.tensor == 3 && l.context == 4 && l.pipeline == 5 && l.chunks == 6 && l.expert == 7);
}

/* L on RANKS ranks is refused, and the message holds each of the words. */
static void refused(struct layout l, int ranks, const char *why, const char *instead)
{
    cr_assert_eq(layout_fit(&l, ranks, &limits), CAIRN_ECONFIG);
    cr_expect(strstr(cairn_err_message(), why), "'%s' lacks '%s'", cairn_err_message(), why);
    cr_expect(strstr(cairn_err_message(), instead), "'%s' lacks '%s'", cairn_err_message(), instead);
}

Test(layout, what_does_not_fit_is_refused_with_the_nearest_that_does)
{
    refused(axes(0, 2, 1, 2), 6, "tensor 2 x pipeline 2 needs a multiple of 4 ranks, but there are 6 (4 of them would do)",
            "the nearest layout of 6 ranks that fits: ");
    refused(axes(4, 2, 1, 1), 4, "data 4 x tensor 2 needs 8 ranks, but there are 4", "fits: data 2 x tensor 2");
    refused(axes(0, 8, 1, 1), 8, "parallel.tensor is 8, but there are only 4 heads", "fits: data 2 x tensor 4");
    refused(axes(0, 1, 1, 8), 8, "but the model has only 6 blocks", "fits: ");
    refused(axes(0, 1, 32, 1), 32, "at most 16 pairs of pieces", "fits: data 2 x context 16");
    refused(axes(0, 1, 1, 1), 9, "9 data-parallel ranks but batch.microbatches is 8", "fits: ");
    refused(axes(1 << 20, 1 << 20, 1 << 20, 1 << 20), 4, "but there are 4", "fits: ");
    struct layout l = axes(0, 1, 1, 2);
    l.chunks = 4;
    refused(l, 2, "pieces, but the model has only 6 blocks", "fits: pipeline 2 x chunks 3");
    l = axes(0, 1, 1, 1);
    l.chunks = 2;
    refused(l, 2, "without a pipeline", "fits: data 2");
}

Test(layout, servers_stand_beside_the_workers)
{
    struct layout l = axes(0, 1, 1, 1);
    l.servers = 2;
    cr_expect_eq(layout_least_ranks(&l), 3);
    cr_expect_eq(usable(l, 2), 0, "no worker");
    cr_expect_eq(usable(l, 3), 3);
    cr_expect_eq(usable(l, 100), 10, "8 microbatches");
    refused(l, 2, "2 servers and workers need at least 3 ranks, but there are 2", "");
    refused(l, 11, "9 workers but batch.microbatches is 8", "");
    struct layout given = l;
    cr_assert_eq(layout_fit(&l, 5, &limits), CAIRN_OK);
    cr_expect_eq(l.data, 3);
    given.data = 3;
    cr_expect_eq(layout_least_ranks(&given), 5);
    cr_expect_eq(usable(given, 4), 0);
    cr_expect_eq(usable(given, 8), 5);
    refused(given, 6, "2 servers and 3 workers need 5 ranks, but there are 6", "");
}

Test(layout, no_layout_fits)
{
    refused(axes(0, 1, 1, 1), 10007, "10007 data-parallel ranks", "no layout of 10007 ranks fits");
}
