/* The subcommands of cairn: each is a main of its own in cmd_NAME.c; argv[0] is the subcommand's name. Each returns an
 * exit code (base/exit_code.h), after printing what went wrong. */
#ifndef CMD_COMMAND_H
#define CMD_COMMAND_H

#include <jansson.h>
#include <stdbool.h>

#include "base/options.h"

typedef int command_main(int argc, char **argv);

command_main cmd_ckpt;
command_main cmd_config;
command_main cmd_eval;
command_main cmd_generate;
command_main cmd_plan;
command_main cmd_run;
command_main cmd_train;
command_main cmd_data;
command_main cmd_doctor;
command_main cmd_version;

/* Parses options for a subcommand. Returns true when the subcommand shall go on; else *EXIT_CODE is what it returns
 * (help was shown, or the error was printed). */
bool command_begin(const struct command_spec *spec, int *argc, char **argv, int *exit_code);

/* Prints this thread's error message and returns the exit code that fits ERR: usage for CAIRN_ECONFIG, else failed. */
int command_failed(cairn_err err);

/* Prints WHAT is wrong with the arguments, and the usage; returns the exit code for it. */
int command_usage_failed(const struct command_spec *spec, const char *what);

/* Prints and releases OBJECT; the exit code: failed, with a message, when it is NULL or standard output does not take it. */
int command_print_json(json_t *object);

/* A command of a command, as "list" of "cairn ckpt". */
struct subcommand {
    const char *name, *usage;
    command_main *run;
};

/* Runs the one of the COUNT SUBCOMMANDS of "cairn COMMAND" that ARGV[1] names. Without one, or with --help, prints their usage
 * lines and SUMMARY. */
int command_dispatch(const char *command, const char *summary, const struct subcommand *subcommands, int count, int argc, char **argv);

#endif
