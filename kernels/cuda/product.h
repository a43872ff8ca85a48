/* Products of parts of matrices, by cuBLASLt. backend.h's matmul is one whose rows lie close together. */
#ifndef CUDA_PRODUCT_H
#define CUDA_PRODUCT_H

#include "kernels/cuda/cuda.h"

struct product_desc {
    struct matmul_desc matmul; /* with matrices that are dense where it is of float8 */
    int64_t lda, ldb, ldc; /* elements from one row, as stored, to the next */
};

cairn_err product_create(struct cuda *, const struct product_desc *, struct matmul **);
void product_destroy(struct matmul *);
void product_run(struct matmul *, void *c, const void *a, const void *b, const void *bias);

#endif
