#include "runtime.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>
#include <unordered_map>
#include <vector>

using namespace cuda_on_cpu;

namespace cuda_on_cpu {

std::recursive_mutex lock;
static cudaError_t gone_wrong, last_error;
static thread_local int device_of_thread;

unsigned long long environment(const char *name, unsigned long long otherwise)
{
    const char *value = getenv(name);
    return value && *value ? strtoull(value, nullptr, 0) : otherwise;
}

/* Of CUDA_ON_CPU_DEVICES those that CUDA_VISIBLE_DEVICES lists, up to the first that there is not. */
static std::vector<int> list_devices()
{
    int all = static_cast<int>(environment("CUDA_ON_CPU_DEVICES", 1));
    std::vector<int> listed;
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    for (int device = 0; !visible && device < all; device++)
        listed.push_back(device);
    if (!visible)
        return listed;
    for (const char *p = visible; *p;) {
        char *end;
        long device = strtol(p, &end, 10);
        if (end == p || device < 0 || device >= all)
            break;
        listed.push_back(static_cast<int>(device));
        p = *end == ',' ? end + 1 : end;
    }
    return listed;
}

/* What number each device has in the machine. */
static const std::vector<int> &devices()
{
    static std::vector<int> listed = list_devices();
    return listed;
}

int device_count()
{
    return static_cast<int>(devices().size());
}

int capability()
{
    return static_cast<int>(environment("CUDA_ON_CPU_CAPABILITY", 90));
}

static int place_of(int device)
{
    return devices()[static_cast<size_t>(device)];
}

static int driver_version()
{
    return static_cast<int>(environment("CUDA_ON_CPU_DRIVER", CUDART_VERSION));
}

cudaError_t usable()
{
    if (driver_version() < CUDART_VERSION)
        return cudaErrorInsufficientDriver;
    return device_count() == 0 ? cudaErrorNoDevice : gone_wrong;
}

cudaError_t failed(cudaError_t error)
{
    if (error != cudaSuccess)
        last_error = error;
    return error;
}

void fail_for_good(cudaError_t error)
{
    if (gone_wrong == cudaSuccess)
        gone_wrong = error;
}

int current_device()
{
    return device_of_thread;
}

static const struct {
    cudaError_t error;
    const char *name, *text;
} error_names[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection", "invalid copy direction for memcpy"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver", "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated", "operation failed due to a previous error during capture"},
};

} // namespace cuda_on_cpu

const char *cudaGetErrorName(cudaError_t error)
{
    for (const auto &e : error_names)
        if (e.error == error)
            return e.name;
    return "cudaErrorUnknown";
}

const char *cudaGetErrorString(cudaError_t error)
{
    for (const auto &e : error_names)
        if (e.error == error)
            return e.text;
    return "unknown error";
}

cudaError_t cudaPeekAtLastError()
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    return gone_wrong != cudaSuccess ? gone_wrong : last_error;
}

