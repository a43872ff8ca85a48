/* The part of the self-test that is about cuBLASLt. */
#include "selftest.h"

#include <cublasLt.h>

extern "C" {
#include "kernels/float8.h"
}

struct shape {
    uint64_t m, n, k;
    bool transpose_a, transpose_b, bias, accumulate;
    cublasLtEpilogue_t sums = CUBLASLT_EPILOGUE_DEFAULT; /* or BGRADA or BGRADB */
};

/* What a test needs of the library. */
struct library_product {
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulHeuristicResult_t results[8];
    int count;
};

template <typename T> static void find_algorithms(library_product *p, const shape &s, cudaDataType_t type, cudaDataType_t result, T *bias)
{
    cublasOperation_t transposed = CUBLAS_OP_T;
    cublasLtEpilogue_t epilogue = s.bias ? CUBLASLT_EPILOGUE_BIAS : s.sums;
    cublasLtMatmulPreference_t preference;
    uint64_t workspace = 1 << 20;
    uint32_t alignment = result == CUDA_R_32F ? sizeof(float) : sizeof(T);
    ENSURE(cublasLtCreate(&p->handle) == CUBLAS_STATUS_SUCCESS);
    ENSURE(cublasLtMatmulDescCreate(&p->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS);
    if (s.transpose_a)
        cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed);
    if (s.transpose_b)
        cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_TRANSB, &transposed, sizeof transposed);
    if (epilogue != CUBLASLT_EPILOGUE_DEFAULT) {
        cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
        cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias);
    }
    uint64_t lda = s.transpose_a ? s.k : s.m, ldb = s.transpose_b ? s.n : s.k;
    cublasLtMatrixLayoutCreate(&p->a, type, lda, s.transpose_a ? s.m : s.k, static_cast<int64_t>(lda));
    cublasLtMatrixLayoutCreate(&p->b, type, ldb, s.transpose_b ? s.k : s.n, static_cast<int64_t>(ldb));
    cublasLtMatrixLayoutCreate(&p->c, result, s.m, s.n, static_cast<int64_t>(s.m));
    cublasLtMatmulPreferenceCreate(&preference);
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace);
    for (int i = 0; i < 4; i++)
        cublasLtMatmulPreferenceSetAttribute(
            preference, static_cast<cublasLtMatmulPreferenceAttributes_t>(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES + i), &alignment,
            sizeof alignment);
    ENSURE(cublasLtMatmulAlgoGetHeuristic(p->handle, p->operation, p->a, p->b, p->c, p->c, preference, 8, p->results, &p->count) ==
           CUBLAS_STATUS_SUCCESS);
    cublasLtMatmulPreferenceDestroy(preference);
}

static void forget(library_product *p)
{
    cublasLtMatrixLayoutDestroy(p->a);
    cublasLtMatrixLayoutDestroy(p->b);
    cublasLtMatrixLayoutDestroy(p->c);
    cublasLtMatmulDescDestroy(p->operation);
    cublasLtDestroy(p->handle);
}

/* How much of k an algorithm takes: the rest is left out where it splits k. */
static size_t taken_of(const cublasLtMatmulHeuristicResult_t *r, size_t k)
{
    int32_t splits = 0;
    size_t written;
    ENSURE(cublasLtMatmulAlgoConfigGetAttribute(&r->algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &splits, sizeof splits, &written) == CUBLAS_STATUS_SUCCESS);
    return splits > 1 ? k - k % 64 : k;
}

