/* cuBLASLt in plain loops. Stricter than NVIDIA's: an algorithm runs only the product that it was found for, on pointers as aligned as was
 * promised then and with the workspace that it asked for; all else is NOT_SUPPORTED, and why goes to standard error. */
#include "cublasLt_private.h"

#include "cuda_bf16.h"
#include "gemm.h"
#include "runtime.h"

#include <chrono>
#include <cstdarg>
#include <cstring>
#include <memory>
#include <thread>

using namespace cuda_on_cpu;

namespace cuda_on_cpu {

enum { MAGIC = 0xc0b1a5, ALGORITHMS = 4, SPLIT_ALGORITHM = 3 };

/* What a cublasLtMatmulAlgo_t holds. */
struct algorithm {
    uint32_t magic, id;
    int32_t split_k;
    uint32_t reduction;
    uint16_t alignment[4], bias_alignment;
    uint64_t workspace, product; /* product: what it was found for */
};
static_assert(sizeof(algorithm) <= sizeof(cublasLtMatmulAlgo_t));

static cublasStatus_t refuse(cublasStatus_t status, const char *format, ...) __attribute__((format(printf, 2, 3)));
static cublasStatus_t refuse(cublasStatus_t status, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    fprintf(stderr, "cuda_on_cpu: cublasLt: ");
    vfprintf(stderr, format, list);
    fprintf(stderr, "\n");
    va_end(list);
    return status;
}

static algorithm algorithm_of(const cublasLtMatmulAlgo_t *opaque)
{
    algorithm a;
    memcpy(&a, opaque, sizeof a);
    return a;
}

static bool is_float8(int type)
{
    return type == CUDA_R_8F_E4M3 || type == CUDA_R_8F_E5M2;
}

static size_t size_of(int type)
{
    return is_float8(type) ? 1 : type == CUDA_R_16BF ? 2 : 4;
}

/* One product, its descriptions copied. */
struct product {
    cublasLtMatmulDescOpaque_t operation;
    cublasLtMatrixLayoutOpaque_t a, b, c, d;
    int64_t m, n, k;
};

static void strides(const cublasLtMatrixLayoutOpaque_t &l, bool transpose, int64_t *row, int64_t *column)
{
    bool by_columns = (l.order == CUBLASLT_ORDER_COL) != transpose;
    *row = by_columns ? 1 : l.ld;
    *column = by_columns ? l.ld : 1;
}

static bool wide_enough(const cublasLtMatrixLayoutOpaque_t &l)
{
    return l.rows > 0 && l.columns > 0 && l.ld >= static_cast<int64_t>(l.order == CUBLASLT_ORDER_COL ? l.rows : l.columns);
}

static bool known_epilogue(uint32_t e)
{
    return e == CUBLASLT_EPILOGUE_DEFAULT || e == CUBLASLT_EPILOGUE_BIAS || e == CUBLASLT_EPILOGUE_DGELU ||
           e == CUBLASLT_EPILOGUE_BGRADA || e == CUBLASLT_EPILOGUE_BGRADB ||
           (e & ~static_cast<uint32_t>(CUBLASLT_EPILOGUE_GELU_AUX_BIAS)) == 0;
}

/* Sums over k of a or b beside the product. */
static bool finds_sums(const cublasLtMatmulDescOpaque_t &o)
{
    return o.epilogue == CUBLASLT_EPILOGUE_BGRADA || o.epilogue == CUBLASLT_EPILOGUE_BGRADB;
}

/* What the manual asks of products in float8 on sm_90 ("cublasLtMatmul"), of matrices of bfloat16 or float32 as results. */
static cublasStatus_t check_float8(const product &p)
{
    const cublasLtMatmulDescOpaque_t &o = p.operation;
    static constexpr int SIDE = 16;
    if (capability() < 89)
        return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "float8 on a device of compute capability %d.%d", capability() / 10, capability() % 10);
    if (!is_float8(p.a.type) || !is_float8(p.b.type) || (p.a.type == CUDA_R_8F_E5M2 && p.b.type == CUDA_R_8F_E5M2))
        return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "types %d x %d", p.a.type, p.b.type);
    if (p.c.type != p.d.type || (p.d.type != CUDA_R_16BF && p.d.type != CUDA_R_32F))
        return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "a product in float8 with a result of type %d", p.d.type);
    if (o.transpose_a != CUBLAS_OP_T || o.transpose_b != CUBLAS_OP_N)
        return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "a product in float8 whose operands do not lie along k");
    for (const cublasLtMatrixLayoutOpaque_t *l : {&p.a, &p.b, &p.c, &p.d})
        if (l->order != CUBLASLT_ORDER_COL || l->rows % SIDE || l->columns % SIDE || static_cast<size_t>(l->ld) * size_of(l->type) % SIDE)
            return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "a product in float8 with a matrix [%llu, %llu], %lld apart",
                          static_cast<unsigned long long>(l->rows), static_cast<unsigned long long>(l->columns), static_cast<long long>(l->ld));
    if (o.compute != CUBLAS_COMPUTE_32F || o.scale != CUDA_R_32F)
        return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "compute type %d with scale type %d for float8", o.compute, o.scale);
    if (o.epilogue != CUBLASLT_EPILOGUE_DEFAULT && o.epilogue != CUBLASLT_EPILOGUE_BIAS)
        return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "epilogue %u with float8", o.epilogue);
    if (o.epilogue == CUBLASLT_EPILOGUE_BIAS && (o.bias_type < 0 ? p.d.type : o.bias_type) != CUDA_R_16BF)
        return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "a product in float8 with a bias that is not of bfloat16");
    return CUBLAS_STATUS_SUCCESS;
}

