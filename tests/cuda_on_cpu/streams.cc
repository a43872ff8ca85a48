/* Streams, events and graphs. Work waits in its stream until somebody waits for it, or until chance runs it (CUDA_LAUNCH_BLOCKING=1:
 * it is done at once), so that a host that reads too early, or changes too early what is still to be read, gets it wrong. */
#include "for_libraries.h"
#include "runtime.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <deque>
#include <memory>
#include <pthread.h>
#include <vector>

namespace cuda_on_cpu {

enum { WAITING_MOST = 1024 };

struct work_queue {
    std::deque<std::function<void()>> waiting;
    uint64_t added, done; /* how many so far */
};

/* When an event was recorded: after the first AFTER pieces of work of a queue, or within a graph. */
struct moment {
    std::shared_ptr<work_queue> queue;
    uint64_t after;
    cudaGraph_t graph;
    double seconds; /* once it is done */
    bool done() const { return queue->done >= after; }
};

} // namespace cuda_on_cpu

using namespace cuda_on_cpu;

struct CUstream_st {
    int device;
    std::shared_ptr<work_queue> queue;
    cudaGraph_t capture; /* NULL: work is carried out */
};

struct CUevent_st {
    int device;
    unsigned flags;
    std::shared_ptr<moment> last;
};

struct CUgraph_st {
    cudaStream_t origin; /* NULL once capture has ended */
    cudaStreamCaptureMode mode;
    pthread_t by;
    bool invalid;
    std::vector<std::function<void()>> work;
};

struct CUgraphExec_st {
    std::vector<std::function<void()>> work;
};

namespace cuda_on_cpu {

static std::vector<cudaStream_t> streams;
static unsigned long long launches;

/* In the file that is to tell of graphs, if there is one. */
static void tell(const char *what, size_t calls)
{
    const char *path = getenv("CUDA_ON_CPU_GRAPHS");
    FILE *file = path ? fopen(path, "a") : nullptr;
    if (!file)
        return;
    fprintf(file, "%s %zu\n", what, calls);
    fclose(file);
}

static bool is_default(cudaStream_t stream)
{
    return !stream || stream == cudaStreamLegacy || stream == cudaStreamPerThread;
}

static bool is_stream(cudaStream_t stream)
{
    return is_default(stream) || std::find(streams.begin(), streams.end(), stream) != streams.end();
}

static cudaGraph_t captured(cudaStream_t stream)
{
    return is_default(stream) ? nullptr : stream->capture;
}

/* Nothing is computed any more once something has gone wrong. */
static void carry_out(const std::function<void()> &operation)
{
    if (usable() != cudaSuccess)
        return;
    opened now;
    operation();
}

static void run_one(work_queue *q)
{
    std::function<void()> operation = std::move(q->waiting.front());
    q->waiting.pop_front();
    carry_out(operation);
    q->done++;
}

static cudaError_t run_until(work_queue *q, uint64_t count)
{
    while (q->done < count)
        run_one(q);
    return usable();
}

cudaError_t run_all()
{
    for (cudaStream_t stream : streams)
        run_until(stream->queue.get(), stream->queue->added);
    return usable();
}

static cudaError_t invalidate(cudaGraph_t graph)
{
    graph->invalid = true;
    return cudaErrorStreamCaptureUnsupported;
}

cudaError_t may_wait()
{
    for (cudaStream_t stream : streams)
        if (cudaGraph_t graph = stream->capture)
            if (graph->mode == cudaStreamCaptureModeGlobal ||
                (graph->mode == cudaStreamCaptureModeThreadLocal && pthread_equal(graph->by, pthread_self())))
                return invalidate(graph);
    return cudaSuccess;
}

/* One generator more, so that what runs when changes nothing in the order of threads. */
static bool chance(unsigned one_in)
{
    static uint64_t state = environment("CUDA_ON_CPU_SEED", 1) + 12345;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (state >> 33) % one_in == 0;
}

static bool runs_at_once()
{
    static bool at_once = environment("CUDA_LAUNCH_BLOCKING", 0) != 0;
    return at_once;
}

cudaError_t enqueue(cudaStream_t stream, std::function<void()> operation, bool immediately)
{
    if (!is_stream(stream))
        return cudaErrorInvalidResourceHandle;
    if (is_default(stream)) { /* waits for all others, and they for it */
        if (cudaError_t error = may_wait())
            return error;
        if (cudaError_t error = run_all())
            return error;
        carry_out(operation);
        return usable();
    }
    if (cudaGraph_t graph = stream->capture) {
        if (immediately || graph->invalid)
            return graph->invalid ? cudaErrorStreamCaptureInvalidated : invalidate(graph);
        graph->work.push_back(std::move(operation));
        return cudaSuccess;
    }
    work_queue *q = stream->queue.get();
    q->waiting.push_back(std::move(operation));
    q->added++;
    if (immediately || runs_at_once() || q->waiting.size() > WAITING_MOST || chance(8))
        return run_until(q, q->added);
    return cudaSuccess;
}

cudaError_t enqueue_launch(cudaStream_t stream, std::function<void()> operation)
{
    if (!is_stream(stream) || (!is_default(stream) && stream->device != current_device()))
        return cudaErrorInvalidResourceHandle;
    return enqueue(stream, [operation = std::move(operation)] {
        static unsigned long long fails_at = environment("CUDA_ON_CPU_FAILS_AT", 0);
        if (++launches == fails_at)
            fail_for_good(cudaErrorIllegalAddress);
        else
            operation();
    });
}

} // namespace cuda_on_cpu

