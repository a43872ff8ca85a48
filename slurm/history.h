/* events.jsonl (doc/formats/events.md): written while supervising, read when a requeued job finds its way back. */
#ifndef SLURM_HISTORY_H
#define SLURM_HISTORY_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/json_lines.h"

struct history {
    struct json_lines *file;
    bool lost;                    /* an event could not be written: who reads the file counts less than is true */
    /* Summed up from what is there, and kept true while writing: */
    int64_t committed;            /* newest checkpoint told of; -1: none */
    long launches, restarts;      /* over all allocations */
    long without_progress;        /* failed launches in a row without a newer checkpoint */
    int same_failure;             /* of them, the last ones at the same step with the same text */
    int64_t failure_step;
    char failure[512];
};

/* Opens RUN_DIR/events.jsonl, making the folder where needed. */
cairn_err history_open(const char *run_dir, struct history *out);
void history_close(struct history *history);

/* Writes EVENT with the members of DETAILS (released). A failure to write is told as an error, once, noted in LOST, and passed over:
 * what is summed up here goes on. */
void history_write(struct history *history, const char *event, json_t *details);

/* A checkpoint of STEP is committed: progress. */
void history_committed(struct history *history, int64_t step);

/* A launch ended badly at STEP; FAILURE is what a rank said when it ended the step, empty if none said anything. */
void history_failed(struct history *history, int64_t step, const char *failure);

#endif
