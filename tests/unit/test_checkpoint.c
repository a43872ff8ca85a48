#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ckpt/box.h"
#include "ckpt/folder.h"
#include "ckpt/inspect.h"
#include "ckpt/plan.h"
#include "ckpt/table.h"

static struct box box2(int64_t y, int64_t x, int64_t rows, int64_t columns)
{
    return (struct box){.dims = 2, .offset = {y, x}, .extent = {rows, columns}};
}

Test(box, pieces_make_up_the_whole)
{
    struct box whole = {.dims = 3, .offset = {3, 5, 0}, .extent = {1, 7, 4}};
    int64_t next = 5, elements = 0;
    for (int i = 0; i < 3; i++) {
        struct box p = box_piece(&whole, i, 3);
        cr_assert_eq(p.offset[1], next);
        cr_assert_eq(box_first(&whole, &p), elements);
        next += p.extent[1];
        elements += box_elements(&p);
    }
    cr_assert_eq(elements, 28);
}

Test(box, coverage)
{
    int64_t shape[2] = {4, 6};
    struct box whole[3] = {box2(2, 3, 2, 3), box2(0, 0, 2, 6), box2(2, 0, 2, 3)};
    cr_assert_eq(boxes_cover("a", 2, shape, whole, 3, CAIRN_ECORRUPT), CAIRN_OK);
    struct box overlap[2] = {box2(0, 0, 3, 6), box2(2, 0, 1, 6)};
    cr_assert_eq(boxes_cover("a", 2, shape, overlap, 2, CAIRN_ECORRUPT), CAIRN_ECORRUPT);
    struct box hole[2] = {box2(0, 0, 2, 6), box2(2, 0, 2, 5)};
    cr_assert_eq(boxes_cover("a", 2, shape, hole, 2, CAIRN_EINVAL), CAIRN_EINVAL);
}

