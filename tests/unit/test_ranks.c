/* How many ranks a launch has, and what is said of those that it does not have. */
#include <criterion/criterion.h>
#include <string.h>

#include "slurm/ranks.h"

static struct allocation_node nodes[4];

/* NODES healthy of four, with PER_NODE tasks each. */
static struct allocation on(int healthy, long per_node)
{
    for (int i = 0; i < 4; i++)
        nodes[i].healthy = i < healthy;
    return (struct allocation){.slurm = true, .nodes = nodes, .count = 4, .tasks = 4 * per_node, .tasks_per_node = per_node};
}

static struct config asking(int data, int tensor, int pipeline)
{
    return (struct config){.parallel = {.data = data, .tensor = tensor, .context = 1, .pipeline = pipeline, .chunks = 1},
                           .batch = {.microbatches = 8}, .supervise = {.min_ranks = 1}};
}

static struct ranks of(struct config config, struct allocation a)
{
    return ranks_choose(&config, NULL, &a);
}

static void expect(struct ranks r, int fit, int used, int on_nodes, bool enough, const char *layout)
{
    cr_expect(r.fit == fit && r.used == used && r.nodes == on_nodes && r.enough == enough, "fit %d, used %d, nodes %d, %s", r.fit, r.used,
              r.nodes, r.enough ? "enough" : r.short_of);
    cr_expect_str_eq(r.layout, layout);
    cr_expect_eq(r.enough, r.short_of[0] == 0);
    cr_expect_eq(r.idle[0] != 0, r.used > 0 && r.used < r.fit);
}

Test(ranks, data_shrinks_by_whole_copies_of_the_model)
{
    expect(of(asking(0, 1, 1), on(4, 1)), 4, 4, 4, true, "data 4");
    expect(of(asking(0, 1, 1), on(1, 1)), 1, 1, 1, true, "one rank");
    expect(of(asking(0, 1, 2), on(4, 1)), 4, 4, 4, true, "data 2 x pipeline 2");
    struct ranks r = of(asking(0, 1, 2), on(3, 1));
    expect(r, 3, 2, 2, true, "pipeline 2");
    cr_expect_str_eq(r.idle, "a copy of the model takes 2");
    r = of(asking(0, 1, 2), on(1, 1));
    expect(r, 1, 0, 0, false, "pipeline 2");
    cr_expect_str_eq(r.short_of, "1 rank fits on the healthy nodes, but a copy of the model takes 2 (pipeline 2)");
}

Test(ranks, a_given_data_axis_does_not_shrink)
{
    expect(of(asking(2, 1, 2), on(4, 1)), 4, 4, 4, true, "data 2 x pipeline 2");
    struct ranks r = of(asking(2, 1, 2), on(3, 1));
    expect(r, 3, 0, 0, false, "data 2 x pipeline 2");
    cr_expect_str_eq(r.short_of, "3 ranks fit on the healthy nodes, but data 2 x pipeline 2 needs 4 and cannot shrink "
                                 "(with parallel.data: auto it could)");
    r = of(asking(1, 1, 2), on(3, 1));
    expect(r, 3, 2, 2, true, "pipeline 2");
    cr_expect_str_eq(r.idle, "parallel.data is 1");
}

Test(ranks, each_copy_has_a_microbatch)
{
    struct ranks r = of(asking(0, 1, 1), on(4, 4));
    expect(r, 16, 8, 4, true, "data 8");
    cr_expect_str_eq(r.idle, "there are only 8 microbatches to share (batch.microbatches)");
    expect(of(asking(0, 1, 2), on(4, 4)), 16, 16, 4, true, "data 8 x pipeline 2");
    expect(of(asking(0, 1, 2), on(4, 5)), 20, 16, 4, true, "data 8 x pipeline 2");
}

Test(ranks, those_that_share_products_are_packed)
{
    expect(of(asking(0, 8, 1), on(3, 4)), 12, 8, 2, true, "tensor 8");
    expect(of(asking(0, 1, 8), on(3, 4)), 12, 8, 3, true, "pipeline 8");
}

Test(ranks, min_ranks_counts_where_the_layout_needs_fewer)
{
    struct config config = asking(0, 1, 2);
    config.supervise.min_ranks = 3;
    struct ranks r = of(config, on(3, 1));
    expect(r, 3, 2, 2, false, "pipeline 2");
    cr_expect_str_eq(r.short_of, "2 of the 3 ranks that fit on the healthy nodes can be used, supervise.min_ranks is 3");
    expect(of(config, on(4, 1)), 4, 4, 4, true, "data 2 x pipeline 2");
    config = asking(0, 1, 1);
    config.supervise.min_ranks = 4;
    r = of(config, on(3, 1));
    cr_expect_str_eq(r.short_of, "3 ranks fit on the healthy nodes, supervise.min_ranks is 4");
    r = of(asking(0, 1, 1), on(0, 1));
    cr_expect_str_eq(r.short_of, "0 ranks fit on the healthy nodes, supervise.min_ranks is 1");
}