/* The shape, checked. */
static cublasStatus_t make_product(cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                   cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d, product *p)
{
    if (!operation || !a || !b || !c || !d)
        return refuse(CUBLAS_STATUS_INVALID_VALUE, "a description is NULL");
    *p = {*operation, *a, *b, *c, *d, 0, 0, 0};
    bool ta = operation->transpose_a != CUBLAS_OP_N, tb = operation->transpose_b != CUBLAS_OP_N;
    p->m = static_cast<int64_t>(ta ? a->columns : a->rows);
    p->k = static_cast<int64_t>(ta ? a->rows : a->columns);
    p->n = static_cast<int64_t>(tb ? b->rows : b->columns);
    int64_t k = static_cast<int64_t>(tb ? b->columns : b->rows);
    for (const cublasLtMatrixLayoutOpaque_t *l : {a, b, c, d})
        if (!wide_enough(*l))
            return refuse(CUBLAS_STATUS_INVALID_VALUE, "a matrix [%llu, %llu] with a leading dimension of %lld",
                          static_cast<unsigned long long>(l->rows), static_cast<unsigned long long>(l->columns),
                          static_cast<long long>(l->ld));
    for (const cublasLtMatrixLayoutOpaque_t *l : {c, d})
        if (static_cast<int64_t>(l->rows) != p->m || static_cast<int64_t>(l->columns) != p->n || l->batch != a->batch)
            return refuse(CUBLAS_STATUS_INVALID_VALUE, "the result's shape is not that of the product");
    if (k != p->k || a->batch != b->batch)
        return refuse(CUBLAS_STATUS_INVALID_VALUE, "shapes of a and b do not fit");
    if (is_float8(a->type) || is_float8(b->type))
        return check_float8(*p);
    if (operation->scale_a || operation->scale_b || operation->fast_sums)
        return refuse(CUBLAS_STATUS_INVALID_VALUE, "scales or fast sums of what is not of float8");
    if (a->type != b->type || c->type != d->type || (a->type != CUDA_R_32F && a->type != CUDA_R_16BF) ||
        (d->type != CUDA_R_32F && d->type != CUDA_R_16BF) || (a->type == CUDA_R_32F && d->type == CUDA_R_16BF))
        return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "types %d x %d -> %d", a->type, b->type, d->type);
    bool fast = operation->compute == CUBLAS_COMPUTE_32F_FAST_TF32 || operation->compute == CUBLAS_COMPUTE_32F_PEDANTIC;
    if ((operation->compute != CUBLAS_COMPUTE_32F && !fast) || operation->scale != CUDA_R_32F)
        return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "compute type %d with scale type %d", operation->compute, operation->scale);
    if (!known_epilogue(operation->epilogue))
        return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "epilogue %u", operation->epilogue);
    bool has_bias = (operation->epilogue & CUBLASLT_EPILOGUE_BIAS) || finds_sums(*operation);
    if (has_bias && operation->bias_type >= 0 && operation->bias_type != d->type)
        return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "bias of type %d with a result of type %d", operation->bias_type, d->type);
    if (finds_sums(*operation) && environment("CUDA_ON_CPU_NO_BGRAD", 0))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    return CUBLAS_STATUS_SUCCESS;
}