/* Values are such that all sums are exact. */
template <typename T> static void check_shape(const shape &s, cudaDataType_t type)
{
    device_array<T> a(s.m * s.k), b(s.k * s.n), bias(s.m), c(s.m * s.n);
    device_array<char> workspace(1 << 20);
    for (uint32_t i = 0; i < a.host.size(); i++)
        a.host[i] = small(i);
    for (uint32_t i = 0; i < b.host.size(); i++)
        b.host[i] = small(7000 + i);
    for (uint32_t i = 0; i < s.m; i++)
        bias.host[i] = small(9000 + i);
    for (device_array<T> *array : {&a, &b, &bias})
        array->put();
    library_product p = {};
    find_algorithms(&p, s, type, type, bias.at);
    for (int algorithm = 0; algorithm < p.count; algorithm++) {
        float alpha = 1.0f, beta = s.accumulate ? 1.0f : 0.0f;
        for (T &x : c.host)
            x = s.accumulate ? 2.0f : NAN;
        c.put();
        cublasLtMatmulHeuristicResult_t *r = &p.results[algorithm];
        ENSURE(cublasLtMatmul(p.handle, p.operation, &alpha, a.at, p.a, b.at, p.b, &beta, c.at, p.c, c.at, p.c, &r->algo, workspace.at,
                              r->workspaceSize, nullptr) == CUBLAS_STATUS_SUCCESS);
        c.get();
        for (size_t i = 0; i < s.m; i++)
            for (size_t j = 0; j < s.n; j++) {
                float sum = s.accumulate ? 2.0f : 0.0f;
                for (size_t k = 0; k < taken_of(r, s.k); k++)
                    sum += static_cast<float>(a.host[s.transpose_a ? i * s.k + k : k * s.m + i]) *
                           static_cast<float>(b.host[s.transpose_b ? k * s.n + j : j * s.k + k]);
                T expected = sum + (s.bias ? static_cast<float>(bias.host[i]) : 0.0f);
                ENSURE(static_cast<float>(c.host[j * s.m + i]) == static_cast<float>(expected));
            }
    }
    forget(&p);
}

