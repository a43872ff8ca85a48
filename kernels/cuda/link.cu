/* Links between GPUs by NCCL, which is loaded when a link is asked for: a machine without it trains all the same. Communicators do
 * not block, so that one whose ranks do not come, or are gone, can be given up. */
#include "kernels/cuda/cuda.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

const char link_name[] = "NCCL";

#if __has_include(<nccl.h>)
#include <dlfcn.h>
#include <nccl.h>
#include <sched.h>

static_assert(LINK_ID_BYTES == sizeof(ncclUniqueId), "an id is NCCL's");

struct backend_link {
    struct cuda *cuda;
    ncclComm_t comm; /* NULL once it was given up */
    struct backend_link *next;
};

static const char library_name[] = "libnccl.so.2";
/* Non-blocking communicators, and their end by ncclCommFinalize. */
enum { VERSION_LEAST = NCCL_VERSION(2, 14, 0) };
static const double close_seconds = 5;

/* NCCL's functions by their names. */
static struct nccl {
    decltype(&ncclGetVersion) GetVersion;
    decltype(&ncclGetUniqueId) GetUniqueId;
    decltype(&ncclCommInitRankConfig) CommInitRankConfig;
    decltype(&ncclCommGetAsyncError) CommGetAsyncError;
    decltype(&ncclCommFinalize) CommFinalize;
    decltype(&ncclCommDestroy) CommDestroy;
    decltype(&ncclCommAbort) CommAbort;
    decltype(&ncclGetErrorString) GetErrorString;
    decltype(&ncclGetLastError) GetLastError;
    decltype(&ncclGroupStart) GroupStart;
    decltype(&ncclGroupEnd) GroupEnd;
    decltype(&ncclSend) Send;
    decltype(&ncclRecv) Recv;
    decltype(&ncclAllReduce) AllReduce;
    int version;
    bool loaded;
} nccl;

