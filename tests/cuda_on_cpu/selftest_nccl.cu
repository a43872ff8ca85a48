/* The part of the self-test that is about NCCL. Each rank is a process. */
#include "selftest.h"

#include <nccl.h>

#include <csignal>
#include <cstring>
#include <string>
#include <sys/wait.h>
#include <unistd.h>

enum { SECONDS_MOST = 60 }; /* a rank that takes longer hangs */

/* Begins RUN(rank, id) in a process. */
template <typename F> static pid_t begin_rank(int rank, const ncclUniqueId &id, F run)
{
    pid_t child = fork();
    if (child != 0)
        return child;
    alarm(SECONDS_MOST);
    setenv("NCCL_HOSTID", std::to_string(rank).c_str(), 1);
    run(rank, id);
    exit(0);
}

/* Runs all RANKS, of which KILLED, if there is one, ends by SIGKILL. */
template <typename F> static void run_ranks(int ranks, F run, int killed = -1)
{
    ncclUniqueId id;
    std::vector<pid_t> children;
    ENSURE(ncclGetUniqueId(&id) == ncclSuccess);
    for (int rank = 0; rank < ranks; rank++)
        children.push_back(begin_rank(rank, id, run));
    int failed = 0;
    for (int rank = 0; rank < ranks; rank++) {
        int status = 0;
        ENSURE(waitpid(children[static_cast<size_t>(rank)], &status, 0) > 0);
        failed += rank == killed ? !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL : status != 0;
    }
    ENSURE(failed == 0);
}

static ncclComm_t join(int ranks, const ncclUniqueId &id, int rank)
{
    ncclComm_t comm;
    int count = 0, self = -1;
    ENSURE(ncclCommInitRankConfig(&comm, ranks, id, rank, nullptr) == ncclSuccess);
    ENSURE(ncclCommCount(comm, &count) == ncclSuccess && count == ranks);
    ENSURE(ncclCommUserRank(comm, &self) == ncclSuccess && self == rank);
    return comm;
}

static ncclResult_t state_of(ncclComm_t comm)
{
    ncclResult_t state;
    ENSURE(ncclCommGetAsyncError(comm, &state) == ncclSuccess);
    return state;
}

static void leave(ncclComm_t comm)
{
    ENSURE(state_of(comm) == ncclSuccess && ncclCommFinalize(comm) == ncclSuccess && ncclCommDestroy(comm) == ncclSuccess);
}

/* The communicator has failed with RESULT, and stays so until it is aborted. */
static void expect_broken(ncclComm_t comm, ncclResult_t result)
{
    device_array<char> a(4);
    ENSURE(state_of(comm) == result && state_of(comm) == result);
    ENSURE(ncclSend(a.at, 4, ncclChar, 0, comm, nullptr) == result && ncclCommDestroy(comm) == result);
    ENSURE(ncclCommAbort(comm) == ncclSuccess && ncclCommAbort(comm) == ncclInvalidArgument);
}

static ncclComm_t begin_joining(int ranks, const ncclUniqueId &id, int rank)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclComm_t comm;
    config.blocking = 0;
    ENSURE(ncclCommInitRankConfig(&comm, ranks, id, rank, &config) == ncclInProgress && comm);
    return comm;
}

static ncclResult_t wait_for(ncclComm_t comm)
{
    ncclResult_t state;
    while ((state = state_of(comm)) == ncclInProgress)
        usleep(100);
    return state;
}

/* ---- what goes well ---- */

enum { MANY = 300000 }; /* more than sockets hold */

static uint32_t value(int from, int to, int number, int i)
{
    return static_cast<uint32_t>(from * 1000 + to * 100 + number * 10 + i);
}

/* Of two messages from each rank to each, itself too, the first is long. In turns a rank receives first, or sends, from the first rank
 * on or from the last. */
