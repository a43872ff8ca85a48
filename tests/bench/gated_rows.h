/* What the models of no case have: RMS norm and SwiGLU, with the rows of one microbatch, for benches. */
#ifndef BENCH_GATED_ROWS_H
#define BENCH_GATED_ROWS_H

#include "kernels/backend.h"

enum { GATED_ARRAYS = 10 };

struct gated_rows {
    struct backend *b;
    int64_t rows, width, hidden;
    void *x, *h, *sum, *y;          /* act [rows, width] */
    void *gain, *rstd, *d_gain;     /* act [width], acc [rows], acc [width] */
    void *inner, *d_inner, *active; /* act [rows, 2 hidden] twice, [rows, hidden] */
    struct {
        void *p;
        size_t bytes;
    } arrays[GATED_ARRAYS];
    int count;
};

/* HIDDEN: 8/3 of WIDTH, which makes a gated MLP as large as an ungated one of 4 (Shazeer, arXiv 2002.05202), rounded up to a multiple of 8.
 * Its arrays are freed by close, also where open fails. */
cairn_err gated_rows_open(struct gated_rows *, struct backend *, int64_t rows, int64_t width);
void gated_rows_close(struct gated_rows *);

/* Each of the kernels once; of those that do two at once, those that the backend has. */
void gated_rows_run(struct gated_rows *);

#endif
