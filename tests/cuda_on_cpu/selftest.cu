/* Shows that the emulation does what its README says. Each test runs in a child of its own, so that it may set the environment, fault
 * and abort. */
#include "selftest.h"

#include "kernels/cuda/machine.h"

#include <csignal>
#include <cstring>
#include <sys/wait.h>
#include <unistd.h>

/* ---- memory ---- */

static void new_memory_is_nan()
{
    device_array<unsigned char> a(5 << 20);
    a.get();
    for (unsigned char c : a.host)
        ENSURE(c == 0xff);
    ENSURE(reinterpret_cast<uintptr_t>(a.at) % 256 == 0);
    for (size_t i = 0; i < a.host.size(); i++)
        a.host[i] = static_cast<unsigned char>(number(static_cast<uint32_t>(i)));
    a.put();
    std::vector<unsigned char> before = a.host;
    memset(a.host.data(), 0, a.host.size());
    a.get();
    ENSURE(a.host == before);
    ENSURE(cudaMemset(a.at, 7, 100) == cudaSuccess);
    a.get();
    ENSURE(a.host[99] == 7 && a.host[100] == before[100]);
}

static void memory_is_limited()
{
    setenv("CUDA_ON_CPU_MEMORY", "1048576", 1);
    void *p, *q;
    ENSURE(cudaMalloc(&p, 1 << 19) == cudaSuccess);
    ENSURE(cudaMalloc(&q, 1 << 20) == cudaErrorMemoryAllocation && !q);
    ENSURE(cudaGetLastError() == cudaErrorMemoryAllocation && cudaGetLastError() == cudaSuccess);
    ENSURE(cudaFree(p) == cudaSuccess && cudaMalloc(&q, 1 << 20) == cudaSuccess);
    ENSURE(cudaMemcpy(q, &q, (1 << 20) + 1, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
}

static void host_reads_device()
{
    device_array<int> a(16);
    ENSURE(cudaMemset(a.at, 0, 64) == cudaSuccess);
    volatile int x = a.at[3];
    (void)x;
}

static void host_reads_device_without_keys()
{
    setenv("CUDA_ON_CPU_NO_KEYS", "1", 1);
    host_reads_device();
}

static __global__ void write_at(char *p, long at)
{
    p[at] = 1;
}

static void kernel_writes_beyond()
{
    device_array<char> a(4096);
    start(write_at, 1, 1, 0, nullptr, a.at, 4096L);
}

static void kernel_writes_beyond_without_keys()
{
    setenv("CUDA_ON_CPU_NO_KEYS", "1", 1);
    kernel_writes_beyond();
}

static void kernel_writes_just_beyond()
{
    device_array<char> a(100);
    start(write_at, 1, 1, 0, nullptr, a.at, 100L);
}

static void kernel_writes_freed()
{
    char *p;
    ENSURE(cudaMalloc(&p, 100) == cudaSuccess && cudaFree(p) == cudaSuccess);
    start(write_at, 1, 1, 0, nullptr, p, 0L);
}

/* ---- blocks ---- */

/* Turns 256 numbers around, MEETING or not. */
template <bool MEETING> static __global__ void turn(int *p)
{
    __shared__ int between[256];
    unsigned t = threadIdx.x, at = blockIdx.x * 256;
    between[t] = p[at + t];
    if (MEETING)
        __syncthreads();
    p[at + t] = between[255 - t];
}

template <bool MEETING> static int wrong_turns()
{
    device_array<int> a(256 * 8);
    for (int i = 0; i < 256 * 8; i++)
        a.host[static_cast<size_t>(i)] = i;
    a.put();
    ENSURE(start(turn<MEETING>, 8, 256, 0, nullptr, a.at) == cudaSuccess);
    a.get();
    int wrong = 0;
    for (int i = 0; i < 256 * 8; i++)
        wrong += a.host[static_cast<size_t>(i)] != i / 256 * 256 + 255 - i % 256;
    return wrong;
}

static void barrier_is_needed()
{
    ENSURE(wrong_turns<true>() == 0);
    ENSURE(wrong_turns<false>() > 0);
}

static __global__ void end_some(int *sum, int ending)
{
    __shared__ int gathered;
    if (threadIdx.x == blockDim.x - 1)
        gathered = 0;
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < ending)
        return;
    atomicAdd(&gathered, 1);
    __syncthreads();
    if (threadIdx.x == blockDim.x - 1)
        *sum = gathered;
}

static void ended_threads_count()
{
    device_array<int> a(1);
    start(end_some, 1, 100, 0, nullptr, a.at, 77);
    a.get();
    ENSURE(a.host[0] == 23);
}

static __global__ void meet_apart(int *p)
{
    if (threadIdx.x < 10)
        __syncthreads();
    else {
        p[0] = 1;
        __syncthreads();
    }
}

static void threads_meet_apart()
{
    device_array<int> a(1);
    start(meet_apart, 1, 64, 0, nullptr, a.at);
}

static __global__ void wait_in_vain(int *p)
{
    if (threadIdx.x == 3)
        p[0] = __shfl_sync(0xffffffffu, p[0], 0);
    else
        __syncthreads();
}

static void lanes_do_not_come()
{
    device_array<int> a(1);
    start(wait_in_vain, 1, 64, 0, nullptr, a.at);
}

static __global__ void lanes_end(int *p)
{
    if (threadIdx.x < 16)
        p[0] = __any_sync(0xffffffffu, 1);
}

static void lanes_have_ended()
{
    device_array<int> a(1);
    start(lanes_end, 1, 32, 0, nullptr, a.at);
}

template <typename T> static __global__ void read_shared(T *result)
{
    __shared__ T fixed[3];
    result[0] = fixed[threadIdx.x];
    result[1] = dynamic_shared<T>()[threadIdx.x];
    fixed[0] = dynamic_shared<T>()[0] = 1;
}

static void shared_memory_is_nan()
{
    device_array<int> a(2);
    for (int i = 0; i < 3; i++) {
        start(read_shared<int>, 1, 1, 64, nullptr, a.at);
        a.get();
        ENSURE(a.host[0] == -1 && a.host[1] == -1);
    }
    ENSURE(start(read_shared<int>, 1, 1, 49 << 10, nullptr, a.at) == cudaErrorInvalidValue);
    ENSURE(cudaFuncSetAttribute(read_shared<int>, cudaFuncAttributeMaxDynamicSharedMemorySize, 49 << 10) == cudaSuccess);
    ENSURE(start(read_shared<int>, 1, 1, 49 << 10, nullptr, a.at) == cudaSuccess);
    ENSURE(start(read_shared<int>, 1, 1025, 0, nullptr, a.at) == cudaErrorInvalidConfiguration);
}

/* ---- warps ---- */

static __global__ void exchange(int *result)
{
    int lane = static_cast<int>(threadIdx.x % 32), *r = result + 8 * threadIdx.x;
    r[0] = __shfl_sync(0xffffffffu, lane * 3, 5);
    r[1] = __shfl_up_sync(0xffffffffu, lane, 3, 8);
    r[2] = __shfl_down_sync(0xffffffffu, lane, 3, 8);
    r[3] = __shfl_xor_sync(0xffffffffu, lane, 9);
    r[4] = static_cast<int>(__ballot_sync(0xffffffffu, lane % 3 == 0));
    r[5] = lane < 8 ? __reduce_add_sync(0xffu, lane) : -1;
    r[6] = static_cast<int>(__match_any_sync(0xffffffffu, lane / 4));
    __syncwarp();
    r[7] = __all_sync(0xffffffffu, lane >= 0) + 2 * __any_sync(0xffffffffu, lane > 31);
}

static void warps_exchange()
{
    device_array<int> a(8 * 96);
    start(exchange, 1, 96, 0, nullptr, a.at);
    a.get();
    for (int t = 0; t < 96; t++) {
        const int *r = &a.host[static_cast<size_t>(8 * t)];
        int lane = t % 32, place = lane % 8;
        ENSURE(r[0] == 15 && r[1] == (place >= 3 ? lane - 3 : lane) && r[2] == (place < 5 ? lane + 3 : lane) && r[3] == (lane ^ 9));
        ENSURE(r[4] == 0x49249249 && r[5] == (lane < 8 ? 28 : -1) && r[6] == static_cast<int>(15u << lane / 4 * 4) && r[7] == 1);
    }
}

template <bool MEETING> static __global__ void neighbours(int *result)
{
    __shared__ int between[32];
    between[threadIdx.x] = static_cast<int>(threadIdx.x);
    if (MEETING)
        __syncwarp();
    result[threadIdx.x] = between[(threadIdx.x + 1) % 32] + between[(threadIdx.x + 31) % 32];
}

static void warps_have_to_meet()
{
    device_array<int> with(32), without(32);
    start(neighbours<true>, 1, 32, 0, nullptr, with.at);
    start(neighbours<false>, 1, 32, 0, nullptr, without.at);
    with.get();
    without.get();
    for (int i = 0; i < 32; i++)
        ENSURE(with.host[static_cast<size_t>(i)] == (i + 1) % 32 + (i + 31) % 32);
    ENSURE(with.host != without.host);
}

/* ---- machine.h ---- */

/* The 16x16 matrix at P, whose rows are 16 long, loaded both ways. */
static __global__ void load_both(uint32_t *result, const uint16_t *p)
{
    __shared__ __align__(16) uint16_t tile[16 * 16];
    unsigned lane = threadIdx.x;
    for (unsigned i = lane; i < 256; i += 32)
        tile[i] = p[i];
    __syncwarp();
    uint32_t to[4], transposed[4];
    const uint16_t *row = tile + (lane % 8 + lane / 8 % 2 * 8) * 16 + lane / 16 * 8;
    load_matrices(to, row);
    load_matrices_transposed(transposed, row);
    for (unsigned i = 0; i < 4; i++) {
        result[lane * 8 + i] = to[i];
        result[lane * 8 + 4 + i] = transposed[i];
    }
}

static void matrices_load()
{
    device_array<uint16_t> tile(256);
    device_array<uint32_t> result(256);
    for (size_t i = 0; i < 256; i++)
        tile.host[i] = static_cast<uint16_t>(i);
    tile.put();
    start(load_both, 1, 32, 0, nullptr, result.at, tile.at);
    result.get();
    for (unsigned lane = 0; lane < 32; lane++)
        for (unsigned i = 0; i < 4; i++) {
            unsigned row = i % 2 * 8, column = i / 2 * 8, g = lane / 4, t = lane % 4 * 2;
            unsigned at = (row + g) * 16 + column + t, across = (row + t) * 16 + column + g;
            ENSURE(result.host[lane * 8 + i] == (at | (at + 1) << 16));
            ENSURE(result.host[lane * 8 + 4 + i] == (across | (across + 16) << 16));
        }
}

/* c[16,8] += a[16,16] b[16,8], all row-major. PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type": element i of a is in
 * row g, or g + 8 for i of 2, 3, 6, 7, and column 2 t + i % 2, plus 8 from i = 4 on; of b in row 2 t + i % 2, plus 8 from i = 2 on, and
 * column g; of c in row g, plus 8 from i = 2 on, and column 2 t + i % 2. */
static __global__ void multiply_tile(float *c, const __nv_bfloat16 *a, const __nv_bfloat16 *b)
{
    int g = static_cast<int>(threadIdx.x) / 4, t = static_cast<int>(threadIdx.x) % 4;
    uint32_t left[4] = {}, right[2] = {};
    float sum[4];
    for (int i = 0; i < 8; i++) {
        int row = i == 2 || i == 3 || i == 6 || i == 7 ? g + 8 : g, column = 2 * t + i % 2 + (i >= 4 ? 8 : 0);
        left[i / 2] |= static_cast<uint32_t>(__bfloat16_as_ushort(a[row * 16 + column])) << 16 * (i % 2);
    }
    for (int i = 0; i < 4; i++) {
        right[i / 2] |= static_cast<uint32_t>(__bfloat16_as_ushort(b[(2 * t + i % 2 + (i >= 2 ? 8 : 0)) * 8 + g])) << 16 * (i % 2);
        sum[i] = c[(i >= 2 ? g + 8 : g) * 8 + 2 * t + i % 2];
    }
    multiply_add(sum, left, right);
    for (int i = 0; i < 4; i++)
        c[(i >= 2 ? g + 8 : g) * 8 + 2 * t + i % 2] = sum[i];
}

static void tensor_cores_multiply()
{
    device_array<__nv_bfloat16> a(256), b(128);
    device_array<float> c(128);
    for (uint32_t i = 0; i < 256; i++)
        a.host[i] = small(i);
    for (uint32_t i = 0; i < 128; i++) {
        b.host[i] = small(1000 + i);
        c.host[i] = small(2000 + i);
    }
    a.put();
    b.put();
    c.put();
    std::vector<float> expected = c.host;
    for (size_t i = 0; i < 128; i++)
        for (size_t k = 0; k < 16; k++)
            expected[i] += __bfloat162float(a.host[i / 8 * 16 + k]) * __bfloat162float(b.host[k * 8 + i % 8]);
    start(multiply_tile, 1, 32, 0, nullptr, c.at, a.at, b.at);
    c.get();
    ENSURE(c.host == expected);
}

/* Two groups of copies; what is there after waiting for all but PENDING of them. */
template <int PENDING> static __global__ void copy_two(uint4 *result, const uint4 *p)
{
    uint4 *to = dynamic_shared<uint4>() + 2 * threadIdx.x;
    copy_async_16(to, p + 2 * threadIdx.x);
    copy_async_commit();
    copy_async_16(to + 1, p + 2 * threadIdx.x + 1, threadIdx.x == 0 ? 0 : 16);
    copy_async_commit();
    copy_async_wait<PENDING>();
    result[2 * threadIdx.x] = to[0];
    result[2 * threadIdx.x + 1] = to[1];
}

template <int PENDING> static void expect_copied(bool first, bool second)
{
    device_array<uint4> from(128), to(128);
    for (unsigned i = 0; i < 128; i++)
        from.host[i] = make_uint4(i, i + 1, i + 2, i + 3);
    from.put();
    start(copy_two<PENDING>, 1, 64, 128 * 16, nullptr, to.at, from.at);
    to.get();
    for (unsigned i = 0; i < 128; i++) {
        bool there = i % 2 ? second : first;
        ENSURE(to.host[i].w == (!there ? ~0u : i == 1 ? 0 : i + 3));
    }
}

static void copies_are_late()
{
    expect_copied<0>(true, true);
    expect_copied<1>(true, false);
    expect_copied<2>(false, false);
}

static void bfloat16_rounds()
{
    for (uint32_t i = 0; i < 1 << 20; i++) {
        float x = __uint_as_float(number(i) & 0xbfffffffu), up, down, y = __float2bfloat16_rn(x);
        down = __uint_as_float(__float_as_uint(x) & 0xffff0000u);
        up = __uint_as_float((__float_as_uint(x) & 0xffff0000u) + 0x10000u);
        float to_down = fabsf(x - down), to_up = fabsf(up - x);
        bool even = (__float_as_uint(down) >> 16) % 2 == 0;
        ENSURE(y == (to_down < to_up || (to_down == to_up && even) ? down : up));
    }
    ENSURE(__bfloat16_as_ushort(__float2bfloat16_rn(NAN)) == 0x7fff && __bfloat162float(__float2bfloat16_rn(3.4e38f)) == INFINITY);
}

/* ---- streams and graphs ---- */

static __global__ void scale_and_add(float *p, float by, float plus)
{
    p[threadIdx.x] = p[threadIdx.x] * by + plus;
}

static void work_is_late()
{
    cudaStream_t stream;
    float *pinned;
    device_array<float> a(32);
    int early = 0;
    ENSURE(cudaStreamCreate(&stream) == cudaSuccess && cudaMallocHost(&pinned, 32 * sizeof(float)) == cudaSuccess);
    cudaMemset(a.at, 0, 128);
    for (int i = 0; i < 100; i++) {
        start(scale_and_add, 1, 32, 0, stream, a.at, 0.0f, static_cast<float>(i));
        pinned[0] = -1;
        cudaMemcpyAsync(pinned, a.at, 128, cudaMemcpyDeviceToHost, stream);
        early += pinned[0] == -1;
        ENSURE(cudaStreamSynchronize(stream) == cudaSuccess && pinned[31] == static_cast<float>(i));
    }
    ENSURE(early > 50);
    ENSURE(cudaFreeHost(pinned) == cudaSuccess && cudaStreamDestroy(stream) == cudaSuccess);
}

static void events_order_streams()
{
    cudaStream_t first, second;
    cudaEvent_t event, end;
    device_array<float> a(32);
    float milliseconds = -1;
    ENSURE(cudaStreamCreate(&first) == cudaSuccess && cudaStreamCreate(&second) == cudaSuccess);
    ENSURE(cudaEventCreate(&event) == cudaSuccess && cudaEventCreate(&end) == cudaSuccess);
    cudaMemset(a.at, 0, 128);
    for (int i = 0; i < 20; i++) {
        start(scale_and_add, 1, 32, 0, first, a.at, 0.0f, 3.0f);
        ENSURE(cudaEventRecord(event, first) == cudaSuccess && cudaStreamWaitEvent(second, event, 0) == cudaSuccess);
        start(scale_and_add, 1, 32, 0, second, a.at, 2.0f, 1.0f);
        ENSURE(cudaEventRecord(end, second) == cudaSuccess && cudaEventSynchronize(end) == cudaSuccess);
        ENSURE(cudaEventElapsedTime(&milliseconds, event, end) == cudaSuccess && milliseconds >= 0);
        a.get();
        ENSURE(a.host[5] == 7);
    }
    cudaEventDestroy(event);
    cudaEventDestroy(end);
    cudaStreamDestroy(first);
    cudaStreamDestroy(second);
}

static void graphs_replay()
{
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t ready;
    device_array<float> a(32);
    ENSURE(cudaStreamCreate(&stream) == cudaSuccess);
    ENSURE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
    ENSURE(start(scale_and_add, 1, 32, 0, stream, a.at, 2.0f, 0.0f) == cudaErrorStreamCaptureUnsupported); /* it was never started */
    ENSURE(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated);
    start(scale_and_add, 1, 32, 0, stream, a.at, 0.0f, 0.0f);
    cudaStreamSynchronize(stream);
    cudaMemset(a.at, 0, 128);
    ENSURE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
    start(scale_and_add, 1, 32, 0, stream, a.at, 2.0f, 0.0f);
    start(scale_and_add, 1, 32, 0, stream, a.at, 1.0f, 1.0f);
    ENSURE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    a.get();
    ENSURE(a.host[0] == 0);
    ENSURE(cudaGraphInstantiate(&ready, graph, 0) == cudaSuccess && cudaGraphDestroy(graph) == cudaSuccess);
    for (int i = 0; i < 5; i++)
        ENSURE(cudaGraphLaunch(ready, stream) == cudaSuccess);
    a.get();
    ENSURE(a.host[31] == 31);
    ENSURE(cudaGraphExecDestroy(ready) == cudaSuccess);
    ENSURE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
    ENSURE(cudaStreamSynchronize(stream) == cudaErrorStreamCaptureUnsupported);
    ENSURE(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated);
    cudaStreamDestroy(stream);
}

/* ---- devices and failures ---- */

static void launch_fails()
{
    setenv("CUDA_ON_CPU_FAILS_AT", "3", 1);
    cudaStream_t stream;
    float *p, x = 0;
    ENSURE(cudaStreamCreate(&stream) == cudaSuccess && cudaMalloc(&p, 128) == cudaSuccess);
    for (int i = 0; i < 2; i++)
        ENSURE(start(scale_and_add, 1, 32, 0, stream, p, 0.0f, 1.0f) == cudaSuccess);
    ENSURE(cudaStreamSynchronize(stream) == cudaSuccess);
    start(scale_and_add, 1, 32, 0, stream, p, 0.0f, 2.0f);
    ENSURE(cudaStreamSynchronize(stream) == cudaErrorIllegalAddress);
    ENSURE(start(scale_and_add, 1, 32, 0, stream, p, 0.0f, 2.0f) == cudaErrorIllegalAddress);
    ENSURE(cudaMemcpy(&x, p, 4, cudaMemcpyDeviceToHost) == cudaErrorIllegalAddress && x == 0);
    ENSURE(cudaGetLastError() == cudaErrorIllegalAddress && cudaGetLastError() == cudaErrorIllegalAddress);
    ENSURE(strcmp(cudaGetErrorName(cudaErrorIllegalAddress), "cudaErrorIllegalAddress") == 0);
}

static void there_is_no_device()
{
    int count = 5;
    void *p;
    setenv("CUDA_ON_CPU_DEVICES", "0", 1);
    ENSURE(cudaGetDeviceCount(&count) == cudaErrorNoDevice && count == 0 && cudaMalloc(&p, 1) == cudaErrorNoDevice);
}

static void driver_is_old()
{
    int count, version;
    setenv("CUDA_ON_CPU_DRIVER", "12000", 1);
    ENSURE(cudaGetDeviceCount(&count) == cudaErrorInsufficientDriver);
    ENSURE(cudaDriverGetVersion(&version) == cudaSuccess && version == 12000);
}

static void devices_are_visible()
{
    int count;
    cudaStream_t stream;
    setenv("CUDA_ON_CPU_DEVICES", "4", 1);
    setenv("CUDA_VISIBLE_DEVICES", "3,1,7,0", 1);
    ENSURE(cudaGetDeviceCount(&count) == cudaSuccess && count == 2);
    ENSURE(cudaSetDevice(2) == cudaErrorInvalidDevice && cudaSetDevice(1) == cudaSuccess);
    device_array<float> a(32);
    ENSURE(cudaStreamCreate(&stream) == cudaSuccess && cudaSetDevice(0) == cudaSuccess);
    ENSURE(start(scale_and_add, 1, 32, 0, stream, a.at, 0.0f, 1.0f) == cudaErrorInvalidResourceHandle);
    ENSURE(cudaSetDevice(1) == cudaSuccess && start(scale_and_add, 1, 32, 0, stream, a.at, 0.0f, 1.0f) == cudaSuccess);
}

/* ---- */

/* ENDS_BY: one of the signals that end it; 0: it ends well. */
static const struct {
    const char *name;
    void (*run)();
    int ends_by, or_by;
} tests[] = {
    {"new memory holds NaN, copies are copies", new_memory_is_nan, 0, 0},
    {"memory is limited", memory_is_limited, 0, 0},
    {"a host that reads device memory faults", host_reads_device, SIGSEGV, SIGSEGV},
    {"so it does without protection keys", host_reads_device_without_keys, SIGSEGV, SIGSEGV},
    {"a kernel that writes beyond an allocation faults", kernel_writes_beyond, SIGSEGV, SIGBUS},
    {"so it does without protection keys", kernel_writes_beyond_without_keys, SIGSEGV, SIGBUS},
    {"bytes written just beyond an allocation are found", kernel_writes_just_beyond, SIGABRT, SIGABRT},
    {"a kernel that writes what was freed faults", kernel_writes_freed, SIGSEGV, SIGBUS},
    {"a missing __syncthreads shows", barrier_is_needed, 0, 0},
    {"threads that have ended do not hold up others", ended_threads_count, 0, 0},
    {"threads that meet at different __syncthreads are found", threads_meet_apart, SIGABRT, SIGABRT},
    {"lanes that do not come are found", lanes_do_not_come, SIGABRT, SIGABRT},
    {"lanes that have ended are found", lanes_have_ended, SIGABRT, SIGABRT},
    {"shared memory begins as NaN", shared_memory_is_nan, 0, 0},
    {"lanes exchange values", warps_exchange, 0, 0},
    {"a missing __syncwarp shows", warps_have_to_meet, 0, 0},
    {"load_matrices", matrices_load, 0, 0},
    {"multiply_add", tensor_cores_multiply, 0, 0},
    {"copy_async without a wait shows", copies_are_late, 0, 0},
    {"bfloat16 rounds to the nearest", bfloat16_rounds, 0, 0},
    {"work waits in its stream", work_is_late, 0, 0},
    {"events order streams", events_order_streams, 0, 0},
    {"graphs replay", graphs_replay, 0, 0},
    {"a launch fails for good", launch_fails, 0, 0},
    {"there is no device", there_is_no_device, 0, 0},
    {"the driver is too old", driver_is_old, 0, 0},
    {"devices are visible, streams are of a device", devices_are_visible, 0, 0},
    {"cuBLASLt multiplies", library_multiplies, 0, 0},
    {"cuBLASLt wants what was promised", library_wants_what_was_promised, 0, 0},
    {"cuBLASLt finds sums over k of one operand", library_finds_sums, 0, 0},
    {"cuBLASLt multiplies float8 as it lies along k, and nothing else", library_multiplies_float8, 0, 0},
    {"NCCL: messages in one group, in any order", ranks_exchange, 0, 0},
    {"NCCL: messages wait for their streams, and work for messages", ranks_keep_the_order_of_streams, 0, 0},
    {"NCCL: sums, but not in the order of ranks", ranks_add, 0, 0},
    {"NCCL: a message of another size than is wanted fails on both", sizes_have_to_match, 0, 0},
    {"NCCL: two ranks do not share a GPU of a host", gpus_are_of_one_rank, 0, 0},
    {"NCCL: a killed rank is noticed", killed_rank_is_noticed, 0, 0},
    {"NCCL: ranks wait until all have come, or one aborts", ranks_wait_until_all_have_come, 0, 0},
    {"NCCL: answers that a call is in progress", answers_are_in_progress, 0, 0},
    {"NCCL wants device memory, streams, ranks and calls that are right", nccl_wants_what_is_right, 0, 0},
    {"NCCL fails when told", nccl_fails_when_told, 0, 0},
};

static bool passes(void (*run)(), int ends_by, int or_by)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        if (ends_by != 0 && !freopen("/dev/null", "w", stderr))
            _exit(2);
        run();
        exit(0);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child)
        return false;
    if (ends_by == 0)
        return WIFEXITED(status) && WEXITSTATUS(status) == 0;
    return WIFSIGNALED(status) && (WTERMSIG(status) == ends_by || WTERMSIG(status) == or_by);
}

int main()
{
    int number = 0, failed = 0;
    for (const auto &t : tests) {
        bool ok = passes(t.run, t.ends_by, t.or_by);
        failed += !ok;
        printf("%s %d - %s\n", ok ? "ok" : "not ok", ++number, t.name);
    }
    printf("1..%d\n", number);
    return failed != 0;
}
