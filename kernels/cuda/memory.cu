/* The GPU's memory, copies, the end of calls, and moments. A second thread may download while the first computes, so each call here says
 * which GPU it means: CUDA keeps that for each thread. */
#include "kernels/cuda/cuda.h"

#include <pthread.h>
#include <sched.h>

#include <cstdlib>
#include <cstring>

/* Copies between pageable memory and the GPU wait for the stream, and are slower than what goes through pinned memory. An
 * upload waits only where all PARTS are still on their way. */
enum { PARTS = 8 };
#define PART_BYTES ((size_t)1 << 20)
/* Up to this a download takes no part, and so waits for no other thread's. */
#define SMALL_BYTES ((size_t)64 << 10)

struct ring {
    pthread_mutex_t mutex;
    unsigned char *bytes;     /* pinned, PARTS * PART_BYTES */
    cudaEvent_t done[PARTS];  /* the copy from or to a part */
    int next;
};

/* Moments of the stream of LANE_COMPUTE, CALLS apart. */
enum { CALLS = 128, MOMENTS = 3 };
struct queue {
    cudaEvent_t moments[MOMENTS];
    int64_t calls;
};

struct staging {
    struct ring up, down;
    struct queue queue;
};

static bool here(struct cuda *cuda)
{
    return cuda_ok(cuda, cudaSetDevice(cuda->device), "the choice of the GPU");
}

bool cuda_idle(struct cuda *cuda)
{
    if (pthread_equal(pthread_self(), cuda->owner)) {
        if (!link_check(cuda))
            return false;
        if (cuda->base.idle != nullptr)
            cuda->base.idle(cuda->base.idle_context);
    }
    sched_yield();
    return true;
}

/* Without links CUDA waits, else the processor looks again and again. */
template <typename T>
static bool wait_for(struct cuda *cuda, T what_for, cudaError_t (*wait)(T), cudaError_t (*look)(T), const char *what)
{
    if (cuda->links == nullptr)
        return cuda_ok(cuda, wait(what_for), what);
    cudaError_t status;
    while ((status = look(what_for)) == cudaErrorNotReady)
        if (!cuda_idle(cuda))
            return false;
    return cuda_ok(cuda, status, what);
}

bool cuda_wait_stream(struct cuda *cuda, cudaStream_t stream, const char *what)
{
    return wait_for(cuda, stream, cudaStreamSynchronize, cudaStreamQuery, what);
}

bool cuda_wait_event(struct cuda *cuda, cudaEvent_t event, const char *what)
{
    return wait_for(cuda, event, cudaEventSynchronize, cudaEventQuery, what);
}

/* Events without a clock. */
static bool events_create(cudaEvent_t *events, int count)
{
    bool ok = true;
    for (int i = 0; ok && i < count; i++)
        ok = cudaEventCreateWithFlags(&events[i], cudaEventDisableTiming) == cudaSuccess;
    return ok;
}

static void events_destroy(cudaEvent_t *events, int count)
{
    for (int i = 0; i < count; i++)
        if (events[i] != nullptr)
            cudaEventDestroy(events[i]);
}

static bool ring_open(struct ring *ring)
{
    pthread_mutex_init(&ring->mutex, nullptr);
    void *bytes = nullptr;
    bool ok = cudaMallocHost(&bytes, PARTS * PART_BYTES) == cudaSuccess;
    ring->bytes = static_cast<unsigned char *>(bytes);
    return ok && events_create(ring->done, PARTS);
}

static void ring_close(struct ring *ring)
{
    events_destroy(ring->done, PARTS);
    if (ring->bytes != nullptr)
        cudaFreeHost(ring->bytes);
    pthread_mutex_destroy(&ring->mutex);
}

void cuda_count_call(struct cuda *cuda)
{
    struct queue *queue = &cuda->staging->queue;
    if (cuda->stream != cuda->lanes[LANE_COMPUTE] || ++queue->calls % CALLS != 0)
        return;
    cudaEvent_t moment = queue->moments[queue->calls / CALLS % MOMENTS];
    if (cuda_wait_event(cuda, moment, "calls under way"))
        cuda_ok(cuda, cudaEventRecord(moment, cuda->stream), "a moment");
}

cairn_err memory_open(struct cuda *cuda)
{
    struct staging *staging = static_cast<struct staging *>(calloc(1, sizeof *staging));
    if (staging == nullptr)
        return FAIL(CAIRN_ENOMEM, "no memory for the cuda backend");
    cuda->staging = staging;
    bool up = ring_open(&staging->up), down = ring_open(&staging->down);
    if (up && down && events_create(staging->queue.moments, MOMENTS))
        return CAIRN_OK;
    cudaError_t status = cudaGetLastError();
    return FAIL(CAIRN_ENOMEM, "no pinned memory for copies to the GPU %s: %s", cuda->name, cudaGetErrorString(status));
}

