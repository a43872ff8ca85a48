/* Messages between workers and parameter servers: frames over TCP, without MPI, so that one that dies takes nobody along.
 *
 * A frame is a head of 64 bytes, with six numbers whose meaning its type gives (server/message.h), and a payload. Everything is in the
 * byte order of the machine, which all of a cluster share; the magic number shows one that does not. Nothing here waits but
 * wire_connect and wire_wait. All from one thread. */
#ifndef SERVER_WIRE_H
#define SERVER_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum { WIRE_FIELDS = 6 };

struct wire_head {
    uint32_t magic; /* filled in by wire_send */
    uint32_t type;
    uint64_t bytes; /* of the payload */
    int64_t field[WIRE_FIELDS];
};

/* A payload, shared by those who hold it. Its data begins where kernels like vectors to. */
struct wire_block {
    int holders;
    size_t bytes;
    _Alignas(64) unsigned char data[];
};

struct wire_block *wire_block_new(size_t bytes); /* held once; NULL: no memory */
struct wire_block *wire_block_hold(struct wire_block *block);
void wire_block_drop(struct wire_block *block); /* NULL is fine */

struct wire;

/* Listens on a port of its own on all addresses; *FD is the caller's to close. */
cairn_err wire_listen(int *fd, int *port);

/* Where others reach PORT of this machine: "name:port,address:port,...", NAME first, then the addresses of its interfaces. */
void wire_addresses(const char *name, int port, char *out, size_t size);

/* Connects to the first of ADDRESSES (as above) that answers within SECONDS. */
cairn_err wire_connect(const char *addresses, double seconds, struct wire **out);

/* The next that has connected to listener FD; *OUT is NULL if there is none. CAIRN_ENOMEM: there is no room for it now, it waits. */
cairn_err wire_accept(int fd, struct wire **out);
void wire_close(struct wire *wire); /* NULL is fine */

/* Of frames that come in; a larger one is an error. At first WIRE_FIRST_LIMIT: strangers get no memory. */
enum { WIRE_FIRST_LIMIT = 1 << 18 };
void wire_set_limit(struct wire *wire, size_t bytes);

/* Whom messages about this connection name. */
void wire_set_name(struct wire *wire, const char *name);
const char *wire_name(const struct wire *wire);

/* Puts a frame behind those that wait to be sent, and sends what can go now. PAYLOAD (NULL: none) is held until it is sent. */
cairn_err wire_send(struct wire *wire, uint32_t type, const int64_t field[WIRE_FIELDS], struct wire_block *payload);

/* Sends what can go now. */
cairn_err wire_flush(struct wire *wire);
int64_t wire_bytes_sent(const struct wire *wire); /* so far */
bool wire_is_sent(const struct wire *wire); /* all of it is in the kernel's hands */

/* The next frame, if one is here whole: *GOT. *PAYLOAD (NULL: the frame has none) is the caller's to drop. CAIRN_EPEER: the other end is
 * gone. */
cairn_err wire_receive(struct wire *wire, struct wire_head *head, struct wire_block **payload, bool *got);

/* Seconds for which nothing has come from the other machine, not even its kernel's answer to a probe: one sign of life a second comes
 * from a machine that runs, whatever the process does. One that does not read what is sent to it is asked less and less often: it may then
 * take as long again as it has not read to see that its machine is dead. */
double wire_quiet(struct wire *wire);

/* Whether that is longer than SILENT_SECONDS and than living machines ever take. */
bool wire_is_silent(struct wire *wire, double silent_seconds);

/* Until one of COUNT connections (NULL among them are passed over) or listener FD (-1: none) has something, or SECONDS have passed. */
cairn_err wire_wait(struct wire *const *wires, int count, int fd, double seconds);

/* A number as a field and back, to the bit. */
int64_t wire_from_double(double value);
double wire_to_double(int64_t field);

#endif
