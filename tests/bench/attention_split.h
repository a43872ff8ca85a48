/* What attention costs more where sequences are split over two ranks: the work of both against that of the whole. */
#ifndef BENCH_ATTENTION_SPLIT_H
#define BENCH_ATTENTION_SPLIT_H

#include "kernels/backend.h"

/* Seconds of processor time, the shortest, as other programs only lengthen it; copies and roundings that only pieces need are in theirs. */
struct split_times {
    double whole_forward, whole_backward, split_forward, split_backward;
};

/* DESC: of the whole. By turns, ROUNDS times. */
cairn_err attention_split_measure(struct backend *, const struct attention_desc *desc, long rounds, struct split_times *times);

#endif