Test(table, names)
{
    static const char *const good[] = {"a", "weights/block.3.qkv", "m/x/y", "checkpoints/x"};
    static const char *const bad[] = {"", "/a", "a/", "a//b", "a/./b", "..", "a b", "checkpoint", "checkpoint/x", "a\nb"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        cr_assert_eq(table_check_name(good[i]), CAIRN_OK, "%s", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        cr_assert_eq(table_check_name(bad[i]), CAIRN_EINVAL, "%s", bad[i]);
}

static void fill_table(struct table *t)
{
    cr_assert_eq(table_allocate(t, 1, 2, 1), CAIRN_OK);
    strcpy(t->arrays[0].name, "weights/a");
    t->arrays[0].dims = 1;
    t->arrays[0].shape[0] = 10;
    t->parts[0].bytes = 1000;
    for (int i = 0; i < 2; i++)
        t->slabs[i] = (struct table_slab){.offset = {5 * i}, .extent = {5}, .data_at = 100 + 20 * i, .checksums_at = 8 * i};
}

Test(table, packs_and_unpacks)
{
    struct table t = {0}, back;
    void *data;
    size_t bytes;
    fill_table(&t);
    t.facts = (struct checkpoint_facts){.step = 12, .config = strdup("a: b"), .extra = strdup("{}")};
    cr_assert_eq(table_pack(&t, &data, &bytes), CAIRN_OK);
    cr_assert_eq(table_unpack(data, bytes, &back), CAIRN_OK);
    cr_assert_eq(back.facts.step, 12);
    cr_assert_str_eq(back.facts.config, "a: b");
    cr_assert_str_eq(back.facts.signature, "");
    cr_assert_eq(back.first_slab[1], 2);
    cr_assert_eq(table_find(&back, "weights/a"), 0);
    table_free(&back);
    for (size_t cut = 0; cut < bytes; cut++)
        cr_assert_eq(table_unpack(data, cut, &back), CAIRN_ECORRUPT);
    free(data);
    table_free(&t);
}

Test(table, refuses_what_would_mislead_a_reader)
{
    struct table t = {0};
    fill_table(&t);
    cr_assert_eq(table_check(&t), CAIRN_OK);
    t.slabs[1].data_at = 990;
    cr_assert_eq(table_check(&t), CAIRN_ECORRUPT);
    t.slabs[1].data_at = 120;
    t.slabs[1].checksums_at = INT64_MAX - 3;
    cr_assert_eq(table_check(&t), CAIRN_ECORRUPT);
    t.slabs[1].checksums_at = 8;
    t.slabs[1].offset[0] = 4;
    cr_assert_eq(table_check(&t), CAIRN_ECORRUPT);
    t.slabs[1].offset[0] = INT64_MAX;
    cr_assert_eq(table_check(&t), CAIRN_ECORRUPT);
    t.slabs[1].offset[0] = 5;
    t.slabs[1].part = 1;
    cr_assert_eq(table_check(&t), CAIRN_ECORRUPT);
    t.slabs[1].part = 0;
    t.arrays[0].dtype = 9;
    cr_assert_eq(table_check(&t), CAIRN_ECORRUPT);
    table_free(&t);
}

/* SIZE ranks in one group that hold a whole array of ROWS x 1024 floats. */
static void plan_replicated(int size, const int *node_of, int64_t rows, struct plan *plan)
{
    int group_of[8] = {0};
    struct shard s = {.name = "weights/a", .dims = 2, .shape = {rows, 1024}, .extent = {rows, 1024}};
    struct layout_group group = {.shards = &s, .count = 1, .first_rank = 0};
    struct layout layout = {.size = size, .group_of = group_of, .groups = &group, .group_count = 1};
    cr_assert_eq(plan_make(&layout, node_of, plan), CAIRN_OK);
}

Test(plan, nodes_share_what_all_hold)
{
    struct plan plan;
    plan_replicated(6, (const int[]){4, 4, 2, 2, 0, 0}, 3000, &plan);
    cr_assert_eq(plan.part_count, 3);
    cr_assert_eq(plan.piece_count, 3);
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(plan.writer[i], 2 * i);
        cr_assert_eq(plan.pieces[i].sender, plan.writer[plan.pieces[i].part]); /* nothing is sent */
        cr_assert_eq(plan.pieces[i].box.extent[0], 1000);
        cr_assert_eq(plan.pieces[i].first, 1000 * 1024 * i);
    }
    plan_free(&plan);
    plan_replicated(4, (const int[]){0, 1, 2, 3}, 10, &plan); /* 40 KiB: not worth splitting */
    cr_assert_eq(plan.part_count, 1);
    cr_assert_eq(plan.piece_count, 1);
    plan_free(&plan);
}

Test(plan, what_one_rank_holds_is_sent_to_its_nodes_writer)
{
    int group_of[4] = {0, 1, 1, 1};
    struct shard s = {.name = "a", .dims = 1, .shape = {100}, .extent = {100}};
    struct shard none = {.name = "a", .dims = 1, .shape = {100}, .extent = {0}};
    struct layout_group groups[2] = {{.shards = &none, .count = 1}, {.shards = &s, .count = 1, .first_rank = 1}};
    struct layout layout = {.size = 4, .group_of = group_of, .groups = groups, .group_count = 2};
    struct plan plan;
    cr_assert_eq(plan_make(&layout, (const int[]){0, 0, 0, 0}, &plan), CAIRN_OK);
    cr_assert_eq(plan.writer[0], 0);
    cr_assert_eq(plan.pieces[0].sender, 1);
    plan_free(&plan);
}

Test(plan, an_array_cannot_be_a_group_too)
{
    int group_of[1] = {0};
    struct shard s[3] = {{.name = "a", .dims = 1, .shape = {1}, .extent = {1}},
                         {.name = "a-b", .dims = 1, .shape = {1}, .extent = {1}},
                         {.name = "a/c", .dims = 1, .shape = {1}, .extent = {1}}};
    struct layout_group group = {.shards = s, .count = 3};
    struct layout layout = {.size = 1, .group_of = group_of, .groups = &group, .group_count = 1};
    struct plan plan;
    cr_assert_eq(plan_make(&layout, (const int[]){0}, &plan), CAIRN_EINVAL);
}

Test(folder, states_are_read_off_names)
{
    char dir[] = "/tmp/cairn-folder-XXXXXX";
    static const char *const names[] = {"step-00000020", "step-00000003", "step-00000020.tmp", "step-00000007.broken",
                                        "step-00000007.2.broken", "step-123456789012", "step-", "step-5x", "other"};
    struct checkpoint_entry *e;
    char path[FOLDER_PATH_SIZE];
    int count;
    cr_assert(mkdtemp(dir) != NULL);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        mkdir(path, 0777);
    }
    cr_assert_eq(checkpoint_list(dir, &e, &count), CAIRN_OK);
    cr_assert_eq(count, 6);
    cr_assert_eq(e[0].step, 3);
    cr_assert_eq(e[1].state, CHECKPOINT_BROKEN);
    cr_assert_eq(e[2].state, CHECKPOINT_BROKEN);
    cr_assert_eq(e[3].state, CHECKPOINT_TMP);
    cr_assert_eq(e[4].state, CHECKPOINT_COMPLETE);
    cr_assert_eq(e[5].step, 123456789012);
    free(e);
    cr_assert_eq(folder_remove_unfinished(dir, 19), CAIRN_OK);
    snprintf(path, sizeof path, "%s/step-00000020.tmp", dir);
    cr_assert_eq(access(path, F_OK), 0); /* a newer one may be in the making */
    cr_assert_eq(folder_remove_unfinished(dir, 20), CAIRN_OK);
    cr_assert_neq(access(path, F_OK), 0);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        rmdir(path);
    }
    cr_assert_eq(rmdir(dir), 0);
}

