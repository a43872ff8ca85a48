/* A router with the rows of one microbatch and all arrays of its kernels, for benches. */
#ifndef BENCH_EXPERT_ROWS_H
#define BENCH_EXPERT_ROWS_H

#include "kernels/backend.h"

enum { EXPERT_ARRAYS = 18 };

struct expert_rows {
    struct backend *b;
    struct router_desc d;
    struct router *router;
    struct routing routing;
    void *x, *y, *weight;            /* act [rows, width] twice, [experts, width] */
    void *packed, *out, *d_packed;   /* act [experts, capacity, width] */
    void *d_gate, *d_logits, *d_weight; /* acc */
    struct {
        void *p;
        size_t bytes;
    } arrays[EXPERT_ARRAYS];
    int count;
};

/* Rows and weights are random, and routed. Its arrays are freed by close, also where open fails. */
cairn_err expert_rows_open(struct expert_rows *, struct backend *, const struct router_desc *);
void expert_rows_close(struct expert_rows *);

/* Each of the router's kernels once, forward and backward, the experts giving back what they get. */
void expert_rows_run(struct expert_rows *);

/* N elements of the backend's memory: numbers from -0.5 to 0.5 without a pattern; NULL when there is none left. */
void *bench_values(struct backend *, enum dtype, int64_t n);

#endif