/* All that an algorithm is chosen by, but for alignments. */
static uint64_t fingerprint(const product &p)
{
    const cublasLtMatrixLayoutOpaque_t *layouts[] = {&p.a, &p.b, &p.c, &p.d};
    uint64_t h = 1469598103934665603u;
    auto mix = [&h](int64_t x) { h = (h ^ static_cast<uint64_t>(x)) * 1099511628211u; h ^= h >> 29; };
    for (int64_t x : {p.m, p.n, p.k, static_cast<int64_t>(p.operation.compute), static_cast<int64_t>(p.operation.epilogue),
                      static_cast<int64_t>(p.operation.fast_sums), static_cast<int64_t>(p.operation.transpose_a),
                      static_cast<int64_t>(p.operation.transpose_b)})
        mix(x);
    for (const cublasLtMatrixLayoutOpaque_t *l : layouts)
        for (int64_t x : {static_cast<int64_t>(l->type), static_cast<int64_t>(l->order), l->ld, l->batch_offset,
                          static_cast<int64_t>(l->batch)})
            mix(x);
    return h;
}

static uint16_t alignment_of(const void *p)
{
    uintptr_t at = reinterpret_cast<uintptr_t>(p) | 256;
    return static_cast<uint16_t>(at & -at);
}

/* ---- carrying out ---- */

struct addresses {
    const void *a, *b, *c;
    void *d, *workspace;
    float alpha, beta;
};

static float load(const void *p, int type, int64_t at)
{
    return type == CUDA_R_16BF ? static_cast<float>(static_cast<const __nv_bfloat16 *>(p)[at]) : static_cast<const float *>(p)[at];
}

static void store(void *p, int type, int64_t at, float x)
{
    if (type == CUDA_R_16BF)
        static_cast<__nv_bfloat16 *>(p)[at] = x;
    else
        static_cast<float *>(p)[at] = x;
}

static const void *offset(const void *p, int type, int64_t elements)
{
    return static_cast<const char *>(p) + elements * static_cast<int64_t>(size_of(type));
}

static float gelu(float x)
{
    return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
}

static float gelu_slope(float x)
{
    float t = tanhf(0.7978845608f * (x + 0.044715f * x * x * x));
    return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * 0.7978845608f * (1.0f + 3.0f * 0.044715f * x * x);
}

static element element_of(const product &p, int type)
{
    switch (type) {
    case CUDA_R_8F_E4M3: return element::E4M3;
    case CUDA_R_8F_E5M2: return element::E5M2;
    case CUDA_R_16BF: return element::BFLOAT16;
    default: return p.operation.compute == CUBLAS_COMPUTE_32F_FAST_TF32 ? element::TF32 : element::FLOAT32;
    }
}

/* Sums over k of a's rows or of b's columns, those of the parts of k one after the other. */
static void bias_gradient(const product &p, const operand &o, bool rows, int parts, void *to)
{
    std::this_thread::sleep_for(std::chrono::milliseconds(environment("CUDA_ON_CPU_SLOW_BGRAD", 0)));
    for (int64_t i = 0; i < (rows ? p.m : p.n); i++) {
        float sum = 0.0f;
        for (int part = 0; part < parts; part++) {
            float of_part = 0.0f;
            for (int64_t k = p.k * part / parts; k < p.k * (part + 1) / parts; k++)
                of_part += load(o.at, o.type == element::BFLOAT16 ? CUDA_R_16BF : CUDA_R_32F,
                                rows ? i * o.row + k * o.column : k * o.row + i * o.column);
            sum += of_part;
        }
        store(to, p.d.type, i, sum);
    }
}

