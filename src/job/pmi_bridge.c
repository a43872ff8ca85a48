#include "job/pmi_bridge.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/thread.h"

struct pmi_bridge {
    struct pmi_session *session;
    void (*abort)(void *context, int exitcode);
    void *abort_context;
    int fd; /* our end */
    pthread_t thread;
    atomic_int fences;
};

/* Lines out of a stream; one that is longer than a line may be is cut, and its rest passed over: it is answered with an error,
 * since no request is that long. */
struct line_reader {
    int fd;
    size_t bytes;
    bool skipping;
    char data[PMI_LINE_MAX];
};

/* Takes the first whole line out of what was read. */
static bool take_line(struct line_reader *r, char *line)
{
    char *newline = memchr(r->data, '\n', r->bytes);
    if (!newline && r->bytes < sizeof r->data)
        return false;
    size_t length = newline ? (size_t)(newline - r->data) : r->bytes - 1;
    bool whole = newline && !r->skipping;
    memcpy(line, r->data, length);
    line[length] = '\0';
    size_t used = newline ? length + 1 : r->bytes;
    if (!newline && !r->skipping) {
        r->skipping = true;
        r->bytes = 0;
        return true; /* the cut line: its fields are too long, the session refuses it */
    }
    r->skipping = r->skipping && !newline;
    r->bytes -= used;
    memmove(r->data, r->data + used, r->bytes);
    return whole;
}

static bool read_line(struct line_reader *r, char *line)
{
    for (;;) {
        size_t before;
        do {
            before = r->bytes;
            if (take_line(r, line))
                return true;
        } while (r->bytes != before);
        ssize_t n = read(r->fd, r->data + r->bytes, sizeof r->data - r->bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        r->bytes += (size_t)n;
    }
}

static bool send_all(int fd, const char *text)
{
    size_t left = strlen(text);
    while (left > 0) {
        ssize_t n = send(fd, text, left, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        text += n;
        left -= (size_t)n;
    }
    return true;
}

static void *serve(void *arg)
{
    struct pmi_bridge *b = arg;
    struct line_reader reader = {.fd = b->fd};
    char line[PMI_LINE_MAX], answer[PMI_LINE_MAX];
    enum pmi_outcome outcome = PMI_ANSWERED;
    while (outcome == PMI_ANSWERED && read_line(&reader, line)) {
        int exitcode;
        outcome = pmi_session_answer(b->session, line, answer, &exitcode);
        atomic_store(&b->fences, pmi_session_fences(b->session));
        if (outcome == PMI_ABORTED)
            b->abort(b->abort_context, exitcode);
        if (!send_all(b->fd, answer))
            break;
    }
    return NULL;
}

static cairn_err export_number(const char *name, int value)
{
    char text[16];
    snprintf(text, sizeof text, "%d", value);
    return setenv(name, text, 1) ? FAIL(CAIRN_ENOMEM, "cannot set %s", name) : CAIRN_OK;
}

static cairn_err export_place(int fd, int rank, int size)
{
    TRY(export_number("PMI_FD", fd));
    TRY(export_number("PMI_RANK", rank));
    return export_number("PMI_SIZE", size);
}

cairn_err pmi_bridge_open(const char *name, int rank, int size, const int *node_of, const struct pmi_exchange *exchange,
                          void (*abort)(void *context, int exitcode), struct pmi_bridge **out)
{
    int pair[2];
    cairn_err err;
    struct pmi_bridge *b = calloc(1, sizeof *b);
    if (!b)
        return FAIL(CAIRN_ENOMEM, "no memory for the PMI bridge");
    b->abort = abort;
    b->abort_context = exchange->context;
    TRY_GOTO(err, pmi_session_open(name, rank, size, node_of, exchange, &b->session), no_session);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
        err = FAIL(CAIRN_ESYS, "PMI bridge: socketpair: %s", strerror(errno));
        goto no_pair;
    }
    b->fd = pair[0];
    TRY_GOTO(err, export_place(pair[1], rank, size), no_thread);
    int code = thread_start(&b->thread, serve, b);
    if (code) {
        err = FAIL(CAIRN_ESYS, "PMI bridge: cannot start its thread: %s", strerror(code));
        goto no_thread;
    }
    *out = b;
    return CAIRN_OK;
no_thread:
    pmi_bridge_hide();
    close(pair[0]);
    close(pair[1]);
no_pair:
    pmi_session_close(b->session);
no_session:
    free(b);
    return err;
}

void pmi_bridge_hide(void)
{
    unsetenv("PMI_FD");
    unsetenv("PMI_RANK");
    unsetenv("PMI_SIZE");
}

int pmi_bridge_fences(struct pmi_bridge *bridge)
{
    return atomic_load(&bridge->fences);
}

void pmi_bridge_close(struct pmi_bridge *b)
{
    if (!b)
        return;
    shutdown(b->fd, SHUT_RDWR);
    pthread_join(b->thread, NULL);
    close(b->fd);
    pmi_session_close(b->session);
    free(b);
}
