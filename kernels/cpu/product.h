/* Products of parts of matrices, by oneDNN. backend.h's matmul is one whose rows lie close together. */
#ifndef CPU_PRODUCT_H
#define CPU_PRODUCT_H

#include "kernels/cpu/cpu.h"

struct product_desc {
    struct matmul_desc matmul;
    int64_t lda, ldb, ldc; /* elements from one row, as stored, to the next */
};

cairn_err product_create(struct cpu *, const struct product_desc *, struct matmul **);
void product_destroy(struct matmul *);
void product_run(struct matmul *, void *c, const void *a, const void *b, const void *bias);

cairn_err product_workspace_create(struct cpu *);
void product_workspace_destroy(struct cpu *);

#endif
