#include "slurm/output.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

struct reader {
    struct output *o;
    void (*heard)(void *context, const struct heartbeat *heartbeat);
    void *context;
};

static void pass_on(const char *text, size_t length)
{
    while (length > 0) {
        ssize_t n = write(STDOUT_FILENO, text, length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return; /* nobody reads any more: the training goes on all the same */
        text += n;
        length -= (size_t)n;
    }
}

static char *find_mark(const char *text, size_t length)
{
    return memmem(text, length, HEARTBEAT_MARK, sizeof HEARTBEAT_MARK - 1);
}

/* A control line, or several that a launcher has mixed. One that is damaged is not shown: it may have the servers' secret in it. */
static void take_control(const struct reader *r, char *control, char *end, bool whole)
{
    static const char damaged[] = "[a damaged control line]\n";
    struct heartbeat h;
    char *last = control;
    for (char *next; (next = find_mark(last + 1, (size_t)(end - last - 1)));)
        last = next;
    *end = 0;
    bool heard = whole && heartbeat_parse(last, &h);
    if (!heard || last != control)
        pass_on(damaged, sizeof damaged - 1);
    if (heard)
        r->heard(r->context, &h);
}

/* A whole line, or what there is of one that is too long. A control line may stand behind the live line of a terminal. */
static void take_line(const struct reader *r, char *line, size_t length, bool whole)
{
    char *control = find_mark(line, length);
    if (control) {
        pass_on(line, (size_t)(control - line));
        take_control(r, control, line + length, whole);
        return;
    }
    if (whole)
        line[length++] = '\n';
    pass_on(line, length);
}

static void take_lines(const struct reader *r)
{
    struct output *o = r->o;
    char *begin = o->line, *end;
    size_t left = o->length;
    while ((end = memchr(begin, '\n', left))) {
        size_t length = (size_t)(end - begin);
        take_line(r, begin, length, true);
        left -= length + 1;
        begin = end + 1;
    }
    char *control = memchr(begin, '\001', left);
    size_t plain = control ? (size_t)(control - begin) : left;
    pass_on(begin, plain); /* part of a line that is no control line: a live progress line, say */
    begin += plain;
    left -= plain;
    if (left == sizeof o->line - 1) {
        take_line(r, begin, left, false);
        left = 0;
    }
    memmove(o->line, begin, left);
    o->length = left;
}

void output_read(struct output *o, void (*heard)(void *context, const struct heartbeat *heartbeat), void *context)
{
    const struct reader r = {o, heard, context};
    while (o->fd >= 0) {
        ssize_t n = read(o->fd, o->line + o->length, sizeof o->line - 1 - o->length);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0) {
            output_close(o);
            return;
        }
        o->length += (size_t)n;
        take_lines(&r);
    }
}

void output_close(struct output *o)
{
    if (o->fd >= 0)
        close(o->fd);
    o->fd = -1;
}
