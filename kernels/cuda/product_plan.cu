#include "kernels/cuda/product_plan.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels/cuda/product_choice.h"

/* cuBLASLt's matrices are stored by columns: there, a row-major matrix is its transpose. What is computed is c^T = b'^T a'^T,
 * the library's first operand being b, its second a. */

/* The alignment in bytes that is asked of pointers; no algorithm gains by more. */
static constexpr uint32_t ALIGNMENT_MOST = 16;
/* So many algorithms are asked for; the library tells the one that it takes for the fastest first. */
static constexpr int ALGORITHMS = 16;

static cudaDataType_t act_type(const struct cuda *cuda)
{
    return product_is_half(cuda) ? CUDA_R_16BF : CUDA_R_32F;
}

static uint32_t act_bytes(const struct cuda *cuda)
{
    return product_is_half(cuda) ? sizeof(bf16) : sizeof(float);
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

static size_t d_bias_bytes(const struct matmul *p)
{
    return static_cast<size_t>(p->desc.matmul.m) * sizeof(float);
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

/* The sums over k of the library's second operand are those of a'. */
static cublasLtEpilogue_t epilogue_of(const struct matmul *p, const struct way *way)
{
    if (way->finds_d_bias)
        return CUBLASLT_EPILOGUE_BGRADB;
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
    if (way->finds_d_bias)
        TRY(set_operation<int32_t>(way->operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, CUDA_R_32F));
    if (!way->adds_bias && !way->finds_d_bias)
        return CAIRN_OK;
    const void *example = reinterpret_cast<const void *>(static_cast<uintptr_t>(way->alignments.bias));
    return set_operation(way->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, example);
}

/* Sums of parts of k are taken in the workspace, in float32 and one order, or not at all: so where the parts may not be whole tiles, of which cuBLAS 13.1
 * is reported to leave the rest of k out on an H100 (github.com/facebookexperimental/triton, pull request 2767: k % 64 != 0). */
static uint32_t reduction_of(const struct matmul *p)
{
    return p->desc.matmul.k % 128 == 0 ? CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE : CUBLASLT_REDUCTION_SCHEME_NONE;
}

/* The bias goes with the result. */
static cairn_err set_preference(cublasLtMatmulPreference_t preference, const struct matmul *p, const struct way *way)
{
    const struct alignments *of = &way->alignments;
    uint32_t result = way->adds_bias && of->bias < of->c ? of->bias : of->c;
    TRY(prefer<uint64_t>(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, PRODUCT_WORKSPACE_BYTES));
    TRY(prefer<uint32_t>(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reduction_of(p)));
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
    if (way->finds_d_bias)
        strcat(out, " dbias");
    for (int i = 0; i < 2 && p->float8; i++)
        strcat(out, float8_names[p->pair.of[i].type]);
}

/* Whether an algorithm that was told of can be taken here, or that there is none. */
static bool still_good(const struct matmul *p, const struct way *way, const struct product_choice *choice)
{
    cublasLtMatmulAlgo_t algorithm;
    if (choice_is_none(choice))
        return way->finds_d_bias;
    cublasLtMatmulHeuristicResult_t result = {};
    uint32_t reduction = 0;
    size_t written;
    memcpy(&algorithm, choice->algorithm, sizeof algorithm);
    if (cublasLtMatmulAlgoConfigGetAttribute(&algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &reduction, sizeof reduction, &written) !=
            CUBLAS_STATUS_SUCCESS || (reduction & ~reduction_of(p)) != 0)
        return false;
    return cublasLtMatmulAlgoCheck(p->cuda->products, way->operation, p->b, p->a, p->c, p->c, &algorithm, &result) == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= choice->workspace_bytes && choice->workspace_bytes <= PRODUCT_WORKSPACE_BYTES;
}

static size_t bytes_of(int64_t rows, int64_t ld, size_t size)
{
    return static_cast<size_t>(rows * ld) * size;
}

static struct trial trial_of(const struct matmul *p, const struct way *way)
{
    const struct matmul_desc *d = &p->desc.matmul;
    struct trial t = {};
    t.cuda = p->cuda;
    t.operation = way->operation;
    t.first = p->b;
    t.second = p->a;
    t.result = p->c;
    t.operand_bytes = operand_bytes(p);
    t.first_bytes = bytes_of(d->transpose_b ? d->n : d->k, p->desc.ldb, operand_bytes(p));
    t.second_bytes = bytes_of(d->transpose_a ? d->k : d->m, p->desc.lda, operand_bytes(p));
    t.result_bytes = bytes_of(d->m, p->desc.ldc, result_bytes(p));
    t.bias_bytes = way->finds_d_bias ? d_bias_bytes(p) : way->adds_bias ? static_cast<size_t>(d->n) * act_bytes(p->cuda) : 0;
    t.inner = way->through_gelu;
    t.factor = d->accumulate || (d->bias && !way->adds_bias) ? 1 : 0;
    return t;
}

static int fastest(const struct matmul *p, const struct way *way, const cublasLtMatmulHeuristicResult_t *results, int count)
{
    struct trial t = trial_of(p, way);
    return choice_by_time(&t, results, count);
}

/* Whether d_bias found beside the product takes longer than a kernel of its own behind the first way. */
static bool slower_than_apart(const struct matmul *p, const cublasLtMatmulHeuristicResult_t *joint)
{
    const struct product_choice *choice = choice_at(p->cuda, p->ways[0].choice);
    cublasLtMatmulHeuristicResult_t plain = {};
    memcpy(&plain.algo, choice->algorithm, sizeof plain.algo);
    plain.workspaceSize = choice->workspace_bytes;
    struct trial together = trial_of(p, &p->joint), apart = trial_of(p, &p->ways[0]);
    apart.d_bias_rows = p->desc.matmul.k;
    apart.d_bias_width = p->desc.matmul.m;
    apart.bias_bytes = d_bias_bytes(p);
    float time = choice_time(&together, joint), time_apart = choice_time(&apart, &plain);
    return time_apart >= 0 && (time < 0 || time > time_apart);
}

/* Where kernels wait for other ranks, the library's code is to be there before. */
static void load_early(const struct matmul *p, const struct way *way)
{
    const struct product_choice *choice = choice_at(p->cuda, way->choice);
    if (!p->cuda->waits_for_ranks || choice_is_none(choice))
        return;
    struct trial t = trial_of(p, way);
    cublasLtMatmulHeuristicResult_t result = {};
    memcpy(&result.algo, choice->algorithm, sizeof result.algo);
    result.workspaceSize = choice->workspace_bytes;
    choice_time(&t, &result);
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
    if (*found) {
        load_early(p, way);
        return CAIRN_OK;
    }
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
    if (way->finds_d_bias && which != UNTRIED && slower_than_apart(p, best))
        return choice_set(p->cuda, product, NULL, 0, true, &way->choice);
    TRY(choice_set(p->cuda, product, &best->algo, best->workspaceSize, which != UNTRIED, &way->choice));
    if (which == UNTRIED || usable == 1)
        load_early(p, way);
    return CAIRN_OK;
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
    TRY_GOTO(err, set_preference(preference, p, way), done);
    err = choose_algorithm(p, way, preference, found);
done:
    cublasLtMatmulPreferenceDestroy(preference);
    return err;
}

/* Before this, llm.c found it slower than a kernel of its own behind the product (its llmc/matmul.cuh). */
static constexpr int CAPABILITY_OF_GELU = 90;

/* The library's GELU is of the tanh form, but not good to float32's last digits; its matrices of inner values are aligned. Its manual does not say
 * that float8 goes with it where the result is bfloat16. */
static bool may_go_through_gelu(const struct matmul *p, const struct way *way)
{
    const struct matmul_desc *d = &p->desc.matmul;
    return d->gelu != MATMUL_PLAIN && product_is_half(p->cuda) && p->cuda->capability >= CAPABILITY_OF_GELU && !p->float8 && way->alignments.c == ALIGNMENT_MOST && (!d->bias || way->adds_bias);
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

/* Of a d_bias of 16-byte alignment alone, as of a bias; its length decides, as arrays of several lie one behind the other. That the library has no
 * algorithm is kept too, so that restarts go on as the first run did. */
static cairn_err make_joint(struct matmul *p)
{
    char product[sizeof(product_choice::product)];
    struct way *way = &p->joint;
    bool found;
    if (!p->desc.matmul.d_bias || p->float8 || alignment_of(d_bias_bytes(p)) != ALIGNMENT_MOST)
        return CAIRN_OK;
    way->alignments = p->ways[0].alignments;
    way->alignments.bias = ALIGNMENT_MOST;
    way->finds_d_bias = true;
    TRY(try_way(p, way, &found));
    if (found)
        return CAIRN_OK;
    destroy_operation(way);
    describe(p, way, product, sizeof product);
    return choice_set(p->cuda, product, NULL, 0, false, &way->choice);
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
    TRY(make_joint(p));
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

static cairn_err check(const struct matmul_desc *d)
{
    if (d->d_bias && (!d->transpose_a || !d->c_is_acc || d->bias || d->gelu != MATMUL_PLAIN))
        return FAIL(CAIRN_EINVAL, "a bias' gradient goes with the product of a weight's gradient alone");
    return CAIRN_OK;
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
    TRY_GOTO(err, check(&desc->matmul), failed);
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
    destroy_operation(&p->joint);
    free(p);
}
