#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "cmd/command.h"

static const char usage[] = "cairn config show|check FILE [KEY=VALUE ...]";

/* What the subcommands share: FILE and the overrides after it. */
static cairn_err load(struct config *config, int argc, char **argv)
{
    if (argc < 3)
        return FAIL(CAIRN_ECONFIG, "config %s needs a FILE; usage: %s", argv[1], usage);
    return config_load(config, argv[2], NULL, argc - 3, argv + 3);
}

static int show(int argc, char **argv)
{
    struct config config;
    cairn_err err = load(&config, argc, argv);
    if (err != CAIRN_OK)
        return command_failed(err);
    char *text = config_to_yaml(&config);
    config_free(&config);
    if (!text)
        return command_failed(FAIL(CAIRN_ENOMEM, "no memory for the config's text"));
    fputs(text, stdout);
    free(text);
    return EXIT_CODE_DONE;
}

static int check(int argc, char **argv)
{
    struct config config;
    cairn_err err = load(&config, argc, argv);
    if (err != CAIRN_OK)
        return command_failed(err);
    config_free(&config);
    return EXIT_CODE_DONE;
}

int cmd_config(int argc, char **argv)
{
    bool help = false, roff = false;
    const struct option_spec options[] = {
        {0, "roff", OPTION_FLAG, &roff, NULL, "print the reference of keys as a part of a man page, and stop"},
        {0},
    };
    const struct command_spec spec = {
        usage,
        "show prints the merged config: FILE, the KEY=VALUE given after it, and the defaults of all other keys.\n"
        "check prints nothing and ends with 0 when FILE can be used, with 2 and a message when not.\n"
        "FILE may be - for standard input. Keys of a section are written section.key, e.g. model.width=512.",
        options, "keys of a config file:"};
    cairn_err err = options_parse(&spec, &argc, argv, &help);
    if (err != CAIRN_OK)
        return command_failed(err);
    if (help) {
        options_help(&spec, stdout);
        config_print_reference(stdout);
        return EXIT_CODE_DONE;
    }
    if (roff) {
        config_print_roff(stdout);
        return EXIT_CODE_DONE;
    }
    if (argc > 1 && strcmp(argv[1], "show") == 0)
        return show(argc, argv);
    if (argc > 1 && strcmp(argv[1], "check") == 0)
        return check(argc, argv);
    log_error("usage: %s", usage);
    return EXIT_CODE_USAGE;
}
