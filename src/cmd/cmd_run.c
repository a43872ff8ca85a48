/* cairn run: the supervisor. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/config.h"
#include "base/exit_code.h"
#include "cmd/command.h"
#include "slurm/supervisor.h"
#include "slurm/sweep.h"

/* A killed process is gone within milliseconds unless it waits for a dead file server. */
static const double sweep_seconds = 3;

/* The ranks run this same program; CAIRN_RANK_PROGRAM names another one, for tests. */
static cairn_err rank_program(int argc, char **argv, char *own_path, size_t size, char ***out)
{
    const char *other = getenv("CAIRN_RANK_PROGRAM");
    ssize_t length = readlink("/proc/self/exe", own_path, size - 1);
    if (length < 0)
        return FAIL(CAIRN_ESYS, "cannot tell the path of this program: /proc is not mounted");
    own_path[length] = 0;
    char **words = calloc((size_t)argc + 3, sizeof *words);
    if (!words)
        return FAIL(CAIRN_ENOMEM, "no memory for the ranks' command");
    int n = 0;
    words[n++] = other && *other ? (char *)other : own_path;
    words[n++] = "train";
    for (int i = 1; i < argc; i++)
        words[n++] = argv[i];
    *out = words;
    return CAIRN_OK;
}

int cmd_run(int argc, char **argv)
{
    const char *sweep = NULL;
    long rank = -1;
    const struct option_spec options[] = {
        {0, "sweep", OPTION_STRING, &sweep, "JOB", "run nothing: kill what is left on this machine of JOB's ranks (the supervisor's own use)"},
        {0, "has-rank", OPTION_INT, &rank, "RANK", "with --sweep: kill nothing; exit code 3 if RANK of JOB is not on this machine"},
        {0},
    };
    const struct command_spec spec = {
        "cairn run CONFIG [key=value ...]",
        "Supervises a training: launches the ranks (with srun inside an sbatch script, else with mpiexec), watches them, and starts them\n"
        "again when a rank or a node fails, from the newest checkpoint, with the same bits.",
        options,
        "CONFIG is a YAML file ('cairn config --help' lists its keys; those under 'supervise' are for this command); key=value sets a key\n"
        "over it. What happens is kept in events.jsonl in the run's folder.\n"
        "Exit code: 0 trained to the last step, 1 gave up, 2 bad usage or config, 75 stopped at a checkpoint: start it again to go on."};
    int exit_code;
    if (!command_begin(&spec, &argc, argv, &exit_code))
        return exit_code;
    if (sweep && rank >= 0)
        return sweep_has_rank(sweep, (int)rank) ? EXIT_CODE_DONE : EXIT_CODE_NOT_THERE;
    if (sweep)
        return sweep_kill(sweep, sweep_seconds) == 0 ? EXIT_CODE_DONE : EXIT_CODE_FAILED;
    if (argc < 2)
        return command_usage_failed(&spec, "no config given");
    if (strcmp(argv[1], "-") == 0)
        return command_usage_failed(&spec, "the config must be a file: the ranks of every launch read it again");
    struct config config;
    cairn_err err = config_load(&config, argv[1], NULL, argc - 2, argv + 2);
    if (err)
        return command_failed(err == CAIRN_ENOTFOUND ? CAIRN_ECONFIG : err);
    char own_path[4096], **words = NULL;
    err = rank_program(argc, argv, own_path, sizeof own_path, &words);
    exit_code = err ? command_failed(err) : supervisor_run(&config, argv[1], words);
    config_free(&config);
    return exit_code;
}
