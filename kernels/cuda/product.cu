#include "kernels/cuda/product.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/least.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/float8.h"
#include "kernels/cuda/product_choice.h"

/* cuBLASLt's matrices are stored by columns: there, a row-major matrix is its transpose. What is computed is c^T = b'^T a'^T,
 * the library's first operand being b, its second a. */

/* The alignment in bytes that is asked of pointers; no algorithm gains by more. */
static constexpr uint32_t ALIGNMENT_MOST = 16;
/* So many algorithms are asked for; the library tells the one that it takes for the fastest first. */
static constexpr int ALGORITHMS = 16;

/* What an algorithm was chosen for: pointers that are multiples of so many bytes. */
struct alignments {
    uint32_t a, b, c, bias;
};

/* One way to compute a product. */
struct way {
    struct alignments alignments;
    cublasLtMatmulDesc_t operation;
    int choice;     /* its algorithm, in the backend's list */
    bool adds_bias; /* else a kernel of its own puts it there before */
    bool through_gelu; /* else kernels of their own follow */
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
    cublasStatus_t refusal; /* where no algorithm was found */
};

static bool half_precision(const struct cuda *cuda)
{
    return cuda->base.act == DTYPE_BF16;
}

static cudaDataType_t act_type(const struct cuda *cuda)
{
    return half_precision(cuda) ? CUDA_R_16BF : CUDA_R_32F;
}

static uint32_t act_bytes(const struct cuda *cuda)
{
    return half_precision(cuda) ? sizeof(bf16) : sizeof(float);
}

/* Of a product's operands, 0: a, 1: b. */
static cudaDataType_t operand_type(const struct matmul *p, int operand)
{
    if (!p->float8)
        return act_type(p->cuda);
    return p->pair.of[operand].type == FLOAT8_E4M3 ? CUDA_R_8F_E4M3 : CUDA_R_8F_E5M2;
}

static uint32_t operand_bytes(const struct matmul *p)
{
    return p->float8 ? 1 : act_bytes(p->cuda);
}

static cudaDataType_t result_type(const struct matmul *p)
{
    return p->desc.matmul.c_is_acc ? CUDA_R_32F : act_type(p->cuda);
}

static uint32_t result_bytes(const struct matmul *p)
{
    return p->desc.matmul.c_is_acc ? sizeof(float) : act_bytes(p->cuda);
}

/* The greatest power of two, up to ALIGNMENT_MOST, that divides BYTES. */
static uint32_t alignment_of(uint64_t bytes)
{
    uint32_t alignment = ALIGNMENT_MOST;
    while (bytes % alignment != 0)
        alignment /= 2;
    return alignment;
}

static struct alignments alignments_of_rows(const struct matmul *p)
{
    struct alignments of = {};
    of.a = alignment_of(operand_bytes(p) * static_cast<uint64_t>(p->desc.lda));
    of.b = alignment_of(operand_bytes(p) * static_cast<uint64_t>(p->desc.ldb));
    of.c = alignment_of(result_bytes(p) * static_cast<uint64_t>(p->desc.ldc));
    of.bias = alignment_of(act_bytes(p->cuda) * static_cast<uint64_t>(p->desc.matmul.n));
    return of;
}

static struct alignments alignments_of_elements(const struct matmul *p)
{
    uint32_t size = act_bytes(p->cuda);
    return {size, size, result_bytes(p), size};
}

template <typename T>
static cairn_err set_operation(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, T value)
{
    return cuda_check_products(cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof value), "describe a product");
}

template <typename T>
static cairn_err prefer(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute, T value)
{
    return cuda_check_products(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value),
                               "tell what a product may use");
}

/* A matrix of rows LD elements apart, each COLUMNS long. */
static cairn_err make_layout(cublasLtMatrixLayout_t *layout, cudaDataType_t type, int64_t rows, int64_t columns, int64_t ld)
{
    return cuda_check_products(cublasLtMatrixLayoutCreate(layout, type, static_cast<uint64_t>(columns), static_cast<uint64_t>(rows), ld),
                               "describe a matrix");
}

