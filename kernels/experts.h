/* A mixture of experts (Shazeer et al., arXiv 1701.06538) in the place of a block's MLP: what a router decides about the rows of
 * one microbatch. The kernels are in backend.h's table, the experts' own MLP in expert_mlp.h; between dispatch and combine the
 * caller may send the packed rows to the ranks that hold the experts and back.
 *
 * - logits[rows, experts] = x weight^T, in acc; probabilities = softmax over the experts.
 * - A row chooses the experts of its CHOICES greatest logits; of equal ones the lower expert comes first.
 * - Gates: for one choice its probability (Fedus et al., "Switch Transformer", arXiv 2101.03961); for several the chosen
 *   probabilities divided by their sum, so that they sum to 1, whether their rows are dropped or not.
 * - An expert takes the first CAPACITY rows that chose it, all rows' first choices before all second ones, each in the order
 *   of the rows. The others are dropped: their branch adds nothing. Since all of it is decided within one microbatch, it
 *   does not depend on which ranks compute what, nor on the number of threads.
 *   Ranks that share the rows tell each other how many of theirs chose what; each then knows how many of its own rows an expert
 *   takes, and those are the first ones, since a rank's rows are in the microbatch's order.
 * - Packed rows: [experts][capacity][width]; an expert's rows are the first of its part, zeros behind them. */
#ifndef KERNELS_EXPERTS_H
#define KERNELS_EXPERTS_H

#include <stdint.h>

#include "base/device_code.h"

struct router_desc {
    int64_t rows, width, experts;
    int64_t rows_all; /* of the whole microbatch, where ranks share its rows; 0: these are all */
    int64_t choices;  /* of a row; 1 to experts */
    int64_t capacity; /* of these rows that an expert takes at most; 1 to rows */
};
struct router; /* plan and workspace; opaque */

/* Made by router_forward and router_place, read by all others; the arrays are the caller's. */
struct routing {
    int32_t *expert;   /* [rows, choices], the first choice first */
    int32_t *place;    /* [rows, choices]: the packed row, expert * capacity + its number there; -1 where dropped */
    int32_t *load;     /* [experts]: rows of the whole microbatch that chose it */
    int32_t *taken;    /* [experts]: how many of the rows here it takes */
    void *gate;        /* acc [rows, choices] */
    void *probability; /* acc [rows, experts] */
    void *log_sum;     /* acc [rows]: the logarithm of the sum of the logits' exponentials */
    /* acc [2], without their coefficients. First the loss that balances the load, experts * sum over experts of f P (Switch
     * Transformer, equations 4 to 6), f the expert's share of all choices before any is dropped, P the mean of its
     * probability: 1 where all are used alike. Then the mean of log_sum^2, which keeps logits small (Zoph et al.,
     * "ST-MoE", arXiv 2202.08906, equation 5). Of rows that ranks share: what these add to both. */
    void *losses;
};

/* What the gradients of the two losses are multiplied by: coefficient * (share of this microbatch in the whole loss). */
struct router_scales {
    double balance, z;
};

/* ceil(FACTOR * rows * choices / experts), but no more than there are rows. FACTOR above 0. */
int64_t router_capacity(double factor, int64_t rows, int64_t experts, int64_t choices);

DEVICE_CODE static inline int64_t router_rows_all(const struct router_desc *d)
{
    return d->rows_all ? d->rows_all : d->rows;
}

/* Choices of the rows here that no expert took. */
int64_t routing_dropped(const struct router_desc *, const struct routing *);

/* COUNTS[choices][experts]: how many of the rows FIRST.., ROWS of them, made each choice. */
void routing_count(const struct router_desc *, const struct routing *, int64_t first, int64_t rows, int32_t *counts);

/* One run of rows after another in the microbatch's order, all runs once for each choice: the COUNTS[experts] that made it are added to
 * LOAD. MOST, NULL unless the run is of this rank, grows by those that an expert takes of them, of CAPACITY in all. */
void routing_deal(const struct router_desc *, int64_t capacity, const int32_t *counts, int32_t *load, int32_t *most);

/* For backends: router_place's load, taken and place. */
void routing_place(const struct router_desc *, const struct routing *, const int32_t *most);

#endif