static void exchange_in_groups(int rank, const ncclUniqueId &id)
{
    ncclComm_t comm = join(3, id, rank);
    device_array<uint32_t> from(6 * MANY), to(6 * MANY);
    for (int turn = 0; turn < 4; turn++) {
        for (int i = 0; i < 6 * MANY; i++)
            from.host[static_cast<size_t>(i)] = value(rank, i / (2 * MANY), i / MANY % 2, turn + i % MANY);
        from.put();
        ENSURE(ncclGroupStart() == ncclSuccess);
        for (int half = 0; half < 2; half++)
            for (int k = 0; k < 6; k++) {
                int at = (rank + turn / 2) % 2 ? k : k % 2 + 4 - k / 2 * 2;
                size_t count = at % 2 ? 3 : MANY;
                ENSURE(ncclGroupStart() == ncclSuccess);
                if ((half + rank + turn) % 2)
                    ENSURE(ncclSend(from.at + at * MANY, count, ncclUint32, at / 2, comm, nullptr) == ncclSuccess);
                else
                    ENSURE(ncclRecv(to.at + at * MANY, count, ncclUint32, at / 2, comm, nullptr) == ncclSuccess);
                ENSURE(ncclGroupEnd() == ncclSuccess);
            }
        ENSURE(ncclGroupEnd() == ncclSuccess);
        to.get();
        for (int at = 0; at < 6; at++)
            for (int i = 0; i < (at % 2 ? 3 : MANY); i++)
                ENSURE(to.host[static_cast<size_t>(at * MANY + i)] == value(at / 2, rank, at % 2, turn + i));
    }
    leave(comm);
}

/* A group is one operation, whatever the order of communicators in it. */
static void exchange_on_two(int rank, const ncclUniqueId &id)
{
    ncclComm_t first = join(2, id, rank);
    device_array<char> own(2 * sizeof id);
    ncclUniqueId other;
    if (rank == 0) {
        ENSURE(ncclGetUniqueId(&other) == ncclSuccess);
        memcpy(own.host.data(), &other, sizeof other);
        own.put();
        ENSURE(ncclSend(own.at, sizeof other, ncclChar, 1, first, nullptr) == ncclSuccess);
    } else {
        ENSURE(ncclRecv(own.at, sizeof other, ncclChar, 0, first, nullptr) == ncclSuccess);
        own.get();
        memcpy(&other, own.host.data(), sizeof other);
    }
    ncclComm_t both[2] = {first, join(2, other, rank)};
    device_array<int> from(MANY), to(2 * MANY);
    for (int &x : from.host)
        x = rank;
    from.put();
    ncclGroupStart();
    for (int k = 0; k < 2; k++) {
        int at = (k + rank) % 2;
        ENSURE(ncclSend(from.at, MANY, ncclInt, 1 - rank, both[at], nullptr) == ncclSuccess);
        ENSURE(ncclRecv(to.at + at * MANY, MANY, ncclInt, 1 - rank, both[at], nullptr) == ncclSuccess);
    }
    ENSURE(ncclGroupEnd() == ncclSuccess);
    to.get();
    for (int x : to.host)
        ENSURE(x == 1 - rank);
    leave(both[1]);
    leave(both[0]);
}

void ranks_exchange()
{
    run_ranks(3, exchange_in_groups);
    run_ranks(2, exchange_on_two);
}

static __global__ void increase(int *p)
{
    p[threadIdx.x]++;
}

/* A number goes around, each rank adding one before it sends and one behind what it receives. No one waits between. */
static void pass_around(int rank, const ncclUniqueId &id)
{
    ncclComm_t comm = join(3, id, rank);
    cudaStream_t stream, other;
    int *pinned, early = 0;
    device_array<int> from(32), to(32);
    ENSURE(cudaStreamCreate(&stream) == cudaSuccess && cudaStreamCreate(&other) == cudaSuccess);
    ENSURE(cudaMallocHost(&pinned, 128) == cudaSuccess);
    cudaMemset(from.at, 0, 128);
    for (int i = 0; i < 60; i++) {
        start(increase, 1, 32, 0, stream, from.at);
        ncclGroupStart();
        ENSURE(ncclRecv(to.at, 32, ncclInt, (rank + 2) % 3, comm, stream) == ncclSuccess);
        ENSURE(ncclSend(from.at, 32, ncclInt, (rank + 1) % 3, comm, stream) == ncclSuccess);
        ENSURE(ncclGroupEnd() == ncclSuccess);
        ENSURE(cudaMemcpyAsync(pinned, to.at, 128, cudaMemcpyDeviceToHost, other) == cudaSuccess);
        ENSURE(cudaStreamSynchronize(other) == cudaSuccess);
        early += *pinned != 2 * i + 1;
        start(increase, 1, 32, 0, stream, to.at);
        cudaMemcpyAsync(from.at, to.at, 128, cudaMemcpyDeviceToDevice, stream);
    }
    ENSURE(early > 20); /* another stream reads what was there before */
    ENSURE(cudaStreamSynchronize(stream) == cudaSuccess);
    to.get();
    ENSURE(to.host[0] == 120 && to.host[31] == 120);
    leave(comm);
}

