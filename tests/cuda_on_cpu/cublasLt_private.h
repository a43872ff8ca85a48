/* What cublasLt's descriptions hold. */
#ifndef CUDA_ON_CPU_CUBLASLT_PRIVATE_H
#define CUDA_ON_CPU_CUBLASLT_PRIVATE_H

#include "cublasLt.h"

struct cublasLtContext {
    int device;
};

struct cublasLtMatrixLayoutOpaque_t {
    cudaDataType_t type;
    cublasLtOrder_t order;
    uint64_t rows, columns;
    int64_t ld, batch_offset;
    int32_t batch;
};

struct cublasLtMatmulDescOpaque_t {
    cublasComputeType_t compute;
    cudaDataType_t scale;
    int32_t pointer_mode, transpose_a, transpose_b;
    uint32_t epilogue;
    void *bias, *aux;
    int64_t bias_stride, aux_ld, aux_stride;
    int32_t bias_type, aux_type, processors; /* types -1: as D */
    const float *scale_a, *scale_b; /* of float8; NULL: 1 */
    int8_t fast_sums;
};

struct cublasLtMatmulPreferenceOpaque_t {
    uint32_t search, reductions, alignment[4];
    uint64_t workspace, implementations;
    float waves;
};

#endif
