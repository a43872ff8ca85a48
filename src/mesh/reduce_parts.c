#include "mesh/reduce_parts.h"

#include <stdlib.h>
#include <string.h>

static cairn_err copy_leaves(struct parts *p, const struct reduce_leaves *leaves)
{
    bool given = leaves->first;
    p->stride = given ? leaves->stride : p->in_rounds ? p->ranks : 1;
    p->first = calloc(2 * (size_t)p->ranks, sizeof *p->first);
    p->of_rank = calloc((size_t)p->ranks, sizeof *p->of_rank);
    if (!p->first || !p->of_rank)
        return FAIL(CAIRN_ENOMEM, "no memory for the plan of the sums");
    p->count = p->first + p->ranks;
    if (!given && p->ranks > p->leaves)
        return FAIL(CAIRN_ECONFIG, "%d ranks but only %lld microbatches a step: give batch.microbatches at least %d", p->ranks,
                    (long long)p->leaves, p->ranks);
    for (int r = 0; r < p->ranks; r++) {
        if (given) {
            p->first[r] = leaves->first[r];
            p->count[r] = leaves->count[r];
        } else if (p->in_rounds) {
            p->first[r] = r;
            p->count[r] = (p->leaves - r + p->ranks - 1) / p->ranks;
        } else {
            tree_share(p->leaves, p->ranks, r, &p->first[r], &p->count[r]);
        }
        if (p->count[r] < 1)
            return FAIL(CAIRN_ECONFIG, "rank %d of %d has none of the %lld microbatches of a step", r, p->ranks, (long long)p->leaves);
        if (p->count[r] > p->rounds && p->in_rounds)
            p->rounds = p->count[r];
    }
    return CAIRN_OK;
}

/* Not in rounds: the partial sums of all ranks. */
static cairn_err list_all(struct parts *p)
{
    int room = 0;
    for (int rank = 0; rank < p->ranks; rank++) {
        struct tree_node nodes[TREE_MAX_NODES];
        int held, n = tree_partials(p->leaves, p->first[rank], p->count[rank], nodes, &held);
        if (p->all_count + n > room) {
            room = 2 * (p->all_count + n);
            struct part *more = realloc(p->all, (size_t)room * sizeof *more);
            if (!more)
                return FAIL(CAIRN_ENOMEM, "no memory for the plan of the sums");
            p->all = more;
        }
        p->of_rank[rank] = n;
        for (int i = 0; i < n; i++)
            p->all[p->all_count++] = (struct part){nodes[i], rank, i, -1, NULL};
    }
    return CAIRN_OK;
}

/* Goes through all rounds with no data: how many parts are held between them, and whether they end in one. */
static cairn_err try_rounds(struct parts *p)
{
    struct part held[TREE_MAX_NODES], *parts = malloc((size_t)parts_most(p) * sizeof *parts);
    int count = 0;
    if (!parts)
        return FAIL(CAIRN_ENOMEM, "no memory for the plan of the sums");
    for (int64_t round = 0; round < p->rounds && count >= 0; round++) {
        count = parts_list(p, round, held, count, parts);
        count = parts_join(p, parts, count, NULL, NULL, 0);
        for (int i = 0; i < count; i++) {
            held[i] = parts[i];
            held[i].rank = PART_HELD;
        }
        if (count > p->most_held)
            p->most_held = count;
    }
    free(parts);
    if (count != 1 || held[0].node.index || (int64_t)1 << held[0].node.level < p->leaves)
        return FAIL(CAIRN_EINVAL, "the leaves that %d ranks have do not join to a tree of %lld", p->ranks, (long long)p->leaves);
    return CAIRN_OK;
}

cairn_err parts_plan(struct parts *p, const struct reduce_leaves *leaves, bool in_rounds, int ranks, int rank)
{
    *p = (struct parts){.leaves = leaves->leaves, .ranks = ranks, .rank = rank, .in_rounds = in_rounds, .rounds = 1};
    TRY(copy_leaves(p, leaves));
    if (!in_rounds)
        TRY(list_all(p));
    return try_rounds(p);
}

void parts_free(struct parts *p)
{
    free(p->first);
    free(p->of_rank);
    free(p->all);
}

int parts_most(const struct parts *p)
{
    return p->in_rounds ? p->ranks + TREE_MAX_NODES : p->all_count;
}

int parts_most_foreign(const struct parts *p)
{
    return p->in_rounds ? p->ranks - 1 : p->all_count - p->of_rank[p->rank];
}

int parts_of_rank(const struct parts *p, int64_t round, int rank)
{
    return p->in_rounds ? round < p->count[rank] : p->of_rank[rank];
}

static int64_t first_leaf(const struct part *part)
{
    return part->node.index << part->node.level;
}

int parts_list(const struct parts *p, int64_t round, const struct part *held, int held_count, struct part *out)
{
    int n = 0, taken = 0;
    if (!p->in_rounds) {
        memcpy(out, p->all, (size_t)p->all_count * sizeof *out);
        return p->all_count;
    }
    for (int rank = 0; rank < p->ranks; rank++) {
        int64_t leaf = p->first[rank] + round * p->stride;
        if (round >= p->count[rank])
            continue;
        while (taken < held_count && first_leaf(&held[taken]) < leaf)
            out[n++] = held[taken++];
        out[n++] = (struct part){{0, leaf}, rank, 0, -1, NULL};
    }
    while (taken < held_count)
        out[n++] = held[taken++];
    return n;
}

int parts_join(const struct parts *p, struct part *parts, int count, reduce_add *add, void *add_context, int64_t length)
{
    struct tree_stack stack;
    int left;
    tree_begin(&stack, p->leaves);
    for (int i = 0; i < count; i++) {
        if (stack.count == TREE_MAX_NODES)
            return -1; /* only while planning: leaves in so many runs are refused then */
        parts[stack.count] = parts[i];
        tree_push(&stack, parts[i].node);
        while (tree_join(&stack, &left))
            if (length > 0)
                add(add_context, parts[left].data, parts[left].data, parts[left + 1].data, length);
    }
    for (int i = 0; i < stack.count; i++)
        parts[i].node = stack.node[i];
    return stack.count;
}

void parts_take_slots(struct part *parts, int count)
{
    bool used[TREE_MAX_NODES] = {false};
    int slot = 0;
    for (int i = 0; i < count; i++)
        if (parts[i].rank == PART_HELD)
            used[parts[i].slot] = true;
    for (int i = 0; i < count; i++) {
        if (parts[i].rank == PART_HELD)
            continue;
        while (used[slot])
            slot++;
        used[slot] = true;
        parts[i].rank = PART_HELD;
        parts[i].slot = slot;
    }
}