void ranks_keep_the_order_of_streams()
{
    run_ranks(3, pass_around);
}

template <typename T> static void expect_sum(ncclComm_t comm, ncclDataType_t type, int rank)
{
    device_array<T> from(3), to(1);
    for (int i = 0; i < 3; i++)
        from.host[static_cast<size_t>(i)] = static_cast<T>(rank + 10 * i);
    from.put();
    ENSURE(ncclReduceScatter(from.at, to.at, 1, type, ncclSum, comm, nullptr) == ncclSuccess);
    ENSURE(ncclAllReduce(from.at, from.at, 3, type, ncclSum, comm, nullptr) == ncclSuccess);
    from.get();
    to.get();
    for (int i = 0; i < 3; i++)
        ENSURE(from.host[static_cast<size_t>(i)] == static_cast<T>(3 + 30 * i));
    ENSURE(to.host[0] == static_cast<T>(3 + 30 * rank));
}

static void add_all(int rank, const ncclUniqueId &id)
{
    ncclComm_t comm = join(3, id, rank);
    expect_sum<float>(comm, ncclFloat, rank);
    expect_sum<double>(comm, ncclDouble, rank);
    expect_sum<__nv_bfloat16>(comm, ncclBfloat16, rank);
    expect_sum<int>(comm, ncclInt, rank);
    expect_sum<signed char>(comm, ncclInt8, rank);
    expect_sum<unsigned char>(comm, ncclUint8, rank);
    static const float parts[3] = {1, 1e8f, -1e8f}; /* rank 0 first: 0 */
    device_array<float> from(3), to(3);
    for (float &x : from.host)
        x = parts[rank];
    from.put();
    ncclGroupStart(); /* messages are none of the sums' business */
    if (rank == 0)
        ENSURE(ncclSend(from.at, 1, ncclFloat, 1, comm, nullptr) == ncclSuccess);
    ENSURE(ncclAllReduce(from.at, to.at, 2, ncclFloat, ncclSum, comm, nullptr) == ncclSuccess);
    if (rank == 1)
        ENSURE(ncclRecv(to.at + 2, 1, ncclFloat, 0, comm, nullptr) == ncclSuccess);
    ENSURE(ncclGroupEnd() == ncclSuccess);
    to.get();
    ENSURE(to.host[0] == 1 && to.host[1] == 1 && (rank != 1 || to.host[2] == 1));
    ENSURE(ncclReduceScatter(from.at, to.at, 1, ncclFloat, ncclSum, comm, nullptr) == ncclSuccess);
    to.get();
    ENSURE(to.host[0] == 1);
    ENSURE(ncclAllReduce(from.at, to.at, 1, ncclHalf, ncclSum, comm, nullptr) == ncclInvalidArgument);
    ENSURE(ncclAllReduce(from.at, to.at, 1, ncclFloat, ncclMax, comm, nullptr) == ncclInvalidArgument);
    leave(comm);
}

void ranks_add()
{
    run_ranks(3, add_all);
}

/* ---- what does not ---- */

/* Ranks 0 and 1 do not agree, and rank 2 waits for rank 1, which has failed and does not abort before rank 2 knows. TYPE: of rank 1, which
 * wants COUNT of it. */
static void expect_mismatch(size_t count, ncclDataType_t type)
{
    int known[2];
    ENSURE(pipe(known) == 0);
    run_ranks(3, [=](int rank, const ncclUniqueId &id) {
        ncclComm_t comm = join(3, id, rank);
        device_array<char> a(64);
        if (rank == 0) {
            ENSURE(ncclSend(a.at, 3, ncclFloat, 1, comm, nullptr) == ncclInvalidUsage);
            ENSURE(strstr(ncclGetLastError(comm), "sends 12 bytes"));
        } else if (rank == 1) {
            char byte;
            ENSURE(ncclRecv(a.at, count, type, 0, comm, nullptr) == ncclInvalidUsage && strstr(ncclGetLastError(comm), "rank 0 sends 12 "));
            ENSURE(read(known[0], &byte, 1) == 1);
        } else {
            ENSURE(ncclRecv(a.at, 12, ncclChar, 1, comm, nullptr) == ncclRemoteError);
            ENSURE(write(known[1], "", 1) == 1);
        }
        expect_broken(comm, rank == 2 ? ncclRemoteError : ncclInvalidUsage);
    });
}