void memory_close(struct cuda *cuda)
{
    if (cuda->staging == nullptr)
        return;
    ring_close(&cuda->staging->up);
    ring_close(&cuda->staging->down);
    events_destroy(cuda->staging->queue.moments, MOMENTS);
    free(cuda->staging);
    cuda->staging = nullptr;
}

void *memory_alloc(struct backend *b, size_t bytes)
{
    struct cuda *cuda = cuda_of(b);
    if (!here(cuda))
        return nullptr;
    void *p = nullptr;
    size_t size = bytes != 0 ? bytes : 1;
    cudaError_t status = cudaMalloc(&p, size);
    if (status == cudaErrorMemoryAllocation) {
        cudaGetLastError(); /* to have none left is no failure of the GPU */
        return nullptr;
    }
    if (!cuda_ok(cuda, status, "an allocation"))
        return nullptr;
    cuda_ok(cuda, cudaMemsetAsync(p, 0, size, cuda->lanes[LANE_COMPUTE]), "the clearing of new memory");
    cuda_wait_stream(cuda, cuda->lanes[LANE_COMPUTE], "the clearing of new memory");
    return p;
}

void memory_free(struct backend *b, void *p, size_t bytes)
{
    (void)bytes;
    if (p == nullptr)
        return;
    struct cuda *cuda = cuda_of(b);
    here(cuda);
    cuda_ok(cuda, cudaFree(p), "the freeing of memory"); /* waits for what is under way */
}

static bool copy_async(struct cuda *cuda, void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream, const char *what)
{
    span_begin(cuda, stream, what);
    bool ok = cuda_ok(cuda, cudaMemcpyAsync(to, from, bytes, kind, stream), what);
    span_end(cuda, stream);
    return ok;
}

static void upload(struct backend *b, void *to, const void *from, size_t bytes)
{
    struct cuda *cuda = cuda_of(b);
    struct ring *ring = &cuda->staging->up;
    static const char what[] = "a copy to the GPU";
    cudaStream_t stream = cuda->lanes[LANE_COMPUTE];
    if (recording_refuses(cuda) || !here(cuda))
        return;
    pthread_mutex_lock(&ring->mutex);
    for (size_t at = 0; at < bytes; at += PART_BYTES) {
        size_t size = bytes - at < PART_BYTES ? bytes - at : PART_BYTES;
        unsigned char *part = ring->bytes + static_cast<size_t>(ring->next) * PART_BYTES;
        if (!cuda_wait_event(cuda, ring->done[ring->next], what))
            break;
        memcpy(part, static_cast<const char *>(from) + at, size);
        if (!copy_async(cuda, static_cast<char *>(to) + at, part, size, cudaMemcpyHostToDevice, stream, what) ||
            !cuda_ok(cuda, cudaEventRecord(ring->done[ring->next], stream), what))
            break;
        ring->next = (ring->next + 1) % PARTS;
    }
    pthread_mutex_unlock(&ring->mutex);
}

static const char download_name[] = "a copy from the GPU";

/* Begins the copy of part NUMBER of a download. */
static bool begin_part(struct cuda *cuda, struct ring *ring, const void *from, size_t bytes, size_t number)
{
    size_t at = number * PART_BYTES, size = bytes - at < PART_BYTES ? bytes - at : PART_BYTES, slot = number % PARTS;
    cudaStream_t stream = cuda->lanes[LANE_COMPUTE];
    return copy_async(cuda, ring->bytes + slot * PART_BYTES, static_cast<const char *>(from) + at, size, cudaMemcpyDeviceToHost, stream,
                      download_name) &&
           cuda_ok(cuda, cudaEventRecord(ring->done[slot], stream), download_name);
}

/* Parts are on their way while those before them are taken out. */
static bool download_parts(struct cuda *cuda, struct ring *ring, void *to, const void *from, size_t bytes)
{
    size_t count = (bytes + PART_BYTES - 1) / PART_BYTES, begun = 0;
    for (size_t taken = 0; taken < count; taken++) {
        for (; begun < count && begun < taken + PARTS; begun++)
            if (!begin_part(cuda, ring, from, bytes, begun))
                return false;
        size_t at = taken * PART_BYTES, size = bytes - at < PART_BYTES ? bytes - at : PART_BYTES, slot = taken % PARTS;
        if (!cuda_wait_event(cuda, ring->done[slot], download_name))
            return false;
        memcpy(static_cast<char *>(to) + at, ring->bytes + slot * PART_BYTES, size);
    }
    return true;
}

