/* When the GPU carries out what: an event before and one behind each call. What the events tell is asked when all calls are done, so that
 * nothing waits for it, and put on the processor's clock by an event that the processor saw. */
#include "kernels/cuda/cuda.h"

#include <pthread.h>

#include <cstdlib>
#include <ctime>

/* Looks at the GPU's clock, at each take: clocks that drift need not be told about. The quickest errs least. */
enum { LOOKS = 4 };

static const char moment[] = "a moment";

struct pair {
    cudaEvent_t begin, end;
    const char *name;
    enum backend_lane lane;
};

struct spans {
    struct cuda *cuda;
    pthread_mutex_t mutex; /* held from a span's begin to its end, so that no two threads' calls are between each other's events */
    bool under_way;        /* the span that was begun has a pair */
    struct pair *pairs;
    int64_t most, made, count, lost; /* pairs that there may be, that have events, that are in use since the last take */
    struct backend_span *taken;
    cudaEvent_t reference, look;
    uint64_t reference_time;
    uint64_t ends[BACKEND_LANES]; /* of the last span */
};

static uint64_t now()
{
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<uint64_t>(t.tv_sec) * 1000000000u + static_cast<uint64_t>(t.tv_nsec);
}

static bool make_pair(struct pair *pair)
{
    if (cudaEventCreate(&pair->begin) == cudaSuccess) {
        if (cudaEventCreate(&pair->end) == cudaSuccess)
            return true;
        cudaEventDestroy(pair->begin);
    }
    cudaGetLastError(); /* a span less is no failure of the GPU */
    return false;
}

void spans_begin(struct spans *s, cudaStream_t stream, const char *what)
{
    pthread_mutex_lock(&s->mutex);
    bool room = s->count < s->made || (s->count < s->most && make_pair(&s->pairs[s->count]));
    s->under_way = room && s->cuda->error == cudaSuccess;
    s->lost += !room;
    if (!room)
        return;
    if (s->count == s->made)
        s->made++;
    struct pair *pair = &s->pairs[s->count];
    pair->name = what;
    pair->lane = LANE_COMPUTE;
    for (int i = 0; i < BACKEND_LANES; i++)
        if (stream == s->cuda->lanes[i])
            pair->lane = static_cast<enum backend_lane>(i);
    if (s->under_way)
        cuda_ok(s->cuda, cudaEventRecord(pair->begin, stream), what);
}

void spans_end(struct spans *s, cudaStream_t stream)
{
    const struct pair *pair = &s->pairs[s->count];
    if (s->under_way && cuda_ok(s->cuda, cudaEventRecord(pair->end, stream), pair->name))
        s->count++;
    s->under_way = false;
    pthread_mutex_unlock(&s->mutex);
}

static bool wait_for_all(struct cuda *cuda)
{
    for (int i = 0; i < BACKEND_LANES; i++)
        if (!cuda_wait_stream(cuda, cuda->lanes[i], "calls under way"))
            return false;
    return true;
}

/* The event is taken to have been halfway between its being called and its being seen. Nothing else is under way. */
static bool set_reference(struct spans *s)
{
    uint64_t quickest = UINT64_MAX;
    for (int i = 0; i < LOOKS; i++) {
        uint64_t asked = now();
        if (!cuda_ok(s->cuda, cudaEventRecord(s->look, s->cuda->lanes[LANE_COMPUTE]), moment) ||
            !cuda_ok(s->cuda, cudaEventSynchronize(s->look), moment))
            return false;
        uint64_t took = now() - asked;
        if (took >= quickest)
            continue;
        quickest = took;
        s->reference_time = asked + took / 2;
        cudaEvent_t before = s->reference;
        s->reference = s->look;
        s->look = before;
    }
    return true;
}

/* Of an event before the reference. */
static bool time_of(struct spans *s, cudaEvent_t event, uint64_t *time)
{
    float milliseconds = 0;
    if (!cuda_ok(s->cuda, cudaEventElapsedTime(&milliseconds, event, s->reference), moment))
        return false;
    *time = s->reference_time - static_cast<uint64_t>(1e6 * (milliseconds > 0 ? static_cast<double>(milliseconds) : 0.0));
    return true;
}

static uint64_t later(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Spans of two takes have two references, which may be some microseconds apart: what would overlap begins later. */
static bool take(struct spans *s, int64_t i)
{
    const struct pair *pair = &s->pairs[i];
    struct backend_span *span = &s->taken[i];
    span->name = pair->name;
    span->lane = pair->lane;
    if (!time_of(s, pair->begin, &span->begun) || !time_of(s, pair->end, &span->ended))
        return false;
    span->begun = later(span->begun, s->ends[pair->lane]);
    span->ended = later(span->ended, span->begun);
    s->ends[pair->lane] = span->ended;
    return true;
}

static const struct backend_span *spans_take(struct backend *b, int64_t *count, int64_t *lost)
{
    struct spans *s = cuda_of(b)->spans;
    *count = *lost = 0;
    if (s == nullptr || !cuda_ok(s->cuda, cudaSetDevice(s->cuda->device), "the choice of the GPU"))
        return nullptr;
    pthread_mutex_lock(&s->mutex);
    bool ok = wait_for_all(s->cuda) && set_reference(s);
    for (int64_t i = 0; i < s->count && ok; i++)
        ok = take(s, i);
    if (ok) {
        *count = s->count;
        *lost = s->lost;
    }
    s->count = s->lost = 0;
    pthread_mutex_unlock(&s->mutex);
    return s->taken;
}

void spans_close(struct cuda *cuda)
{
    struct spans *s = cuda->spans;
    if (s == nullptr)
        return;
    cuda->spans = nullptr;
    for (int64_t i = 0; i < s->made; i++) {
        cudaEventDestroy(s->pairs[i].begin);
        cudaEventDestroy(s->pairs[i].end);
    }
    if (s->reference != nullptr)
        cudaEventDestroy(s->reference);
    if (s->look != nullptr)
        cudaEventDestroy(s->look);
    pthread_mutex_destroy(&s->mutex);
    free(s->pairs);
    free(s->taken);
    free(s);
}

static cairn_err spans_open(struct backend *b, int64_t most)
{
    struct cuda *cuda = cuda_of(b);
    struct spans *s = static_cast<struct spans *>(calloc(1, sizeof *s));
    if (s == nullptr)
        return FAIL(CAIRN_ENOMEM, "no memory for a GPU's spans");
    spans_close(cuda);
    cuda->spans = s;
    s->cuda = cuda;
    s->most = most;
    pthread_mutex_init(&s->mutex, nullptr);
    s->pairs = static_cast<struct pair *>(calloc(static_cast<size_t>(most), sizeof *s->pairs));
    s->taken = static_cast<struct backend_span *>(calloc(static_cast<size_t>(most), sizeof *s->taken));
    cudaSetDevice(cuda->device);
    if (s->pairs != nullptr && s->taken != nullptr && cudaEventCreate(&s->reference) == cudaSuccess && cudaEventCreate(&s->look) == cudaSuccess)
        return CAIRN_OK;
    cudaGetLastError();
    spans_close(cuda);
    return FAIL(CAIRN_ENOMEM, "no memory for %lld spans of the GPU %s", static_cast<long long>(most), cuda->name);
}

void spans_fill(struct backend_table *t)
{
    t->spans_open = spans_open;
    t->spans_take = spans_take;
}
