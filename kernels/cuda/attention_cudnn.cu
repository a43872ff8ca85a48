#include "kernels/cuda/attention_cudnn.h"

#include "kernels/cuda/attention_graphs.h"

#if HAVE_CUDNN
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

/* Hopper: the own kernels' mma.sync does not reach what its tensor cores can, and cuDNN's backward pass with one order of sums is one of
 * the kernels made for it. For other GPUs that pass has an older engine, unless one is picked by its number. */
enum { CAPABILITY_MAJOR = 9 };
enum { HEAD_MULTIPLE = 8 }; /* rows of 16 bytes */
/* The backward pass keeps a square of queries by keys of every head, in bfloat16: beyond this the own kernels, which need none. */
#define WORKSPACE_MOST ((int64_t)2 << 30)
enum { WORKSPACE_MULTIPLE = 256 };

struct attention_cudnn {
    struct attention_desc desc;
    struct cudnn_plan forward, backward;
    float scale;
    bool usable; /* else cuDNN has no plans for it */
    struct attention_cudnn *next;
};

/* What a backend has of cuDNN. */
struct cudnn {
    struct cudnn_calls calls;
    cudnnHandle_t handle;
    struct attention_cudnn *attentions; /* many layers have one shape */
    void *workspace;                    /* of whichever runs: they do one after the other */
    size_t workspace_bytes;
};

static void close_library(struct cudnn *cudnn)
{
    if (cudnn->handle != nullptr)
        cudnn->calls.cudnnDestroy(cudnn->handle);
    free(cudnn);
}

/* NULL: there is none, or it cannot be used here. */
static struct cudnn *open_library(const struct cuda *cuda)
{
    struct cudnn *cudnn = static_cast<struct cudnn *>(calloc(1, sizeof *cudnn));
    if (cudnn == nullptr)
        return nullptr;
    if (cudnn_load(&cudnn->calls) && cudnn->calls.cudnnCreate(&cudnn->handle) == CUDNN_STATUS_SUCCESS &&
        cudnn->calls.cudnnSetStream(cudnn->handle, cuda->stream) == CUDNN_STATUS_SUCCESS)
        return cudnn;
    close_library(cudnn);
    return nullptr;
}

static bool is_wanted(const struct cuda *cuda)
{
    const char *asked = getenv("CAIRN_CUDNN");
    int major = 0;
    return (asked == nullptr || strcmp(asked, "0") != 0) &&
           cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, cuda->device) == cudaSuccess && major == CAPABILITY_MAJOR;
}

/* Looked for once. */
static struct cudnn *library_of(struct cuda *cuda)
{
    if (!cuda->cudnn_sought && is_wanted(cuda))
        cuda->cudnn = open_library(cuda);
    cuda->cudnn_sought = true;
    cudaGetLastError(); /* a library that cannot be used leaves nothing behind */
    return cuda->cudnn;
}

/* What is left to cuDNN, but for what it says itself. A context of 1 is NVIDIA's cudnn-frontend's to refuse, backward: the library
 * takes it. */
static bool fits(const struct cuda *cuda, const struct attention_desc *d)
{
    return cuda->base.act == DTYPE_BF16 && d->dropout_rate <= 0 && d->columns == 0 && d->context > 1 &&
           d->head_size % HEAD_MULTIPLE == 0;
}

/* Up to 9.15 a context that 128 does not divide needs a mask of lengths backward. */
static bool fits_version(const struct cudnn *cudnn, const struct attention_desc *d)
{
    enum { ANY_CONTEXT_SINCE = 91501, CONTEXT_MULTIPLE = 128 };
    return cudnn->calls.cudnnGetVersion() >= ANY_CONTEXT_SINCE || d->context % CONTEXT_MULTIPLE == 0;
}

static int64_t delta_bytes(const struct attention_desc *d)
{
    return d->batch * d->heads * d->context * static_cast<int64_t>(sizeof(float));
}

/* Where delta lies in the workspace: behind what the backward pass's plan wants. */
static int64_t delta_offset(const struct attention_cudnn *a)
{
    return (a->backward.workspace_bytes + WORKSPACE_MULTIPLE - 1) / WORKSPACE_MULTIPLE * WORKSPACE_MULTIPLE;
}