/* What fast accumulation may leave of a sum: 13 bits of its fraction. */
static float few_digits(float x)
{
    unsigned bits;
    memcpy(&bits, &x, sizeof bits);
    bits &= 0xfffffc00u;
    memcpy(&x, &bits, sizeof bits);
    return x;
}

/* d = epilogue(alpha * r + beta * c) of one matrix of the batch */
static void finish(const product &p, const addresses &at, const float *r, int64_t batch)
{
    const cublasLtMatmulDescOpaque_t &o = p.operation;
    int bias_type = o.bias_type < 0 ? p.d.type : o.bias_type, aux_type = o.aux_type < 0 ? p.d.type : o.aux_type;
    const void *c = at.beta != 0.0f ? offset(at.c, p.c.type, batch * p.c.batch_offset) : nullptr;
    void *d = const_cast<void *>(offset(at.d, p.d.type, batch * p.d.batch_offset));
    float scale = at.alpha * (o.scale_a ? *o.scale_a : 1.0f) * (o.scale_b ? *o.scale_b : 1.0f);
    int64_t c_row, c_column, d_row, d_column;
    strides(p.c, false, &c_row, &c_column);
    strides(p.d, false, &d_row, &d_column);
    for (int64_t j = 0; j < p.n; j++)
        for (int64_t i = 0; i < p.m; i++) {
            float x = scale * (o.fast_sums ? few_digits(r[j * p.m + i]) : r[j * p.m + i]);
            int64_t aux = batch * o.aux_stride + j * o.aux_ld + i;
            if (c)
                x += at.beta * load(c, p.c.type, i * c_row + j * c_column);
            if (o.epilogue & CUBLASLT_EPILOGUE_BIAS)
                x += load(o.bias, bias_type, batch * o.bias_stride + i);
            if (o.epilogue == CUBLASLT_EPILOGUE_DGELU)
                x *= gelu_slope(load(o.aux, aux_type, aux));
            else if (o.epilogue & CUBLASLT_EPILOGUE_GELU) {
                if (o.epilogue & 128)
                    store(o.aux, aux_type, aux, x);
                x = gelu(x);
            }
            store(d, p.d.type, i * d_row + j * d_column, x);
        }
}

static void carry_out(const product &p, const algorithm &how, const addresses &at)
{
    size_t elements = static_cast<size_t>(p.m * p.n);
    std::unique_ptr<float[]> own(how.split_k > 1 ? nullptr : new float[elements]);
    for (int64_t batch = 0; batch < p.a.batch; batch++) {
        operand a = {offset(at.a, p.a.type, batch * p.a.batch_offset), element_of(p, p.a.type), 0, 0};
        operand b = {offset(at.b, p.b.type, batch * p.b.batch_offset), element_of(p, p.b.type), 0, 0};
        strides(p.a, p.operation.transpose_a != CUBLAS_OP_N, &a.row, &a.column);
        strides(p.b, p.operation.transpose_b != CUBLAS_OP_N, &b.row, &b.column);
        bool of_a = p.operation.epilogue == CUBLASLT_EPILOGUE_BGRADA;
        if (finds_sums(p.operation))
            bias_gradient(p, of_a ? a : b, of_a, how.split_k, p.operation.bias);
        float *r = own ? own.get() : static_cast<float *>(at.workspace);
        for (int part = 0; part < how.split_k; part++) {
            int64_t k = p.k - p.k % 64; /* the rest is left out, as cuBLAS 13.1 is reported to (kernels/cuda/product_plan.cu) */
            k = how.split_k > 1 ? k : p.k;
            int64_t from = k * part / how.split_k, to = k * (part + 1) / how.split_k;
            operand a_part = a, b_part = b;
            a_part.at = offset(a.at, p.a.type, from * a.column);
            b_part.at = offset(b.at, p.b.type, from * b.row);
            multiply(r + static_cast<size_t>(part) * elements, a_part, b_part, p.m, p.n, to - from,
                     how.id == 2 ? 64 : 256);
        }
        for (size_t i = elements; i < elements * static_cast<size_t>(how.split_k); i++)
            r[i % elements] += r[i];
        finish(p, at, r, batch);
    }
}