/* The copy to pageable memory itself would wait for the stream, without a look at links: nothing is left to wait for when it begins. */
static bool download_small(struct cuda *cuda, void *to, const void *from, size_t bytes)
{
    cudaStream_t stream = cuda->lanes[LANE_COMPUTE];
    return cuda_wait_stream(cuda, stream, download_name) && copy_async(cuda, to, from, bytes, cudaMemcpyDeviceToHost, stream, download_name) &&
           cuda_wait_stream(cuda, stream, download_name);
}

static void download(struct backend *b, void *to, const void *from, size_t bytes)
{
    struct cuda *cuda = cuda_of(b);
    struct ring *ring = &cuda->staging->down;
    bool ok = !recording_refuses(cuda) && here(cuda);
    if (ok && bytes <= SMALL_BYTES) {
        ok = bytes == 0 || download_small(cuda, to, from, bytes);
    } else if (ok) {
        pthread_mutex_lock(&ring->mutex);
        ok = download_parts(cuda, ring, to, from, bytes);
        pthread_mutex_unlock(&ring->mutex);
    }
    if (!ok)
        memset(to, 0xff, bytes);
}

static void copy(struct backend *b, void *to, const void *from, size_t bytes)
{
    struct cuda *cuda = cuda_of(b);
    if (here(cuda) && bytes > 0)
        copy_async(cuda, to, from, bytes, cudaMemcpyDeviceToDevice, cuda->stream, "a copy within the GPU");
    count_call(cuda);
}

static void zero(struct backend *b, void *p, size_t bytes)
{
    struct cuda *cuda = cuda_of(b);
    static const char what[] = "the clearing of memory";
    if (!here(cuda) || bytes == 0)
        return;
    span_begin(cuda, cuda->stream, what);
    cuda_ok(cuda, cudaMemsetAsync(p, 0, bytes, cuda->stream), what);
    span_end(cuda, cuda->stream);
    count_call(cuda);
}

static cairn_err finish(struct backend *b)
{
    struct cuda *cuda = cuda_of(b);
    bool ok = here(cuda);
    for (int i = 0; i < BACKEND_LANES && ok; i++)
        ok = cuda_wait_stream(cuda, cuda->lanes[i], "calls under way");
    if (ok)
        return CAIRN_OK;
    if (cuda->error_in == link_name)
        return FAIL(CAIRN_EDEVICE, "%s", cuda->link_error);
    return FAIL(CAIRN_EDEVICE, "the GPU %s failed: %s (%s)", cuda->name, cudaGetErrorString(cuda->error), cuda->error_in);
}

struct backend_mark {
    struct cuda *cuda;
    cudaEvent_t event;
};

static struct backend_mark *mark_create(struct backend *b)
{
    struct backend_mark *mark = static_cast<struct backend_mark *>(calloc(1, sizeof *mark));
    if (mark == nullptr)
        return nullptr;
    mark->cuda = cuda_of(b);
    if (here(mark->cuda) && cudaEventCreate(&mark->event) == cudaSuccess)
        return mark;
    cudaGetLastError();
    free(mark);
    return nullptr;
}

static void mark_set(struct backend_mark *mark)
{
    if (here(mark->cuda))
        cuda_ok(mark->cuda, cudaEventRecord(mark->event, mark->cuda->stream), "a moment");
}

static void mark_wait(const struct backend_mark *mark)
{
    if (here(mark->cuda))
        cuda_ok(mark->cuda, cudaStreamWaitEvent(mark->cuda->stream, mark->event, 0), "a wait for a moment");
}

static double mark_seconds(const struct backend_mark *from, const struct backend_mark *to)
{
    float milliseconds = 0;
    if (!here(to->cuda) || !cuda_wait_event(to->cuda, to->event, "a moment") ||
        !cuda_ok(to->cuda, cudaEventElapsedTime(&milliseconds, from->event, to->event), "a moment"))
        return 0;
    return static_cast<double>(milliseconds) / 1000;
}

static void mark_destroy(struct backend_mark *mark)
{
    if (mark == nullptr)
        return;
    cudaEventDestroy(mark->event);
    free(mark);
}

static void set_lane(struct backend *b, enum backend_lane lane)
{
    cuda_of(b)->stream = cuda_of(b)->lanes[lane];
}

void memory_fill(struct backend_table *t)
{
    t->alloc = memory_alloc;
    t->free = memory_free;
    t->upload = upload;
    t->download = download;
    t->copy = copy;
    t->zero = zero;
    t->finish = finish;
    t->mark_create = mark_create;
    t->mark_set = mark_set;
    t->mark_seconds = mark_seconds;
    t->mark_destroy = mark_destroy;
    t->mark_wait = mark_wait;
    t->lane = set_lane;
}
