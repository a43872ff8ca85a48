/* Which of cuBLASLt's algorithms a product takes. The first that the library names is its guess of the fastest; where the backend was
 * opened to, the others are tried too. Algorithms differ in their last bits, so a choice is made once for a product and kept. */
#ifndef CUDA_PRODUCT_CHOICE_H
#define CUDA_PRODUCT_CHOICE_H

#include "kernels/cuda/cuda.h"

/* The product as the library sees it: its first operand is our second. */
struct trial {
    struct cuda *cuda;
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t first, second, result;
    size_t first_bytes, second_bytes, result_bytes, bias_bytes; /* bias_bytes 0: it adds none */
    bool inner; /* it has a matrix of inner values, as large as the result */
    float factor; /* of the result before */
};

/* Where the choice for PRODUCT is in the backend's list; -1. */
int choice_find(const struct cuda *, const char *product);
/* In place of what was chosen before, if that was; its number in *PLACE. */
cairn_err choice_set(struct cuda *, const char *product, const cublasLtMatmulAlgo_t *, size_t workspace_bytes, bool timed, int *place);
const struct product_choice *choice_at(const struct cuda *, int place);

/* The number of the fastest of COUNT; UNTRIED where there is no memory to try them. */
enum { UNTRIED = -1 };
int choice_by_time(const struct trial *, const cublasLtMatmulHeuristicResult_t *results, int count);

void choices_close(struct cuda *);

#endif
