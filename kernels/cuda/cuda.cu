/* Opens and closes the backend; kernels/plugin_side.c shows cairn_backend_open to the program. */
#include "kernels/cuda/attention_cudnn.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/float8.h"
#include "kernels/cuda/product_choice.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

/* The least compute capability: bfloat16 in tensor cores, and copies to shared memory behind a thread's back. */
enum { CAPABILITY_LEAST = 80 };

bool cuda_ok(struct cuda *cuda, cudaError_t status, const char *what)
{
    if (status != cudaSuccess) {
        cudaGetLastError(); /* else the next call's status would be this one */
        if (recording_refuses(cuda)) /* nothing was done yet; done again without a recorder, what fails does so for good */
            return false;
        const char *none = nullptr;
        /* Calls may come from two threads: who names the error first keeps it. */
        if (__atomic_compare_exchange_n(&cuda->error_in, &none, what, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
            __atomic_store_n(&cuda->error, status, __ATOMIC_RELEASE);
        return false;
    }
    return __atomic_load_n(&cuda->error, __ATOMIC_ACQUIRE) == cudaSuccess;
}

cairn_err cuda_check_products(cublasStatus_t status, const char *what)
{
    if (status == CUBLAS_STATUS_SUCCESS)
        return CAIRN_OK;
    return FAIL(CAIRN_ELIBRARY, "cuBLASLt cannot %s: %s", what, cublasLtGetStatusName(status));
}

static const char *signature(struct backend *b)
{
    return cuda_of(b)->signature;
}

static void close_backend(struct backend *b)
{
    struct cuda *cuda = cuda_of(b);
    cudaSetDevice(cuda->device);
    link_close_all(cuda);
    for (int i = 0; i < BACKEND_LANES; i++)
        if (cuda->lanes[i] != nullptr)
            cudaStreamSynchronize(cuda->lanes[i]);
    spans_close(cuda);
    recording_close(cuda);
    attention_cudnn_close(cuda);
    float8_close(cuda);
    memory_free(b, cuda->scratch, SCRATCH_BYTES);
    memory_free(b, cuda->workspace, PRODUCT_WORKSPACE_BYTES);
    memory_close(cuda);
    choices_close(cuda);
    if (cuda->products != nullptr)
        cublasLtDestroy(cuda->products);
    for (int i = 0; i < BACKEND_LANES; i++)
        if (cuda->lanes[i] != nullptr)
            cudaStreamDestroy(cuda->lanes[i]);
    cudaGetLastError();
    free(cuda);
}

/* Filled at the first opening; the same each time, so that it does not matter who writes it. */
static struct backend_table cuda_table;

static void fill_table(void)
{
    cuda_table.name = "cuda";
    cuda_table.host_memory = false;
    cuda_table.close = close_backend;
    cuda_table.signature = signature;
    memory_fill(&cuda_table);
    elementwise_fill(&cuda_table);
    update_fill(&cuda_table);
    norm_fill(&cuda_table);
    embedding_fill(&cuda_table);
    product_fill(&cuda_table);
    attention_fill(&cuda_table);
    attention_pieces_fill(&cuda_table);
    classifier_fill(&cuda_table);
    experts_fill(&cuda_table);
    link_fill(&cuda_table);
    product_choice_fill(&cuda_table);
    spans_fill(&cuda_table);
    ranges_fill(&cuda_table);
    recording_fill(&cuda_table);
}

/* CUDA's versions are 1000 * major + 10 * minor. */
static int major_of(int version)
{
    return version / 1000;
}

static int minor_of(int version)
{
    return version % 1000 / 10;
}

static cairn_err old_driver(void)
{
    int driver = 0, needed = CUDART_VERSION;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&needed);
    if (driver == 0)
        return FAIL(CAIRN_ENODEVICE, "no GPU can be used: NVIDIA's driver is not installed (one for CUDA %d.%d or later is needed)",
                    major_of(needed), minor_of(needed));
    return FAIL(CAIRN_ENODEVICE,
                "no GPU can be used: the driver is one for CUDA %d.%d, and this build needs one for CUDA %d.%d or later",
                major_of(driver), minor_of(driver), major_of(needed), minor_of(needed));
}

static cairn_err count_devices(int *count)
{
    cudaError_t status = cudaGetDeviceCount(count);
    cudaGetLastError();
    if (status == cudaErrorInsufficientDriver)
        return old_driver();
    if (status == cudaErrorNoDevice || (status == cudaSuccess && *count == 0))
        return FAIL(CAIRN_ENODEVICE, "there is no NVIDIA GPU that this process can see");
    if (status != cudaSuccess)
        return FAIL(CAIRN_ENODEVICE, "no GPU can be used: %s", cudaGetErrorString(status));
    return CAIRN_OK;
}

/* Of what is done with the GPU before it is known to work. */
static cairn_err check_device(struct cuda *cuda, cudaError_t status, const char *what)
{
    if (status == cudaSuccess)
        return CAIRN_OK;
    cudaGetLastError();
    return FAIL(CAIRN_ENODEVICE, "the GPU %s cannot be used: %s (%s)", cuda->name[0] != '\0' ? cuda->name : "of this process",
                cudaGetErrorString(status), what);
}

static __global__ void probe_kernel()
{
}

/* Whether this build's code runs on the GPU at all. */
static cairn_err probe(struct cuda *cuda)
{
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(1);
    config.blockDim = dim3(1);
    config.stream = cuda->stream;
    cudaError_t status = cudaLaunchKernelEx(&config, probe_kernel);
    if (status == cudaSuccess)
        status = cudaStreamSynchronize(cuda->stream);
    if (status == cudaErrorNoKernelImageForDevice) {
        cudaGetLastError();
        return FAIL(CAIRN_ENODEVICE, "this build has no code for the GPU %s (sm_%d): configure it with --with-cuda-arch=%d", cuda->name,
                    cuda->capability, cuda->capability);
    }
    TRY(check_device(cuda, status, "a first kernel"));
    struct cudaFuncAttributes attributes;
    TRY(check_device(cuda, cudaFuncGetAttributes(&attributes, reinterpret_cast<const void *>(probe_kernel)), "its code"));
    cuda->code = attributes.ptxVersion;
    return CAIRN_OK;
}

static cairn_err describe_device(struct cuda *cuda)
{
    struct cudaDeviceProp properties;
    TRY(check_device(cuda, cudaGetDeviceProperties(&properties, cuda->device), "its properties"));
    snprintf(cuda->name, sizeof cuda->name, "%.*s", static_cast<int>(sizeof cuda->name) - 1, properties.name);
    TRY(check_device(cuda, cudaDeviceGetPCIBusId(cuda->base.unit, sizeof cuda->base.unit, cuda->device), "its place"));
    snprintf(cuda->base.device, sizeof cuda->base.device, "%.*s", static_cast<int>(sizeof cuda->base.device) - 1, properties.name);
    cuda->capability = 10 * properties.major + properties.minor;
    cuda->processors = properties.multiProcessorCount;
    cuda->shared_most = properties.sharedMemPerBlockOptin;
    if (cuda->capability < CAPABILITY_LEAST)
        return FAIL(CAIRN_ENODEVICE, "the GPU %s has compute capability %d.%d; at least %d.%d is needed", cuda->name,
                    properties.major, properties.minor, CAPABILITY_LEAST / 10, CAPABILITY_LEAST % 10);
    return CAIRN_OK;
}

static void write_signature(struct cuda *cuda)
{
    int driver = 0, runtime = 0, products = static_cast<int>(cublasLtGetVersion());
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    snprintf(cuda->base.products, sizeof cuda->base.products, "%s sm_%d cuBLASLt %d.%d.%d", cuda->name, cuda->capability, products / 10000,
             products / 100 % 100, products % 100);
    snprintf(cuda->signature, sizeof cuda->signature, "cuda %s %s sm_%d CUDA %d.%d driver %d.%d cuBLASLt %d.%d.%d%s",
             dtype_name(cuda->base.act), cuda->name, cuda->capability, major_of(runtime), minor_of(runtime), major_of(driver),
             minor_of(driver), products / 10000, products / 100 % 100, products % 100, cuda->base.float8 ? " float8" : "");
}

static cairn_err open_device(struct cuda *cuda)
{
    TRY(describe_device(cuda));
    TRY(check_device(cuda, cudaSetDevice(cuda->device), "its choice"));
    /* What ranks wait for goes first. */
    TRY(check_device(cuda, cudaStreamCreateWithFlags(&cuda->lanes[LANE_COMPUTE], cudaStreamNonBlocking), "a stream"));
    for (int i = LANE_COMPUTE + 1; i < BACKEND_LANES; i++)
        TRY(check_device(cuda, cudaStreamCreateWithPriority(&cuda->lanes[i], cudaStreamNonBlocking, -1), "a stream"));
    cuda->stream = cuda->lanes[LANE_COMPUTE];
    TRY(probe(cuda));
    size_t left = 0, all = 0;
    TRY(check_device(cuda, cudaMemGetInfo(&left, &all), "its memory"));
    cuda->base.memory = static_cast<int64_t>(all);
    cuda->base.free_memory = static_cast<int64_t>(left);
    if (cuda->base.float8)
        TRY(float8_check(cuda));
    TRY(cuda_check_products(cublasLtCreate(&cuda->products), "open"));
    TRY(memory_open(cuda));
    TRY(recording_open(cuda));
    cuda->workspace = memory_alloc(&cuda->base, PRODUCT_WORKSPACE_BYTES);
    cuda->scratch = memory_alloc(&cuda->base, SCRATCH_BYTES);
    if (cuda->workspace == nullptr || cuda->scratch == nullptr)
        return FAIL(CAIRN_ENOMEM, "no memory for the cuda backend on the GPU %s", cuda->name);
    write_signature(cuda);
    return CAIRN_OK;
}

/* What CUDA reads when it is called first; what the user has set stays. Streams that share one of a GPU's queues, of which there are 8 else, wait
 * for each other. */
static void set_environment(const struct backend_options *options)
{
    setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
    if (options->waits_for_ranks) {
        setenv("CUDA_MODULE_LOADING", "EAGER", 0);
        setenv("CUDA_MODULE_DATA_LOADING", "EAGER", 0);
    }
}

extern "C" cairn_err cairn_backend_open(const struct backend_options *options, struct backend **backend)
{
    if (options->act != DTYPE_F32 && options->act != DTYPE_BF16)
        return FAIL(CAIRN_EUNSUPPORTED, "the cuda backend computes in float32 and bfloat16, not in %s", dtype_name(options->act));
    int count = 0;
    set_environment(options);
    TRY(count_devices(&count));
    struct cuda *cuda = static_cast<struct cuda *>(calloc(1, sizeof *cuda));
    if (cuda == nullptr)
        return FAIL(CAIRN_ENOMEM, "no memory for the cuda backend");
    fill_table();
    cuda->base.table = &cuda_table;
    cuda->base.act = options->act;
    cuda->base.acc = DTYPE_F32;
    cuda->base.threads = 1;
    cuda->device = options->device % count;
    cuda->base.timed_products = options->timed_products;
    cuda->base.float8 = options->float8;
    cuda->waits_for_ranks = options->waits_for_ranks;
    cuda->owner = pthread_self();
    cairn_err err = open_device(cuda);
    if (err != CAIRN_OK) {
        close_backend(&cuda->base);
        return err;
    }
    *backend = &cuda->base;
    return CAIRN_OK;
}