cudaError_t cudaGetLastError()
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    cudaError_t error = cudaPeekAtLastError();
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = driver_version();
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 0;
    CUDA_ON_CPU_CALL();
    *count = device_count();
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    CUDA_ON_CPU_CALL();
    if (device < 0 || device >= device_count())
        return failed(cudaErrorInvalidDevice);
    device_of_thread = device;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
    CUDA_ON_CPU_CALL();
    *device = device_of_thread;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device)
{
    CUDA_ON_CPU_CALL();
    if (device < 0 || device >= device_count())
        return failed(cudaErrorInvalidDevice);
    *p = {};
    snprintf(p->name, sizeof p->name, "CUDA on the processor");
    p->uuid.bytes[0] = static_cast<char>(place_of(device));
    p->totalGlobalMem = environment("CUDA_ON_CPU_MEMORY", 8ull << 30);
    p->sharedMemPerBlock = SHARED_DEFAULT;
    p->sharedMemPerBlockOptin = SHARED_OPTIN;
    p->sharedMemPerMultiprocessor = SHARED_OPTIN + 1024;
    p->reservedSharedMemPerBlock = 1024;
    p->major = capability() / 10;
    p->minor = capability() % 10;
    p->multiProcessorCount = static_cast<int>(environment("CUDA_ON_CPU_PROCESSORS", 5));
    p->warpSize = 32;
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->maxThreadsPerBlock = THREADS_PER_BLOCK;
    p->maxThreadsPerMultiProcessor = 2048;
    p->maxBlocksPerMultiProcessor = 32;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 0x7fffffff;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->l2CacheSize = 50 << 20;
    p->unifiedAddressing = p->concurrentKernels = 1;
    p->pciBusID = place_of(device) + 1;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device)
{
    cudaDeviceProp p;
    if (cudaError_t error = cudaGetDeviceProperties(&p, device))
        return error;
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = p.maxThreadsPerBlock; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = static_cast<int>(p.sharedMemPerBlock); break;
    case cudaDevAttrWarpSize: *value = p.warpSize; break;
    case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = p.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrL2CacheSize: *value = p.l2CacheSize; break;
    case cudaDevAttrComputeCapabilityMajor: *value = p.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = p.minor; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = static_cast<int>(p.sharedMemPerMultiprocessor); break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = static_cast<int>(p.sharedMemPerBlockOptin); break;
    default: return failed(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int bytes, int device)
{
    CUDA_ON_CPU_CALL();
    if (device < 0 || device >= device_count())
        return failed(cudaErrorInvalidDevice);
    snprintf(text, static_cast<size_t>(bytes), "0000:%02x:00.0", place_of(device) + 1);
    return cudaSuccess;
}

/* ---- kernels ---- */

static std::unordered_map<const void *, int> dynamic_shared_most;

cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value)
{
    CUDA_ON_CPU_CALL();
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize)
        return cudaSuccess;
    if (value < 0 || value > SHARED_OPTIN)
        return failed(cudaErrorInvalidValue);
    dynamic_shared_most[kernel] = value;
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *a, const void *kernel)
{
    CUDA_ON_CPU_CALL();
    *a = {};
    auto found = dynamic_shared_most.find(kernel);
    a->maxDynamicSharedSizeBytes = found == dynamic_shared_most.end() ? SHARED_DEFAULT : found->second;
    a->maxThreadsPerBlock = THREADS_PER_BLOCK;
    a->numRegs = 32;
    a->ptxVersion = a->binaryVersion = static_cast<int>(environment("CUDA_ON_CPU_CODE", 90));
    return cudaSuccess;
}

static bool launchable(dim3 grid, dim3 block)
{
    uint64_t threads = static_cast<uint64_t>(block.x) * block.y * block.z;
    return grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.x <= 0x7fffffff && grid.y <= 65535 && grid.z <= 65535 && threads > 0 &&
           threads <= THREADS_PER_BLOCK && block.z <= 64;
}

/* A kernel whose code is loaded while its launch is captured may fail. Invalidates the capture. */
static bool may_capture(cudaStream_t stream, const void *kernel)
{
    static std::set<const void *> loaded;
    cudaStreamCaptureStatus status;
    if (cudaStreamIsCapturing(stream, &status) != cudaSuccess || status == cudaStreamCaptureStatusNone) {
        loaded.insert(kernel);
        return true;
    }
    return loaded.count(kernel) > 0 || cudaStreamSynchronize(stream) == cudaSuccess;
}

cudaError_t cuda_on_cpu::launch_kernel(const cudaLaunchConfig_t *config, const void *kernel, void (*body)(void *),
                                       void *arguments_given, void (*discard)(void *))
{
    std::shared_ptr<void> arguments(arguments_given, discard);
    CUDA_ON_CPU_CALL();
    dim3 grid = config->gridDim, block = config->blockDim;
    size_t shared = config->dynamicSmemBytes;
    if (!launchable(grid, block))
        return failed(cudaErrorInvalidConfiguration);
    auto found = dynamic_shared_most.find(kernel);
    if (shared > static_cast<size_t>(found == dynamic_shared_most.end() ? SHARED_DEFAULT : found->second))
        return failed(cudaErrorInvalidValue);
    if (!may_capture(config->stream, kernel))
        return failed(cudaErrorStreamCaptureUnsupported);
    return failed(enqueue_launch(config->stream, [=] { run_grid(grid, block, shared, body, arguments.get(), kernel); }));
}