static double now()
{
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

static const char *text_of(ncclResult_t result, ncclComm_t comm)
{
    static char text[256];
    const char *last = nccl.GetLastError(comm);
    snprintf(text, sizeof text, "%s%s%s", nccl.GetErrorString(result), last != nullptr && *last != '\0' ? ": " : "",
             last != nullptr ? last : "");
    return text;
}

template <typename F> static bool find(void *library, const char *name, F *function)
{
    *function = reinterpret_cast<F>(dlsym(library, name));
    return *function != nullptr;
}

static bool find_all(void *l)
{
    return find(l, "ncclGetVersion", &nccl.GetVersion) && find(l, "ncclGetUniqueId", &nccl.GetUniqueId) &&
           find(l, "ncclCommInitRankConfig", &nccl.CommInitRankConfig) && find(l, "ncclCommGetAsyncError", &nccl.CommGetAsyncError) &&
           find(l, "ncclCommFinalize", &nccl.CommFinalize) && find(l, "ncclCommDestroy", &nccl.CommDestroy) &&
           find(l, "ncclCommAbort", &nccl.CommAbort) && find(l, "ncclGetErrorString", &nccl.GetErrorString) &&
           find(l, "ncclGetLastError", &nccl.GetLastError) && find(l, "ncclGroupStart", &nccl.GroupStart) &&
           find(l, "ncclGroupEnd", &nccl.GroupEnd) && find(l, "ncclSend", &nccl.Send) && find(l, "ncclRecv", &nccl.Recv) &&
           find(l, "ncclAllReduce", &nccl.AllReduce);
}

static cairn_err load()
{
    if (nccl.loaded)
        return CAIRN_OK;
    void *library = dlopen(library_name, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr)
        return FAIL(CAIRN_EUNSUPPORTED, "NCCL is not there: %s", dlerror());
    int version = 0;
    if (!find_all(library))
        return FAIL(CAIRN_EUNSUPPORTED, "%s is too old: it lacks functions of NCCL 2.14", library_name);
    ncclResult_t result = nccl.GetVersion(&version);
    if (result != ncclSuccess)
        return FAIL(CAIRN_EUNSUPPORTED, "%s cannot be used: %s", library_name, text_of(result, nullptr));
    if (version < VERSION_LEAST)
        return FAIL(CAIRN_EUNSUPPORTED, "%s is too old: version %d, at least %d is needed", library_name, version, VERSION_LEAST);
    nccl.version = version;
    nccl.loaded = true;
    return CAIRN_OK;
}

/* It may be under way. */
static bool was_taken(ncclResult_t result)
{
    return result == ncclSuccess || result == ncclInProgress;
}

/* An abort waits for its communicator's stream, which may wait for another communicator's kernels: all of them are told before one is waited
 * for, as a group since NCCL 2.22. */
static void abort_all(struct cuda *cuda)
{
    bool grouped = nccl.version >= NCCL_VERSION(2, 22, 0) && nccl.GroupStart() == ncclSuccess;
    for (struct backend_link *l = cuda->links; l != nullptr; l = l->next) {
        if (l->comm != nullptr)
            nccl.CommAbort(l->comm);
        l->comm = nullptr;
    }
    if (grouped)
        nccl.GroupEnd();
}

static void give_up(struct cuda *cuda, const char *why)
{
    if (cuda->link_error[0] == '\0')
        snprintf(cuda->link_error, sizeof cuda->link_error, "the exchange between GPUs failed: %s", why);
    for (cudaStream_t lane : cuda->lanes) /* NCCL tells a kernel's failure as its own */
        if (cudaStreamQuery(lane) != cudaErrorNotReady)
            cuda_ok(cuda, cudaGetLastError(), "calls under way");
    cuda_ok(cuda, cudaErrorUnknown, link_name);
    abort_all(cuda);
}

/* Whether the link's calls so far were taken; false, and all links are given up, if it has failed. */
static bool settle(struct backend_link *l)
{
    ncclResult_t state = ncclInProgress;
    while (l->comm != nullptr && state == ncclInProgress) {
        ncclResult_t asked = nccl.CommGetAsyncError(l->comm, &state);
        if (asked != ncclSuccess)
            state = asked;
        if (state == ncclInProgress && l->cuda->base.idle != nullptr)
            l->cuda->base.idle(l->cuda->base.idle_context);
        if (state == ncclInProgress)
            sched_yield();
    }
    if (l->comm != nullptr && state != ncclSuccess)
        give_up(l->cuda, text_of(state, l->comm));
    return l->comm != nullptr;
}

bool link_check(struct cuda *cuda)
{
    for (struct backend_link *l = cuda->links; l != nullptr && l->comm != nullptr; l = l->next) {
        ncclResult_t state = ncclSuccess, asked = nccl.CommGetAsyncError(l->comm, &state);
        if (asked != ncclSuccess)
            state = asked;
        if (!was_taken(state))
            give_up(cuda, text_of(state, l->comm));
    }
    return cuda->link_error[0] == '\0';
}

static cairn_err link_id(struct backend *b, unsigned char *id)
{
    ncclUniqueId unique;
    TRY(load());
    cudaSetDevice(cuda_of(b)->device);
    ncclResult_t result = nccl.GetUniqueId(&unique);
    if (result != ncclSuccess)
        return FAIL(CAIRN_EUNSUPPORTED, "NCCL cannot begin: %s", text_of(result, nullptr));
    memcpy(id, &unique, sizeof unique);
    return CAIRN_OK;
}

/* Until all ranks have come. */
static cairn_err meet(ncclComm_t comm, double end, double seconds)
{
    ncclResult_t state = ncclInProgress;
    while (state == ncclInProgress) {
        ncclResult_t asked = nccl.CommGetAsyncError(comm, &state);
        if (asked != ncclSuccess)
            return FAIL(CAIRN_ELIBRARY, "NCCL cannot join the GPUs: %s", text_of(asked, comm));
        if (state == ncclInProgress && now() > end)
            return FAIL(CAIRN_ETIMEOUT, "NCCL did not join the GPUs within %.0f s", seconds);
        if (state == ncclInProgress)
            sched_yield();
    }
    return state == ncclSuccess ? CAIRN_OK : FAIL(CAIRN_ELIBRARY, "NCCL cannot join the GPUs: %s", text_of(state, comm));
}

static cairn_err join(struct cuda *cuda, const unsigned char *id, int size, int rank, double end, double seconds, ncclComm_t *comm)
{
    ncclUniqueId unique;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    memcpy(&unique, id, sizeof unique);
    cudaSetDevice(cuda->device);
    ncclResult_t result = nccl.CommInitRankConfig(comm, size, unique, rank, &config);
    if (!was_taken(result))
        return FAIL(CAIRN_ELIBRARY, "NCCL cannot join the GPUs: %s", text_of(result, *comm));
    return meet(*comm, end, seconds);
}

/* Groups connect ranks when they first exchange something, and wait for each other then: here, where all have come together, and not in the
 * middle of a step, where one might wait for another by other ways too. */
static ncclResult_t exchange_bytes(struct cuda *cuda, ncclComm_t comm, int size, int rank)
{
    char *bytes = static_cast<char *>(cuda->scratch);
    ncclResult_t result = nccl.GroupStart();
    for (int r = 0; r < size && was_taken(result); r++) {
        if (r == rank)
            continue;
        result = nccl.Send(bytes, 1, ncclUint8, r, comm, cuda->stream);
        if (was_taken(result))
            result = nccl.Recv(bytes + 1 + r, 1, ncclUint8, r, comm, cuda->stream);
    }
    ncclResult_t ended = nccl.GroupEnd();
    return was_taken(result) ? ended : result;
}

static cairn_err try_out(struct cuda *cuda, ncclComm_t comm, int size, int rank, double end, double seconds)
{
    ncclResult_t result = exchange_bytes(cuda, comm, size, rank);
    if (!was_taken(result))
        return FAIL(CAIRN_ELIBRARY, "NCCL cannot exchange between the GPUs: %s", text_of(result, comm));
    TRY(meet(comm, end, seconds));
    char *sum = static_cast<char *>(cuda->scratch) + SCRATCH_BYTES / 2;
    result = nccl.AllReduce(sum, sum, 1, ncclFloat32, ncclSum, comm, cuda->stream);
    if (!was_taken(result))
        return FAIL(CAIRN_ELIBRARY, "NCCL cannot exchange between the GPUs: %s", text_of(result, comm));
    TRY(meet(comm, end, seconds));
    cudaError_t status;
    while ((status = cudaStreamQuery(cuda->stream)) == cudaErrorNotReady) {
        if (now() > end)
            return FAIL(CAIRN_ETIMEOUT, "NCCL joined the GPUs, but they exchanged nothing within %.0f s", seconds);
        sched_yield();
    }
    return status == cudaSuccess ? CAIRN_OK : FAIL(CAIRN_ELIBRARY, "NCCL cannot exchange between the GPUs: %s", cudaGetErrorString(status));
}

static cairn_err link_open(struct backend *b, const unsigned char *id, int size, int rank, double seconds, struct backend_link **out)
{
    struct cuda *cuda = cuda_of(b);
    ncclComm_t comm = nullptr;
    TRY(load());
    struct backend_link *l = static_cast<struct backend_link *>(calloc(1, sizeof *l));
    if (l == nullptr)
        return FAIL(CAIRN_ENOMEM, "no memory for a link between GPUs");
    double end = now() + seconds;
    setenv("NCCL_RUNTIME_CONNECT", "0", 0); /* else a sum connects ranks when it first takes a way that try_out's did not */
    cairn_err err = join(cuda, id, size, rank, end, seconds, &comm);
    if (err == CAIRN_OK)
        err = try_out(cuda, comm, size, rank, end, seconds);
    if (err != CAIRN_OK) {
        if (comm != nullptr)
            nccl.CommAbort(comm);
        cudaGetLastError();
        free(l);
        return err;
    }
    l->cuda = cuda;
    l->comm = comm;
    l->next = cuda->links;
    cuda->links = l;
    *out = l;
    return CAIRN_OK;
}

/* False, and all links are given up, where a call was not taken. */
static bool taken(struct backend_link *l, ncclResult_t result)
{
    if (!was_taken(result) && l->comm != nullptr)
        give_up(l->cuda, text_of(result, l->comm));
    return l->comm != nullptr;
}

/* A failure before keeps calls away, as it does for kernels. */
static bool begin(struct backend_link *l)
{
    return cuda_ok(l->cuda, cudaSetDevice(l->cuda->device), "the choice of the GPU") && l->comm != nullptr;
}

static void exchange(struct backend_link *l, const struct link_message *messages, int count)
{
    ncclResult_t result = nccl.GroupStart();
    for (int i = 0; i < count && was_taken(result); i++) {
        const struct link_message *m = &messages[i];
        cudaStream_t stream = l->cuda->stream;
        result = m->receive ? nccl.Recv(m->data, m->bytes, ncclUint8, m->rank, l->comm, stream)
                            : nccl.Send(m->data, m->bytes, ncclUint8, m->rank, l->comm, stream);
    }
    ncclResult_t ended = nccl.GroupEnd(); /* whatever was before: nothing can be given up within a group */
    if (taken(l, result) && taken(l, ended))
        settle(l);
}

static void sum(struct backend_link *l, void *data, int64_t n)
{
    if (taken(l, nccl.AllReduce(data, data, static_cast<size_t>(n), ncclFloat32, ncclSum, l->comm, l->cuda->stream)))
        settle(l);
}

/* A call is in its stream when the link has settled, not before. */
static void name_begin(struct backend_link *l, const char *name)
{
    backend_range_begin(&l->cuda->base, name, -1);
    span_begin(l->cuda, l->cuda->stream, name);
}

static void name_end(struct backend_link *l)
{
    span_end(l->cuda, l->cuda->stream);
    backend_range_end(&l->cuda->base);
}

static void link_exchange(struct backend_link *l, const struct link_message *messages, int count)
{
    if (count == 0 || !begin(l))
        return;
    name_begin(l, "an exchange between GPUs");
    exchange(l, messages, count);
    name_end(l);
}

static void link_sum(struct backend_link *l, void *data, int64_t n)
{
    if (n <= 0 || !begin(l))
        return;
    name_begin(l, "a sum over GPUs");
    sum(l, data, n);
    name_end(l);
}

/* An orderly end, which needs the other ranks; without them it is given up. */
static void finish(struct backend_link *l)
{
    ncclResult_t state = nccl.CommFinalize(l->comm);
    double end = now() + close_seconds;
    while (state == ncclInProgress && now() < end) {
        if (nccl.CommGetAsyncError(l->comm, &state) != ncclSuccess)
            break;
        sched_yield();
    }
    if (state == ncclSuccess)
        nccl.CommDestroy(l->comm);
    else
        nccl.CommAbort(l->comm);
}

static void link_close(struct backend_link *l)
{
    if (l == nullptr)
        return;
    struct cuda *cuda = l->cuda;
    cudaSetDevice(cuda->device);
    for (int i = 0; i < BACKEND_LANES; i++)
        cuda_wait_stream(cuda, cuda->lanes[i], "calls under way");
    for (struct backend_link **at = &cuda->links; *at != nullptr; at = &(*at)->next)
        if (*at == l) {
            *at = l->next;
            break;
        }
    if (l->comm != nullptr)
        finish(l);
    free(l);
}

void link_close_all(struct cuda *cuda)
{
    while (cuda->links != nullptr)
        link_close(cuda->links);
}

void link_fill(struct backend_table *t)
{
    t->link_id = link_id;
    t->link_open = link_open;
    t->link_exchange = link_exchange;
    t->link_sum = link_sum;
    t->link_close = link_close;
}
#else
bool link_check(struct cuda *)
{
    return true;
}

void link_close_all(struct cuda *)
{
}

void link_fill(struct backend_table *)
{
}
#endif
