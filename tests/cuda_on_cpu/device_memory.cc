/* Device memory is a range of addresses that host code cannot touch: its pages carry a protection key that is open only to the host
 * thread that runs a kernel or copies, and only then; where the processor has no such keys, mprotect opens and closes them all. No
 * address is given out twice, and a closed page follows and precedes each allocation. */
#include "runtime.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <sys/mman.h>
#include <unistd.h>

namespace cuda_on_cpu {

enum : size_t { PAGE = 4096, ALIGNMENT = 256, REGION = (size_t)4 << 40, PATTERN_BYTES = (size_t)4 << 20 };

struct allocation {
    size_t bytes;
    int device;
};

static struct {
    unsigned char *base, *end, *next; /* of the whole range; of the next allocation */
    int key;                    /* -1: there are none */
    int pattern;                /* a file of bytes 0xff, what new memory looks like */
    int nothing;                /* an empty file: what lies between allocations where there are no keys */
    int opened;                 /* how many want it open */
    size_t used;
    std::map<uintptr_t, allocation> allocations;
    std::map<uintptr_t, size_t> pinned;
} memory;

static int file_of(const char *name, size_t bytes)
{
    int file = memfd_create(name, MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, static_cast<off_t>(bytes)) != 0)
        die("no memory for %s", name);
    if (bytes > 0) {
        void *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (p == MAP_FAILED)
            die("no memory for %s", name);
        memset(p, 0xff, bytes);
        munmap(p, bytes);
    }
    return file;
}

/* Nothing is at P[BYTES], which no one can access even while memory is open. */
static void close_for_good(unsigned char *p, size_t bytes)
{
    void *q = memory.key >= 0 ? mmap(p, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0)
                              : mmap(p, bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, memory.nothing, 0);
    if (q == MAP_FAILED)
        die("no addresses for device memory");
}

static void begin()
{
    if (memory.base)
        return;
    memory.key = environment("CUDA_ON_CPU_NO_KEYS", 0) ? -1 : pkey_alloc(0, PKEY_DISABLE_ACCESS);
    memory.pattern = file_of("pattern", PATTERN_BYTES);
    memory.nothing = file_of("nothing", 0);
    size_t bytes = 2 * REGION;
    void *p;
    do {
        bytes /= 2;
        p = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    } while (p == MAP_FAILED && bytes > PATTERN_BYTES);
    if (p == MAP_FAILED)
        die("no addresses for device memory");
    memory.base = static_cast<unsigned char *>(p);
    memory.end = memory.base + bytes;
    memory.next = memory.base + PAGE;
    if (memory.key < 0)
        close_for_good(memory.base, bytes);
}

static void open_all(bool open)
{
    if (memory.key >= 0) {
        if (pkey_set(memory.key, open ? 0 : PKEY_DISABLE_ACCESS) != 0)
            die("device memory cannot be opened");
    } else if (mprotect(memory.base, static_cast<size_t>(memory.next - memory.base), open ? PROT_READ | PROT_WRITE : PROT_NONE) != 0)
        die("device memory cannot be opened");
}

opened::opened()
{
    begin();
    if (memory.opened++ == 0)
        open_all(true);
}

opened::~opened()
{
    if (--memory.opened == 0)
        open_all(false);
}

bool is_device(const void *p)
{
    return memory.base && p >= memory.base && p < memory.next;
}

int device_of_memory(const void *p, size_t bytes)
{
    uintptr_t at = reinterpret_cast<uintptr_t>(p);
    auto next = memory.allocations.upper_bound(at);
    if (next == memory.allocations.begin())
        return -1;
    --next;
    uintptr_t end = next->first + next->second.bytes;
    return at <= end && bytes <= end - at ? next->second.device : -1;
}

bool within_allocation(const void *p, size_t bytes)
{
    return device_of_memory(p, bytes) >= 0;
}