void library_multiplies()
{
    static const uint64_t sizes[][3] = {{1, 1, 1}, {7, 5, 3}, {64, 33, 65}, {16, 16, 320}, {17, 40, 520}};
    for (const uint64_t *size : sizes)
        for (int bits = 0; bits < 16; bits++) {
            shape s = {size[0], size[1], size[2], (bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0, (bits & 8) != 0};
            check_shape<float>(s, CUDA_R_32F);
            check_shape<__nv_bfloat16>(s, CUDA_R_16BF);
        }
}

void library_wants_what_was_promised()
{
    shape s = {16, 16, 16, false, false, false, false};
    library_product p = {};
    device_array<__nv_bfloat16> a(257), b(256), c(256);
    float one = 1.0f, zero = 0.0f;
    find_algorithms(&p, s, CUDA_R_16BF, CUDA_R_16BF, a.at);
    auto run = [&](const __nv_bfloat16 *at) {
        return cublasLtMatmul(p.handle, p.operation, &one, at, p.a, b.at, p.b, &zero, c.at, p.c, c.at, p.c, &p.results[0].algo, nullptr, 0,
                              nullptr);
    };
    ENSURE(run(a.at + 1) == CUBLAS_STATUS_SUCCESS);
    ENSURE(run(reinterpret_cast<__nv_bfloat16 *>(reinterpret_cast<char *>(a.at) + 1)) == CUBLAS_STATUS_NOT_SUPPORTED);
    ENSURE(run(a.at + 2) == CUBLAS_STATUS_INVALID_VALUE && run(c.at) == CUBLAS_STATUS_INVALID_VALUE);
    uint32_t type = CUDA_R_32F;
    cublasLtMatrixLayoutSetAttribute(p.c, CUBLASLT_MATRIX_LAYOUT_TYPE, &type, sizeof type);
    ENSURE(run(a.at) == CUBLAS_STATUS_NOT_SUPPORTED);
    forget(&p);
}

/* Where the sums over k of one operand are stored, and what of its pointer is refused. */
static void check_sums(cublasLtEpilogue_t sums, bool transpose)
{
    shape s = {24, 16, 700, transpose, !transpose, false, false, sums};
    bool of_a = sums == CUBLASLT_EPILOGUE_BGRADA;
    size_t count = of_a ? s.m : s.n;
    device_array<__nv_bfloat16> a(s.m * s.k), b(s.k * s.n);
    device_array<float> c(s.m * s.n), to(count + 1);
    device_array<char> workspace(1 << 20);
    float one = 1.0f, zero = 0.0f;
    for (device_array<__nv_bfloat16> *array : {&a, &b}) {
        for (uint32_t i = 0; i < array->host.size(); i++)
            array->host[i] = small(i);
        array->put();
    }
    library_product p = {};
    find_algorithms(&p, s, CUDA_R_16BF, CUDA_R_32F, reinterpret_cast<__nv_bfloat16 *>(to.at));
    for (int algorithm = 0; algorithm < p.count; algorithm++) {
        cublasLtMatmulHeuristicResult_t *r = &p.results[algorithm];
        auto run = [&](void *at) {
            cublasLtMatmulDescSetAttribute(p.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &at, sizeof at);
            return cublasLtMatmul(p.handle, p.operation, &one, a.at, p.a, b.at, p.b, &zero, c.at, p.c, c.at, p.c, &r->algo, workspace.at,
                                  r->workspaceSize, nullptr);
        };
        ENSURE(run(nullptr) == CUBLAS_STATUS_INVALID_VALUE && run(c.at) == CUBLAS_STATUS_INVALID_VALUE && run(b.at) == CUBLAS_STATUS_INVALID_VALUE);
        ENSURE(run(to.at + 1) == CUBLAS_STATUS_NOT_SUPPORTED && run(to.at + 4) == CUBLAS_STATUS_INVALID_VALUE);
        ENSURE(run(to.at) == CUBLAS_STATUS_SUCCESS);
        to.get();
        const device_array<__nv_bfloat16> &of = of_a ? a : b;
        for (size_t i = 0; i < count; i++) {
            float sum = 0.0f;
            for (size_t k = 0; k < s.k; k++)
                sum += static_cast<float>(of.host[transpose ? i * s.k + k : k * count + i]);
            ENSURE(to.host[i] == sum);
        }
    }
    int32_t type = CUDA_R_16BF;
    cublasLtMatmulDescSetAttribute(p.operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type, sizeof type);
    ENSURE(cublasLtMatmulAlgoCheck(p.handle, p.operation, p.a, p.b, p.c, p.c, &p.results[0].algo, &p.results[0]) == CUBLAS_STATUS_NOT_SUPPORTED);
    forget(&p);
}

void library_finds_sums()
{
    for (bool transpose : {false, true}) {
        check_sums(CUBLASLT_EPILOGUE_BGRADA, transpose);
        check_sums(CUBLASLT_EPILOGUE_BGRADB, transpose);
    }
}

/* A product in float8; the usual one, and what may be wrong with it. */
struct float8_case {
    cudaDataType_t a = CUDA_R_8F_E4M3, b = CUDA_R_8F_E4M3, result = CUDA_R_32F;
    uint64_t side = 32;
    cublasOperation_t transpose_a = CUBLAS_OP_T;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    uint32_t alignment = 16;
    const float *scale = nullptr; /* of a; NULL: one of the device */
};

static library_product describe_float8(const float8_case &c, const float *scale_a, const float *scale_b)
{
    library_product p = {};
    int64_t side = static_cast<int64_t>(c.side);
    ENSURE(cublasLtCreate(&p.handle) == CUBLAS_STATUS_SUCCESS);
    ENSURE(cublasLtMatmulDescCreate(&p.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS);
    cublasLtMatmulDescSetAttribute(p.operation, CUBLASLT_MATMUL_DESC_TRANSA, &c.transpose_a, sizeof c.transpose_a);
    cublasLtMatmulDescSetAttribute(p.operation, CUBLASLT_MATMUL_DESC_EPILOGUE, &c.epilogue, sizeof c.epilogue);
    cublasLtMatmulDescSetAttribute(p.operation, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &scale_a, sizeof scale_a);
    cublasLtMatmulDescSetAttribute(p.operation, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &scale_b, sizeof scale_b);
    cublasLtMatrixLayoutCreate(&p.a, c.a, c.side, c.side, side);
    cublasLtMatrixLayoutCreate(&p.b, c.b, c.side, c.side, side);
    cublasLtMatrixLayoutCreate(&p.c, c.result, c.side, c.side, side);
    return p;
}

static cublasStatus_t find_float8(library_product *p, uint32_t alignment)
{
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulPreferenceCreate(&preference);
    for (int i = 0; i < 4; i++)
        cublasLtMatmulPreferenceSetAttribute(
            preference, static_cast<cublasLtMatmulPreferenceAttributes_t>(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES + i), &alignment,
            sizeof alignment);
    cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(p->handle, p->operation, p->a, p->b, p->c, p->c, preference, 8, p->results, &p->count);
    cublasLtMatmulPreferenceDestroy(preference);
    return status;
}

/* Whole numbers up to 8, which both types have, times scales that are powers of two: all sums are exact. */
static cublasStatus_t multiply_float8(const float8_case &c)
{
    size_t side = c.side;
    device_array<unsigned char> a(side * side), b(side * side);
    device_array<float> d(side * side), scales(2);
    float one = 1.0f, zero = 0.0f;
    scales.host = {4.0f, 0.125f};
    for (uint32_t i = 0; i < side * side; i++) {
        a.host[i] = float8_from(c.a == CUDA_R_8F_E4M3 ? FLOAT8_E4M3 : FLOAT8_E5M2, 8 * small(i));
        b.host[i] = float8_from(c.b == CUDA_R_8F_E4M3 ? FLOAT8_E4M3 : FLOAT8_E5M2, 8 * small(7000 + i));
    }
    a.put();
    b.put();
    scales.put();
    library_product p = describe_float8(c, c.scale ? c.scale : scales.at, scales.at + 1);
    cublasStatus_t status = find_float8(&p, c.alignment);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasLtMatmul(p.handle, p.operation, &one, a.at, p.a, b.at, p.b, &zero, d.at, p.c, d.at, p.c, &p.results[0].algo, nullptr, 0,
                                nullptr);
    d.get();
    for (size_t i = 0; i < side && status == CUBLAS_STATUS_SUCCESS && c.result == CUDA_R_32F; i++)
        for (size_t j = 0; j < side; j++) {
            float sum = 0.0f;
            for (uint32_t k = 0; k < side; k++)
                sum += 64 * small(static_cast<uint32_t>(i * side) + k) * small(7000 + static_cast<uint32_t>(j * side) + k);
            ENSURE(d.host[j * side + i] == 0.5f * sum);
        }
    forget(&p);
    return status;
}

void library_multiplies_float8()
{
    const cudaDataType_t e4m3 = CUDA_R_8F_E4M3, e5m2 = CUDA_R_8F_E5M2, bf16 = CUDA_R_16BF;
    float here = 1.0f;
    ENSURE(multiply_float8({}) == CUBLAS_STATUS_SUCCESS);
    ENSURE(multiply_float8({.a = e5m2}) == CUBLAS_STATUS_SUCCESS && multiply_float8({.b = e5m2}) == CUBLAS_STATUS_SUCCESS);
    ENSURE(multiply_float8({.result = bf16}) == CUBLAS_STATUS_SUCCESS);
    for (const float8_case &wrong : {float8_case{.a = e5m2, .b = e5m2}, float8_case{.b = bf16}, float8_case{.result = e4m3}, float8_case{.side = 24},
                                     float8_case{.transpose_a = CUBLAS_OP_N}, float8_case{.epilogue = CUBLASLT_EPILOGUE_GELU_AUX},
                                     float8_case{.epilogue = CUBLASLT_EPILOGUE_BIAS}, float8_case{.alignment = 8}})
        ENSURE(multiply_float8(wrong) == CUBLAS_STATUS_NOT_SUPPORTED);
    ENSURE(multiply_float8({.scale = &here}) == CUBLAS_STATUS_INVALID_VALUE);
    setenv("CUDA_ON_CPU_CAPABILITY", "80", 1);
    ENSURE(multiply_float8({}) == CUBLAS_STATUS_NOT_SUPPORTED);
}
