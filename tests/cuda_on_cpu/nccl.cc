/* NCCL between processes of one machine, over Unix sockets. Stricter than NVIDIA's; README.md says in what. */
#include "nccl_private.h"

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <poll.h>
#include <set>
#include <sys/random.h>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

using namespace nccl_on_cpu;

namespace nccl_on_cpu {

static std::mutex lock; /* of those below */
static std::set<ncclComm_t> communicators;
static thread_local char last_error[1024];
static const char id_mark[] = "cuda_on_cpu"; /* behind the random bytes of a unique id */
enum { ID_RANDOM_BYTES = 16 };

ncclResult_t fail(ncclResult_t result, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    vsnprintf(last_error, sizeof last_error, format, list);
    va_end(list);
    return result;
}

unsigned long long environment(const char *name, unsigned long long otherwise)
{
    const char *value = getenv(name);
    return value && *value ? strtoull(value, nullptr, 0) : otherwise;
}

const struct cuda_on_cpu_for_libraries *cuda()
{
    static const struct cuda_on_cpu_for_libraries *found = cuda_on_cpu_find();
    if (environment("CUDA_ON_CPU_NO_NCCL", 0)) {
        fail(ncclSystemError, "NCCL does not work because CUDA_ON_CPU_NO_NCCL says so");
        return nullptr;
    }
    if (!found)
        fail(ncclSystemError, "the emulated NCCL needs the emulated CUDA");
    return found;
}

std::recursive_mutex working;

static void serve()
{
    for (;;) {
        {
            std::lock_guard<std::recursive_mutex> hold(working);
            std::lock_guard<std::mutex> hold_all(lock);
            for (ncclComm_t comm : communicators)
                advance_sends(comm);
        }
        poll(nullptr, 0, 1);
    }
}

void serve_sends()
{
    static std::once_flag once;
    std::call_once(once, [] { std::thread(serve).detach(); });
}

static bool is_communicator(ncclComm_t comm)
{
    std::lock_guard<std::mutex> hold(lock);
    return communicators.count(comm) > 0;
}

static ncclResult_t check_there(ncclComm_t comm, const char *call)
{
    if (!cuda())
        return ncclSystemError;
    return is_communicator(comm) ? ncclSuccess : fail(ncclInvalidArgument, "%s: there is no such communicator", call);
}

static ncclResult_t check_ready(ncclComm_t comm, const char *call)
{
    NCCL_TRY(check_there(comm, call));
    if (comm->state == ncclInProgress || comm->in_progress)
        return fail(ncclInvalidUsage, "%s: ncclCommGetAsyncError has not yet said that the call before is no longer in progress", call);
    if (comm->state != ncclSuccess)
        return fail(comm->state, "%s: the communicator has failed before: %s", call, ncclGetErrorString(comm->state));
    return ncclSuccess;
}

ncclResult_t check_usable(ncclComm_t comm, const char *call)
{
    NCCL_TRY(check_ready(comm, call));
    return comm->finalized ? fail(ncclInvalidUsage, "%s: the communicator is finalized", call) : ncclSuccess;
}

/* Those that wait for this rank shall wait no longer. */
static void close_links(ncclComm_t comm)
{
    for (peer_link &link : comm->links)
        if (link.file() >= 0) {
            shutdown(link.file(), SHUT_RDWR);
            close(link.file());
        }
    comm->links.clear();
}

void break_down(ncclComm_t comm, ncclResult_t result)
{
    comm->state = result;
    close_links(comm);
}

static bool chance(ncclComm_t comm, unsigned one_in)
{
    comm->chance = comm->chance * 6364136223846793005u + 1442695040888963407u;
    return (comm->chance >> 33) % one_in == 0;
}

ncclResult_t answer(const std::vector<ncclComm_t> &all)
{
    if (all[0]->blocks || !chance(all[0], 4))
        return ncclSuccess;
    for (ncclComm_t comm : all) {
        comm->in_progress = true;
        comm->answers = 1 + chance(comm, 2);
    }
    return ncclInProgress;
}

/* ---- the beginning ---- */

static void discard(ncclComm_t comm)
{
    {
        std::lock_guard<std::mutex> hold(lock);
        communicators.erase(comm);
    }
    close_links(comm);
    delete comm->gathered;
    delete comm;
}

/* Goes on with what the ranks say to each other until all have come. */
static ncclResult_t go_on(ncclComm_t comm)
{
    if (comm->state != ncclInProgress)
        return comm->state;
    comm->state = comm->gathered->advance();
    if (comm->state != ncclSuccess && comm->state != ncclInProgress) {
        delete comm->gathered; /* the others shall not wait for this rank */
        comm->gathered = nullptr;
    } else if (comm->state == ncclSuccess)
        for (int peer = 0; peer < comm->ranks; peer++)
            comm->links.emplace_back(comm->rank, peer, comm->gathered->take_socket(peer));
    return comm->state;
}

static ncclResult_t check_beginning(int ranks, const ncclUniqueId &id, int rank, const ncclConfig_t *config)
{
    if (!cuda())
        return ncclSystemError;
    if (in_group())
        return fail(ncclInvalidUsage, "ncclCommInitRankConfig in a group is not emulated");
    if (ranks < 1 || rank < 0 || rank >= ranks)
        return fail(ncclInvalidArgument, "ncclCommInitRankConfig: rank %d of %d", rank, ranks);
    if (memcmp(id.internal + ID_RANDOM_BYTES, id_mark, sizeof id_mark) != 0)
        return fail(ncclInvalidArgument, "ncclCommInitRankConfig: a unique id that ncclGetUniqueId did not give");
    if (!config)
        return ncclSuccess;
    if (config->size != sizeof *config || config->magic != NCCL_CONFIG_MAGIC || config->version != NCCL_VERSION_CODE)
        return fail(ncclInvalidArgument, "ncclCommInitRankConfig: a configuration that did not begin as NCCL_CONFIG_INITIALIZER");
    if (config->blocking != NCCL_CONFIG_UNDEF_INT && config->blocking != 0 && config->blocking != 1)
        return fail(ncclInvalidArgument, "ncclCommInitRankConfig: blocking is %d, not 0 or 1", config->blocking);
    return ncclSuccess;
}

} // namespace nccl_on_cpu