Test(hash, sees_every_part_of_an_array)
{
    float x[6] = {1, 2, 3, 4, 5, 6}, y[2] = {7, 8};
    struct shard s[2] = {{.name = "weights/a", .dims = 2, .shape = {2, 3}, .extent = {2, 3}, .data = x},
                         {.name = "weights/b", .dims = 1, .shape = {2}, .extent = {2}, .data = y}};
    struct shard turned[2] = {s[1], s[0]};
    char a[17], b[17];
    cr_assert_eq(checkpoint_hash_shards(s, 2, "weights/", a), CAIRN_OK);
    cr_assert_eq(checkpoint_hash_shards(turned, 2, "weights/", b), CAIRN_OK);
    cr_assert_str_eq(a, b);
    s[0].shape[0] = s[0].extent[0] = 3, s[0].shape[1] = s[0].extent[1] = 2;
    checkpoint_hash_shards(s, 2, "weights/", b);
    cr_assert_str_neq(a, b);
    s[0] = turned[1];
    strcpy(s[0].name, "weights/A");
    checkpoint_hash_shards(s, 2, "weights/", b);
    cr_assert_str_neq(a, b);
    s[0] = turned[1];
    s[0].extent[0] = 1;
    cr_assert_eq(checkpoint_hash_shards(s, 2, "weights/", b), CAIRN_EINVAL);
}

Test(folder, a_link_is_removed_and_not_what_it_leads_to)
{
    char dir[] = "/tmp/cairn-folder-XXXXXX", archive[64], file[80], link[64];
    cr_assert(mkdtemp(dir));
    snprintf(archive, sizeof archive, "%s/archive", dir);
    snprintf(file, sizeof file, "%s/part", archive);
    snprintf(link, sizeof link, "%s/step-00000001.tmp", dir);
    cr_assert_eq(mkdir(archive, 0777), 0);
    fclose(fopen(file, "w"));
    cr_assert_eq(symlink(archive, link), 0);
    cr_assert_eq(folder_remove(link), CAIRN_OK, "%s", cairn_err_message());
    cr_expect_eq(access(link, F_OK), -1);
    cr_expect_eq(access(file, F_OK), 0);
    cr_expect_eq(folder_remove(archive), CAIRN_OK);
    rmdir(dir);
}
