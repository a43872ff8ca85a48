/* What the parts of the emulated runtime share. */
#ifndef CUDA_ON_CPU_RUNTIME_H
#define CUDA_ON_CPU_RUNTIME_H

#include "cuda_runtime.h"

#include <functional>
#include <mutex>

#pragma GCC visibility push(hidden)
namespace cuda_on_cpu {

enum { SHARED_DEFAULT = 48 << 10, SHARED_OPTIN = 227 << 10, THREADS_PER_BLOCK = 1024 };

/* ---- devices.cc ---- */

/* Held by each call. */
extern std::recursive_mutex lock;
/* cudaSuccess if there is a device and nothing has gone wrong for good. */
cudaError_t usable();
/* Keeps ERROR for cudaGetLastError and returns it. */
cudaError_t failed(cudaError_t error);
int device_count();
int current_device(); /* of this host thread */
int capability();     /* of all devices, times ten */
/* From now on every call fails. */
void fail_for_good(cudaError_t);
unsigned long long environment(const char *name, unsigned long long otherwise);

/* ---- device_memory.cc ---- */

/* While one is alive, this host thread may access device memory. */
class opened {
  public:
    opened();
    ~opened();
    opened(const opened &) = delete;
};
bool is_device(const void *p);
/* The device of P[BYTES] if all of it is of one allocation, or -1. */
int device_of_memory(const void *p, size_t bytes);
bool within_allocation(const void *p, size_t bytes);
bool is_pinned(const void *p);

/* ---- streams.cc ---- */

/* Carries OPERATION out in the order of the stream: when somebody waits for it, or with each launch of the graph that is captured.
 * IMMEDIATELY: it is done when this returns, which capture forbids. */
cudaError_t enqueue(cudaStream_t, std::function<void()> operation, bool immediately = false);
/* The same for what runs on the device: counts as a launch of CUDA_ON_CPU_FAILS_AT, and the device must be the stream's. */
cudaError_t enqueue_launch(cudaStream_t, std::function<void()> operation);
/* All work of all streams. */
cudaError_t run_all();
/* cudaSuccess unless a capture forbids calls that wait or allocate. */
cudaError_t may_wait();

} // namespace cuda_on_cpu
#pragma GCC visibility pop

/* Begins each function of the API. */
#define CUDA_ON_CPU_CALL()                                                                                          \
    std::lock_guard<std::recursive_mutex> hold(::cuda_on_cpu::lock);                                                \
    if (cudaError_t error_ = ::cuda_on_cpu::usable())                                                               \
        return ::cuda_on_cpu::failed(error_)

#endif