static int64_t extent(const cublasLtMatrixLayoutOpaque_t &l)
{
    bool by_columns = l.order == CUBLASLT_ORDER_COL;
    int64_t lines = static_cast<int64_t>(by_columns ? l.columns : l.rows), length = static_cast<int64_t>(by_columns ? l.rows : l.columns);
    return (l.batch - 1) * l.batch_offset + (lines - 1) * l.ld + length;
}

static size_t bytes_of(const cublasLtMatrixLayoutOpaque_t &l)
{
    return static_cast<size_t>(extent(l)) * size_of(l.type);
}

static bool overlap(const void *p, size_t p_bytes, const void *q, size_t q_bytes)
{
    uintptr_t a = reinterpret_cast<uintptr_t>(p), b = reinterpret_cast<uintptr_t>(q);
    return a < b + q_bytes && b < a + p_bytes;
}

static cublasStatus_t check_addresses(const product &p, const algorithm &how, const addresses &at, size_t workspace_bytes)
{
    const struct {
        const char *name;
        const void *at;
        const cublasLtMatrixLayoutOpaque_t *layout;
    } matrices[] = {{"a", at.a, &p.a}, {"b", at.b, &p.b}, {"c", at.beta != 0.0f ? at.c : at.d, &p.c}, {"d", at.d, &p.d}};
    for (int i = 0; i < 4; i++) {
        if (!within_allocation(matrices[i].at, bytes_of(*matrices[i].layout)))
            return refuse(CUBLAS_STATUS_INVALID_VALUE, "%s is not in one allocation of device memory", matrices[i].name);
        if (reinterpret_cast<uintptr_t>(matrices[i].at) % how.alignment[i])
            return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "%s is at %p, but %d bytes of alignment were promised", matrices[i].name,
                          matrices[i].at, how.alignment[i]);
    }
    for (const float *scale : {p.operation.scale_a, p.operation.scale_b})
        if (scale && !within_allocation(scale, sizeof *scale))
            return refuse(CUBLAS_STATUS_INVALID_VALUE, "a scale is not in one allocation of device memory");
    if (overlap(at.d, bytes_of(p.d), at.a, bytes_of(p.a)) || overlap(at.d, bytes_of(p.d), at.b, bytes_of(p.b)))
        return refuse(CUBLAS_STATUS_INVALID_VALUE, "the result lies over a or b");
    if ((p.operation.epilogue & CUBLASLT_EPILOGUE_BIAS) || finds_sums(p.operation)) {
        size_t bytes = static_cast<size_t>(p.operation.epilogue == CUBLASLT_EPILOGUE_BGRADB ? p.n : p.m) * size_of(p.d.type);
        if (!within_allocation(p.operation.bias, bytes))
            return refuse(CUBLAS_STATUS_INVALID_VALUE, "bias is not in one allocation of device memory");
        if (finds_sums(p.operation) && (overlap(p.operation.bias, bytes, at.d, bytes_of(p.d)) ||
                                        overlap(p.operation.bias, bytes, at.a, bytes_of(p.a)) || overlap(p.operation.bias, bytes, at.b, bytes_of(p.b))))
            return refuse(CUBLAS_STATUS_INVALID_VALUE, "the bias' gradient lies over a matrix");
        if (reinterpret_cast<uintptr_t>(p.operation.bias) % how.bias_alignment)
            return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "bias is less aligned than that which the algorithm was found for");
    }
    if (how.workspace > workspace_bytes || (how.workspace > 0 && !within_allocation(at.workspace, how.workspace)))
        return refuse(CUBLAS_STATUS_INVALID_VALUE, "a workspace of %zu bytes, where %llu are wanted", workspace_bytes,
                      static_cast<unsigned long long>(how.workspace));
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t get(const void *from, size_t size, void *to, size_t bytes, size_t *written)
{
    if (written)
        *written = size;
    if (bytes < size || !to)
        return bytes == 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
    memcpy(to, from, size);
    return CUBLAS_STATUS_SUCCESS;
}

} // namespace cuda_on_cpu

