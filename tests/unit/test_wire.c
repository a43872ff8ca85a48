/* Frames over TCP: whole ones, halves, peers that close, strangers. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "server/wire.h"

struct pair {
    int listener, port;
    struct wire *a, *b;
};

static void open_pair(struct pair *p)
{
    char address[64];
    cr_assert_eq(wire_listen(&p->listener, &p->port), CAIRN_OK, "%s", cairn_err_message());
    snprintf(address, sizeof address, "127.0.0.1:%d", p->port);
    cr_assert_eq(wire_connect(address, 5, &p->a), CAIRN_OK, "%s", cairn_err_message());
    for (double until = clock_seconds() + 5; !p->b && clock_seconds() < until;) {
        cr_assert_eq(wire_wait(NULL, 0, p->listener, 1), CAIRN_OK);
        cr_assert_eq(wire_accept(p->listener, &p->b), CAIRN_OK);
    }
    cr_assert_not_null(p->b);
}

static void close_pair(struct pair *p)
{
    wire_close(p->a);
    wire_close(p->b);
    close(p->listener);
}

/* The next frame of TO, while FROM sends what is left; the error that ends it. */
static cairn_err next(struct wire *from, struct wire *to, struct wire_head *head, struct wire_block **payload)
{
    struct wire *both[] = {to, from};
    bool got = false;
    for (double until = clock_seconds() + 10; clock_seconds() < until;) {
        if (from)
            TRY(wire_flush(from));
        TRY(wire_receive(to, head, payload, &got));
        if (got)
            return CAIRN_OK;
        TRY(wire_wait(both, from ? 2 : 1, -1, 1));
    }
    return FAIL(CAIRN_ETIMEOUT, "no frame");
}

Test(wire, frames_come_whole_and_in_order)
{
    struct pair p = {0};
    open_pair(&p);
    struct wire_head head;
    struct wire_block *payload;
    wire_set_limit(p.b, SIZE_MAX);
    static const size_t sizes[] = {0, 1, 63, 64, 65, 100000, 9000000}; /* the last does not fit into any socket's buffer */
    for (int i = 0; i < 7; i++) {
        const int64_t field[WIRE_FIELDS] = {i, -1, INT64_MIN, INT64_MAX, wire_from_double(0.1), 5};
        struct wire_block *block = sizes[i] ? wire_block_new(sizes[i]) : NULL;
        if (block)
            memset(block->data, 'a' + i, sizes[i]);
        cr_assert_eq(wire_send(p.a, (uint32_t)(100 + i), field, block), CAIRN_OK);
        wire_block_drop(block);
    }
    for (int i = 0; i < 7; i++) {
        cr_assert_eq(next(p.a, p.b, &head, &payload), CAIRN_OK, "%s", cairn_err_message());
        cr_assert(head.type == (uint32_t)(100 + i) && head.field[0] == i && head.field[2] == INT64_MIN && head.field[3] == INT64_MAX);
        cr_assert_eq(wire_to_double(head.field[4]), 0.1);
        cr_assert_eq(payload ? payload->bytes : 0, sizes[i]);
        for (size_t k = 0; k < sizes[i]; k++)
            cr_assert_eq(payload->data[k], 'a' + i, "byte %zu of frame %d", k, i);
        cr_assert(!payload || (uintptr_t)payload->data % 64 == 0);
        wire_block_drop(payload);
    }
    cr_assert(wire_is_sent(p.a));
    close_pair(&p);
}

Test(wire, a_payload_is_sent_to_many)
{
    struct pair p = {0}, q = {0};
    open_pair(&p);
    open_pair(&q);
    struct wire_block *block = wire_block_new(3), *payload;
    struct wire_head head;
    memcpy(block->data, "abc", 3);
    cr_assert_eq(wire_send(p.a, 1, NULL, block), CAIRN_OK);
    cr_assert_eq(wire_send(q.a, 1, NULL, block), CAIRN_OK);
    wire_block_drop(block);
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(next(NULL, i ? q.b : p.b, &head, &payload), CAIRN_OK);
        cr_assert_arr_eq(payload->data, "abc", 3);
        wire_block_drop(payload);
    }
    close_pair(&p);
    close_pair(&q);
}

Test(wire, a_closed_peer_is_told)
{
    struct pair p = {0};
    open_pair(&p);
    struct wire_head head;
    struct wire_block *payload;
    wire_set_name(p.b, "worker 3 on n7");
    cr_assert_eq(wire_send(p.a, 1, NULL, NULL), CAIRN_OK);
    wire_close(p.a);
    p.a = NULL;
    cr_assert_eq(next(NULL, p.b, &head, &payload), CAIRN_OK, "what it sent before comes first");
    cr_assert_eq(next(NULL, p.b, &head, &payload), CAIRN_EPEER);
    cr_assert_str_eq(cairn_err_message(), "the connection to worker 3 on n7 is lost: closed");
    close_pair(&p);
}

