/* cairn run: launches the ranks, watches, classifies each end, starts again. It trains nothing. */
#ifndef SLURM_SUPERVISOR_H
#define SLURM_SUPERVISOR_H

#include "base/config.h"

/* Supervises a run until it is done or cannot go on here. CONFIG is the merged config of FILE; the ranks are RANK_PROGRAM (ends with
 * NULL). Returns an exit code (base/exit_code.h); what happened is told on standard error and in run_dir/events.jsonl. */
int supervisor_run(const struct config *config, const char *file, char *const *rank_program);

#endif