bool is_pinned(const void *p)
{
    uintptr_t at = reinterpret_cast<uintptr_t>(p);
    auto next = memory.pinned.upper_bound(at);
    return next != memory.pinned.begin() && at < std::prev(next)->first + std::prev(next)->second;
}

static size_t round_up(size_t bytes, size_t to)
{
    return (bytes + to - 1) / to * to;
}

/* The pages of an allocation at P[BYTES]. */
static void pages_of(uintptr_t p, size_t bytes, unsigned char **first, unsigned char **end)
{
    *first = reinterpret_cast<unsigned char *>(p / PAGE * PAGE);
    *end = reinterpret_cast<unsigned char *>(round_up(p + bytes, PAGE));
}

/* As near to the end of its last page as its alignment allows. */
static void *take(size_t bytes)
{
    size_t whole = round_up(bytes, PAGE);
    if (static_cast<size_t>(memory.end - memory.next) < whole + PAGE)
        return nullptr;
    for (size_t done = 0; done < whole; done += PATTERN_BYTES) {
        size_t part = whole - done < PATTERN_BYTES ? whole - done : PATTERN_BYTES;
        void *p = mmap(memory.next + done, part, PROT_NONE, MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED, memory.pattern, 0);
        if (p == MAP_FAILED ||
            (memory.key >= 0 && pkey_mprotect(p, part, PROT_READ | PROT_WRITE, memory.key) != 0))
            return nullptr;
    }
    unsigned char *p = memory.next + whole - round_up(bytes, ALIGNMENT);
    memory.next += whole + PAGE;
    memory.used += whole;
    memory.allocations[reinterpret_cast<uintptr_t>(p)] = {bytes, current_device()};
    return p;
}

static void check_pattern(const unsigned char *from, const unsigned char *to, const unsigned char *allocation, size_t bytes)
{
    for (; from < to; from++)
        if (*from != 0xff)
            die("a byte at %td of an allocation of %zu bytes was written", from - allocation, bytes);
}

static void give(std::map<uintptr_t, allocation>::iterator found)
{
    unsigned char *p = reinterpret_cast<unsigned char *>(found->first), *first, *end;
    size_t bytes = found->second.bytes;
    pages_of(found->first, bytes, &first, &end);
    {
        opened now;
        check_pattern(first, p, p, bytes);
        check_pattern(p + bytes, end, p, bytes);
    }
    memory.used -= static_cast<size_t>(end - first);
    close_for_good(first, static_cast<size_t>(end - first));
    memory.allocations.erase(found);
}

} // namespace cuda_on_cpu

using namespace cuda_on_cpu;

cudaError_t cudaMalloc(void **p, size_t bytes)
{
    CUDA_ON_CPU_CALL();
    begin();
    *p = nullptr;
    if (cudaError_t error = may_wait())
        return failed(error);
    if (bytes == 0)
        return cudaSuccess;
    size_t most = environment("CUDA_ON_CPU_MEMORY", 8ull << 30);
    if (bytes > most || memory.used + round_up(bytes, PAGE) > most)
        return failed(cudaErrorMemoryAllocation);
    *p = take(bytes);
    return *p ? cudaSuccess : failed(cudaErrorMemoryAllocation);
}

cudaError_t cudaFree(void *p)
{
    CUDA_ON_CPU_CALL();
    if (!p)
        return cudaSuccess;
    if (cudaError_t error = may_wait())
        return failed(error);
    if (cudaError_t error = run_all())
        return failed(error);
    auto found = memory.allocations.find(reinterpret_cast<uintptr_t>(p));
    if (found == memory.allocations.end())
        return failed(cudaErrorInvalidValue);
    give(found);
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned)
{
    CUDA_ON_CPU_CALL();
    *p = nullptr;
    if (cudaError_t error = may_wait())
        return failed(error);
    if (bytes == 0)
        return cudaSuccess;
    if (!(*p = aligned_alloc(PAGE, round_up(bytes, PAGE))))
        return failed(cudaErrorMemoryAllocation);
    memset(*p, 0xff, bytes);
    memory.pinned[reinterpret_cast<uintptr_t>(*p)] = bytes;
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **p, size_t bytes)
{
    return cudaHostAlloc(p, bytes, cudaHostAllocDefault);
}

