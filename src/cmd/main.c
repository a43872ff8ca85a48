/* The cairn command: finds the subcommand and hands over. */
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "base/exit_code.h"
#include "base/log.h"
#include "cmd/command.h"

static const struct {
    const char *name;
    command_main *run;
    const char *summary;
} commands[] = {
    {"ckpt", cmd_ckpt, "look at checkpoints: list, info, verify, diff"},
    {"config", cmd_config, "show or check a config file; its --help lists all keys"},
    {"data", cmd_data, "make and inspect datasets"},
    {"doctor", cmd_doctor, "what this node has of what a training stands on, and what is wrong with it"},
    {"eval", cmd_eval, "the loss of a checkpoint on a validation split"},
    {"generate", cmd_generate, "text from a checkpoint"},
    {"plan", cmd_plan, "which layouts of a model fit a machine, and how fast each would be"},
    {"run", cmd_run, "supervise a training: launch, watch, restart"},
    {"train", cmd_train, "train: the program of every rank"},
    {"version", cmd_version, "print the version of Cairn and of its libraries"},
};

enum { COMMAND_COUNT = sizeof commands / sizeof commands[0] };

static void show_help(FILE *out)
{
    fputs("usage: cairn COMMAND [ARGUMENTS]\n\n"
          "Trains models on supercomputers; jobs that fail come back and end with the same bits.\n\ncommands:\n", out);
    for (int i = 0; i < COMMAND_COUNT; i++)
        fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].summary);
    fputs("\n'cairn COMMAND --help' tells more of a command, 'man cairn' of all.\n", out);
}

/* A checkpoint has a file for each node that wrote it, and verifying or comparing keeps them open. */
static void raise_file_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

int main(int argc, char **argv)
{
    raise_file_limit();
    if (argc < 2) {
        show_help(stderr);
        return EXIT_CODE_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        show_help(stdout);
        return EXIT_CODE_DONE;
    }
    if (strcmp(argv[1], "--version") == 0)
        argv[1] = "version";
    for (int i = 0; i < COMMAND_COUNT; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    log_error("unknown command '%s'; 'cairn --help' lists them", argv[1]);
    return EXIT_CODE_USAGE;
}
