/* The one order of a step's sum. The V microbatches are the leaves 0..V-1 of a fixed binary tree: node (level, index) covers
 * leaves index * 2^level up to the next node's; a node whose right child covers no leaf is its left child. Whoever computes
 * which leaves, and wherever nodes are joined, every addition is that of a node's children, left + right. Pure functions. */
#ifndef MESH_TREE_H
#define MESH_TREE_H

#include <stdbool.h>
#include <stdint.h>

/* A partial sum: which node of the tree it is. */
struct tree_node {
    int level;
    int64_t index;
};

/* The nodes that are held and cannot be joined yet, from left to right: at most 2 log2(V) + 2. */
enum { TREE_MAX_NODES = 80 };

struct tree_stack {
    int64_t leaves;
    int count;
    struct tree_node node[TREE_MAX_NODES];
};

void tree_begin(struct tree_stack *stack, int64_t leaves);

/* The node that NODE is: a left child whose sibling covers no leaf is its parent. */
struct tree_node tree_promoted(struct tree_node node, int64_t leaves);

/* Puts NODE to the right of those held. Then, while tree_join returns true, the caller adds the value at position *LEFT + 1 to
 * the value at position *LEFT (left + right, kept at *LEFT) and drops the former. */
void tree_push(struct tree_stack *stack, struct tree_node node);
bool tree_join(struct tree_stack *stack, int *left);

/* The nodes that are left after leaves FIRST..FIRST+COUNT-1 were pushed and joined; and how many values were held at once. */
int tree_partials(int64_t leaves, int64_t first, int64_t count, struct tree_node *nodes, int *most_held);

/* Rank RANK of RANKS takes leaves *FIRST..*FIRST+*COUNT-1 of LEAVES: contiguous, as even as can be, larger ones first. */
void tree_share(int64_t leaves, int ranks, int rank, int64_t *first, int64_t *count);

#endif