/* ---- streams ---- */

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned)
{
    CUDA_ON_CPU_CALL();
    *stream = new CUstream_st{current_device(), std::make_shared<work_queue>(), nullptr};
    streams.push_back(*stream);
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int)
{
    return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    if (is_default(stream) || !is_stream(stream))
        return failed(cudaErrorInvalidResourceHandle);
    cudaError_t error = run_until(stream->queue.get(), stream->queue->added);
    streams.erase(std::find(streams.begin(), streams.end(), stream));
    delete stream;
    return failed(error);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    CUDA_ON_CPU_CALL();
    if (!is_stream(stream))
        return failed(cudaErrorInvalidResourceHandle);
    if (is_default(stream))
        return cudaDeviceSynchronize();
    if (stream->capture)
        return failed(invalidate(stream->capture));
    return failed(run_until(stream->queue.get(), stream->queue->added));
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    CUDA_ON_CPU_CALL();
    if (is_default(stream))
        return failed(run_all());
    if (!is_stream(stream))
        return failed(cudaErrorInvalidResourceHandle);
    if (stream->capture)
        return failed(invalidate(stream->capture));
    if (stream->queue->waiting.empty())
        return cudaSuccess;
    run_one(stream->queue.get());
    return stream->queue->waiting.empty() ? failed(usable()) : cudaErrorNotReady;
}

cudaError_t cudaDeviceSynchronize()
{
    CUDA_ON_CPU_CALL();
    if (cudaError_t error = may_wait())
        return failed(error);
    return failed(run_all());
}

cudaError_t cudaDeviceReset()
{
    return cudaDeviceSynchronize();
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, void (*function)(void *), void *argument)
{
    CUDA_ON_CPU_CALL();
    return failed(enqueue(stream, [=] { function(argument); }));
}

/* ---- events ---- */

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    CUDA_ON_CPU_CALL();
    *event = new CUevent_st{current_device(), flags, nullptr};
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    delete event;
    return failed(usable());
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    CUDA_ON_CPU_CALL();
    if (!is_stream(stream) || (!is_default(stream) && stream->device != event->device))
        return failed(cudaErrorInvalidResourceHandle);
    auto now = std::make_shared<moment>();
    now->graph = captured(stream);
    now->queue = is_default(stream) ? std::make_shared<work_queue>() : stream->queue;
    event->last = now;
    if (now->graph)
        return cudaSuccess;
    cudaError_t error = enqueue(stream, [now] {
        timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        now->seconds = static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
    });
    now->after = now->queue->added;
    return failed(error);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    CUDA_ON_CPU_CALL();
    if (!event->last)
        return cudaSuccess;
    if (event->last->graph)
        return failed(cudaErrorStreamCaptureUnsupported);
    return failed(run_until(event->last->queue.get(), event->last->after));
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    CUDA_ON_CPU_CALL();
    if (!event->last || event->last->done())
        return cudaSuccess;
    if (event->last->graph)
        return failed(cudaErrorStreamCaptureUnsupported);
    run_one(event->last->queue.get());
    return event->last->done() ? failed(usable()) : cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to)
{
    CUDA_ON_CPU_CALL();
    for (cudaEvent_t event : {from, to})
        if (!event->last || event->last->graph || (event->flags & cudaEventDisableTiming))
            return failed(cudaErrorInvalidResourceHandle);
    if (!from->last->done() || !to->last->done())
        return cudaErrorNotReady;
    *milliseconds = static_cast<float>(1e3 * (to->last->seconds - from->last->seconds));
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    CUDA_ON_CPU_CALL();
    if (!is_stream(stream))
        return failed(cudaErrorInvalidResourceHandle);
    std::shared_ptr<moment> last = event->last;
    if (!last)
        return cudaSuccess;
    cudaGraph_t graph = captured(stream);
    if (last->graph && !graph && !is_default(stream)) { /* this stream's work belongs to the graph from now on */
        stream->capture = last->graph;
        return cudaSuccess;
    }
    if (graph)
        return last->graph == graph ? cudaSuccess : failed(invalidate(graph));
    return failed(enqueue(stream, [last] { run_until(last->queue.get(), last->after); }));
}

