/* A command line that is put together word by word. */
#ifndef SLURM_COMMAND_H
#define SLURM_COMMAND_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/error.h"

enum { COMMAND_VARIABLES = 4 };

struct command {
    char **word; /* ends with NULL; NULL before the first */
    int count;
    struct {
        const char *name;
        char *value;
    } variable[COMMAND_VARIABLES]; /* of its environment alone */
    int variables;
    bool failed; /* no memory for a word or a value */
};

/* Adds one word; what went wrong is told by command_start. */
void command_add(struct command *command, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The same for all words of ARGV, which ends with NULL. */
void command_add_all(struct command *command, char *const *argv);

/* NAME=VALUE in its environment, which this process has no NAME in. There is room for COMMAND_VARIABLES of them. */
void command_set(struct command *command, const char *name, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* child_start of it. */
cairn_err command_start(const struct command *command, int *output, pid_t *pid);

void command_free(struct command *command);

#endif
