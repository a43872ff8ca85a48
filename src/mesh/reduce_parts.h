/* Which partial sums of a tree come together at the owner of a range, and how they are joined: the plan behind mesh/reduce.h.
 * Nothing here sends. */
#ifndef MESH_REDUCE_PARTS_H
#define MESH_REDUCE_PARTS_H

#include "mesh/reduce.h"

/* A partial sum: the NUMBERth of rank RANK, or with PART_HELD one that is kept in slot SLOT. */
enum { PART_HELD = -1 };

struct part {
    struct tree_node node;
    int rank, number, slot;
    char *data;
};

struct parts {
    int64_t leaves, stride;
    int64_t *first, *count; /* leaves of each rank */
    int ranks, rank;
    bool in_rounds;
    int64_t rounds;
    struct part *all; /* not in rounds: of all ranks, from left to right */
    int all_count, *of_rank;
    int most_held; /* in rounds: slots */
};

/* For rank RANK of RANKS. Frees nothing of what it made when it fails: parts_free does. */
cairn_err parts_plan(struct parts *plan, const struct reduce_leaves *leaves, bool in_rounds, int ranks, int rank);
void parts_free(struct parts *plan);

/* The most parts of a round; those of other ranks among them; the number of RANK's in round ROUND (0 if not in rounds). */
int parts_most(const struct parts *plan);
int parts_most_foreign(const struct parts *plan);
int parts_of_rank(const struct parts *plan, int64_t round, int rank);

/* OUT, of parts_most, from left to right: what the ranks give in round ROUND, and what is held of those before. Returns how many. */
int parts_list(const struct parts *plan, int64_t round, const struct part *held, int held_count, struct part *out);

/* Joins along the tree, with ADD of LENGTH elements at the parts' data, unless LENGTH <= 0. What is left is at the begin of PARTS;
 * returns how many: 1, the whole sum, in the end. */
int parts_join(const struct parts *plan, struct part *parts, int count, reduce_add *add, void *add_context, int64_t length);

/* Gives parts without a slot the lowest free ones. */
void parts_take_slots(struct part *parts, int count);

#endif
