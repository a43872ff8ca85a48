/* What ranks write to their standard output: passed on, without the control lines in it (job/heartbeat.h). */
#ifndef SLURM_OUTPUT_H
#define SLURM_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>

#include "job/heartbeat.h"

struct output {
    int fd;          /* does not block; -1: none, or at its end */
    char line[4096]; /* not whole yet */
    size_t length;
};

/* Reads what there is, writes it to this process's standard output, and gives each control line to HEARD. At its end it is closed. */
void output_read(struct output *output, void (*heard)(void *context, const struct heartbeat *heartbeat), void *context);

void output_close(struct output *output);

#endif
