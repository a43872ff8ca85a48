#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char prefix[128] = "cairn: ";

void log_set_rank(int rank, const char *host)
{
    snprintf(prefix, sizeof prefix, "cairn[%d@%.64s]: ", rank, host);
}

void log_set_worker(int number, const char *host)
{
    snprintf(prefix, sizeof prefix, "cairn[worker %d@%.64s]: ", number, host);
}

static void write_line(const char *kind, const char *format, va_list args) __attribute__((format(printf, 2, 0)));

static void write_line(const char *kind, const char *format, va_list args)
{
    char line[4608]; /* a full error message and its prefix */
    int used = snprintf(line, sizeof line, "%s%s", prefix, kind);
    int more = vsnprintf(line + used, sizeof line - (size_t)used - 1, format, args);
    if (more < 0)
        return;
    size_t length = strlen(line);
    line[length++] = '\n';
    ssize_t ignored = write(STDERR_FILENO, line, length);
    (void)ignored;
}

#define DEFINE_LOG(name, kind)               \
    void name(const char *format, ...)       \
    {                                        \
        va_list args;                        \
        va_start(args, format);              \
        write_line(kind, format, args);      \
        va_end(args);                        \
    }

DEFINE_LOG(log_info, "")
DEFINE_LOG(log_warning, "warning: ")
DEFINE_LOG(log_error, "error: ")