void sizes_have_to_match()
{
    if (!freopen("/dev/null", "w", stderr)) /* both are loud */
        exit(1);
    expect_mismatch(4, ncclFloat);
    expect_mismatch(2, ncclFloat);
    expect_mismatch(3, ncclInt);
    run_ranks(2, [](int rank, const ncclUniqueId &id) {
        ncclComm_t comm = join(2, id, rank);
        device_array<float> a(8);
        ENSURE(ncclAllReduce(a.at, a.at, rank == 0 ? 8 : 7, ncclFloat, ncclSum, comm, nullptr) == ncclInvalidUsage);
        expect_broken(comm, ncclInvalidUsage);
    });
}

void gpus_are_of_one_rank()
{
    auto share = [](int rank, const ncclUniqueId &id) {
        ncclComm_t comm;
        if (rank == 2)
            setenv("CUDA_VISIBLE_DEVICES", "1", 1);
        ENSURE(ncclCommInitRankConfig(&comm, 3, id, rank, nullptr) == ncclInvalidUsage && !comm);
        ENSURE(strstr(ncclGetLastError(nullptr), "Duplicate GPU detected: rank 0 and rank 1"));
    };
    setenv("CUDA_ON_CPU_DEVICES", "3", 1);
    for (int i = 0; i < 20; i++) /* in whatever order they come, each finds it by itself */
        run_ranks(3, [=](int rank, const ncclUniqueId &id) {
            unsetenv("NCCL_HOSTID");
            share(rank, id);
        });
    run_ranks(3, [=](int rank, const ncclUniqueId &id) {
        setenv("NCCL_HOSTID", "one", 1);
        share(rank, id);
    });
    run_ranks(3, [](int rank, const ncclUniqueId &id) {
        unsetenv("NCCL_HOSTID");
        setenv("CUDA_VISIBLE_DEVICES", std::to_string(rank).c_str(), 1);
        leave(join(3, id, rank));
    });
    run_ranks(3, [](int rank, const ncclUniqueId &id) {
        if (rank == 0)
            unsetenv("NCCL_HOSTID");
        ncclComm_t comm = begin_joining(3, id, rank);
        ENSURE(wait_for(comm) == ncclSuccess && ncclCommAbort(comm) == ncclSuccess);
    });
}

/* The first two exchange as well, so that one may have what it wants before it waits. */
void killed_rank_is_noticed()
{
    auto run = [](int rank, const ncclUniqueId &id) {
        ncclComm_t comm = join(3, id, rank);
        device_array<char> from(1 << 20), to(1 << 21);
        if (rank == 2)
            raise(SIGKILL);
        ncclGroupStart();
        ENSURE(ncclSend(from.at, 1 << 20, ncclChar, 1 - rank, comm, nullptr) == ncclSuccess);
        ENSURE(ncclRecv(to.at, 1 << 20, ncclChar, 1 - rank, comm, nullptr) == ncclSuccess);
        if (rank == 0)
            ENSURE(ncclSend(from.at, 1 << 20, ncclChar, 2, comm, nullptr) == ncclSuccess);
        else
            ENSURE(ncclRecv(to.at + (1 << 20), 1 << 20, ncclChar, 2, comm, nullptr) == ncclSuccess);
        ENSURE(ncclGroupEnd() == ncclRemoteError && strstr(ncclGetLastError(comm), "gone"));
        expect_broken(comm, ncclRemoteError);
    };
    run_ranks(3, run, 2);
}