static int64_t workspace_wanted(const struct attention_cudnn *a)
{
    int64_t backward = delta_offset(a) + delta_bytes(&a->desc);
    return backward > a->forward.workspace_bytes ? backward : a->forward.workspace_bytes;
}

static void make_plans(struct cudnn *cudnn, struct attention_cudnn *a)
{
    a->forward.call = a->backward.call = &cudnn->calls;
    const struct cudnn_target here = {cudnn->handle, nullptr};
    if (fits_version(cudnn, &a->desc)) {
        attention_graph_forward(&a->forward, &a->desc);
        attention_graph_backward(&a->backward, &a->desc);
        a->usable = plan_finish(&a->forward, here, WORKSPACE_MOST) && plan_finish(&a->backward, here, WORKSPACE_MOST);
    }
    if (!a->usable) {
        plan_destroy(&a->forward);
        plan_destroy(&a->backward);
    }
}

static bool same_shape(const struct attention_desc *a, const struct attention_desc *b)
{
    return a->batch == b->batch && a->context == b->context && a->heads == b->heads && a->head_size == b->head_size;
}

/* The plans of a shape, old or new; NULL: no memory. */
static struct attention_cudnn *plans_of(struct cudnn *cudnn, const struct attention_desc *desc)
{
    for (struct attention_cudnn *a = cudnn->attentions; a != nullptr; a = a->next)
        if (same_shape(&a->desc, desc))
            return a;
    struct attention_cudnn *a = static_cast<struct attention_cudnn *>(calloc(1, sizeof *a));
    if (a == nullptr)
        return nullptr;
    a->desc = *desc;
    a->scale = static_cast<float>(1 / std::sqrt(static_cast<double>(desc->head_size)));
    make_plans(cudnn, a);
    a->next = cudnn->attentions;
    cudnn->attentions = a;
    return a;
}

static bool grow_workspace(struct cuda *cuda, size_t bytes)
{
    struct cudnn *cudnn = cuda->cudnn;
    if (bytes <= cudnn->workspace_bytes)
        return true;
    memory_free(&cuda->base, cudnn->workspace, cudnn->workspace_bytes);
    cudnn->workspace = memory_alloc(&cuda->base, bytes);
    cudnn->workspace_bytes = cudnn->workspace != nullptr ? bytes : 0;
    return cudnn->workspace != nullptr;
}

/* The signature tells cuDNN once its kernels have a part in the numbers. */
static void sign(struct cuda *cuda)
{
    int version = static_cast<int>(cuda->cudnn->calls.cudnnGetVersion());
    size_t length = strlen(cuda->signature);
    if (strstr(cuda->signature, " cuDNN ") == nullptr)
        snprintf(cuda->signature + length, sizeof cuda->signature - length, " cuDNN %d.%d.%d", version / 10000, version / 100 % 100,
                 version % 100);
}

cairn_err attention_cudnn_create(struct cuda *cuda, const struct attention_desc *desc, const struct attention_cudnn **plans)
{
    *plans = nullptr;
    if (!fits(cuda, desc) || library_of(cuda) == nullptr)
        return CAIRN_OK;
    struct attention_cudnn *a = plans_of(cuda->cudnn, desc);
    cudaGetLastError(); /* what the library tried */
    if (a == nullptr)
        return FAIL(CAIRN_ENOMEM, "no memory for attention's plan");
    if (!a->usable)
        return CAIRN_OK;
    if (!grow_workspace(cuda, static_cast<size_t>(workspace_wanted(a))))
        return FAIL(CAIRN_ENOMEM, "no memory for the %lld MB that attention by cuDNN works in (CAIRN_CUDNN=0 does without)",
                    static_cast<long long>(workspace_wanted(a) / 1000000));
    sign(cuda);
    *plans = a;
    return CAIRN_OK;
}

/* What a run is given, collected. */
struct arrays {
    int64_t ids[SCALAR_ONE];
    void *pointers[SCALAR_ONE];
    int count;
};