Test(ranks, workers_shrink_and_servers_do_not)
{
    struct config config = asking(0, 1, 1);
    config.parallel.sync = SYNC_SERVER;
    config.parallel.servers = 2;
    struct ranks r = of(config, on(4, 1));
    expect(r, 4, 4, 4, true, "2 servers and 2 workers");
    cr_expect_eq(r.servers, 2);
    expect(of(config, on(3, 1)), 3, 3, 3, true, "2 servers and 1 worker");
    r = of(config, on(2, 1));
    expect(r, 2, 0, 0, false, "2 servers and workers");
    cr_expect_str_eq(r.short_of, "2 ranks fit on the healthy nodes, but 2 servers and workers need 3 at least");
    r = of(config, on(4, 4));
    expect(r, 16, 10, 4, true, "2 servers and 8 workers");
    cr_expect_str_eq(r.idle, "there are only 8 microbatches to share (batch.microbatches)");
    config.parallel.data = 2;
    expect(of(config, on(4, 4)), 16, 4, 4, true, "2 servers and 2 workers");
    cr_expect_eq(of(asking(0, 1, 1), on(4, 1)).servers, 0);
}

Test(ranks, auto_takes_what_some_layout_can_use)
{
    char all[] = "data tensor context pipeline", only_data[] = "data";
    struct config config = asking(3, 5, 7);
    config.parallel.automatic = all;
    config.model.layers = 4;
    config.model.heads = 2;
    expect(of(config, on(4, 1)), 4, 4, 4, true, "auto");
    expect(of(config, on(1, 1)), 1, 1, 1, true, "auto");
    config.batch.microbatches = 2; /* two copies of four stages */
    expect(of(config, on(4, 2)), 8, 8, 4, true, "auto");
    struct ranks r = of(config, on(4, 5)); /* of 4 stages at most, and no two tensor ranks on 5 of a node */
    expect(r, 20, 8, 2, true, "auto");
    cr_expect_str_eq(r.idle, "no layout of more fits 2 microbatches and 4 blocks");
    expect(of(config, on(4, 4)), 16, 16, 4, true, "auto");
    config.parallel.automatic = only_data;
    config.parallel.tensor = 1;
    config.parallel.pipeline = 3;
    expect(of(config, on(4, 1)), 4, 3, 3, true, "auto");
    config.supervise.min_ranks = 4;
    expect(of(config, on(3, 1)), 3, 3, 3, false, "auto");
}

Test(ranks, auto_keeps_what_changes_the_bits)
{
    char all[] = "data tensor context pipeline", others[] = "data pipeline";
    struct config config = asking(0, 1, 1);
    const struct layout last = {.tensor = 1, .context = 2}, wide = {.tensor = 16, .context = 1};
    const struct allocation seven = on(1, 7);
    config.parallel.automatic = all;
    config.model.layers = 4;
    config.model.heads = 2;
    struct ranks r = ranks_choose(&config, &last, &seven);
    expect(r, 7, 6, 1, true, "auto");
    cr_expect_str_eq(r.idle, "no layout of more keeps tensor 1 and context 2, and so the bits");
    expect(ranks_choose(&config, &wide, &seven), 7, 7, 1, true, "auto");
    expect(ranks_choose(&config, NULL, &seven), 7, 7, 1, true, "auto");
    const struct layout groups = {.tensor = 1, .context = 1, .expert = 4};
    char experts[] = "data tensor context expert";
    config.parallel.automatic = experts;
    config.parallel.pipeline = 1;
    r = ranks_choose(&config, &groups, &seven);
    expect(r, 7, 4, 1, true, "auto");
    cr_expect_str_eq(r.idle, "no layout of more keeps tensor 1 and context 1 and expert 4, and so the bits");
    config.parallel.automatic = all;
    config.supervise.min_ranks = 7;
    expect(ranks_choose(&config, &last, &seven), 7, 7, 1, true, "auto");
    config.supervise.min_ranks = 1;
    config.parallel.automatic = others;
    expect(ranks_choose(&config, &last, &seven), 7, 7, 1, true, "auto");
}

Test(ranks, auto_tells_what_it_was_given)
{
    char some[] = "data pipeline";
    struct config config = asking(3, 8, 7);
    config.parallel.automatic = some;
    config.model.layers = 4;
    config.model.heads = 8;
    struct ranks r = of(config, on(1, 1));
    expect(r, 1, 0, 0, false, "auto");
    cr_expect_str_eq(r.short_of, "1 rank fits on the healthy nodes, but a copy of the model takes 8 (tensor 8)");
}
