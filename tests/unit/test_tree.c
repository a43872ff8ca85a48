#include <criterion/criterion.h>
#include <stdlib.h>

#include "mesh/tree.h"

/* The tree's sum of LEAVES values of float, by its definition: node (level, index) is left + right, or its left child. */
static float tree_sum(const float *values, int64_t leaves, int level, int64_t index)
{
    if (level == 0)
        return values[index];
    float left = tree_sum(values, leaves, level - 1, 2 * index);
    if ((2 * index + 1) << (level - 1) >= leaves)
        return left;
    return left + tree_sum(values, leaves, level - 1, 2 * index + 1);
}

/* The same as ranks do it: partial sums on each, then joined from left to right. */
static float shared_sum(const float *values, int64_t leaves, int ranks)
{
    struct tree_stack all;
    float total[TREE_MAX_NODES];
    int left;
    tree_begin(&all, leaves);
    for (int rank = 0; rank < ranks; rank++) {
        struct tree_stack own;
        float held[TREE_MAX_NODES];
        int64_t first, count;
        tree_share(leaves, ranks, rank, &first, &count);
        tree_begin(&own, leaves);
        for (int64_t i = first; i < first + count; i++) {
            held[own.count] = values[i];
            tree_push(&own, (struct tree_node){0, i});
            while (tree_join(&own, &left))
                held[left] += held[left + 1];
        }
        for (int i = 0; i < own.count; i++) {
            total[all.count] = held[i];
            tree_push(&all, own.node[i]);
            while (tree_join(&all, &left))
                total[left] += total[left + 1];
        }
    }
    cr_assert_eq(all.count, 1, "%lld leaves on %d ranks leave %d partial sums", (long long)leaves, ranks, all.count);
    return total[0];
}

Test(tree, same_bits_for_any_number_of_ranks)
{
    float values[70];
    srand(7);
    for (int i = 0; i < 70; i++)
        values[i] = (float)rand() / (float)RAND_MAX * (i % 5 ? 1.0f : 1e6f);
    for (int64_t leaves = 1; leaves <= 70; leaves++) {
        int level = 0;
        while ((int64_t)1 << level < leaves)
            level++;
        float expected = tree_sum(values, leaves, level, 0);
        for (int ranks = 1; ranks <= leaves; ranks++) {
            float got = shared_sum(values, leaves, ranks);
            cr_assert(got == expected, "%lld leaves on %d ranks: %.9g, not %.9g", (long long)leaves, ranks, (double)got,
                      (double)expected);
        }
    }
}

Test(tree, shares_are_contiguous_and_even)
{
    for (int64_t leaves = 1; leaves <= 40; leaves++)
        for (int ranks = 1; ranks <= leaves; ranks++) {
            int64_t next = 0, first, count;
            for (int r = 0; r < ranks; r++, next += count) {
                tree_share(leaves, ranks, r, &first, &count);
                cr_assert_eq(first, next);
                cr_assert(count == leaves / ranks || count == leaves / ranks + 1);
            }
            cr_assert_eq(next, leaves);
        }
}

Test(tree, few_values_are_held)
{
    struct tree_node nodes[TREE_MAX_NODES];
    int held;
    cr_assert_eq(tree_partials(1024, 0, 1024, nodes, &held), 1);
    cr_assert_leq(held, 11);
    cr_assert_eq(tree_partials(8, 0, 3, nodes, &held), 2);
    cr_assert_eq(tree_partials(8, 3, 3, nodes, &held), 2);
    cr_assert_eq(tree_partials(8, 6, 2, nodes, &held), 1);
    cr_assert(nodes[0].level == 1 && nodes[0].index == 3);
}
