/* Operands of products in float8: what they are scaled by, and their copies. On the lane of computing alone. */
#ifndef CUDA_FLOAT8_H
#define CUDA_FLOAT8_H

#include "kernels/cuda/cuda.h"

/* A dense matrix of bfloat16, its sides multiples of FLOAT8_SIDE. */
struct float8_matrix {
    enum float8 type;      /* of the copy */
    int64_t rows, columns; /* as it is stored */
    bool transpose;        /* the copy is [columns, rows] */
};

/* Both operands of a product. */
struct float8_pair {
    struct float8_matrix of[2];
    bool keeps_a, a_is_kept; /* as matmul_desc has it */
};

/* CAIRN_EUNSUPPORTED, and why, where the backend cannot. */
cairn_err float8_check(const struct cuda *);

/* Room for the copies, one for all products: it grows to the largest pair. */
cairn_err float8_reserve(struct cuda *, const struct float8_pair *);
void float8_close(struct cuda *);

/* Of the GPU's memory: by what the operand's copy is to be multiplied again. It stays there from the first float8_reserve on. */
const float *float8_inverse(const struct cuda *, int operand);

/* Copies of A and B, aligned to 256 bytes, for the calls until the next float8_convert. A and B are aligned to 16 bytes. */
struct float8_copies {
    const void *of[2];
};
struct float8_copies float8_convert(struct cuda *, const struct float8_pair *, const void *a, const void *b);

#endif
