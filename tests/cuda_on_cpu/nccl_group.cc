/* Groups. What has been called in one is done at its end, all at once: what is to be sent is taken in the order of its stream, travels by
 * way of the processor's memory while this waits, and is put in place by the stream, so that whoever reads it without waiting for that
 * reads what was there before. */
#include "nccl_private.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <poll.h>
#include <type_traits>

using namespace nccl_on_cpu;

namespace nccl_on_cpu {

struct operation {
    const char *name;
    operation_kind kind;
    const void *from; /* NULL: it receives */
    void *to;         /* NULL: it sends */
    size_t bytes_from, bytes_to;
    ncclDataType_t type;
    ncclRedOp_t reduction;
    int peer;
    ncclComm_t comm;
    cudaStream_t stream;
    std::vector<char> given, taken;
    std::vector<std::vector<char>> parts; /* what each rank gives to a sum */
};

struct group {
    int depth;
    ncclResult_t error; /* the first of its calls */
    std::vector<operation> operations;
};

static thread_local group this_group;

bool in_group()
{
    return this_group.depth > 0;
}

static size_t size_of(ncclDataType_t type)
{
    static const size_t sizes[ncclNumTypes] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
    return type >= 0 && type < ncclNumTypes ? sizes[type] : 0;
}

/* ---- checks ---- */

static ncclResult_t check_memory(const operation &o, const void *p, size_t bytes)
{
    if (bytes > 0 && cuda()->device_of_memory(p, bytes) != o.comm->device)
        return fail(ncclInvalidArgument, "%s: %zu bytes at %p are not of one allocation of device %d", o.name, bytes, p, o.comm->device);
    return ncclSuccess;
}

static bool can_add(ncclDataType_t type)
{
    return type == ncclInt8 || type == ncclUint8 || type == ncclInt32 || type == ncclFloat32 || type == ncclFloat64 || type == ncclBfloat16;
}

static ncclResult_t check(const operation &o, size_t count)
{
    NCCL_TRY(check_usable(o.comm, o.name));
    if (size_of(o.type) == 0)
        return fail(ncclInvalidArgument, "%s: there is no type %d", o.name, o.type);
    if (o.kind != EXCHANGE && (o.reduction != ncclSum || !can_add(o.type)))
        return fail(ncclInvalidArgument, "%s: reduction %d of type %d is not emulated", o.name, o.reduction, o.type);
    if (count > PTRDIFF_MAX / size_of(o.type) / static_cast<size_t>(o.comm->ranks))
        return fail(ncclInvalidArgument, "%s: a count of %zu", o.name, count);
    if (o.peer < 0 || o.peer >= o.comm->ranks)
        return fail(ncclInvalidArgument, "%s: there is no rank %d of %d", o.name, o.peer, o.comm->ranks);
    if (cuda()->device_of_stream(o.stream) != o.comm->device)
        return fail(ncclInvalidArgument, "%s: the stream is none of device %d", o.name, o.comm->device);
    NCCL_TRY(check_memory(o, o.from, o.bytes_from));
    return check_memory(o, o.to, o.bytes_to);
}

/* ---- sums ---- */

template <typename T> static T add(T a, T b)
{
    if constexpr (std::is_integral_v<T>)
        return static_cast<T>(static_cast<unsigned>(a) + static_cast<unsigned>(b));
    else
        return static_cast<T>(a + b);
}

/* Not in the order of ranks: they start in the middle, so that whoever wants their order's sum finds a difference from three ranks on. */
template <typename T> static void add_parts(operation *o)
{
    size_t ranks = o->parts.size(), first = ranks / 2;
    T *to = reinterpret_cast<T *>(o->taken.data());
    for (size_t i = 0; i < o->taken.size() / sizeof(T); i++) {
        to[i] = reinterpret_cast<const T *>(o->parts[first].data())[i];
        for (size_t k = 1; k < ranks; k++)
            to[i] = add(to[i], reinterpret_cast<const T *>(o->parts[(first + k) % ranks].data())[i]);
    }
}

static void sum(operation *o)
{
    switch (o->type) {
    case ncclInt8: add_parts<int8_t>(o); break;
    case ncclUint8: add_parts<uint8_t>(o); break;
    case ncclInt32: add_parts<int32_t>(o); break;
    case ncclFloat64: add_parts<double>(o); break;
    case ncclBfloat16: add_parts<__nv_bfloat16>(o); break;
    default: add_parts<float>(o); break;
    }
}

/* ---- a group's end ---- */

static std::vector<ncclComm_t> communicators(const group &g)
{
    std::vector<ncclComm_t> all;
    for (const operation &o : g.operations)
        if (std::find(all.begin(), all.end(), o.comm) == all.end())
            all.push_back(o.comm);
    return all;
}

static ncclResult_t enqueue(const operation &o, std::function<void()> work, bool immediately)
{
    if (cudaError_t error = cuda()->enqueue(o.stream, std::move(work), immediately))
        return fail(ncclUnhandledCudaError, "%s: CUDA fails: %s", o.name, cuda()->error_name(error));
    return ncclSuccess;
}

/* After the work that its stream has. */
static ncclResult_t take(operation *o)
{
    o->given.resize(o->bytes_from);
    o->taken.resize(o->bytes_to);
    return enqueue(*o, [=] {
        if (o->bytes_from > 0)
            memcpy(o->given.data(), o->from, o->bytes_from);
    }, true);
}

static ncclResult_t deliver(operation *o)
{
    if (o->bytes_to == 0)
        return ncclSuccess;
    if (o->kind != EXCHANGE)
        sum(o);
    auto taken = std::make_shared<std::vector<char>>(std::move(o->taken));
    return enqueue(*o, [taken, to = o->to] { memcpy(to, taken->data(), taken->size()); }, false);
}

/* Every rank adds by itself. */
static void post_sum(operation *o)
{
    size_t ranks = static_cast<size_t>(o->comm->ranks), self = static_cast<size_t>(o->comm->rank);
    size_t bytes = o->bytes_to, step = o->kind == REDUCE_SCATTER ? bytes : 0;
    o->parts.resize(ranks);
    for (size_t peer = 0; peer < ranks; peer++) {
        const char *from = o->given.data() + peer * step;
        o->parts[peer].resize(bytes);
        if (peer == self) {
            o->parts[peer].assign(from, from + bytes);
            continue;
        }
        o->comm->links[peer].post_send({OF_ALL, o->kind, o->type, bytes, from, nullptr});
        o->comm->links[peer].post_receive({OF_ALL, o->kind, o->type, bytes, nullptr, o->parts[peer].data()});
    }
}

/* Messages of a rank to itself, which have to be of one group. */
static ncclResult_t copy_own(group *g, ncclComm_t comm)
{
    std::vector<operation *> sends, receives;
    for (operation &o : g->operations)
        if (o.comm == comm && o.kind == EXCHANGE && o.peer == comm->rank)
            (o.from ? sends : receives).push_back(&o);
    if (sends.size() != receives.size())
        return fail(ncclInvalidUsage, "rank %d sends %zu messages to itself and receives %zu", comm->rank, sends.size(), receives.size());
    for (size_t i = 0; i < sends.size(); i++) {
        if (sends[i]->bytes_from != receives[i]->bytes_to || sends[i]->type != receives[i]->type)
            return fail(ncclInvalidUsage, "rank %d sends itself %zu bytes of type %d and receives %zu of type %d", comm->rank,
                        sends[i]->bytes_from, sends[i]->type, receives[i]->bytes_to, receives[i]->type);
        receives[i]->taken = sends[i]->given;
    }
    return ncclSuccess;
}

static void post(operation *o)
{
    if (o->kind != EXCHANGE)
        return post_sum(o);
    if (o->peer == o->comm->rank)
        return;
    peer_link &link = o->comm->links[static_cast<size_t>(o->peer)];
    if (o->from)
        link.post_send({BETWEEN_TWO, EXCHANGE, o->type, o->bytes_from, o->given.data(), nullptr});
    else
        link.post_receive({BETWEEN_TWO, EXCHANGE, o->type, o->bytes_to, nullptr, o->taken.data()});
}

/* Until all that was posted on all of them is done. */
static ncclResult_t exchange(const std::vector<ncclComm_t> &all)
{
    for (;;) {
        std::vector<pollfd> waiting;
        for (ncclComm_t comm : all)
            for (peer_link &link : comm->links) {
                if (!link.done())
                    NCCL_TRY(link.advance());
                if (!link.done())
                    waiting.push_back({link.file(), link.events(), 0});
            }
        if (waiting.empty())
            return ncclSuccess;
        working.unlock();
        int found = poll(waiting.data(), waiting.size(), 1); /* the other thread may take what this one waits for */
        working.lock();
        if (found < 0 && errno != EINTR)
            return fail(ncclSystemError, "cannot wait: %s", strerror(errno));
    }
}

/* Messages to one other rank, of a communicator that does not block. */
static bool only_sends(const group *g)
{
    for (const operation &o : g->operations)
        if (o.comm->blocks || o.kind != EXCHANGE || !o.from || o.peer == o.comm->rank || o.comm != g->operations[0].comm)
            return false;
    return true;
}

void advance_sends(ncclComm_t comm)
{
    bool done = true;
    for (size_t i = 0; i < comm->links.size() && !comm->sending.empty(); i++) {
        ncclResult_t result = comm->links[i].done() ? ncclSuccess : comm->links[i].advance();
        if (result != ncclSuccess) {
            comm->sending.clear();
            break_down(comm, result);
            return;
        }
        done = done && comm->links[i].done();
    }
    if (done)
        comm->sending.clear();
}

ncclResult_t finish_sends(ncclComm_t comm)
{
    if (comm->sending.empty())
        return ncclSuccess;
    NCCL_TRY(exchange({comm}));
    comm->sending.clear();
    return ncclSuccess;
}

static ncclResult_t carry_out(group *g, const std::vector<ncclComm_t> &all)
{
    static unsigned long long groups, fails_at = environment("CUDA_ON_CPU_NCCL_FAILS_AT", 0);
    if (++groups == fails_at)
        return fail(ncclSystemError, "group %llu fails because CUDA_ON_CPU_NCCL_FAILS_AT says so", groups);
    for (operation &o : g->operations)
        NCCL_TRY(take(&o));
    if (only_sends(g)) {
        all[0]->sending.push_back(std::make_shared<group>(std::move(*g)));
        for (operation &o : all[0]->sending.back()->operations)
            post(&o);
        serve_sends();
        return ncclSuccess;
    }
    for (ncclComm_t comm : all)
        NCCL_TRY(copy_own(g, comm));
    for (operation &o : g->operations)
        post(&o);
    NCCL_TRY(exchange(all));
    for (operation &o : g->operations)
        NCCL_TRY(deliver(&o));
    return ncclSuccess;
}

static ncclResult_t end(group *g)
{
    if (g->error != ncclSuccess)
        return fail(g->error, "a call of the group failed, and nothing of it is done: %s", std::string(ncclGetLastError(nullptr)).c_str());
    std::vector<ncclComm_t> all = communicators(*g);
    for (ncclComm_t comm : all) {
        NCCL_TRY(check_usable(comm, "ncclGroupEnd"));
        if (comm->blocks != all[0]->blocks)
            return fail(ncclInvalidArgument, "a group has communicators that block and others that do not");
    }
    if (all.empty())
        return ncclSuccess;
    std::lock_guard<std::recursive_mutex> hold(working);
    ncclResult_t result = carry_out(g, all);
    if (result == ncclSuccess)
        return answer(all);
    for (ncclComm_t comm : all)
        break_down(comm, result);
    return result;
}

/* Outside of a group a call is one by itself. */
static ncclResult_t call(const operation &o, size_t count)
{
    group &g = this_group;
    ncclResult_t result = check(o, count);
    if (g.depth > 0) {
        if (result != ncclSuccess && g.error == ncclSuccess)
            g.error = result;
        if (result == ncclSuccess)
            g.operations.push_back(o);
        return result;
    }
    if (result != ncclSuccess)
        return result;
    group alone = {0, ncclSuccess, {o}};
    return end(&alone);
}

} // namespace nccl_on_cpu

