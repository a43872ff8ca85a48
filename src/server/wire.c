#include "server/wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/tcp.h>
#include <math.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"

enum { MAGIC = 0x43574952, NAME_SIZE = 96, BACKLOG = 1024, ADDRESS_SIZE = 256 };

/* Keepalive: a machine that lost its power says no farewell. After a second of silence its kernel is asked each second; whoever looks at
 * wire_quiet decides long before the kernel itself gives up. */
enum { PROBE_AFTER = 1, PROBE_EVERY = 1, PROBES = 120 };

struct outgoing {
    struct outgoing *next;
    struct wire_head head;
    struct wire_block *payload;
};

struct wire {
    int fd;
    char name[NAME_SIZE];
    size_t limit;
    /* coming in */
    struct wire_head head;
    size_t head_got, payload_got;
    struct wire_block *payload;
    /* going out: the first frame, of which SENT bytes are gone, to the last */
    struct outgoing *first, *last;
    size_t sent;
    int64_t bytes_sent; /* ever */
    double asked;       /* when its closed window was asked for, 0: no such question is open */
};

/* ---- blocks ---- */

struct wire_block *wire_block_new(size_t bytes)
{
    const size_t align = _Alignof(struct wire_block);
    if (bytes > PTRDIFF_MAX - sizeof(struct wire_block) - align)
        return NULL;
    struct wire_block *b = aligned_alloc(align, (sizeof *b + bytes + align - 1) / align * align);
    if (b) {
        b->holders = 1;
        b->bytes = bytes;
    }
    return b;
}

struct wire_block *wire_block_hold(struct wire_block *b)
{
    b->holders++;
    return b;
}

void wire_block_drop(struct wire_block *b)
{
    if (b && --b->holders == 0)
        free(b);
}

/* ---- connections ---- */

static cairn_err failed(const char *doing)
{
    return FAIL(CAIRN_ESYS, "%s: %s", doing, strerror(errno));
}

static void set_options(int fd)
{
    const int on = 1, after = PROBE_AFTER, every = PROBE_EVERY, probes = PROBES;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &after, sizeof after);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof every);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
}

/* FD becomes the wire's also where this fails. */
static cairn_err open_wire(int fd, const char *name, struct wire **out)
{
    struct wire *w = calloc(1, sizeof *w);
    if (!w || fcntl(fd, F_SETFL, O_NONBLOCK) < 0) {
        free(w);
        close(fd);
        return FAIL(CAIRN_ENOMEM, "no memory for a connection");
    }
    *w = (struct wire){.fd = fd, .limit = WIRE_FIRST_LIMIT};
    set_options(fd);
    wire_set_name(w, name);
    *out = w;
    return CAIRN_OK;
}

cairn_err wire_listen(int *fd, int *port)
{
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_ANY_INIT};
    struct sockaddr_in any4 = {.sin_family = AF_INET};
    struct sockaddr_storage own;
    socklen_t size = sizeof own;
    const int off = 0;
    int s = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s >= 0 && (setsockopt(s, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) || bind(s, (struct sockaddr *)&any, sizeof any))) {
        close(s);
        s = -1;
    }
    if (s < 0) { /* a kernel without IPv6 */
        s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (s < 0 || bind(s, (struct sockaddr *)&any4, sizeof any4)) {
            cairn_err err = failed("opening a port for workers");
            if (s >= 0)
                close(s);
            return err;
        }
    }
    if (listen(s, BACKLOG) || getsockname(s, (struct sockaddr *)&own, &size)) {
        cairn_err err = failed("listening for workers");
        close(s);
        return err;
    }
    *port = ntohs(own.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&own)->sin6_port : ((struct sockaddr_in *)&own)->sin_port);
    *fd = s;
    return CAIRN_OK;
}

void wire_addresses(const char *name, int port, char *out, size_t size)
{
    struct ifaddrs *all = NULL;
    size_t used = (size_t)snprintf(out, size, "%s:%d", name, port);
    if (getifaddrs(&all))
        return;
    for (const struct ifaddrs *i = all; i; i = i->ifa_next) {
        char text[INET_ADDRSTRLEN], entry[INET_ADDRSTRLEN + 16];
        if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET || (i->ifa_flags & IFF_LOOPBACK) || !(i->ifa_flags & IFF_UP))
            continue;
        inet_ntop(AF_INET, &((struct sockaddr_in *)i->ifa_addr)->sin_addr, text, sizeof text);
        int length = snprintf(entry, sizeof entry, ",%s:%d", text, port);
        if (used + (size_t)length < size)
            used += (size_t)snprintf(out + used, size - used, "%s", entry);
    }
    freeifaddrs(all);
}

