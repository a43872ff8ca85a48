#include "kernels/cuda/product_plan.h"

#include <cstring>

#include "base/least.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/product_choice.h"

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
    if (!product_is_half(p->cuda))
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

/* The arrays of one product: INNER is what it goes through. Those that it has not are NULL. */
struct operands {
    void *c, *inner, *d_bias;
    const void *a, *b, *bias;
};

/* Decided anew at each call, as choices may be told after the product is planned. */
static bool takes_joint(const struct matmul *p, const void *d_bias)
{
    const struct way *joint = &p->joint;
    return d_bias != NULL && joint->operation != NULL && !choice_is_none(choice_at(p->cuda, joint->choice)) && aligned(d_bias, joint->alignments.bias);
}

/* The first way whose alignments the arrays have; NULL: none. */
static const struct way *way_for(const struct matmul *p, const struct operands *o)
{
    for (int i = 0; i < p->way_count; i++) {
        const struct alignments *of = &p->ways[i].alignments;
        if (aligned(o->a, of->a) && aligned(o->b, of->b) && aligned(o->c, of->c) && aligned(o->inner, of->c) &&
            (!p->desc.matmul.bias || aligned(o->bias, of->bias)))
            return i == 0 && takes_joint(p, o->d_bias) ? &p->joint : &p->ways[i];
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
    if (way->finds_d_bias)
        return "a product and a bias' gradient";
    if (!way->through_gelu)
        return p->float8 ? "a product in float8" : "a product";
    return p->desc.matmul.gelu == MATMUL_GELU ? "a product and GELU" : "a product and GELU's gradient";
}

static cublasStatus_t set_pointer(const struct way *way, cublasLtMatmulDescAttributes_t attribute, const void *pointer)
{
    return cublasLtMatmulDescSetAttribute(way->operation, attribute, &pointer, sizeof pointer);
}

static cublasStatus_t set_pointers(const struct way *way, const struct operands *o)
{
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    if (way->adds_bias || way->finds_d_bias)
        status = set_pointer(way, CUBLASLT_MATMUL_DESC_BIAS_POINTER, way->finds_d_bias ? o->d_bias : o->bias);
    if (way->through_gelu && status == CUBLAS_STATUS_SUCCESS)
        status = set_pointer(way, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, o->inner);
    return status;
}

/* What the library computes. BIAS_FIRST: TO has the bias. */
static void multiply(const struct matmul *p, const struct way *way, const struct operands *o, void *to, bool bias_first)
{
    struct cuda *cuda = p->cuda;
    const float one = 1, factor_of_c = p->desc.matmul.accumulate || bias_first ? 1 : 0;
    const struct product_choice *choice = choice_at(cuda, way->choice);
    cublasLtMatmulAlgo_t algorithm;
    memcpy(&algorithm, choice->algorithm, sizeof algorithm);
    cublasStatus_t status = set_pointers(way, o);
    span_begin(cuda, cuda->stream, name_of(p, way));
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasLtMatmul(cuda->products, way->operation, &one, o->b, p->b, o->a, p->a, &factor_of_c, to, p->c, to, p->c, &algorithm,
                                cuda->workspace, choice->workspace_bytes, cuda->stream);
    span_end(cuda, cuda->stream);
    count_call(cuda);
    if (status != CUBLAS_STATUS_SUCCESS)
        cuda_ok(cuda, cudaErrorUnknown, cublasLtGetStatusName(status));
}

static void run(struct matmul *p, struct operands o)
{
    const struct matmul_desc *d = &p->desc.matmul;
    struct cuda *cuda = p->cuda;
    const void *dy = o.a;
    if (cuda->error != cudaSuccess)
        return;
    const struct way *way = way_for(p, &o);
    if (way == NULL) {
        cuda_ok(cuda, cudaErrorMisalignedAddress, "a product");
        return;
    }
    if (p->float8) {
        struct float8_copies copies = float8_convert(cuda, &p->pair, o.a, o.b);
        o.a = copies.of[0];
        o.b = copies.of[1];
    }
    bool bias_first = d->bias && !way->adds_bias, gelu_follows = o.inner != NULL && !way->through_gelu;
    /* A product whose GELU follows is the inner value. */
    void *to = gelu_follows && d->gelu == MATMUL_GELU ? o.inner : o.c;
    if (bias_first)
        put_bias_before(p, to, o.bias);
    multiply(p, way, &o, to, bias_first);
    if (gelu_follows)
        follow_with_gelu(p, o.c, o.inner);
    if (o.d_bias != NULL && !way->finds_d_bias)
        norm_bias_backward(&cuda->base, o.d_bias, dy, d->k, d->m);
}

void product_run(struct matmul *p, void *c, const void *a, const void *b, const void *bias)
{
    run(p, {c, NULL, NULL, a, b, bias});
}

static void run_gelu(struct matmul *p, void *c, void *inner, const void *a, const void *b, const void *bias)
{
    run(p, {c, inner, NULL, a, b, bias});
}

static void run_d_bias(struct matmul *p, void *c, void *d_bias, const void *a, const void *b)
{
    run(p, {c, NULL, d_bias, a, b, NULL});
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
    table->matmul_run_gelu = run_gelu;
    table->matmul_run_d_bias = run_d_bias;
    table->matmul_destroy = product_destroy;
}