/* A socket that speaks what it likes. */
static int stranger(int port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert_eq(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

static void open_stranger(struct pair *p, int *fd)
{
    cr_assert_eq(wire_listen(&p->listener, &p->port), CAIRN_OK);
    *fd = stranger(p->port);
    while (!p->b) {
        cr_assert_eq(wire_wait(NULL, 0, p->listener, 1), CAIRN_OK);
        cr_assert_eq(wire_accept(p->listener, &p->b), CAIRN_OK);
    }
}

/* What a wire sends of a frame with a payload of BYTES. */
static size_t frame(char *to, size_t room, size_t bytes)
{
    struct pair p = {0};
    open_pair(&p);
    struct wire_block *block = wire_block_new(bytes);
    memset(block->data, 'x', bytes);
    const int64_t field[WIRE_FIELDS] = {42};
    cr_assert_eq(wire_send(p.a, 7, field, block), CAIRN_OK);
    wire_block_drop(block);
    struct wire_head head = {0};
    struct wire_block *payload;
    cr_assert_eq(next(NULL, p.b, &head, &payload), CAIRN_OK);
    cr_assert(sizeof head + bytes <= room);
    memcpy(to, &head, sizeof head);
    memcpy(to + sizeof head, payload->data, bytes);
    wire_block_drop(payload);
    close_pair(&p);
    return sizeof head + bytes;
}

Test(wire, frames_may_come_in_any_pieces)
{
    char bytes[256];
    size_t size = frame(bytes, sizeof bytes, 50);
    for (size_t piece = 1; piece < size; piece += 7) {
        struct pair p = {0};
        int fd;
        open_stranger(&p, &fd);
        struct wire_head head;
        struct wire_block *payload;
        bool got = false;
        for (size_t sent = 0; sent < size;) {
            size_t n = size - sent < piece ? size - sent : piece;
            cr_assert(!got, "a frame before it is whole");
            cr_assert_eq(send(fd, bytes + sent, n, 0), (ssize_t)n);
            sent += n;
            cr_assert_eq(wire_wait(&p.b, 1, -1, 5), CAIRN_OK);
            cr_assert_eq(wire_receive(p.b, &head, &payload, &got), CAIRN_OK, "%s", cairn_err_message());
        }
        if (!got)
            cr_assert_eq(next(NULL, p.b, &head, &payload), CAIRN_OK);
        cr_assert(head.type == 7 && head.field[0] == 42 && payload->bytes == 50);
        wire_block_drop(payload);
        close(fd);
        close_pair(&p);
    }
}

Test(wire, a_peer_that_dies_in_the_midst_of_a_frame)
{
    char bytes[256];
    size_t size = frame(bytes, sizeof bytes, 50);
    for (size_t sent = 1; sent < size; sent += 31) {
        struct pair p = {0};
        int fd;
        open_stranger(&p, &fd);
        struct wire_head head;
        struct wire_block *payload;
        cr_assert_eq(send(fd, bytes, sent, 0), (ssize_t)sent);
        close(fd);
        cr_assert_eq(next(NULL, p.b, &head, &payload), CAIRN_EPEER);
        cr_assert(strstr(cairn_err_message(), "in the midst of a message"), "%s", cairn_err_message());
        close_pair(&p);
    }
}

Test(wire, strangers_get_no_memory)
{
    struct wire_head head;
    struct wire_block *payload;
    char bytes[256];
    frame(bytes, sizeof bytes, 50);
    struct pair p = {0}, q = {0};
    int fd;
    open_stranger(&p, &fd);
    static const char web[] = "GET / HTTP/1.1\r\nHost: somewhere\r\nUser-Agent: a browser that came to the wrong port\r\n\r\n";
    cr_assert_eq(send(fd, web, sizeof web, 0), (ssize_t)sizeof web);
    cr_assert_eq(next(NULL, p.b, &head, &payload), CAIRN_EFORMAT);
    cr_assert(strstr(cairn_err_message(), "does not speak Cairn's protocol"));
    close(fd);
    close_pair(&p);
    open_stranger(&q, &fd);
    const uint64_t much = (uint64_t)1 << 60;
    memcpy(bytes + 8, &much, sizeof much);
    cr_assert_eq(send(fd, bytes, sizeof head, 0), (ssize_t)sizeof head);
    cr_assert_eq(next(NULL, q.b, &head, &payload), CAIRN_EFORMAT);
    cr_assert(strstr(cairn_err_message(), "more than the 262144 that are taken"), "%s", cairn_err_message());
    close(fd);
    close_pair(&q);
}

Test(wire, a_length_beyond_all_memory)
{
    struct wire_head head;
    struct wire_block *payload;
    char bytes[256];
    frame(bytes, sizeof bytes, 50);
    for (uint64_t less = 1; less <= 257; less += 64) {
        struct pair p = {0};
        int fd;
        open_stranger(&p, &fd);
        wire_set_limit(p.b, SIZE_MAX);
        const uint64_t much = UINT64_MAX - less;
        memcpy(bytes + 8, &much, sizeof much);
        cr_assert_eq(send(fd, bytes, sizeof bytes, 0), (ssize_t)sizeof bytes);
        cr_assert_eq(next(NULL, p.b, &head, &payload), CAIRN_ENOMEM, "%s", cairn_err_message());
        close(fd);
        close_pair(&p);
    }
}

Test(wire, no_room_for_a_newcomer_is_no_failure)
{
    struct pair p = {0};
    struct rlimit old, low;
    cr_assert_eq(wire_listen(&p.listener, &p.port), CAIRN_OK);
    int fd = stranger(p.port);
    cr_assert_eq(wire_wait(NULL, 0, p.listener, 5), CAIRN_OK);
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &old), 0);
    low = old;
    low.rlim_cur = 3; /* fewer than are open */
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &low), 0);
    cairn_err err = wire_accept(p.listener, &p.b);
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &old), 0);
    cr_assert_eq(err, CAIRN_ENOMEM);
    cr_assert_null(p.b);
    cr_assert_eq(wire_accept(p.listener, &p.b), CAIRN_OK);
    cr_assert_not_null(p.b, "it has waited");
    close(fd);
    close_pair(&p);
}

