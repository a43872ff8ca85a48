/* The cuda backend: float32 and bfloat16 on NVIDIA's GPUs. Products by cuBLASLt, all else by own kernels. What its files
 * share. Everything runs on a stream a lane, in the order of the calls; float32 sums are taken in an order that depends on shapes
 * alone, never on the GPU or on which block is first, and no kernel adds floats atomically.
 *
 * Device code uses what a GPU alone has (warps' exchanges apart) through machine.h, and kernels are started by launch(), so
 * that tests can compile these files for the processor (tests/cuda_on_cpu). */
#ifndef CUDA_CUDA_H
#define CUDA_CUDA_H

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <pthread.h>

#include <cstdint>

extern "C" {
#include "kernels/backend.h"
}
#include "kernels/cuda/machine.h"

typedef __nv_bfloat16 bf16;

/* Partial sums of a kernel's first part that its second part joins, and what else lives within one call. What would need more
 * takes fewer, longer parts, chosen by the shape alone. */
#define SCRATCH_BYTES ((size_t)64 << 20)
#define PRODUCT_WORKSPACE_BYTES ((size_t)64 << 20)

struct cuda {
    struct backend base; /* first: a struct backend * is a struct cuda * */
    int device, processors;  /* processors: multiprocessors, for sizes of grids only */
    int capability, code; /* compute capability, and that which its kernels were compiled for, times ten */
    size_t shared_most;  /* bytes of shared memory that a block may ask for */
    cudaStream_t lanes[BACKEND_LANES], stream; /* stream: the lane that calls are of now, or the recorder */
    cudaStream_t recorder; /* of recording.cu; NULL: nothing is recorded */
    bool records;          /* calls may be recorded */
    bool waits_for_ranks;  /* kernels that wait for other ranks run beside others */
    bool recording_failed; /* what is being recorded now cannot be */
    cublasLtHandle_t products;
    void *workspace;     /* of products, PRODUCT_WORKSPACE_BYTES */
    void *scratch;       /* SCRATCH_BYTES, 256-byte aligned; each call may use all of it */
    cudaError_t error;   /* the first that was met; nothing is started after it */
    const char *error_in; /* what was begun then */
    char link_error[256];  /* where it was a link's: why */
    struct backend_link *links; /* those that are open */
    char signature[256];
    char name[128];      /* the GPU's */
    struct staging *staging; /* of memory.cu */
    struct choices *choices; /* of product_choice.cu */
    struct float8_room *float8; /* of float8.cu; NULL: no product needs it yet */
    pthread_t owner;         /* the thread that opened the backend */
    struct spans *spans; /* of spans.cu; NULL: nobody asked for them */
    struct cudnn *cudnn;     /* of attention_cudnn.cu; NULL: there is none, or it was not wanted yet */
    bool cudnn_sought;
};

static inline struct cuda *cuda_of(struct backend *b)
{
    return reinterpret_cast<struct cuda *>(b);
}

/* Keeps the first error. False if there is one. WHAT: "a copy to the GPU", for finish's message. */
bool cuda_ok(struct cuda *, cudaError_t, const char *what);

/* Of cublasLt: fails with CAIRN_ELIBRARY unless STATUS is success; WHAT names what was tried. */
cairn_err cuda_check_products(cublasStatus_t, const char *what);

/* What is given to STREAM between the two is one span, WHAT (a literal). No other call is between them, and no thread but this one may
 * call anything that has a span until the end. */
void spans_begin(struct spans *, cudaStream_t stream, const char *what);
void spans_end(struct spans *, cudaStream_t stream);
void spans_close(struct cuda *);

static inline void span_begin(struct cuda *cuda, cudaStream_t stream, const char *what)
{
    if (cuda->spans != nullptr)
        spans_begin(cuda->spans, stream, what);
}

static inline void span_end(struct cuda *cuda, cudaStream_t stream)
{
    if (cuda->spans != nullptr)
        spans_end(cuda->spans, stream);
}

/* Where a stream has some 1000 calls that it has not begun, the next one waits in CUDA, without a look at links: this is told of each of
 * LANE_COMPUTE, and keeps what is open well below that, by a wait that looks. */
void cuda_count_call(struct cuda *);

static inline void count_call(struct cuda *cuda)
{
    if (cuda->links != nullptr)
        cuda_count_call(cuda);
}

/* Starts KERNEL on the stream; WHAT (a literal) names it in an error and in a span. SHARED: bytes of dynamic shared memory, up to shared_most. A grid
 * without blocks starts nothing. */
template <typename... Parameters, typename... Arguments>
void launch(struct cuda *cuda, const char *what, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared,
            Arguments... arguments)
{
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || cuda->error != cudaSuccess)
        return;
    if (shared > ((size_t)48 << 10) &&
        !cuda_ok(cuda, cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            static_cast<int>(shared)), what))
        return;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = cuda->stream;
    span_begin(cuda, cuda->stream, what);
    cuda_ok(cuda, cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), what);
    span_end(cuda, cuda->stream);
    count_call(cuda);
}

/* Whether this thread's calls are recorded now. */
static inline bool recording_is_on(const struct cuda *cuda)
{
    return pthread_equal(pthread_self(), cuda->owner) && cuda->recorder != nullptr && cuda->stream == cuda->recorder;
}

/* Of calls that cannot be recorded: true, and nothing will be replayed, where they are met with in a recording. */
bool recording_refuses(struct cuda *);
cairn_err recording_open(struct cuda *);
void recording_close(struct cuda *);

/* How many blocks of SIZE hold N. */
static inline unsigned blocks_of(int64_t n, int64_t size)
{
    return static_cast<unsigned>((n + size - 1) / size);
}

/* Until what was given to the stream is done, or what came before the event. The thread that opened the backend looks after links meanwhile
 * (ranks that are gone would be waited for without an end) and lets the program go on with what it has under way. */
bool cuda_wait_stream(struct cuda *, cudaStream_t, const char *what);
bool cuda_wait_event(struct cuda *, cudaEvent_t, const char *what);

/* What error_in is where a link was the first to fail. */
extern const char link_name[];

/* What a thread does between two looks at what it waits for; false if waiting is in vain. */
bool cuda_idle(struct cuda *);

/* False if one has failed: then all are given up, and what waits for them ends. By the thread that opened the backend alone. */
bool link_check(struct cuda *);
void link_close_all(struct cuda *);

void *memory_alloc(struct backend *, size_t bytes);
void memory_free(struct backend *, void *, size_t bytes);
/* The pinned memory that uploads and downloads go through; after the stream is there. */
cairn_err memory_open(struct cuda *);
void memory_close(struct cuda *);

/* The table's bias_backward; norm.cu. */
void norm_bias_backward(struct backend *, void *d_bias, const void *dy, int64_t rows, int64_t width);

/* Each fills its entries of the table. */
void memory_fill(struct backend_table *);
void elementwise_fill(struct backend_table *);
void update_fill(struct backend_table *);
void norm_fill(struct backend_table *);
void embedding_fill(struct backend_table *);
void product_fill(struct backend_table *);
void attention_fill(struct backend_table *);
void attention_pieces_fill(struct backend_table *);
void classifier_fill(struct backend_table *);
void experts_fill(struct backend_table *);
void link_fill(struct backend_table *);
void product_choice_fill(struct backend_table *);
void spans_fill(struct backend_table *);
void ranges_fill(struct backend_table *);
void recording_fill(struct backend_table *);

#endif