cudaError_t cudaFreeHost(void *p)
{
    CUDA_ON_CPU_CALL();
    if (!p)
        return cudaSuccess;
    if (cudaError_t error = may_wait())
        return failed(error);
    if (cudaError_t error = run_all())
        return failed(error);
    if (memory.pinned.erase(reinterpret_cast<uintptr_t>(p)) == 0)
        return failed(cudaErrorInvalidValue);
    free(p);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *left, size_t *total)
{
    CUDA_ON_CPU_CALL();
    *total = environment("CUDA_ON_CPU_MEMORY", 8ull << 30);
    *left = *total - memory.used;
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *a, const void *p)
{
    CUDA_ON_CPU_CALL();
    void *q = const_cast<void *>(p);
    if (is_device(p) && within_allocation(p, 0))
        *a = {cudaMemoryTypeDevice, device_of_memory(p, 0), q, nullptr};
    else if (is_pinned(p))
        *a = {cudaMemoryTypeHost, 0, q, q};
    else
        *a = {cudaMemoryTypeUnregistered, -2, nullptr, q};
    return cudaSuccess;
}

/* ---- copies ---- */

/* Whether KIND is what the pointers are, and those to the device are of allocations. */
static cudaError_t check_copy(const void *to, const void *from, size_t bytes, cudaMemcpyKind kind)
{
    bool to_device = is_device(to), from_device = is_device(from);
    if ((to_device && !within_allocation(to, bytes)) || (from_device && !within_allocation(from, bytes)))
        return cudaErrorInvalidValue;
    if (kind == cudaMemcpyDefault)
        return cudaSuccess;
    if (kind < 0 || kind > cudaMemcpyDefault)
        return cudaErrorInvalidMemcpyDirection;
    bool want_to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool want_from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    return want_to == to_device && want_from == from_device ? cudaSuccess : cudaErrorInvalidValue;
}

static cudaError_t copy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream, bool wait)
{
    if (bytes == 0)
        return cudaSuccess;
    if (cudaError_t error = check_copy(to, from, bytes, kind))
        return error;
    /* Memory that is not pinned is read before the call returns, and written. */
    bool writes_pageable = !is_device(to) && !is_pinned(to), reads_pageable = !is_device(from) && !is_pinned(from);
    if (wait || writes_pageable)
        return enqueue(stream, [=] { memmove(to, from, bytes); }, true);
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    cudaStreamIsCapturing(stream, &status);
    if (!reads_pageable || status != cudaStreamCaptureStatusNone)
        return enqueue(stream, [=] { memmove(to, from, bytes); });
    std::shared_ptr<char[]> staged(new char[bytes]);
    memcpy(staged.get(), from, bytes);
    return enqueue(stream, [=] { memcpy(to, staged.get(), bytes); });
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream)
{
    CUDA_ON_CPU_CALL();
    return failed(copy(to, from, bytes, kind, stream, false));
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind)
{
    CUDA_ON_CPU_CALL();
    return failed(copy(to, from, bytes, kind, nullptr, true));
}

cudaError_t cudaMemsetAsync(void *p, int byte, size_t bytes, cudaStream_t stream)
{
    CUDA_ON_CPU_CALL();
    if (bytes == 0)
        return cudaSuccess;
    if (!within_allocation(p, bytes))
        return failed(cudaErrorInvalidValue);
    return failed(enqueue(stream, [=] { memset(p, byte, bytes); }));
}

cudaError_t cudaMemset(void *p, int byte, size_t bytes)
{
    return cudaMemsetAsync(p, byte, bytes, nullptr);
}
