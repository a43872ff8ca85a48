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
    unsigned operand_bytes; /* of an element */
    size_t first_bytes, second_bytes, result_bytes, bias_bytes; /* bias_bytes 0: it has no bias, nor one's gradient */
    bool inner; /* it has a matrix of inner values, as large as the result */
    float factor; /* of the result before */
    int64_t d_bias_rows, d_bias_width; /* of the second operand, where a kernel of its own is to follow that finds the bias' gradient; else 0 */
};

/* Where the choice for PRODUCT is in the backend's list; -1. */
int choice_find(const struct cuda *, const char *product);
/* In place of what was chosen before, if that was; its number in *PLACE. Without an algorithm it is that none is taken. */
cairn_err choice_set(struct cuda *, const char *product, const cublasLtMatmulAlgo_t *, size_t workspace_bytes, bool timed, int *place);
const struct product_choice *choice_at(const struct cuda *, int place);
bool choice_is_none(const struct product_choice *);

/* The number of the fastest of COUNT; UNTRIED where there is no memory to try them. */
enum { UNTRIED = -1 };
int choice_by_time(const struct trial *, const cublasLtMatmulHeuristicResult_t *results, int count);

/* Milliseconds; negative where it cannot be told. */
float choice_time(const struct trial *, const cublasLtMatmulHeuristicResult_t *);

void choices_close(struct cuda *);

#endif
