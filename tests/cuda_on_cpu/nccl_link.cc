#include "nccl_private.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

namespace nccl_on_cpu {

static const char *const operation_names[] = {"ncclSend and ncclRecv", "ncclAllReduce", "ncclReduceScatter"};
static const char *const class_names[] = {"message", "part of a collective"};

bool peer_link::done() const
{
    if (!out.empty() || refused != ncclSuccess)
        return false;
    for (int of = 0; of < CLASSES; of++)
        if (!sends[of].empty() || !receives[of].empty())
            return false;
    return true;
}

short peer_link::events() const
{
    return static_cast<short>(out.empty() ? POLLIN : POLLIN | POLLOUT);
}

void peer_link::say(frame_kind says, const message &m, uint64_t sequence, const char *data)
{
    out.push_back({{says, m.of, m.operation, m.type, sequence, m.bytes}, data, data ? m.bytes : 0, 0});
}

void peer_link::post_send(const message &m)
{
    sends[m.of].push_back(m);
    match(m.of);
}

void peer_link::post_receive(const message &m)
{
    receives[m.of].push_back(m);
    say(WANT, m, wanted[m.of]++, nullptr);
}

/* Both ranks say so; NVIDIA's would wait for ever, or write beyond what is there. */
ncclResult_t peer_link::refuse(const message &ours, const frame &theirs, bool sending)
{
    ncclResult_t result = fail(ncclInvalidUsage, "rank %d %s %zu bytes (%s, type %u) where rank %d %s %zu (%s, type %u), %s %zu", rank,
                               sending ? "sends" : "receives", ours.bytes, operation_names[ours.operation], ours.type, peer,
                               sending ? "receives" : "sends", static_cast<size_t>(theirs.bytes), operation_names[theirs.operation % 3],
                               theirs.type, class_names[ours.of], static_cast<size_t>(theirs.sequence));
    fprintf(stderr, "cuda_on_cpu: %s\n", ncclGetLastError(nullptr));
    return result;
}

/* Sends what is both posted and wanted. */
void peer_link::match(size_t of)
{
    while (refused == ncclSuccess && !sends[of].empty() && !wants[of].empty()) {
        const message &m = sends[of].front();
        const frame &want = wants[of].front();
        bool same = want.bytes == m.bytes && want.operation == m.operation && want.type == m.type && want.sequence == sent[of];
        say(HAVE, m, sent[of]++, same ? m.from : nullptr);
        if (!same)
            refused = refuse(m, want, true);
        sends[of].pop_front();
        wants[of].pop_front();
    }
}

/* The header of a message has been read. */
ncclResult_t peer_link::take_frame()
{
    if (head.of >= CLASSES || (head.says != WANT && head.says != HAVE))
        return fail(ncclInternalError, "rank %d reads nonsense from rank %d", rank, peer);
    if (head.says == WANT) {
        wants[head.of].push_back(head);
        head_read = 0;
        match(head.of);
        return ncclSuccess;
    }
    if (receives[head.of].empty())
        return fail(ncclInternalError, "rank %d reads from rank %d what it did not want", rank, peer);
    const message &m = receives[head.of].front();
    if (head.bytes != m.bytes || head.operation != m.operation || head.type != m.type || head.sequence != received[head.of])
        return refuse(m, head, false);
    filled = 0;
    return ncclSuccess;
}

ncclResult_t peer_link::read_all()
{
    while (!done()) {
        bool in_head = head_read < sizeof head;
        char *to = in_head ? reinterpret_cast<char *>(&head) + head_read : receives[head.of].front().to + filled;
        ssize_t bytes = recv(socket, to, in_head ? sizeof head - head_read : head.bytes - filled, MSG_DONTWAIT);
        if (bytes < 0 && errno == EINTR)
            continue;
        if (bytes < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return ncclSuccess;
        if (bytes <= 0)
            return refused != ncclSuccess ? refused : fail(ncclRemoteError, "rank %d finds rank %d gone", rank, peer);
        (in_head ? head_read : filled) += static_cast<size_t>(bytes);
        if (in_head && head_read == sizeof head)
            NCCL_TRY(take_frame());
        if (head_read == sizeof head && filled == head.bytes) {
            receives[head.of].pop_front();
            received[head.of]++;
            head_read = 0;
        }
    }
    return ncclSuccess;
}

ncclResult_t peer_link::write_all()
{
    while (!out.empty()) {
        outgoing &o = out.front();
        size_t from_head = o.done < sizeof o.head ? o.done : sizeof o.head, from_data = o.done - from_head;
        iovec parts[2] = {{reinterpret_cast<char *>(&o.head) + from_head, sizeof o.head - from_head},
                          {const_cast<char *>(o.data) + from_data, o.bytes - from_data}};
        msghdr all = {};
        all.msg_iov = parts;
        all.msg_iovlen = o.bytes > 0 ? 2 : 1;
        ssize_t bytes = sendmsg(socket, &all, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (bytes < 0 && errno == EINTR)
            continue;
        if (bytes < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return ncclSuccess;
        if (bytes < 0) /* what the peer said before it went is still to be read, and tells more */
            return read_all();
        if ((o.done += static_cast<size_t>(bytes)) == sizeof o.head + o.bytes)
            out.pop_front();
    }
    return refused;
}

ncclResult_t peer_link::advance()
{
    NCCL_TRY(read_all());
    return write_all();
}

} // namespace nccl_on_cpu
