#include "mesh/tree.h"

void tree_begin(struct tree_stack *stack, int64_t leaves)
{
    stack->leaves = leaves;
    stack->count = 0;
}

struct tree_node tree_promoted(struct tree_node n, int64_t leaves)
{
    while (n.index % 2 == 0 && n.index > 0 && (n.index + 1) << n.level >= leaves) {
        n.level++;
        n.index /= 2;
    }
    return n;
}

void tree_push(struct tree_stack *stack, struct tree_node node)
{
    stack->node[stack->count++] = tree_promoted(node, stack->leaves);
}

bool tree_join(struct tree_stack *stack, int *left)
{
    if (stack->count < 2)
        return false;
    struct tree_node *a = &stack->node[stack->count - 2], *b = a + 1;
    if (a->level != b->level || a->index % 2 || b->index != a->index + 1)
        return false;
    *left = stack->count - 2;
    a->level++;
    a->index /= 2;
    *a = tree_promoted(*a, stack->leaves);
    stack->count--;
    return true;
}

int tree_partials(int64_t leaves, int64_t first, int64_t count, struct tree_node *nodes, int *most_held)
{
    struct tree_stack stack;
    int left;
    tree_begin(&stack, leaves);
    *most_held = 0;
    for (int64_t i = 0; i < count; i++) {
        tree_push(&stack, (struct tree_node){0, first + i});
        if (stack.count > *most_held)
            *most_held = stack.count;
        while (tree_join(&stack, &left)) {
        }
    }
    for (int i = 0; i < stack.count; i++)
        nodes[i] = stack.node[i];
    return stack.count;
}

void tree_share(int64_t leaves, int ranks, int rank, int64_t *first, int64_t *count)
{
    int64_t base = leaves / ranks, more = leaves % ranks;
    *count = base + (rank < more);
    *first = rank * base + (rank < more ? rank : more);
}
