/* What a product is carried out by: planned in product_plan.cu, run in product.cu. */
#ifndef CUDA_PRODUCT_PLAN_H
#define CUDA_PRODUCT_PLAN_H

#include "kernels/cuda/float8.h"
#include "kernels/cuda/product.h"

/* What an algorithm was chosen for: pointers that are multiples of so many bytes. BIAS: d_bias where that is wanted. */
struct alignments {
    uint32_t a, b, c, bias;
};

/* One way to compute a product. */
struct way {
    struct alignments alignments;
    cublasLtMatmulDesc_t operation; /* NULL: the library has no algorithm */
    int choice;     /* its algorithm, in the backend's list */
    bool adds_bias; /* else a kernel of its own puts it there before */
    bool through_gelu; /* else kernels of their own follow */
    bool finds_d_bias; /* else a kernel of its own follows */
};

struct matmul {
    struct cuda *cuda;
    struct product_desc desc; /* as the library is to compute it */
    bool float8;             /* of copies of its operands: PAIR tells of what, and DESC of the copies */
    struct float8_pair pair;
    cublasLtMatrixLayout_t a, b, c; /* as the caller calls them */
    /* The first for pointers as aligned as rows are, which arrays of alloc keep; the second, for any, where that is another
     * one. Which of them runs hangs on the pointers alone. */
    struct way ways[2];
    int way_count;
    /* In place of the first, where its choice is an algorithm and d_bias is as aligned as it says: one that finds d_bias too. */
    struct way joint;
    cublasStatus_t refusal; /* where no algorithm was found */
};

static inline bool product_is_half(const struct cuda *cuda)
{
    return cuda->base.act == DTYPE_BF16;
}

#endif