void ranks_wait_until_all_have_come()
{
    run_ranks(1, [](int rank, const ncclUniqueId &id) {
        ncclComm_t comm = begin_joining(2, id, rank), again;
        device_array<char> a(4);
        int count;
        for (int i = 0; i < 100; i++)
            ENSURE(state_of(comm) == ncclInProgress);
        ENSURE(ncclCommCount(comm, &count) == ncclInvalidUsage && ncclSend(a.at, 4, ncclChar, 1, comm, nullptr) == ncclInvalidUsage);
        ENSURE(ncclCommFinalize(comm) == ncclInvalidUsage && ncclCommDestroy(comm) == ncclInvalidUsage);
        ENSURE(ncclCommInitRankConfig(&again, 2, id, rank, nullptr) == ncclInvalidUsage);
        ENSURE(ncclCommAbort(comm) == ncclSuccess && ncclCommAbort(comm) == ncclInvalidArgument);
    });
    run_ranks(2, [](int rank, const ncclUniqueId &id) { /* the third never comes, and one of those that have gives up */
        ncclComm_t comm = begin_joining(3, id, rank);
        for (int i = 0; rank == 1 && i < 300; i++) {
            ENSURE(state_of(comm) == ncclInProgress);
            usleep(100);
        }
        if (rank == 0)
            ENSURE(wait_for(comm) == ncclRemoteError);
        ENSURE(ncclCommAbort(comm) == ncclSuccess);
    });
    run_ranks(2, [](int rank, const ncclUniqueId &id) { /* they do not agree how many they are */
        ncclComm_t comm = begin_joining(2 + rank, id, rank);
        ENSURE(wait_for(comm) == ncclInvalidUsage && ncclCommAbort(comm) == ncclSuccess);
    });
}

void answers_are_in_progress()
{
    run_ranks(2, [](int rank, const ncclUniqueId &id) {
        ncclComm_t comm = begin_joining(2, id, rank);
        device_array<int> a(1), b(1);
        int in_progress = 0, more[4] = {};
        ENSURE(wait_for(comm) == ncclSuccess);
        for (int i = 0; i < 200; i++) {
            ncclGroupStart();
            ENSURE(ncclSend(a.at, 1, ncclInt, 1 - rank, comm, nullptr) == ncclSuccess);
            ENSURE(ncclRecv(b.at, 1, ncclInt, 1 - rank, comm, nullptr) == ncclSuccess);
            ncclResult_t result = ncclGroupEnd();
            ENSURE(result == ncclSuccess || result == ncclInProgress);
            int answers = 0;
            if (result == ncclInProgress) {
                ENSURE(ncclSend(a.at, 1, ncclInt, 1 - rank, comm, nullptr) == ncclInvalidUsage);
                while (state_of(comm) == ncclInProgress) {
                    ENSURE(ncclCommFinalize(comm) == ncclInvalidUsage && ++answers < 4);
                }
            }
            in_progress += result == ncclInProgress;
            more[answers]++;
        }
        ENSURE(in_progress > 25 && in_progress < 80 && more[0] == 200 - in_progress && more[1] > 5 && more[2] > 5 && more[3] == 0);
        ncclResult_t result = ncclCommFinalize(comm);
        ENSURE((result == ncclSuccess || result == ncclInProgress) && wait_for(comm) == ncclSuccess);
        ENSURE(ncclSend(a.at, 1, ncclInt, 1 - rank, comm, nullptr) == ncclInvalidUsage && ncclCommDestroy(comm) == ncclSuccess);
    });
}

static void expect_checks(int rank, const ncclUniqueId &id)
{
    ncclComm_t comm = join(1, id, rank);
    cudaStream_t stream;
    device_array<int> a(8), b(8);
    int host[8];
    auto refused = [&](const void *p, size_t count, int type, int peer, ncclComm_t with, cudaStream_t on) {
        return ncclSend(p, count, static_cast<ncclDataType_t>(type), peer, with, on) == ncclInvalidArgument && *ncclGetLastError(with);
    };
    ENSURE(cudaSetDevice(1) == cudaSuccess && cudaStreamCreate(&stream) == cudaSuccess);
    device_array<int> elsewhere(8);
    ENSURE(refused(a.at, 8, ncclInt, 0, comm, nullptr) && cudaSetDevice(0) == cudaSuccess);
    ENSURE(refused(host, 8, ncclInt, 0, comm, nullptr) && refused(elsewhere.at, 8, ncclInt, 0, comm, nullptr));
    ENSURE(refused(a.at, 9, ncclInt, 0, comm, nullptr) && refused(a.at + 1, 8, ncclInt, 0, comm, nullptr));
    ENSURE(refused(a.at, 8, ncclInt, 1, comm, nullptr) && refused(a.at, 8, ncclInt, -1, comm, nullptr));
    ENSURE(refused(a.at, SIZE_MAX / 4 + 2, ncclInt, 0, comm, nullptr) && refused(a.at, 8, ncclNumTypes, 0, comm, nullptr));
    ENSURE(refused(a.at, 8, ncclInt, 0, comm, stream) && refused(a.at, 8, ncclInt, 0, nullptr, nullptr));
    ENSURE(ncclGroupEnd() == ncclInvalidUsage);
    ncclGroupStart();
    ENSURE(ncclRecv(b.at, 8, ncclInt, 0, comm, nullptr) == ncclSuccess && refused(a.at, 9, ncclInt, 0, comm, nullptr));
    ENSURE(ncclSend(a.at, 8, ncclInt, 0, comm, nullptr) == ncclSuccess && ncclGroupEnd() == ncclInvalidArgument);
    ENSURE(state_of(comm) == ncclSuccess);
    a.host = {1, 2, 3, 4, 5, 6, 7, 8};
    a.put();
    ncclGroupStart();
    ENSURE(ncclGroupEnd() == ncclSuccess);
    ENSURE(ncclAllReduce(a.at, b.at, 8, ncclInt, ncclSum, comm, nullptr) == ncclSuccess);
    b.get();
    ENSURE(b.host == a.host && ncclSend(a.at, 8, ncclInt, 0, comm, nullptr) == ncclInvalidUsage); /* to itself, who does not receive */
    expect_broken(comm, ncclInvalidUsage);
}

