/* What the parts of the self-test share. */
#ifndef CUDA_ON_CPU_SELFTEST_H
#define CUDA_ON_CPU_SELFTEST_H

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

#define ENSURE(condition)                                                                                           \
    do {                                                                                                            \
        if (!(condition)) {                                                                                         \
            fprintf(stderr, "# %s:%d: %s\n", __FILE__, __LINE__, #condition);                                       \
            exit(1);                                                                                                \
        }                                                                                                           \
    } while (0)

template <typename... P, typename... A>
inline cudaError_t start(void (*kernel)(P...), unsigned grid, unsigned block, size_t shared, cudaStream_t stream, A... arguments)
{
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    return cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...);
}

/* COUNT of T on the device, and on the processor after get(). */
template <typename T> struct device_array {
    T *at;
    std::vector<T> host;
    explicit device_array(size_t count) : at(nullptr), host(count) { ENSURE(cudaMalloc(&at, count * sizeof(T)) == cudaSuccess); }
    ~device_array() { ENSURE(cudaFree(at) == cudaSuccess); }
    device_array(const device_array &) = delete;
    void put() { ENSURE(cudaMemcpy(at, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice) == cudaSuccess); }
    void get() { ENSURE(cudaMemcpy(host.data(), at, host.size() * sizeof(T), cudaMemcpyDeviceToHost) == cudaSuccess); }
};

inline uint32_t number(uint32_t i)
{
    i = (i ^ 61) ^ (i >> 16);
    i *= 9;
    i ^= i >> 4;
    i *= 0x27d4eb2d;
    return i ^ (i >> 15);
}

/* Small, and exact in bfloat16. */
inline float small(uint32_t i)
{
    return static_cast<float>(static_cast<int>(number(i) % 17) - 8) / 8.0f;
}

/* selftest_library.cu */
void library_multiplies();
void library_wants_what_was_promised();
void library_finds_sums();
void library_multiplies_float8();

/* selftest_nccl.cu */
void ranks_exchange();
void ranks_keep_the_order_of_streams();
void ranks_add();
void sizes_have_to_match();
void gpus_are_of_one_rank();
void killed_rank_is_noticed();
void ranks_wait_until_all_have_come();
void answers_are_in_progress();
void nccl_wants_what_is_right();
void nccl_fails_when_told();

#endif