/* Waits for FD, whose connection has begun, until UNTIL. */
static bool is_connected(int fd, double until)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    int left, code = 0;
    socklen_t size = sizeof code;
    do
        left = (int)((until - clock_seconds()) * 1000);
    while (left > 0 && poll(&p, 1, left) < 0 && errno == EINTR);
    return (p.revents & (POLLOUT | POLLERR | POLLHUP)) && getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &size) == 0 && code == 0;
}

/* One "host:port"; -1: does not answer. */
static int connect_one(const char *address, double until)
{
    char host[ADDRESS_SIZE];
    snprintf(host, sizeof host, "%s", address);
    char *colon = strrchr(host, ':');
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    int fd = -1;
    if (!colon)
        return -1;
    *colon = 0;
    if (getaddrinfo(host, colon + 1, &hints, &found))
        return -1;
    for (const struct addrinfo *a = found; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0 || ((connect(fd, a->ai_addr, a->ai_addrlen) == 0 || errno == EINPROGRESS) && is_connected(fd, until)))
            continue;
        close(fd);
        fd = -1;
    }
    freeaddrinfo(found);
    return fd;
}

cairn_err wire_connect(const char *addresses, double seconds, struct wire **out)
{
    char address[ADDRESS_SIZE];
    for (const char *at = addresses; *at;) {
        size_t length = strcspn(at, ",");
        snprintf(address, sizeof address, "%.*s", (int)(length < sizeof address ? length : sizeof address - 1), at);
        int fd = connect_one(address, clock_seconds() + seconds);
        if (fd >= 0)
            return open_wire(fd, address, out);
        at += length + (at[length] == ',');
    }
    return FAIL(CAIRN_EPEER, "no parameter server answers at %s", addresses);
}

cairn_err wire_accept(int fd, struct wire **out)
{
    *out = NULL;
    int s = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (s >= 0)
        return open_wire(s, "a newcomer", out);
    if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
        return FAIL(CAIRN_ENOMEM, "accepting a worker: %s", strerror(errno));
    if (errno == EBADF || errno == EINVAL)
        return failed("accepting a worker");
    return CAIRN_OK; /* whoever it was has gone again */
}

void wire_close(struct wire *w)
{
    if (!w)
        return;
    for (struct outgoing *next; w->first; w->first = next) {
        next = w->first->next;
        wire_block_drop(w->first->payload);
        free(w->first);
    }
    wire_block_drop(w->payload);
    close(w->fd);
    free(w);
}

void wire_set_limit(struct wire *w, size_t bytes)
{
    w->limit = bytes;
}

void wire_set_name(struct wire *w, const char *name)
{
    snprintf(w->name, sizeof w->name, "%s", name);
}

const char *wire_name(const struct wire *w)
{
    return w->name;
}

static cairn_err gone(const struct wire *w, const char *why)
{
    return FAIL(CAIRN_EPEER, "the connection to %s is lost: %s", w->name, why);
}

/* ---- out ---- */

/* The first frame's bytes from SENT on: true when all are gone, false when no more go now. */
static cairn_err send_first(struct wire *w, bool *whole)
{
    struct outgoing *o = w->first;
    size_t payload = o->payload ? o->payload->bytes : 0, all = sizeof o->head + payload;
    while (w->sent < all) {
        const char *head = (const char *)&o->head;
        struct iovec parts[2] = {{(void *)(head + w->sent), w->sent < sizeof o->head ? sizeof o->head - w->sent : 0}, {NULL, 0}};
        size_t into = w->sent > sizeof o->head ? w->sent - sizeof o->head : 0;
        if (payload)
            parts[1] = (struct iovec){o->payload->data + into, payload - into};
        int skip = parts[0].iov_len == 0;
        struct msghdr message = {.msg_iov = parts + skip, .msg_iovlen = 2 - (size_t)skip};
        ssize_t n = sendmsg(w->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            *whole = false;
            return CAIRN_OK;
        }
        if (n < 0)
            return gone(w, strerror(errno));
        w->sent += (size_t)n;
        w->bytes_sent += n;
    }
    *whole = true;
    return CAIRN_OK;
}

cairn_err wire_flush(struct wire *w)
{
    bool whole = true;
    while (w->first && whole) {
        TRY(send_first(w, &whole));
        if (!whole)
            break;
        struct outgoing *o = w->first;
        w->first = o->next;
        w->sent = 0;
        wire_block_drop(o->payload);
        free(o);
    }
    return CAIRN_OK;
}

int64_t wire_bytes_sent(const struct wire *w)
{
    return w->bytes_sent;
}

bool wire_is_sent(const struct wire *w)
{
    return !w->first;
}