ncclResult_t ncclGroupStart()
{
    if (!cuda())
        return ncclSystemError;
    this_group.depth++;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd()
{
    if (!cuda())
        return ncclSystemError;
    if (this_group.depth == 0)
        return fail(ncclInvalidUsage, "ncclGroupEnd without ncclGroupStart");
    if (--this_group.depth > 0)
        return this_group.error;
    group ended = std::move(this_group);
    this_group = {};
    return end(&ended);
}

ncclResult_t ncclSend(const void *from, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream)
{
    return call({"ncclSend", EXCHANGE, from, nullptr, count * size_of(type), 0, type, ncclSum, peer, comm, stream, {}, {}, {}}, count);
}

ncclResult_t ncclRecv(void *to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream)
{
    return call({"ncclRecv", EXCHANGE, nullptr, to, 0, count * size_of(type), type, ncclSum, peer, comm, stream, {}, {}, {}}, count);
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t reduction, ncclComm_t comm,
                           cudaStream_t stream)
{
    size_t bytes = count * size_of(type);
    return call({"ncclAllReduce", ALL_REDUCE, from, to, bytes, bytes, type, reduction, 0, comm, stream, {}, {}, {}}, count);
}

ncclResult_t ncclReduceScatter(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t reduction, ncclComm_t comm,
                               cudaStream_t stream)
{
    int ranks = 0;
    ncclCommCount(comm, &ranks); /* what is wrong with it is told by the call */
    size_t bytes = count * size_of(type);
    return call({"ncclReduceScatter", REDUCE_SCATTER, from, to, bytes * static_cast<size_t>(ranks), bytes, type, reduction, 0, comm, stream,
                 {}, {}, {}}, count);
}
