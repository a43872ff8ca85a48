#include "job/heartbeat.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const kinds[] = {"alive", "commit", "abort", "leave"}; /* by enum heartbeat_kind */
static const char mark[] = "\001cairn ";

bool heartbeat_enabled(void)
{
    const char *value = getenv("CAIRN_SUPERVISED");
    return value && *value && strcmp(value, "0") != 0;
}

void heartbeat_send(enum heartbeat_kind kind, int rank, const char *host, int64_t step, const char *phase, const char *text)
{
    if (!heartbeat_enabled())
        return;
    char line[768];
    int length = snprintf(line, sizeof line - 1, "%s%s %d %.63s %lld %.31s %.511s", mark, kinds[kind], rank, host, (long long)step,
                          phase && *phase ? phase : "-", text ? text : "");
    if (length < 0)
        return;
    if (length > (int)sizeof line - 2)
        length = (int)sizeof line - 2;
    for (int i = 0; i < length; i++)
        if (line[i] == '\n')
            line[i] = ' ';
    line[length++] = '\n';
    /* A launcher that no longer reads must not stop the rank: then the line is given up. */
    struct pollfd out = {.fd = STDOUT_FILENO, .events = POLLOUT};
    if (poll(&out, 1, kind == HEARTBEAT_ALIVE ? 0 : 200) == 1 && out.revents & POLLOUT) {
        ssize_t ignored = write(STDOUT_FILENO, line, (size_t)length);
        (void)ignored;
    }
}

/* The next word of *TEXT into OUT; *TEXT goes behind it and one space. */
static bool take_word(const char **text, char *out, size_t size)
{
    size_t length = strcspn(*text, " ");
    if (length == 0 || length >= size)
        return false;
    memcpy(out, *text, length);
    out[length] = 0;
    *text += length;
    if (**text == ' ')
        (*text)++;
    return true;
}

static bool take_number(const char **text, long long *out)
{
    char word[32], *end;
    if (!take_word(text, word, sizeof word))
        return false;
    *out = strtoll(word, &end, 10);
    return *end == 0;
}

bool heartbeat_parse(const char *line, struct heartbeat *out)
{
    char kind[16];
    long long rank, step;
    if (strncmp(line, mark, sizeof mark - 1) != 0)
        return false;
    line += sizeof mark - 1;
    if (!take_word(&line, kind, sizeof kind) || !take_number(&line, &rank) || !take_word(&line, out->host, sizeof out->host) ||
        !take_number(&line, &step) || !take_word(&line, out->phase, sizeof out->phase))
        return false;
    out->rank = (int)rank;
    out->step = step;
    if (strcmp(out->phase, "-") == 0)
        out->phase[0] = 0;
    snprintf(out->text, sizeof out->text, "%s", line);
    for (int k = 0; k < (int)(sizeof kinds / sizeof kinds[0]); k++)
        if (strcmp(kind, kinds[k]) == 0) {
            out->kind = (enum heartbeat_kind)k;
            return true;
        }
    return false;
}