Test(wire, the_first_address_that_answers)
{
    struct pair p = {0};
    char addresses[128];
    cr_assert_eq(wire_listen(&p.listener, &p.port), CAIRN_OK);
    int free_port, listener;
    cr_assert_eq(wire_listen(&listener, &free_port), CAIRN_OK);
    close(listener); /* nobody is there now */
    snprintf(addresses, sizeof addresses, "no.such.host.invalid:1,127.0.0.1:%d,no colon,127.0.0.1:%d", free_port, p.port);
    cr_assert_eq(wire_connect(addresses, 5, &p.a), CAIRN_OK, "%s", cairn_err_message());
    snprintf(addresses, sizeof addresses, "127.0.0.1:%d", free_port);
    cr_assert_eq(wire_connect(addresses, 5, &p.b), CAIRN_EPEER);
    close_pair(&p);
}

Test(wire, own_addresses)
{
    char text[64], small[16];
    wire_addresses("n7", 4711, text, sizeof text);
    cr_assert_eq(strncmp(text, "n7:4711", 7), 0);
    cr_assert(strlen(text) < sizeof text);
    wire_addresses("n7", 4711, small, sizeof small);
    cr_assert(strlen(small) < sizeof small && small[strlen(small) - 1] != ',');
}

Test(wire, a_living_machine_is_not_quiet)
{
    struct pair p = {0};
    open_pair(&p);
    cr_assert_lt(wire_quiet(p.a), 1);
    struct timespec pause = {3, 0}; /* nobody says anything: the kernels' probes do */
    nanosleep(&pause, NULL);
    cr_assert_lt(wire_quiet(p.a), 2.5);
    cr_assert_lt(wire_quiet(p.b), 2.5);
    close_pair(&p);
}

Test(wire, a_machine_that_reads_nothing_is_not_quiet)
{
    struct pair p = {0};
    open_pair(&p);
    struct wire_block *much = wire_block_new(64 << 20); /* more than sockets hold */
    cr_assert_not_null(much);
    memset(much->data, 0, much->bytes);
    wire_set_limit(p.b, much->bytes);
    cr_assert_eq(wire_send(p.a, 1, NULL, much), CAIRN_OK, "%s", cairn_err_message());
    double most = 0; /* questions come after 0.2, 0.4 ... seconds: the first gap of more than five begins after six */
    for (double until = clock_seconds() + 12; clock_seconds() < until;) {
        cr_assert_eq(wire_flush(p.a), CAIRN_OK);
        most = fmax(most, wire_quiet(p.a));
        struct timespec pause = {0, 50000000};
        nanosleep(&pause, NULL);
    }
    cr_assert(!wire_is_sent(p.a));
    cr_assert_lt(most, 2.5, "%.1f s", most);
    struct wire_head head;
    struct wire_block *payload;
    cr_assert_eq(next(p.a, p.b, &head, &payload), CAIRN_OK, "%s", cairn_err_message());
    wire_block_drop(payload);
    wire_block_drop(much);
    close_pair(&p);
}
