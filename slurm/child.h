/* Child processes that do not outlive the supervisor. */
#ifndef SLURM_CHILD_H
#define SLURM_CHILD_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"

/* Starts ARGV[0] (looked up in PATH) in a process group of its own; it is killed when this process dies. Standard input is /dev/null;
 * *OUTPUT, if not NULL, becomes the read end of its standard output, non-blocking. QUIET: its standard error goes nowhere. */
cairn_err child_start(char *const argv[], int *output, bool quiet, pid_t *pid);

/* Runs several commands at once and waits for all, SECONDS at most; what is not done then is killed. STATUS[i] is the exit code, or
 * -1 for a command that could not be run, was killed, or took too long. */
void child_run_all(char *const *const argvs[], int count, double seconds, int *status);

/* One command, within SECONDS in all; its output's first SIZE-1 bytes into OUTPUT if that is not NULL. Returns the exit code, or -1
 * for a command that could not be run, was killed, or took too long. */
int child_run(char *const argv[], double seconds, char *output, size_t size);

/* SIGKILL to the whole group of PID, which is reaped. */
void child_kill(pid_t pid);

#endif