cairn_err wire_send(struct wire *w, uint32_t type, const int64_t field[WIRE_FIELDS], struct wire_block *payload)
{
    struct outgoing *o = malloc(sizeof *o);
    if (!o)
        return FAIL(CAIRN_ENOMEM, "no memory for a message");
    *o = (struct outgoing){.head = {.magic = MAGIC, .type = type, .bytes = payload ? payload->bytes : 0},
                           .payload = payload ? wire_block_hold(payload) : NULL};
    if (field)
        memcpy(o->head.field, field, sizeof o->head.field);
    if (w->first)
        w->last->next = o;
    else
        w->first = o;
    w->last = o;
    return wire_flush(w);
}

/* ---- in ---- */

/* Into TO, of which *GOT of SIZE bytes are there. */
static cairn_err read_some(struct wire *w, void *to, size_t size, size_t *got)
{
    while (*got < size) {
        ssize_t n = recv(w->fd, (char *)to + *got, size - *got, MSG_DONTWAIT);
        if (n == 0)
            return gone(w, w->head_got ? "closed in the midst of a message" : "closed");
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return CAIRN_OK;
        if (n < 0)
            return gone(w, strerror(errno));
        *got += (size_t)n;
    }
    return CAIRN_OK;
}

static cairn_err begin_payload(struct wire *w)
{
    if (w->head.magic != MAGIC)
        return FAIL(CAIRN_EFORMAT, "%s does not speak Cairn's protocol", w->name);
    if (w->head.bytes > w->limit)
        return FAIL(CAIRN_EFORMAT, "%s sends a message of %llu bytes, more than the %zu that are taken", w->name,
                    (unsigned long long)w->head.bytes, w->limit);
    w->payload = w->head.bytes ? wire_block_new(w->head.bytes) : NULL;
    w->payload_got = 0;
    return w->head.bytes && !w->payload ? FAIL(CAIRN_ENOMEM, "no memory for a message of %llu bytes", (unsigned long long)w->head.bytes) : CAIRN_OK;
}

cairn_err wire_receive(struct wire *w, struct wire_head *head, struct wire_block **payload, bool *got)
{
    *got = false;
    if (w->head_got < sizeof w->head) {
        TRY(read_some(w, &w->head, sizeof w->head, &w->head_got));
        if (w->head_got < sizeof w->head)
            return CAIRN_OK;
        TRY(begin_payload(w));
    }
    if (w->payload) {
        TRY(read_some(w, w->payload->data, w->payload->bytes, &w->payload_got));
        if (w->payload_got < w->payload->bytes)
            return CAIRN_OK;
    }
    *head = w->head;
    *payload = w->payload;
    w->payload = NULL;
    w->head_got = 0;
    *got = true;
    return CAIRN_OK;
}

/* ---- waiting ---- */

/* A process that does not read lets its kernel close the window. Ours then asks for it at ever longer intervals and probes no more, so what
 * shows a dead machine is a question without an answer. */
static double quiet_while_closed(struct wire *w, const struct tcp_info *info)
{
    if (info->tcpi_probes == 0)
        w->asked = 0;
    else if (w->asked <= 0)
        w->asked = clock_seconds();
    return w->asked > 0 ? clock_seconds() - w->asked : 0;
}

double wire_quiet(struct wire *w)
{
    struct tcp_info info = {0};
    socklen_t size = sizeof info;
    if (getsockopt(w->fd, IPPROTO_TCP, TCP_INFO, &info, &size))
        return 0;
    if (info.tcpi_notsent_bytes > 0 && info.tcpi_unacked == 0)
        return quiet_while_closed(w, &info);
    w->asked = 0;
    uint32_t last = info.tcpi_last_ack_recv < info.tcpi_last_data_recv ? info.tcpi_last_ack_recv : info.tcpi_last_data_recv;
    return last * 1e-3;
}

bool wire_is_silent(struct wire *w, double silent_seconds)
{
    return wire_quiet(w) > fmax(silent_seconds, PROBE_AFTER + 2 * PROBE_EVERY);
}

cairn_err wire_wait(struct wire *const *wires, int count, int fd, double seconds)
{
    struct pollfd *p = calloc((size_t)count + 1, sizeof *p);
    int n = 0;
    if (!p)
        return FAIL(CAIRN_ENOMEM, "no memory to wait for messages");
    for (int i = 0; i < count; i++)
        if (wires[i])
            p[n++] = (struct pollfd){.fd = wires[i]->fd, .events = (short)(POLLIN | (wires[i]->first ? POLLOUT : 0))};
    if (fd >= 0)
        p[n++] = (struct pollfd){.fd = fd, .events = POLLIN};
    int ready = poll(p, (nfds_t)n, (int)(seconds * 1000)); /* a signal ends it too: whoever waits may want to see that */
    free(p);
    return ready < 0 && errno != EINTR ? failed("waiting for messages") : CAIRN_OK;
}

int64_t wire_from_double(double value)
{
    int64_t field;
    memcpy(&field, &value, sizeof field);
    return field;
}

double wire_to_double(int64_t field)
{
    double value;
    memcpy(&value, &field, sizeof value);
    return value;
}