ncclResult_t ncclGetVersion(int *version)
{
    if (!cuda())
        return ncclSystemError;
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    if (!cuda())
        return ncclSystemError;
    *id = {};
    if (getrandom(id->internal, ID_RANDOM_BYTES, 0) != ID_RANDOM_BYTES)
        return fail(ncclSystemError, "no random bytes: %s", strerror(errno));
    memcpy(id->internal + ID_RANDOM_BYTES, id_mark, sizeof id_mark);
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int ranks, ncclUniqueId id, int rank, ncclConfig_t *config)
{
    *out = nullptr;
    NCCL_TRY(check_beginning(ranks, id, rank, config));
    int device;
    if (cudaError_t error = cuda()->current_device(&device))
        return fail(ncclUnhandledCudaError, "CUDA fails: %s", cuda()->error_name(error));
    ncclComm_t comm = new ncclComm{};
    comm->rank = rank;
    comm->ranks = ranks;
    comm->device = device;
    comm->blocks = !config || config->blocking != 0;
    comm->state = ncclInProgress;
    comm->chance = environment("CUDA_ON_CPU_SEED", 1) * 1000003 + static_cast<uint64_t>(rank);
    comm->gathered = new gathering(id, rank, ranks);
    ncclResult_t result = comm->gathered->begin(device);
    while (result == ncclSuccess && comm->blocks && go_on(comm) == ncclInProgress)
        poll(nullptr, 0, 1);
    if (result == ncclSuccess)
        result = comm->state;
    if (result != ncclSuccess && (comm->blocks || result != ncclInProgress)) {
        discard(comm);
        return result;
    }
    std::lock_guard<std::mutex> hold(lock);
    communicators.insert(comm);
    *out = comm;
    return result;
}

/* ---- the state, the end ---- */

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *state)
{
    std::lock_guard<std::recursive_mutex> hold(working);
    NCCL_TRY(check_there(comm, "ncclCommGetAsyncError"));
    *state = go_on(comm);
    if (*state == ncclSuccess && comm->answers > 0) {
        comm->answers--;
        *state = ncclInProgress;
    } else if (*state != ncclInProgress)
        comm->in_progress = false;
    return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    std::lock_guard<std::recursive_mutex> hold(working);
    if (in_group())
        return fail(ncclInvalidUsage, "ncclCommFinalize in a group");
    NCCL_TRY(check_usable(comm, "ncclCommFinalize"));
    NCCL_TRY(finish_sends(comm));
    comm->finalized = true;
    return answer({comm});
}

ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    std::lock_guard<std::recursive_mutex> hold(working);
    NCCL_TRY(check_ready(comm, "ncclCommDestroy"));
    discard(comm);
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    std::lock_guard<std::recursive_mutex> hold(working);
    NCCL_TRY(check_there(comm, "ncclCommAbort"));
    discard(comm);
    return ncclSuccess;
}

ncclResult_t ncclCommCount(const ncclComm_t comm, int *count)
{
    NCCL_TRY(check_ready(comm, "ncclCommCount"));
    *count = comm->ranks;
    return ncclSuccess;
}

ncclResult_t ncclCommUserRank(const ncclComm_t comm, int *rank)
{
    NCCL_TRY(check_ready(comm, "ncclCommUserRank"));
    *rank = comm->rank;
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result)
{
    static const char *const texts[ncclNumResults] = {
        "no error",         "a call of CUDA failed",     "a call of the system failed", "internal error", "invalid argument",
        "invalid usage",    "another rank is gone",      "in progress",
    };
    return result >= 0 && result < ncclNumResults ? texts[result] : "unknown result";
}

const char *ncclGetLastError(ncclComm_t)
{
    return last_error;
}