static void give(struct arrays *to, int64_t id, const void *pointer)
{
    to->ids[to->count] = id;
    to->pointers[to->count++] = const_cast<void *>(pointer);
}

/* The three parts of an array [batch, context, 3, heads, head_size], FIRST and the two ids behind it. */
static void give_parts(struct arrays *to, const struct attention_desc *d, int64_t first, const void *array)
{
    for (int part = 0; part < 3; part++)
        give(to, first + part, static_cast<const bf16 *>(array) + part * d->heads * d->head_size);
}

/* The processor's memory may be read as late as the kernels run: what lives as long as the program. */
static const float HIDDEN = -INFINITY, ONE = 1;

static void run(struct cuda *cuda, const char *what, const struct attention_cudnn *a, const struct cudnn_plan *plan, struct arrays *arrays)
{
    if (cuda->error != cudaSuccess)
        return;
    give(arrays, SCALAR_SCALE, &a->scale);
    give(arrays, SCALAR_HIDDEN, &HIDDEN);
    span_begin(cuda, cuda->stream, what);
    cudnnStatus_t status = cuda->cudnn->calls.cudnnSetStream(cuda->cudnn->handle, cuda->stream);
    if (status == CUDNN_STATUS_SUCCESS)
        status = plan_run(plan, cuda->cudnn->handle, arrays->count, arrays->ids, arrays->pointers, cuda->cudnn->workspace);
    span_end(cuda, cuda->stream);
    count_call(cuda);
    if (status != CUDNN_STATUS_SUCCESS) {
        cudaError_t error = cudaGetLastError();
        cuda_ok(cuda, error != cudaSuccess ? error : cudaErrorUnknown, cuda->cudnn->calls.cudnnGetErrorString(status));
    }
}

void attention_cudnn_forward(struct cuda *cuda, const struct attention_cudnn *a, void *out, float *log_sum, const void *qkv)
{
    struct arrays arrays = {};
    give_parts(&arrays, &a->desc, ARRAY_QUERY, qkv);
    give(&arrays, ARRAY_OUT, out);
    give(&arrays, ARRAY_LOG_SUM, log_sum);
    run(cuda, "attention", a, &a->forward, &arrays);
}

void attention_cudnn_backward(struct cuda *cuda, const struct attention_cudnn *a, void *d_qkv, const void *d_out, const void *out,
                              const void *qkv, const float *log_sum)
{
    struct arrays arrays = {};
    give_parts(&arrays, &a->desc, ARRAY_QUERY, qkv);
    give(&arrays, ARRAY_OUT, out);
    give(&arrays, ARRAY_LOG_SUM, log_sum);
    give(&arrays, ARRAY_D_OUT, d_out);
    give_parts(&arrays, &a->desc, ARRAY_D_QUERY, d_qkv);
    give(&arrays, ARRAY_DELTA, static_cast<char *>(cuda->cudnn->workspace) + delta_offset(a));
    give(&arrays, SCALAR_ONE, &ONE);
    run(cuda, "attention's gradients", a, &a->backward, &arrays);
}

void attention_cudnn_close(struct cuda *cuda)
{
    struct cudnn *cudnn = cuda->cudnn;
    if (cudnn == nullptr)
        return;
    while (cudnn->attentions != nullptr) {
        struct attention_cudnn *a = cudnn->attentions;
        cudnn->attentions = a->next;
        plan_destroy(&a->forward);
        plan_destroy(&a->backward);
        free(a);
    }
    memory_free(&cuda->base, cudnn->workspace, cudnn->workspace_bytes);
    close_library(cudnn);
    cuda->cudnn = nullptr;
}
#else
cairn_err attention_cudnn_create(struct cuda *, const struct attention_desc *, const struct attention_cudnn **plans)
{
    *plans = nullptr;
    return CAIRN_OK;
}

void attention_cudnn_forward(struct cuda *, const struct attention_cudnn *, void *, float *, const void *)
{
}

void attention_cudnn_backward(struct cuda *, const struct attention_cudnn *, void *, const void *, const void *, const void *,
                              const float *)
{
}

void attention_cudnn_close(struct cuda *)
{
}
#endif