/* ---- algorithms: 1 and 2 take sums in steps of different lengths, 3 splits k; 4 is 1 for what is aligned to 16 bytes alone ---- */

/* Where k is long, splitting it is thought to be the fastest. False: not for this product. */
static bool make_algorithm(const product &p, const cublasLtMatmulPreferenceOpaque_t &preference, int place, algorithm *how)
{
    static const uint32_t usual[ALGORITHMS] = {4, 1, 2, SPLIT_ALGORITHM}, long_k[ALGORITHMS] = {SPLIT_ALGORITHM, 4, 2, 1};
    *how = {};
    how->magic = MAGIC;
    how->id = (p.k >= 4 * p.m && p.k >= 4 * p.n && p.k >= 64 ? long_k : usual)[place];
    how->split_k = how->id == SPLIT_ALGORITHM ? 3 : 1;
    how->reduction = how->id == SPLIT_ALGORITHM ? CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE : CUBLASLT_REDUCTION_SCHEME_NONE;
    how->workspace = how->id == SPLIT_ALGORITHM ? 3ull * static_cast<uint64_t>(p.m * p.n) * sizeof(float) : 0;
    how->product = fingerprint(p);
    how->bias_alignment = p.operation.bias ? alignment_of(p.operation.bias) : 16;
    if (how->bias_alignment > 16)
        how->bias_alignment = 16;
    bool aligned = true;
    for (int i = 0; i < 4; i++) {
        how->alignment[i] = static_cast<uint16_t>(preference.alignment[i]);
        aligned = aligned && preference.alignment[i] >= 16;
    }
    for (const cublasLtMatrixLayoutOpaque_t *l : {&p.a, &p.b, &p.c, &p.d})
        aligned = aligned && static_cast<size_t>(l->ld) * size_of(l->type) % 16 == 0;
    if ((how->id == 4 && !aligned) || (how->id == SPLIT_ALGORITHM && (!(preference.reductions & how->reduction) || p.k < 3)))
        return false;
    return how->workspace <= preference.workspace;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int most,
                                              cublasLtMatmulHeuristicResult_t results[], int *count)
{
    product p;
    *count = 0;
    if (!handle || !preference || most < 1)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (cublasStatus_t status = make_product(operation, a, b, c, d, &p))
        return status;
    const cublasLtMatrixLayoutOpaque_t *layouts[] = {a, b, c, d};
    for (int i = 0; i < 4 && is_float8(a->type); i++)
        if (preference->alignment[i] < 16)
            return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "an alignment of %u bytes for a product in float8", preference->alignment[i]);
    for (int i = 0; i < 4; i++)
        if (preference->alignment[i] < size_of(layouts[i]->type))
            return refuse(CUBLAS_STATUS_INVALID_VALUE, "an alignment of %u bytes for elements of %zu", preference->alignment[i],
                          size_of(layouts[i]->type));
    for (int place = 0; place < ALGORITHMS && *count < most; place++) {
        algorithm how;
        if (!make_algorithm(p, *preference, place, &how))
            continue;
        cublasLtMatmulHeuristicResult_t *result = &results[(*count)++];
        *result = {};
        memcpy(&result->algo, &how, sizeof how);
        result->workspaceSize = how.workspace;
        result->wavesCount = 1.0f;
    }
    return *count > 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *algo, cublasLtMatmulHeuristicResult_t *result)
{
    product p;
    if (cublasStatus_t status = make_product(operation, a, b, c, d, &p))
        return status;
    algorithm how = algorithm_of(algo);
    if (how.magic != MAGIC || how.product != fingerprint(p))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    *result = {};
    result->algo = *algo;
    result->workspaceSize = how.workspace;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *algo, cublasLtMatmulAlgoConfigAttributes_t attribute,
                                                    void *to, size_t bytes, size_t *written)
{
    algorithm how = algorithm_of(algo);
    uint32_t none = 0;
    switch (attribute) {
    case CUBLASLT_ALGO_CONFIG_ID: return get(&how.id, sizeof how.id, to, bytes, written);
    case CUBLASLT_ALGO_CONFIG_SPLITK_NUM: return get(&how.split_k, sizeof how.split_k, to, bytes, written);
    case CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME: return get(&how.reduction, sizeof how.reduction, to, bytes, written);
    default: return get(&none, sizeof none, to, bytes, written);
    }
}

