#include "cublasLt_private.h"
#include "runtime.h"

#include <cstring>

using namespace cuda_on_cpu;

/* Copies an attribute's value; false if it is not of that size. */
static bool set(void *to, size_t size, const void *from, size_t bytes)
{
    if (size != bytes || !from)
        return false;
    memcpy(to, from, bytes);
    return true;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    *handle = nullptr;
    if (usable() != cudaSuccess)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    *handle = new cublasLtContext{current_device()};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

static const struct {
    cublasStatus_t status;
    const char *name, *text;
} status_names[] = {
    {CUBLAS_STATUS_SUCCESS, "CUBLAS_STATUS_SUCCESS", "success"},
    {CUBLAS_STATUS_NOT_INITIALIZED, "CUBLAS_STATUS_NOT_INITIALIZED", "the library was not initialized"},
    {CUBLAS_STATUS_ALLOC_FAILED, "CUBLAS_STATUS_ALLOC_FAILED", "the resource allocation failed"},
    {CUBLAS_STATUS_INVALID_VALUE, "CUBLAS_STATUS_INVALID_VALUE", "an unsupported value or parameter was passed to the function"},
    {CUBLAS_STATUS_EXECUTION_FAILED, "CUBLAS_STATUS_EXECUTION_FAILED", "the function failed to launch on the GPU"},
    {CUBLAS_STATUS_INTERNAL_ERROR, "CUBLAS_STATUS_INTERNAL_ERROR", "an internal operation failed"},
    {CUBLAS_STATUS_NOT_SUPPORTED, "CUBLAS_STATUS_NOT_SUPPORTED", "the functionality requested is not supported"},
};

const char *cublasLtGetStatusName(cublasStatus_t status)
{
    for (const auto &s : status_names)
        if (s.status == status)
            return s.name;
    return "CUBLAS_STATUS_UNKNOWN";
}

const char *cublasLtGetStatusString(cublasStatus_t status)
{
    for (const auto &s : status_names)
        if (s.status == status)
            return s.text;
    return "unknown status";
}

size_t cublasLtGetVersion()
{
    return CUBLAS_VERSION;
}

size_t cublasLtGetCudartVersion()
{
    return CUDART_VERSION;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *l, cudaDataType type, uint64_t rows, uint64_t columns, int64_t ld)
{
    *l = new cublasLtMatrixLayoutOpaque_t{type, CUBLASLT_ORDER_COL, rows, columns, ld, 0, 1};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l)
{
    delete l;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t l, cublasLtMatrixLayoutAttribute_t attribute, const void *from,
                                                size_t bytes)
{
    bool ok = false;
    switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE: ok = set(&l->type, sizeof(uint32_t), from, bytes); break;
    case CUBLASLT_MATRIX_LAYOUT_ORDER: ok = set(&l->order, sizeof(int32_t), from, bytes); break;
    case CUBLASLT_MATRIX_LAYOUT_ROWS: ok = set(&l->rows, sizeof l->rows, from, bytes); break;
    case CUBLASLT_MATRIX_LAYOUT_COLS: ok = set(&l->columns, sizeof l->columns, from, bytes); break;
    case CUBLASLT_MATRIX_LAYOUT_LD: ok = set(&l->ld, sizeof l->ld, from, bytes); break;
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT: ok = set(&l->batch, sizeof l->batch, from, bytes); break;
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET: ok = set(&l->batch_offset, sizeof l->batch_offset, from, bytes); break;
    }
    return ok ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *o, cublasComputeType_t compute, cudaDataType_t scale)
{
    *o = new cublasLtMatmulDescOpaque_t{};
    (*o)->compute = compute;
    (*o)->scale = scale;
    (*o)->epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    (*o)->bias_type = (*o)->aux_type = -1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t o)
{
    delete o;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t o, cublasLtMatmulDescAttributes_t attribute, const void *from,
                                              size_t bytes)
{
    bool ok = false;
    switch (attribute) {
    case CUBLASLT_MATMUL_DESC_COMPUTE_TYPE: ok = set(&o->compute, sizeof(int32_t), from, bytes); break;
    case CUBLASLT_MATMUL_DESC_SCALE_TYPE: ok = set(&o->scale, sizeof(int32_t), from, bytes); break;
    case CUBLASLT_MATMUL_DESC_POINTER_MODE: ok = set(&o->pointer_mode, sizeof(int32_t), from, bytes); break;
    case CUBLASLT_MATMUL_DESC_TRANSA: ok = set(&o->transpose_a, sizeof(int32_t), from, bytes); break;
    case CUBLASLT_MATMUL_DESC_TRANSB: ok = set(&o->transpose_b, sizeof(int32_t), from, bytes); break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE: ok = set(&o->epilogue, sizeof(uint32_t), from, bytes); break;
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: ok = set(&o->bias, sizeof o->bias, from, bytes); break;
    case CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE: ok = set(&o->bias_stride, sizeof o->bias_stride, from, bytes); break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER: ok = set(&o->aux, sizeof o->aux, from, bytes); break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD: ok = set(&o->aux_ld, sizeof o->aux_ld, from, bytes); break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE: ok = set(&o->aux_stride, sizeof o->aux_stride, from, bytes); break;
    case CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET: ok = set(&o->processors, sizeof o->processors, from, bytes); break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE: ok = set(&o->aux_type, sizeof o->aux_type, from, bytes); break;
    case CUBLASLT_MATMUL_DESC_A_SCALE_POINTER: ok = set(&o->scale_a, sizeof o->scale_a, from, bytes); break;
    case CUBLASLT_MATMUL_DESC_B_SCALE_POINTER: ok = set(&o->scale_b, sizeof o->scale_b, from, bytes); break;
    case CUBLASLT_MATMUL_DESC_FAST_ACCUM: ok = set(&o->fast_sums, sizeof o->fast_sums, from, bytes); break;
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: ok = set(&o->bias_type, sizeof o->bias_type, from, bytes); break;
    }
    return ok ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *p)
{
    *p = new cublasLtMatmulPreferenceOpaque_t{0, CUBLASLT_REDUCTION_SCHEME_MASK, {256, 256, 256, 256}, 0, ~0ull, 0.0f};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p)
{
    delete p;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *from, size_t bytes)
{
    bool ok = false;
    switch (attribute) {
    case CUBLASLT_MATMUL_PREF_SEARCH_MODE: ok = set(&p->search, sizeof p->search, from, bytes); break;
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: ok = set(&p->workspace, sizeof p->workspace, from, bytes); break;
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: ok = set(&p->reductions, sizeof p->reductions, from, bytes); break;
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
        ok = set(&p->alignment[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], sizeof(uint32_t), from, bytes);
        break;
    case CUBLASLT_MATMUL_PREF_MAX_WAVES_COUNT: ok = set(&p->waves, sizeof p->waves, from, bytes); break;
    case CUBLASLT_MATMUL_PREF_IMPL_MASK: ok = set(&p->implementations, sizeof p->implementations, from, bytes); break;
    }
    return ok ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}