static void expect_no_capture(int rank, const ncclUniqueId &id)
{
    ncclComm_t comm = join(1, id, rank);
    cudaStream_t stream;
    cudaGraph_t graph;
    device_array<int> a(8);
    ENSURE(cudaStreamCreate(&stream) == cudaSuccess);
    ENSURE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed) == cudaSuccess);
    ENSURE(ncclAllReduce(a.at, a.at, 8, ncclInt, ncclSum, comm, stream) == ncclUnhandledCudaError);
    ENSURE(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated);
    expect_broken(comm, ncclUnhandledCudaError);
}

static void expect_checks_of_beginning(int rank, const ncclUniqueId &id)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER, zero = {};
    ncclUniqueId none = {};
    ncclComm_t comm;
    ENSURE(ncclCommInitRankConfig(&comm, 1, none, rank, nullptr) == ncclInvalidArgument);
    ENSURE(ncclCommInitRankConfig(&comm, 1, id, 1, nullptr) == ncclInvalidArgument);
    ENSURE(ncclCommInitRankConfig(&comm, 0, id, 0, nullptr) == ncclInvalidArgument);
    ENSURE(ncclCommInitRankConfig(&comm, 1, id, 0, &zero) == ncclInvalidArgument && !comm);
    config.blocking = 1;
    ENSURE(ncclCommInitRankConfig(&comm, 1, id, 0, &config) == ncclSuccess);
    leave(comm);
}

void nccl_wants_what_is_right()
{
    setenv("CUDA_ON_CPU_DEVICES", "2", 1);
    run_ranks(1, expect_checks);
    run_ranks(1, expect_no_capture);
    run_ranks(1, expect_checks_of_beginning);
}

void nccl_fails_when_told()
{
    run_ranks(2, [](int rank, const ncclUniqueId &id) {
        if (rank == 0)
            setenv("CUDA_ON_CPU_NCCL_FAILS_AT", "3", 1);
        ncclComm_t comm = join(2, id, rank);
        device_array<float> a(4);
        ENSURE(cudaMemset(a.at, 0, 16) == cudaSuccess);
        for (int i = 0; i < 3; i++) {
            ncclResult_t expected = i < 2 ? ncclSuccess : rank == 0 ? ncclSystemError : ncclRemoteError;
            ENSURE(ncclAllReduce(a.at, a.at, 4, ncclFloat, ncclSum, comm, nullptr) == expected);
        }
        expect_broken(comm, rank == 0 ? ncclSystemError : ncclRemoteError);
    });
    run_ranks(1, [](int rank, const ncclUniqueId &id) {
        setenv("CUDA_ON_CPU_NO_NCCL", "1", 1);
        int version;
        ncclComm_t comm;
        ncclUniqueId other;
        ENSURE(ncclGetVersion(&version) == ncclSystemError && ncclGetUniqueId(&other) == ncclSystemError);
        ENSURE(ncclGroupStart() == ncclSystemError && ncclCommInitRankConfig(&comm, 1, id, rank, nullptr) == ncclSystemError);
        unsetenv("CUDA_ON_CPU_NO_NCCL");
        ENSURE(ncclGetVersion(&version) == ncclSuccess && version == NCCL_VERSION_CODE && version >= 22800);
    });
}
