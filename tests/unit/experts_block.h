/* A whole mixture-of-experts block on one rank, forward and backward, by any backend: for tests of its kernels. */
#ifndef UNIT_EXPERTS_BLOCK_H
#define UNIT_EXPERTS_BLOCK_H

#include "kernels/backend.h"

enum block_input { INPUT_X, INPUT_DY, INPUT_ROUTER, INPUT_EXPAND, INPUT_EXPAND_BIAS, INPUT_CONTRACT, INPUT_CONTRACT_BIAS, INPUTS };

/* dy * y, summed, and both losses with their coefficients are what the gradients are of. */
struct block {
    struct router_desc router;
    int64_t hidden; /* 0: the experts give back what they get */
    struct router_scales scales;
    bool whole;     /* experts run over their whole capacity */
};

enum block_result {
    RESULT_Y, RESULT_LOSSES, RESULT_GATE, RESULT_PROBABILITY, RESULT_EXPERT, RESULT_PLACE, RESULT_LOAD, RESULT_TAKEN,
    RESULT_D_X, RESULT_D_ROUTER, RESULT_D_EXPAND, RESULT_D_EXPAND_BIAS, RESULT_D_CONTRACT, RESULT_D_CONTRACT_BIAS, RESULTS,
};

struct block_results {
    double *values[RESULTS];
};

int64_t block_input_size(const struct block *, enum block_input);
int64_t block_result_size(const struct block *, enum block_result);
const char *block_result_name(enum block_result);

/* The capacity for FACTOR, as router_capacity has it. */
struct block block_make(int64_t rows, int64_t width, int64_t experts, int64_t choices, double factor, int64_t hidden);

/* Random ones, freed by block_inputs_free. */
void block_inputs_make(const struct block *, double *inputs[INPUTS], uint64_t seed);
void block_inputs_free(double *inputs[INPUTS]);

/* Every output is full of NaN or -7 before. */
void block_run(struct backend *, const struct block *, double *const inputs[INPUTS], struct block_results *);
void block_results_free(struct block_results *);

#endif
