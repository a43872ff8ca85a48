/* A step's sums on a server: whatever comes from whom in which order, and maybe twice, the bits are the tree's. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"
#include "base/error.h"
#include "server/sums.h"
#include "server/whole.h"
#include "train/shares.h"

enum { MICROBATCHES_MOST = 13 };

struct play {
    unsigned seed;
    int servers, server;
    int64_t microbatches;
    struct backend *backend;
    struct graph *graph;
    struct sums *sums;
};

static unsigned draw(struct play *p, unsigned below)
{
    return (unsigned)(rand_r(&p->seed) >> 4) % below;
}

static void open_play(struct play *p)
{
    const struct backend_options options = {.act = DTYPE_F32, .threads = 1, .instruction_set = "auto"};
    struct config c = {.batch = {.microbatches = p->microbatches, .samples = 1},
                       .model = {.layers = 1, .width = 8, .heads = 2, .context = 4, .tied = true}};
    cr_assert_eq(backend_open("reference", &options, &p->backend), CAIRN_OK, "%s", cairn_err_message());
    cr_assert_eq(whole_graph(p->backend, &c, 300, &p->graph), CAIRN_OK, "%s", cairn_err_message());
    cr_assert_eq(sums_open(p->backend, p->graph, p->microbatches, p->servers, p->server, &p->sums), CAIRN_OK);
}

static void close_play(struct play *p)
{
    sums_close(p->sums);
    graph_free(p->graph);
    p->backend->table->close(p->backend);
}

/* Element I of microbatch M's gradient of a bucket: numbers whose sum depends on the order. */
static float value(int bucket, int64_t m, int64_t i)
{
    uint32_t x = (uint32_t)(bucket * 7919 + m * 104729 + i * 1299709 + 1) * 2654435761u;
    return ((float)(x >> 8) / 16777216.0f - 0.5f) * (x % 3 ? 1.0f : 1000.0f);
}

/* The sum of node (LEVEL, INDEX), by its definition. */
static float node_sum(const struct play *p, int bucket, int level, int64_t index, int64_t i)
{
    if (level == 0)
        return value(bucket, index, i);
    float left = node_sum(p, bucket, level - 1, 2 * index, i);
    if ((2 * index + 1) << (level - 1) >= p->microbatches)
        return left;
    return left + node_sum(p, bucket, level - 1, 2 * index + 1, i);
}

static float whole_sum(const struct play *p, int bucket, int64_t i)
{
    int level = 0;
    while ((int64_t)1 << level < p->microbatches)
        level++;
    return node_sum(p, bucket, level, 0, i);
}

struct message {
    int bucket;
    struct tree_node node;
};

static void deliver(struct play *p, const struct message *m)
{
    int64_t length = (int64_t)sums_bytes(p->sums, m->bucket) / 4;
    struct wire_block *block = length ? wire_block_new((size_t)length * 4) : NULL;
    for (int64_t i = 0; i < length; i++)
        ((float *)block->data)[i] = node_sum(p, m->bucket, m->node.level, m->node.index, i);
    cr_assert_eq(sums_add(p->sums, m->bucket, m->node, block), CAIRN_OK, "%s", cairn_err_message());
}

/* All that WORKERS push of a step, some of it twice. */
static int list(struct play *p, int workers, struct message *out)
{
    int count = 0, most;
    struct tree_node nodes[TREE_MAX_NODES];
    for (int b = 0; b < graph_bucket_count(p->graph); b++)
        for (int w = 0; w < workers; w++) {
            int64_t first, share;
            tree_share(p->microbatches, workers, w, &first, &share);
            int n = tree_partials(p->microbatches, first, share, nodes, &most);
            for (int twice = 0; twice < 1 + (int)draw(p, 2); twice++)
                for (int i = 0; i < n; i++)
                    out[count++] = (struct message){b, nodes[i]};
        }
    return count;
}

static void check_step(struct play *p)
{
    static struct message messages[4096];
    int count = list(p, 1 + (int)draw(p, (unsigned)p->microbatches), messages);
    for (int i = count - 1; i > 0; i--) { /* in any order */
        int k = (int)draw(p, (unsigned)i + 1);
        struct message m = messages[i];
        messages[i] = messages[k];
        messages[k] = m;
    }
    for (int i = 0; i < count; i++)
        deliver(p, &messages[i]);
    cr_assert(sums_are_whole(p->sums));
    sums_join(p->sums);
    for (int b = 0; b < graph_bucket_count(p->graph); b++) {
        int lookup = -1;
        for (int k = 0; k < graph_bucket_count(p->graph); k++)
            lookup = graph_bucket_at(p->graph, k)->lookup_of == b ? k : lookup;
        const float *sum = sums_of(p->sums, b);
        for (int64_t i = 0; i < (int64_t)sums_bytes(p->sums, b) / 4; i++) {
            float expected = whole_sum(p, b, i);
            if (lookup >= 0)
                expected += whole_sum(p, lookup, i);
            cr_assert_eq(sum[i], expected, "element %lld of bucket %d", (long long)i, b);
        }
    }
    sums_clear(p->sums);
    cr_assert_not(sums_are_whole(p->sums));
}

Test(sums, any_order_gives_the_bits_of_the_tree)
{
    for (unsigned seed = 1; seed <= 12; seed++) {
        struct play p = {.seed = seed};
        p.microbatches = 1 + draw(&p, MICROBATCHES_MOST);
        p.servers = 1 + (int)draw(&p, 3);
        p.server = (int)draw(&p, (unsigned)p.servers);
        open_play(&p);
        for (int step = 0; step < 3; step++)
            check_step(&p);
        close_play(&p);
    }
}

Test(sums, what_does_not_fit_is_refused)
{
    struct play p = {.servers = 1, .microbatches = 6};
    open_play(&p);
    size_t bytes = sums_bytes(p.sums, 0);
    const struct {
        int bucket;
        struct tree_node node;
        size_t bytes;
    } wrong[] = {{-1, {0, 0}, bytes}, {1000, {0, 0}, bytes}, {0, {0, 6}, bytes}, {0, {0, -1}, bytes}, {0, {1, 3}, bytes},
                 {0, {-1, 0}, bytes}, {0, {63, 0}, bytes}, {0, {0, 0}, bytes - 4}, {0, {0, 0}, bytes + 4}, {0, {0, 0}, 0}};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        cr_expect_eq(sums_add(p.sums, wrong[i].bucket, wrong[i].node, wrong[i].bytes ? wire_block_new(wrong[i].bytes) : NULL), CAIRN_EFORMAT,
                     "case %zu", i);
    cr_assert_not(sums_are_whole(p.sums));
    close_play(&p);
}
