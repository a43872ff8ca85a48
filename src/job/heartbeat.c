#include "job/heartbeat.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static const char mark[] = HEARTBEAT_MARK " ";
static const char *const kind_names[] = {"alive", "restore", "commit", "abort", "leave", "servers"};
enum { KINDS = sizeof kind_names / sizeof kind_names[0] };

/* A supervisor that does not read for this long loses the line: a rank must not stand still for it. */
enum { FULL_PIPE_MILLISECONDS = 200 };

bool heartbeat_enabled(void)
{
    const char *value = getenv("CAIRN_SUPERVISED");
    return value && strcmp(value, "1") == 0;
}

/* Standard output for control lines. A write to a pipe may block after poll said that it would not, if another thread
 * prints in between; so a pipe is opened once more, as a description of its own that does not block. */
static int output_fd = STDOUT_FILENO;

static void open_output(void)
{
    struct stat st;
    if (fstat(STDOUT_FILENO, &st) != 0 || !S_ISFIFO(st.st_mode))
        return;
    int fd = open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd >= 0)
        output_fd = fd;
}

static void write_line(const char *line, size_t length)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, open_output);
    if (send(output_fd, line, length, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0 || errno != ENOTSOCK)
        return;
    struct pollfd p = {.fd = output_fd, .events = POLLOUT};
    if (poll(&p, 1, FULL_PIPE_MILLISECONDS) == 1 && (p.revents & POLLOUT)) {
        ssize_t ignored = write(output_fd, line, length);
        (void)ignored;
    }
}

/* Copies FROM as one field: no control characters, no space unless SPACES, never empty unless SPACES. */
static void copy_field(char *to, size_t size, const char *from, bool spaces)
{
    size_t n = 0;
    for (; from && *from && n + 1 < size; from++, n++) {
        unsigned char c = (unsigned char)*from;
        to[n] = c < ' ' || c == 127 ? (spaces ? ' ' : '_') : c == ' ' && !spaces ? '_' : *from;
    }
    if (n == 0 && !spaces)
        to[n++] = '-';
    to[n] = '\0';
}

void heartbeat_send(enum heartbeat_kind kind, int rank, const char *host, int64_t step, const char *phase, const char *text)
{
    if (!heartbeat_enabled() || (int)kind < 0 || (int)kind >= KINDS)
        return;
    struct heartbeat h; /* the sizes of its fields are the limits of what is sent */
    copy_field(h.host, sizeof h.host, host, false);
    copy_field(h.phase, sizeof h.phase, phase, false);
    copy_field(h.text, sizeof h.text, text, true);
    char line[sizeof h + 64];
    int length = snprintf(line, sizeof line, "%s%s %d %s %" PRId64 " %s %s\n", mark, kind_names[kind], rank, h.host, step, h.phase,
                          h.text);
    if (length > 0 && (size_t)length < sizeof line)
        write_line(line, (size_t)length);
}

/* The next field of *AT, up to a space, into TO; moves *AT behind that space. */
static bool take_field(const char **at, char *to, size_t size)
{
    const char *end = strchr(*at, ' ');
    size_t length = end ? (size_t)(end - *at) : 0;
    if (length == 0 || length >= size)
        return false;
    memcpy(to, *at, length);
    to[length] = '\0';
    *at = end + 1;
    return true;
}

static bool take_number(const char **at, int64_t min, int64_t max, int64_t *out)
{
    char text[24], *end;
    if (!take_field(at, text, sizeof text))
        return false;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    *out = value;
    return errno == 0 && *end == '\0' && value >= min && value <= max;
}

bool heartbeat_parse(const char *line, struct heartbeat *out)
{
    if (strncmp(line, mark, sizeof mark - 1) != 0)
        return false;
    const char *at = line + sizeof mark - 1;
    char kind[16];
    int64_t rank;
    if (!take_field(&at, kind, sizeof kind) || !take_number(&at, 0, INT32_MAX, &rank) ||
        !take_field(&at, out->host, sizeof out->host) || !take_number(&at, INT64_MIN, INT64_MAX, &out->step) ||
        !take_field(&at, out->phase, sizeof out->phase))
        return false;
    out->rank = (int)rank;
    if (strcmp(out->phase, "-") == 0)
        out->phase[0] = '\0';
    if (strchr(at, '\001')) /* another line within this one: neither's text is to be trusted */
        return false;
    snprintf(out->text, sizeof out->text, "%s", at);
    for (int i = 0; i < KINDS; i++) {
        out->kind = (enum heartbeat_kind)i;
        if (strcmp(kind, kind_names[i]) == 0)
            return true;
    }
    return false;
}
