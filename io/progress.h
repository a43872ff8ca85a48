/* How far a long piece of work is, on standard error: a bar on a terminal, whole lines elsewhere. Nothing is shown in the
 * first two seconds, so that short work is silent. From one rank. */
#ifndef IO_PROGRESS_H
#define IO_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    const char *what; /* static: "importing" */
    int64_t total;    /* bytes; 0: not known */
    double begin, shown;
    bool terminal;
};

void progress_begin(struct progress *progress, const char *what, int64_t total);
void progress_update(struct progress *progress, int64_t done);
void progress_end(struct progress *progress);

#endif
