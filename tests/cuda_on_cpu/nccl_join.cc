#include "nccl_private.h"

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

namespace nccl_on_cpu {

enum : uint32_t { HELLO = 0x68656c6c };
enum { ID_BYTES = 16 }; /* of the unique id go into names; sockets of Linux' abstract names leave nothing behind */

static socklen_t name_of(const ncclUniqueId &id, int rank, sockaddr_un *name)
{
    *name = {};
    name->sun_family = AF_UNIX;
    char *text = name->sun_path + 1; /* behind a zero: abstract */
    size_t left = sizeof name->sun_path - 1;
    int at = snprintf(text, left, "cuda_on_cpu-nccl-");
    for (int i = 0; i < ID_BYTES; i++)
        at += snprintf(text + at, left - static_cast<size_t>(at), "%02x", static_cast<unsigned char>(id.internal[i]));
    at += snprintf(text + at, left - static_cast<size_t>(at), "-%d", rank);
    return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + static_cast<size_t>(at));
}

static int new_socket()
{
    return socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

gathering::gathering(const ncclUniqueId &id, int rank, int ranks)
    : id(id), self{HELLO, ranks, rank, {}, {}}, listener(-1), connected(static_cast<size_t>(ranks)), told(false)
{
}

gathering::~gathering()
{
    for (const comer &c : comers)
        if (c.socket >= 0)
            close(c.socket);
    if (listener >= 0)
        close(listener);
}

ncclResult_t gathering::begin(int device)
{
    if (cudaError_t error = cuda()->bus_id(self.bus, sizeof self.bus, device))
        return fail(ncclUnhandledCudaError, "CUDA fails: %s", cuda()->error_name(error));
    const char *host = getenv("NCCL_HOSTID");
    if (host && strlen(host) >= sizeof self.host)
        return fail(ncclInvalidArgument, "NCCL_HOSTID has more than %zu characters", sizeof self.host - 1);
    snprintf(self.host, sizeof self.host, "%s", host ? host : "");
    sockaddr_un name;
    socklen_t bytes = name_of(id, self.rank, &name);
    if ((listener = new_socket()) < 0)
        return fail(ncclSystemError, "no socket: %s", strerror(errno));
    if (bind(listener, reinterpret_cast<sockaddr *>(&name), bytes) != 0)
        return errno == EADDRINUSE ? fail(ncclInvalidUsage, "rank %d of this unique id is there already", self.rank)
                                   : fail(ncclSystemError, "no name for a socket: %s", strerror(errno));
    if (listen(listener, self.ranks) != 0)
        return fail(ncclSystemError, "cannot listen: %s", strerror(errno));
    return ncclSuccess;
}

/* Says who this is. */
ncclResult_t gathering::meet(int socket)
{
    comers.push_back({socket, false, false, 0, {}, 0});
    if (send(socket, &self, sizeof self, MSG_NOSIGNAL) != sizeof self)
        return fail(ncclRemoteError, "rank %d of %d: a rank is gone before all have come", self.rank, self.ranks);
    return ncclSuccess;
}

/* Nothing is wrong if it is not there yet. */
ncclResult_t gathering::connect_to(int rank)
{
    sockaddr_un name;
    socklen_t bytes = name_of(id, rank, &name);
    int socket = new_socket();
    if (socket < 0)
        return fail(ncclSystemError, "no socket: %s", strerror(errno));
    if (connect(socket, reinterpret_cast<sockaddr *>(&name), bytes) == 0) {
        connected[static_cast<size_t>(rank)] = true;
        return meet(socket);
    }
    int error = errno;
    close(socket);
    if (error == ECONNREFUSED || error == EAGAIN || error == EINTR)
        return ncclSuccess;
    return fail(ncclSystemError, "rank %d cannot connect to rank %d: %s", self.rank, rank, strerror(error));
}

ncclResult_t gathering::accept_others()
{
    int socket;
    while ((socket = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
        NCCL_TRY(meet(socket));
    return errno == EAGAIN || errno == EINTR || errno == ECONNABORTED ? ncclSuccess
                                                                       : fail(ncclSystemError, "cannot accept: %s", strerror(errno));
}

ncclResult_t gathering::check_hello(const hello &said)
{
    if (said.magic != HELLO || said.ranks != self.ranks || said.rank < 0 || said.rank >= self.ranks)
        return fail(ncclInvalidUsage, "rank %d of %d meets rank %d of %d", self.rank, self.ranks, said.rank, said.ranks);
    for (const comer &c : comers)
        if (said.rank == self.rank || (c.known && c.said.rank == said.rank))
            return fail(ncclInvalidUsage, "two ranks are rank %d", said.rank);
    return ncclSuccess;
}

/* Reads who it is, then whether it agrees, and nothing beyond. */
ncclResult_t gathering::listen_to(comer *c)
{
    while (!c->answered) {
        char *to = c->known ? reinterpret_cast<char *>(&c->verdict) : reinterpret_cast<char *>(&c->said);
        size_t all = c->known ? sizeof c->verdict : sizeof c->said;
        ssize_t bytes = recv(c->socket, to + c->read, all - c->read, MSG_DONTWAIT);
        if (bytes < 0 && errno == EINTR)
            continue;
        if (bytes < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return ncclSuccess;
        if (bytes <= 0)
            return fail(ncclRemoteError, "rank %d of %d: a rank is gone before all have come", self.rank, self.ranks);
        if ((c->read += static_cast<size_t>(bytes)) < all)
            continue;
        c->read = 0;
        if (!c->known)
            NCCL_TRY(check_hello(c->said));
        (c->known ? c->answered : c->known) = true;
    }
    return ncclSuccess;
}

/* All ranks are known. Two on one GPU of one host are refused, as NVIDIA's library does. */
ncclResult_t gathering::compare()
{
    std::vector<const hello *> by_rank(static_cast<size_t>(self.ranks));
    by_rank[static_cast<size_t>(self.rank)] = &self;
    for (const comer &c : comers)
        by_rank[static_cast<size_t>(c.said.rank)] = &c.said;
    for (int i = 0; i < self.ranks; i++)
        for (int k = 0; k < i; k++) {
            const hello *first = by_rank[static_cast<size_t>(k)], *second = by_rank[static_cast<size_t>(i)];
            if (strcmp(first->bus, second->bus) == 0 && strcmp(first->host, second->host) == 0)
                return fail(ncclInvalidUsage, "Duplicate GPU detected: rank %d and rank %d both on CUDA device %s", k, i, first->bus);
        }
    return ncclSuccess;
}

ncclResult_t gathering::tell_verdict()
{
    ncclResult_t result = compare();
    int32_t verdict = result;
    told = true;
    for (const comer &c : comers)
        if (send(c.socket, &verdict, sizeof verdict, MSG_NOSIGNAL) != sizeof verdict && result == ncclSuccess)
            result = fail(ncclRemoteError, "rank %d finds rank %d gone before all have come", self.rank, c.said.rank);
    return result;
}

/* What another refuses is no reason to leave before all are known: those that do not know yet what is wrong would find this rank gone. */
ncclResult_t gathering::advance()
{
    for (int rank = 0; rank < self.rank; rank++)
        if (!connected[static_cast<size_t>(rank)])
            NCCL_TRY(connect_to(rank));
    NCCL_TRY(accept_others());
    size_t known = 0, answered = 0, others = static_cast<size_t>(self.ranks) - 1;
    for (comer &c : comers) {
        NCCL_TRY(listen_to(&c));
        known += c.known;
        answered += c.answered;
    }
    if (!told && known == others)
        NCCL_TRY(tell_verdict());
    for (const comer &c : comers)
        if (told && c.answered && c.verdict != ncclSuccess)
            return fail(static_cast<ncclResult_t>(c.verdict), "rank %d refuses the communicator", c.said.rank);
    return answered == others ? ncclSuccess : ncclInProgress;
}

int gathering::take_socket(int rank)
{
    for (comer &c : comers)
        if (c.said.rank == rank && c.socket >= 0) {
            int socket = c.socket;
            c.socket = -1;
            return socket;
        }
    return -1;
}

} // namespace nccl_on_cpu