/* ---- graphs: work in the order of the calls that recorded it ---- */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode)
{
    CUDA_ON_CPU_CALL();
    if (is_default(stream))
        return failed(cudaErrorStreamCaptureUnsupported);
    if (!is_stream(stream) || stream->capture)
        return failed(cudaErrorInvalidValue);
    stream->capture = new CUgraph_st{stream, mode, pthread_self(), false, {}};
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *result)
{
    CUDA_ON_CPU_CALL();
    *result = nullptr;
    cudaGraph_t graph = is_stream(stream) ? captured(stream) : nullptr;
    if (!graph)
        return failed(cudaErrorInvalidValue);
    if (graph->origin != stream)
        return failed(cudaErrorStreamCaptureUnmatched);
    graph->origin = nullptr;
    for (cudaStream_t other : streams)
        if (other->capture == graph)
            other->capture = nullptr;
    if (!graph->invalid) {
        *result = graph;
        return cudaSuccess;
    }
    delete graph;
    return failed(cudaErrorStreamCaptureInvalidated);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status)
{
    CUDA_ON_CPU_CALL();
    if (!is_stream(stream))
        return failed(cudaErrorInvalidResourceHandle);
    cudaGraph_t graph = captured(stream);
    *status = !graph           ? cudaStreamCaptureStatusNone
              : graph->invalid ? cudaStreamCaptureStatusInvalidated
                               : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count)
{
    CUDA_ON_CPU_CALL();
    if (nodes)
        return failed(cudaErrorNotSupported);
    *count = graph->work.size();
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *result, cudaGraph_t graph, unsigned long long)
{
    CUDA_ON_CPU_CALL();
    *result = new CUgraphExec_st{graph->work};
    tell("instantiate", graph->work.size());
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *result, cudaGraph_t graph, unsigned long long flags)
{
    if (environment("CUDA_ON_CPU_NO_GRAPHS", 0) != 0)
        return failed(cudaErrorNotSupported);
    return cudaGraphInstantiate(result, graph, flags);
}

cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t)
{
    CUDA_ON_CPU_CALL();
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream)
{
    CUDA_ON_CPU_CALL();
    tell("launch", graph->work.size());
    for (const std::function<void()> &operation : graph->work)
        if (cudaError_t error = enqueue(stream, operation))
            return failed(error);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    delete graph;
    return failed(usable());
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    delete graph;
    return failed(usable());
}

/* ---- for libraries ---- */

static int memory_device(const void *p, size_t bytes)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    return device_of_memory(p, bytes);
}

static int stream_device(cudaStream_t stream)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    return is_default(stream) ? current_device() : is_stream(stream) ? stream->device : -1;
}

static cudaError_t enqueue_for_library(cudaStream_t stream, std::function<void()> operation, bool immediately)
{
    CUDA_ON_CPU_CALL();
    return failed(enqueue(stream, std::move(operation), immediately));
}

static cudaError_t launch_for_library(cudaStream_t stream, std::function<void()> operation)
{
    CUDA_ON_CPU_CALL();
    return failed(enqueue_launch(stream, std::move(operation)));
}

const struct cuda_on_cpu_for_libraries cuda_on_cpu_for_libraries = {
    cudaGetDevice, cudaDeviceGetPCIBusId, cudaGetErrorName, memory_device, stream_device, enqueue_for_library, launch_for_library,
};
