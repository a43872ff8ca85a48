/* Calls kept as a CUDA graph, which the GPU is given at once. They are captured on a stream of their own, so that what other threads give
 * to the lanes meanwhile is not among them. */
#include "kernels/cuda/cuda.h"

#include <cstdlib>
#include <cstring>

static const char name[] = "recorded calls";

struct backend_recording {
    struct cuda *cuda;
    cudaGraphExec_t graph;
};

/* CAIRN_CUDA_GRAPHS=0: never. */
static bool is_wanted(void)
{
    const char *asked = getenv("CAIRN_CUDA_GRAPHS");
    return asked == nullptr || strcmp(asked, "0") != 0;
}

cairn_err recording_open(struct cuda *cuda)
{
    cuda->records = is_wanted();
    if (!cuda->records || cudaStreamCreateWithFlags(&cuda->recorder, cudaStreamNonBlocking) == cudaSuccess)
        return CAIRN_OK;
    cudaGetLastError();
    return FAIL(CAIRN_ENOMEM, "no stream to record calls of the GPU %s", cuda->name);
}

void recording_close(struct cuda *cuda)
{
    if (cuda->recorder != nullptr)
        cudaStreamDestroy(cuda->recorder);
}

bool recording_refuses(struct cuda *cuda)
{
    if (!recording_is_on(cuda))
        return false;
    cuda->recording_failed = true;
    return true;
}

static bool record_begin(struct backend *b)
{
    struct cuda *cuda = cuda_of(b);
    if (!cuda->records || cuda->spans != nullptr || b->table->range_begin != nullptr || cuda->stream != cuda->lanes[LANE_COMPUTE] ||
        !cuda_ok(cuda, cudaSetDevice(cuda->device), name))
        return false;
    cuda->records = cudaStreamBeginCapture(cuda->recorder, cudaStreamCaptureModeThreadLocal) == cudaSuccess;
    if (!cuda->records) {
        cudaGetLastError();
        return false;
    }
    cuda->stream = cuda->recorder;
    cuda->recording_failed = false;
    return true;
}

static cudaGraphExec_t make_launchable(cudaGraph_t graph)
{
    cudaGraphExec_t launchable = nullptr;
    if (cudaGraphInstantiateWithFlags(&launchable, graph, 0) == cudaSuccess)
        return launchable;
    cudaGetLastError();
    return nullptr;
}

/* What cannot be recorded once is not tried again. */
static struct backend_recording *record_end(struct backend *b)
{
    struct cuda *cuda = cuda_of(b);
    cudaGraph_t graph = nullptr;
    cuda->stream = cuda->lanes[LANE_COMPUTE];
    if (cudaStreamEndCapture(cuda->recorder, &graph) != cudaSuccess) {
        cudaGetLastError();
        graph = nullptr;
    }
    struct backend_recording *r = static_cast<struct backend_recording *>(calloc(1, sizeof *r));
    if (r != nullptr && graph != nullptr && !cuda->recording_failed && cuda->error == cudaSuccess)
        *r = {cuda, make_launchable(graph)};
    if (graph != nullptr)
        cudaGraphDestroy(graph);
    if (r != nullptr && r->graph != nullptr)
        return r;
    free(r);
    cuda->records = false;
    return nullptr;
}

static void replay(struct backend_recording *r)
{
    struct cuda *cuda = r->cuda;
    if (cuda->error == cudaSuccess && cuda_ok(cuda, cudaSetDevice(cuda->device), name))
        cuda_ok(cuda, cudaGraphLaunch(r->graph, cuda->lanes[LANE_COMPUTE]), name);
    count_call(cuda);
}

static void recording_destroy(struct backend_recording *r)
{
    if (r == nullptr)
        return;
    cudaGraphExecDestroy(r->graph);
    free(r);
}

void recording_fill(struct backend_table *t)
{
    t->record_begin = record_begin;
    t->record_end = record_end;
    t->replay = replay;
    t->recording_destroy = recording_destroy;
}
