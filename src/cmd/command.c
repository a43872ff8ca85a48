#include "cmd/command.h"

#include <string.h>

#include "base/exit_code.h"
#include "base/log.h"

bool command_begin(const struct command_spec *spec, int *argc, char **argv, int *exit_code)
{
    bool help;
    cairn_err err = options_parse(spec, argc, argv, &help);
    if (err != CAIRN_OK) {
        *exit_code = command_failed(err);
        return false;
    }
    if (help) {
        options_help(spec, stdout);
        *exit_code = EXIT_CODE_DONE;
        return false;
    }
    return true;
}

int command_failed(cairn_err err)
{
    if (*cairn_err_message()) /* an error that another rank tells of has no message here */
        log_error("%s", cairn_err_message());
    return err == CAIRN_ECONFIG ? EXIT_CODE_USAGE : EXIT_CODE_FAILED;
}

int command_usage_failed(const struct command_spec *spec, const char *what)
{
    log_error("%s; usage: %s", what, spec->usage);
    return EXIT_CODE_USAGE;
}

int command_print_json(json_t *object)
{
    bool printed = object && json_dumpf(object, stdout, JSON_INDENT(2) | JSON_ENSURE_ASCII) == 0 && putchar('\n') != EOF && fflush(stdout) == 0;
    json_decref(object);
    if (!printed)
        log_error("the JSON could not be printed");
    return printed ? EXIT_CODE_DONE : EXIT_CODE_FAILED;
}

static void show_usage(FILE *out, const char *summary, const struct subcommand *subcommands, int count)
{
    for (int i = 0; i < count; i++)
        fprintf(out, "%s %s\n", i == 0 ? "usage:" : "      ", subcommands[i].usage);
    fprintf(out, "\n%s\n", summary);
}

int command_dispatch(const char *command, const char *summary, const struct subcommand *subcommands, int count, int argc, char **argv)
{
    if (argc < 2) {
        show_usage(stderr, summary, subcommands, count);
        return EXIT_CODE_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        show_usage(stdout, summary, subcommands, count);
        return EXIT_CODE_DONE;
    }
    char names[128] = "";
    for (int i = 0; i < count; i++) {
        if (strcmp(argv[1], subcommands[i].name) == 0)
            return subcommands[i].run(argc - 1, argv + 1);
        size_t length = strlen(names);
        snprintf(names + length, sizeof names - length, "%s%s", i == 0 ? "" : i == count - 1 ? " and " : ", ", subcommands[i].name);
    }
    log_error("unknown subcommand '%s %s'; there are %s", command, argv[1], names);
    return EXIT_CODE_USAGE;
}
