/* Command-line options read off one table, from which --help is printed too. */
#ifndef BASE_OPTIONS_H
#define BASE_OPTIONS_H

#include <stdbool.h>
#include <stdio.h>

#include "base/error.h"

enum option_kind {
    OPTION_FLAG,   /* value: bool * */
    OPTION_STRING, /* value: const char **, points into argv */
    OPTION_INT,    /* value: long * */
    OPTION_REAL,   /* value: double * */
};

struct option_spec {
    char letter;          /* 'o' for -o, 0 for none */
    const char *name;     /* "output" for --output */
    enum option_kind kind;
    void *value;
    const char *argument; /* what the help calls the value, NULL for flags */
    const char *help;
};

struct command_spec {
    const char *usage;   /* "cairn data info FILE [--json]" */
    const char *summary; /* what it does, a sentence or a short paragraph */
    const struct option_spec *options; /* ends with a name of NULL; --help is added by itself */
    const char *more;    /* text after the options, or NULL */
};

/* Reads ARGV[1..]; options may stand anywhere, "--" ends them. Positional arguments are moved to ARGV[1..*ARGC-1].
 * Sets *HELP and stops reading when --help or -h is met. Fails with CAIRN_ECONFIG and a message that names the option. */
cairn_err options_parse(const struct command_spec *command, int *argc, char **argv, bool *help);

void options_help(const struct command_spec *command, FILE *out);

#endif