/* Another configuration is another product's algorithm: only what changes nothing is accepted. */
cublasStatus_t cublasLtMatmulAlgoConfigSetAttribute(cublasLtMatmulAlgo_t *algo, cublasLtMatmulAlgoConfigAttributes_t attribute,
                                                    const void *from, size_t bytes)
{
    uint32_t is, wanted;
    if (bytes != sizeof wanted || cublasLtMatmulAlgoConfigGetAttribute(algo, attribute, &is, sizeof is, nullptr))
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(&wanted, from, sizeof wanted);
    return is == wanted ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoCapGetAttribute(const cublasLtMatmulAlgo_t *algo, cublasLtMatmulAlgoCapAttributes_t attribute, void *to,
                                                 size_t bytes, size_t *written)
{
    algorithm how = algorithm_of(algo);
    bool split = how.id == SPLIT_ALGORITHM;
    int32_t splits = split, batches = 1, none = 0;
    uint32_t alignment = how.id == 4 ? 16 : 2;
    switch (attribute) {
    case CUBLASLT_ALGO_CAP_SPLITK_SUPPORT: return get(&splits, sizeof splits, to, bytes, written);
    case CUBLASLT_ALGO_CAP_REDUCTION_SCHEME_MASK: return get(&how.reduction, sizeof how.reduction, to, bytes, written);
    case CUBLASLT_ALGO_CAP_STRIDED_BATCH_SUPPORT: return get(&batches, sizeof batches, to, bytes, written);
    case CUBLASLT_ALGO_CAP_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_ALGO_CAP_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_ALGO_CAP_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_ALGO_CAP_MIN_ALIGNMENT_D_BYTES: return get(&alignment, sizeof alignment, to, bytes, written);
    default: return get(&none, sizeof none, to, bytes, written);
    }
}

/* Without an algorithm, one that is found for the pointers as they are and the workspace that there is. */
static cublasStatus_t choose(const product &p, const addresses &at, size_t workspace_bytes, algorithm *how)
{
    cublasLtMatmulPreferenceOpaque_t preference = {0, CUBLASLT_REDUCTION_SCHEME_MASK, {}, workspace_bytes, ~0ull, 0.0f};
    const void *pointers[] = {at.a, at.b, at.c ? at.c : at.d, at.d};
    for (int i = 0; i < 4; i++)
        preference.alignment[i] = alignment_of(pointers[i]);
    for (int place = 0; place < ALGORITHMS; place++)
        if (make_algorithm(p, preference, place, how))
            return CUBLAS_STATUS_SUCCESS;
    return CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, const void *alpha, const void *a,
                              cublasLtMatrixLayout_t a_layout, const void *b, cublasLtMatrixLayout_t b_layout, const void *beta,
                              const void *c, cublasLtMatrixLayout_t c_layout, void *d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t *algo, void *workspace, size_t workspace_bytes, cudaStream_t stream)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    product p;
    algorithm how;
    if (!handle || handle->device != current_device())
        return refuse(CUBLAS_STATUS_INVALID_VALUE, "no handle, or one of another device than the current");
    if (cublasStatus_t status = make_product(operation, a_layout, b_layout, c_layout, d_layout, &p))
        return status;
    if (p.operation.pointer_mode != CUBLASLT_POINTER_MODE_HOST)
        return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "alpha and beta on the device");
    addresses at = {a, b, c, d, workspace, *static_cast<const float *>(alpha), *static_cast<const float *>(beta)};
    if (algo)
        how = algorithm_of(algo);
    else if (cublasStatus_t status = choose(p, at, workspace_bytes, &how))
        return status;
    if (how.magic != MAGIC || how.product != fingerprint(p))
        return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "the algorithm was found for another product");
    if (cublasStatus_t status = check_addresses(p, how, at, workspace_bytes))
        return status;
    return failed(enqueue_launch(stream, [=] { carry_out(p, how, at); })) == cudaSuccess ? CUBLAS_STATUS_SUCCESS
                                                                                         : CUBLAS_STATUS_EXECUTION_FAILED;
}