static cairn_err make_layouts(struct matmul *p)
{
    const struct matmul_desc *d = &p->desc.matmul;
    TRY(make_layout(&p->a, operand_type(p, 0), d->transpose_a ? d->k : d->m, d->transpose_a ? d->m : d->k, p->desc.lda));
    TRY(make_layout(&p->b, operand_type(p, 1), d->transpose_b ? d->n : d->k, d->transpose_b ? d->k : d->n, p->desc.ldb));
    return make_layout(&p->c, result_type(p), d->m, d->n, p->desc.ldc);
}

static cublasLtEpilogue_t epilogue_of(const struct matmul *p, const struct way *way)
{
    if (way->through_gelu && p->desc.matmul.gelu == MATMUL_D_GELU)
        return CUBLASLT_EPILOGUE_DGELU;
    if (way->through_gelu)
        return way->adds_bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
    return way->adds_bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

/* The library's first operand is b. Without fast accumulation sums leave the tensor cores, which keep fewer digits of them, every so often: it is
 * for what has no gradients in it (cuBLAS' manual, CUBLASLT_MATMUL_DESC_FAST_ACCUM). */
static cairn_err describe_float8(const struct matmul *p, cublasLtMatmulDesc_t operation)
{
    int8_t fast = p->pair.of[0].type == FLOAT8_E4M3 && p->pair.of[1].type == FLOAT8_E4M3;
    TRY(set_operation(operation, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, float8_inverse(p->cuda, 1)));
    TRY(set_operation(operation, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, float8_inverse(p->cuda, 0)));
    return set_operation(operation, CUBLASLT_MATMUL_DESC_FAST_ACCUM, fast);
}

/* The bias' address counts when an algorithm is chosen: an example of the alignment that is promised. */
static cairn_err make_operation(const struct matmul *p, struct way *way)
{
    const struct matmul_desc *d = &p->desc.matmul;
    TRY(cuda_check_products(cublasLtMatmulDescCreate(&way->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describe a product"));
    TRY(set_operation(way->operation, CUBLASLT_MATMUL_DESC_TRANSA, d->transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N));
    TRY(set_operation(way->operation, CUBLASLT_MATMUL_DESC_TRANSB, d->transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N));
    TRY(set_operation(way->operation, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue_of(p, way)));
    if (p->float8)
        TRY(describe_float8(p, way->operation));
    if (way->through_gelu) {
        const void *inner = reinterpret_cast<const void *>(static_cast<uintptr_t>(way->alignments.c));
        TRY(set_operation(way->operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, inner));
        TRY(set_operation(way->operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, p->desc.ldc));
    }
    if (!way->adds_bias)
        return CAIRN_OK;
    const void *example = reinterpret_cast<const void *>(static_cast<uintptr_t>(way->alignments.bias));
    return set_operation(way->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, example);
}

/* Sums of parts of k are taken in the workspace, in float32 and one order, or not at all. The bias goes with the result. */
static cairn_err set_preference(cublasLtMatmulPreference_t preference, const struct way *way)
{
    const struct alignments *of = &way->alignments;
    uint32_t result = way->adds_bias && of->bias < of->c ? of->bias : of->c;
    TRY(prefer<uint64_t>(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, PRODUCT_WORKSPACE_BYTES));
    TRY(prefer<uint32_t>(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    TRY(prefer<uint32_t>(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, of->b));
    TRY(prefer<uint32_t>(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, of->a));
    TRY(prefer<uint32_t>(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, of->c));
    return prefer<uint32_t>(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, result);
}

/* What tells a product and a way to compute it from all others. */
static void describe(const struct matmul *p, const struct way *way, char *out, size_t size)
{
    static const char *const float8_names[] = {"", " e4m3", " e5m2"};
    const struct matmul_desc *d = &p->desc.matmul;
    const struct alignments *of = &way->alignments;
    snprintf(out, size, "%lldx%lldx%lld %s%s%s%s%s%s %lld,%lld,%lld %u,%u,%u,%u", static_cast<long long>(d->m), static_cast<long long>(d->n),
             static_cast<long long>(d->k), dtype_name(p->cuda->base.act), d->transpose_a ? " ta" : "", d->transpose_b ? " tb" : "",
             way->adds_bias ? " bias" : "", d->c_is_acc ? " acc" : "", d->accumulate ? " add" : "", static_cast<long long>(p->desc.lda),
             static_cast<long long>(p->desc.ldb), static_cast<long long>(p->desc.ldc), of->a, of->b, of->c, of->bias);
    if (way->through_gelu)
        strcat(out, d->gelu == MATMUL_GELU ? " gelu" : " dgelu");
    for (int i = 0; i < 2 && p->float8; i++)
        strcat(out, float8_names[p->pair.of[i].type]);
}

/* Whether an algorithm that was told of can be taken here. */
static bool still_good(const struct matmul *p, const struct way *way, const struct product_choice *choice)
{
    cublasLtMatmulAlgo_t algorithm;
    cublasLtMatmulHeuristicResult_t result = {};
    memcpy(&algorithm, choice->algorithm, sizeof algorithm);
    return cublasLtMatmulAlgoCheck(p->cuda->products, way->operation, p->b, p->a, p->c, p->c, &algorithm, &result) == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= choice->workspace_bytes && choice->workspace_bytes <= PRODUCT_WORKSPACE_BYTES;
}

static size_t bytes_of(int64_t rows, int64_t ld, size_t size)
{
    return static_cast<size_t>(rows * ld) * size;
}

static int fastest(const struct matmul *p, const struct way *way, const cublasLtMatmulHeuristicResult_t *results, int count)
{
    const struct matmul_desc *d = &p->desc.matmul;
    struct trial t = {};
    t.cuda = p->cuda;
    t.operation = way->operation;
    t.first = p->b;
    t.second = p->a;
    t.result = p->c;
    t.first_bytes = bytes_of(d->transpose_b ? d->n : d->k, p->desc.ldb, operand_bytes(p));
    t.second_bytes = bytes_of(d->transpose_a ? d->k : d->m, p->desc.lda, operand_bytes(p));
    t.result_bytes = bytes_of(d->m, p->desc.ldc, result_bytes(p));
    t.bias_bytes = way->adds_bias ? static_cast<size_t>(d->n) * act_bytes(p->cuda) : 0;
    t.inner = way->through_gelu;
    t.factor = d->accumulate || (d->bias && !way->adds_bias) ? 1 : 0;
    return choice_by_time(&t, results, count);
}

/* Whether there is an algorithm, and which. */
static cairn_err choose_algorithm(struct matmul *p, struct way *way, cublasLtMatmulPreference_t preference, bool *found)
{
    char product[sizeof(product_choice::product)];
    cublasLtMatmulHeuristicResult_t results[ALGORITHMS] = {};
    int count = 0, usable = 0;
    describe(p, way, product, sizeof product);
    way->choice = choice_find(p->cuda, product);
    *found = way->choice >= 0 && still_good(p, way, choice_at(p->cuda, way->choice));
    if (*found)
        return CAIRN_OK;
    p->refusal = cublasLtMatmulAlgoGetHeuristic(p->cuda->products, way->operation, p->b, p->a, p->c, p->c, preference, ALGORITHMS, results,
                                                &count);
    for (int i = 0; p->refusal == CUBLAS_STATUS_SUCCESS && i < count; i++)
        if (results[i].state == CUBLAS_STATUS_SUCCESS && results[i].workspaceSize <= PRODUCT_WORKSPACE_BYTES)
            results[usable++] = results[i];
    if (usable == 0)
        return CAIRN_OK;
    int which = p->cuda->base.timed_products ? fastest(p, way, results, usable) : UNTRIED;
    const cublasLtMatmulHeuristicResult_t *best = &results[which == UNTRIED ? 0 : which];
    *found = true;
    return choice_set(p->cuda, product, &best->algo, best->workspaceSize, which != UNTRIED, &way->choice);
}

static void destroy_operation(struct way *way)
{
    if (way->operation != NULL)
        cublasLtMatmulDescDestroy(way->operation);
    way->operation = NULL;
}

/* FOUND is false where the library has no algorithm. */
static cairn_err try_way(struct matmul *p, struct way *way, bool *found)
{
    cublasLtMatmulPreference_t preference = NULL;
    cairn_err err;
    *found = false;
    TRY(make_operation(p, way));
    TRY(cuda_check_products(cublasLtMatmulPreferenceCreate(&preference), "tell what a product may use"));
    TRY_GOTO(err, set_preference(preference, way), done);
    err = choose_algorithm(p, way, preference, found);
done:
    cublasLtMatmulPreferenceDestroy(preference);
    return err;
}

/* The library's GELU is of the tanh form, but not good to float32's last digits; its matrices of inner values are aligned. Its manual does not say
 * that float8 goes with it where the result is bfloat16. */
static bool may_go_through_gelu(const struct matmul *p, const struct way *way)
{
    const struct matmul_desc *d = &p->desc.matmul;
    return d->gelu != MATMUL_PLAIN && half_precision(p->cuda) && !p->float8 && way->alignments.c == ALIGNMENT_MOST && (!d->bias || way->adds_bias);
}

/* Adds a way, if the library has an algorithm. It adds a bias of the result's type alone; and as it cannot be told how a bias is
 * aligned, and was seen to read one by 16 bytes at a time, only such a one is left to it. */
static cairn_err make_way(struct matmul *p, const struct alignments *alignments, bool *found)
{
    struct way *way = &p->ways[p->way_count];
    way->alignments = *alignments;
    way->adds_bias = p->desc.matmul.bias && result_type(p) == act_type(p->cuda) && alignments->bias == ALIGNMENT_MOST &&
                     !(p->float8 && p->desc.matmul.accumulate);
    way->through_gelu = may_go_through_gelu(p, way);
    TRY(try_way(p, way, found));
    if (!*found && way->through_gelu) {
        destroy_operation(way);
        way->through_gelu = false;
        TRY(try_way(p, way, found));
    }
    if (!*found && way->adds_bias) {
        destroy_operation(way);
        way->adds_bias = false;
        TRY(try_way(p, way, found));
    }
    if (*found)
        p->way_count++;
    else
        destroy_operation(way);
    return CAIRN_OK;
}

static uint32_t smaller(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* The first way is for arrays that begin as their rows do, as all of a training's do; the library may have none for the second. */
static cairn_err make_ways(struct matmul *p)
{
    struct alignments rows = alignments_of_rows(p), elements = alignments_of_elements(p);
    bool found, same = rows.a == elements.a && rows.b == elements.b && rows.c == elements.c;
    same = p->float8 || (same && (!p->desc.matmul.bias || rows.bias == elements.bias));
    TRY(make_way(p, &rows, &found));
    if (!found) { /* nor one for unlike alignments */
        uint32_t all = smaller(rows.a, smaller(rows.b, rows.c));
        rows = {all, all, all, rows.bias};
        TRY(make_way(p, &rows, &found));
    }
    if (!found)
        return FAIL(CAIRN_ELIBRARY, "cuBLASLt has no algorithm (%s) for rows aligned to %u, %u and %u bytes", cublasLtGetStatusName(p->refusal),
                    rows.a, rows.b, rows.c);
    return same ? CAIRN_OK : make_way(p, &elements, &found);
}

/* From here on the product is one of the copies, both of which lie along k. */
static cairn_err plan_copies(struct matmul *p)
{
    struct matmul_desc *d = &p->desc.matmul;
    if (d->float8_b == FLOAT8_NONE || (d->float8_a == FLOAT8_E5M2 && d->float8_b == FLOAT8_E5M2))
        return FAIL(CAIRN_EINVAL, "cuBLASLt multiplies no such types");
    TRY(float8_check(p->cuda));
    p->float8 = true;
    p->pair.of[0] = {d->float8_a, d->transpose_a ? d->k : d->m, d->transpose_a ? d->m : d->k, d->transpose_a};
    p->pair.of[1] = {d->float8_b, d->transpose_b ? d->n : d->k, d->transpose_b ? d->k : d->n, !d->transpose_b};
    p->pair.keeps_a = d->keeps_a && !d->transpose_a;
    p->pair.a_is_kept = d->a_is_kept && d->transpose_a;
    d->transpose_a = false;
    d->transpose_b = true;
    p->desc.lda = p->desc.ldb = d->k;
    return float8_reserve(p->cuda, &p->pair);
}

cairn_err product_create(struct cuda *cuda, const struct product_desc *desc, struct matmul **matmul)
{
    *matmul = NULL;
    struct matmul *p = static_cast<struct matmul *>(calloc(1, sizeof *p));
    if (p == NULL)
        return FAIL(CAIRN_ENOMEM, "no memory for a product's plan");
    p->cuda = cuda;
    p->desc = *desc;
    cairn_err err;
    if (matmul_is_float8(&desc->matmul))
        TRY_GOTO(err, plan_copies(p), failed);
    TRY_GOTO(err, make_layouts(p), failed);
    TRY_GOTO(err, make_ways(p), failed);
    *matmul = p;
    return CAIRN_OK;
failed:
    product_destroy(p);
    return error_context(err, "product [%lld, %lld, %lld]", static_cast<long long>(desc->matmul.m),
                         static_cast<long long>(desc->matmul.n), static_cast<long long>(desc->matmul.k));
}

void product_destroy(struct matmul *p)
{
    if (p == NULL)
        return;
    cublasLtMatrixLayout_t layouts[] = {p->a, p->b, p->c};
    for (cublasLtMatrixLayout_t layout : layouts)
        if (layout != NULL)
            cublasLtMatrixLayoutDestroy(layout);
    for (struct way &way : p->ways)
        destroy_operation(&way);
    free(p);
}

/* c[m,n] = bias[n], ADD: c[m,n] += bias[n] */
template <typename Result, typename Act>
static __global__ void put_bias(Result *c, const Act *bias, int64_t m, int64_t n, int64_t ldc, bool add)
{
    int64_t column = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (column >= n)
        return;
    float x = to_float(bias[column]);
    for (int64_t row = blockIdx.y; row < m; row += gridDim.y)
        c[row * ldc + column] = from_float<Result>(add ? to_float(c[row * ldc + column]) + x : x);
}

template <typename Result, typename Act> static void start_put_bias(const struct matmul *p, void *c, const void *bias)
{
    const struct matmul_desc *d = &p->desc.matmul;
    static constexpr int64_t COLUMNS = 256, ROWS_MOST = 1024;
    dim3 grid(blocks_of(d->n, COLUMNS), static_cast<unsigned>(least(d->m, ROWS_MOST)));
    launch(p->cuda, "a bias", put_bias<Result, Act>, grid, dim3(COLUMNS), 0, static_cast<Result *>(c), static_cast<const Act *>(bias),
           d->m, d->n, p->desc.ldc, d->accumulate);
}

/* Before the product, which then adds to it and rounds once. */
static void put_bias_before(const struct matmul *p, void *c, const void *bias)
{
    if (!half_precision(p->cuda))
        start_put_bias<float, float>(p, c, bias);
    else if (p->desc.matmul.c_is_acc)
        start_put_bias<float, bf16>(p, c, bias);
    else
        start_put_bias<bf16, bf16>(p, c, bias);
}

static bool aligned(const void *p, uint32_t alignment)
{
    return reinterpret_cast<uintptr_t>(p) % alignment == 0;
}

/* The first way whose alignments the arrays have; NULL: none. */
static const struct way *way_for(const struct matmul *p, const void *c, const void *inner, const void *a, const void *b, const void *bias)
{
    for (int i = 0; i < p->way_count; i++) {
        const struct alignments *of = &p->ways[i].alignments;
        if (aligned(a, of->a) && aligned(b, of->b) && aligned(c, of->c) && aligned(inner, of->c) && (!p->desc.matmul.bias || aligned(bias, of->bias)))
            return &p->ways[i];
    }
    return NULL;
}

static void follow_with_gelu(const struct matmul *p, void *c, const void *inner)
{
    struct backend *b = &p->cuda->base;
    int64_t n = p->desc.matmul.m * p->desc.matmul.n;
    if (p->desc.matmul.gelu == MATMUL_GELU)
        b->table->gelu_forward(b, c, inner, n);
    else
        b->table->gelu_backward(b, c, c, inner, n);
}

static const char *name_of(const struct matmul *p, const struct way *way)
{
    if (!way->through_gelu)
        return p->float8 ? "a product in float8" : "a product";
    return p->desc.matmul.gelu == MATMUL_GELU ? "a product and GELU" : "a product and GELU's gradient";
}

/* INNER: NULL, or what the product goes through. */
static void run(struct matmul *p, void *c, void *inner, const void *a, const void *b, const void *bias)
{
    struct cuda *cuda = p->cuda;
    const float one = 1;
    if (cuda->error != cudaSuccess)
        return;
    const struct way *way = way_for(p, c, inner, a, b, bias);
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    if (way == NULL) {
        cuda_ok(cuda, cudaErrorMisalignedAddress, "a product");
        return;
    }
    if (p->float8) {
        struct float8_copies copies = float8_convert(cuda, &p->pair, a, b);
        a = copies.of[0];
        b = copies.of[1];
    }
    const struct product_choice *choice = choice_at(cuda, way->choice);
    cublasLtMatmulAlgo_t algorithm;
    memcpy(&algorithm, choice->algorithm, sizeof algorithm);
    bool bias_first = p->desc.matmul.bias && !way->adds_bias;
    const float factor_of_c = p->desc.matmul.accumulate || bias_first ? 1 : 0;
    if (way->adds_bias)
        status = cublasLtMatmulDescSetAttribute(way->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias);
    if (way->through_gelu && status == CUBLAS_STATUS_SUCCESS)
        status = cublasLtMatmulDescSetAttribute(way->operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &inner, sizeof inner);
    /* A product whose GELU follows is the inner value. */
    void *to = inner != NULL && !way->through_gelu && p->desc.matmul.gelu == MATMUL_GELU ? inner : c;
    if (bias_first)
        put_bias_before(p, to, bias);
    span_begin(cuda, cuda->stream, name_of(p, way));
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasLtMatmul(cuda->products, way->operation, &one, b, p->b, a, p->a, &factor_of_c, to, p->c, to, p->c, &algorithm,
                                cuda->workspace, choice->workspace_bytes, cuda->stream);
    span_end(cuda, cuda->stream);
    if (status != CUBLAS_STATUS_SUCCESS)
        cuda_ok(cuda, cudaErrorUnknown, cublasLtGetStatusName(status));
    if (inner != NULL && !way->through_gelu)
        follow_with_gelu(p, c, inner);
}

void product_run(struct matmul *p, void *c, const void *a, const void *b, const void *bias)
{
    run(p, c, NULL, a, b, bias);
}

static cairn_err matmul_create(struct backend *b, const struct matmul_desc *d, struct matmul **matmul)
{
    struct product_desc desc = {*d, d->transpose_a ? d->m : d->k, d->transpose_b ? d->k : d->n, d->n};
    return product_create(cuda_of(b), &desc, matmul);
}

void product_fill(struct backend_table *table)
{
    table->matmul_create = matmul_create;
    table->matmul_run = product_run;
    table->matmul_run_gelu = run;
    table->matmul_destroy = product_destroy;
}
