#include "io/progress.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/duration.h"
#include "base/log.h"

#define SILENT_SECONDS 2.0
#define TERMINAL_SECONDS 0.2 /* between two drawings of the bar */
#define LINE_SECONDS 10.0    /* between two lines in a file */
enum { BAR_WIDTH = 30 };

void progress_begin(struct progress *progress, const char *what, int64_t total)
{
    *progress = (struct progress){what, total, clock_seconds(), 0, isatty(STDERR_FILENO)};
}

static void draw(const struct progress *progress, double part, const char *facts)
{
    char bar[BAR_WIDTH + 1], line[256];
    memset(bar, ' ', BAR_WIDTH);
    memset(bar, '#', (size_t)(part * BAR_WIDTH));
    bar[BAR_WIDTH] = 0;
    int length = snprintf(line, sizeof line, "\r\033[K%s [%s] %s", progress->what, bar, facts);
    ssize_t ignored = write(STDERR_FILENO, line, (size_t)length);
    (void)ignored;
}

void progress_update(struct progress *progress, int64_t done)
{
    double now = clock_seconds(), elapsed = now - progress->begin;
    if (elapsed < SILENT_SECONDS || now - progress->shown < (progress->terminal ? TERMINAL_SECONDS : LINE_SECONDS))
        return;
    progress->shown = now;
    char left[DURATION_SIZE] = "", facts[128];
    double part = progress->total > 0 ? (double)done / (double)progress->total : 0;
    if (part > 1)
        part = 1;
    if (part > 0)
        duration_text(elapsed * (1 - part) / part, left);
    double megabytes = (double)done * 1e-6;
    if (progress->total > 0)
        snprintf(facts, sizeof facts, "%3.0f %%, %.0f of %.0f MB, %.0f MB/s, %s left", 100 * part, megabytes,
                 (double)progress->total * 1e-6, megabytes / elapsed, left);
    else
        snprintf(facts, sizeof facts, "%.0f MB, %.0f MB/s", megabytes, megabytes / elapsed);
    if (progress->terminal)
        draw(progress, part, facts);
    else
        log_info("%s: %s", progress->what, facts);
}

void progress_end(struct progress *progress)
{
    if (progress->terminal && progress->shown > 0) {
        ssize_t ignored = write(STDERR_FILENO, "\r\033[K", 4);
        (void)ignored;
    }
}
