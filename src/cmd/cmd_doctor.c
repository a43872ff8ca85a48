#include <stdlib.h>

#include "base/exit_code.h"
#include "base/log.h"
#include "cmd/command.h"
#include "doctor/doctor.h"
#include "doctor/report.h"

static int show(json_t *report, bool json)
{
    int code = report_troubles(report) > 0 ? EXIT_CODE_FAILED : EXIT_CODE_DONE;
    if (json) {
        int printed = command_print_json(report);
        return printed == EXIT_CODE_DONE ? code : printed;
    }
    report_print(report, stdout);
    json_decref(report);
    if (fflush(stdout) == 0)
        return code;
    log_error("the report could not be printed");
    return EXIT_CODE_FAILED;
}

int cmd_doctor(int argc, char **argv)
{
    bool json = false;
    double seconds = 30; /* a driver that no process holds open takes a second or two for each GPU to wake */
    const char *part = NULL;
    const struct option_spec options[] = {
        {0, "json", OPTION_FLAG, &json, NULL, "print one JSON object"},
        {0, "wait", OPTION_REAL, &seconds, "SECONDS", "give up a part that takes longer; 30 if not given"},
        {0, "part", OPTION_STRING, &part, "NAME", "examine gpus, cuda, software or machine alone, a JSON object a line"},
        {0},
    };
    const struct command_spec spec = {
        "cairn doctor [--json] [--wait SECONDS] [--part NAME]",
        "Tells what this node has of what a training stands on, and what is wrong with it: GPUs and what joins them, the cuda backend,\n"
        "MPI, HDF5, Slurm, processor, memory and file locks of the current folder.\n"
        "Ends with 0 where there is no trouble, with 1 where there is.",
        options, NULL};
    int exit_code;
    json_t *report = NULL;
    if (!command_begin(&spec, &argc, argv, &exit_code))
        return exit_code;
    if (argc > (part ? 2 : 1) || !(seconds > 0))
        return command_usage_failed(&spec, argc > (part ? 2 : 1) ? "too many arguments" : "--wait takes a time");
    cairn_err err = part ? doctor_examine_part(part, argc > 1 ? atoi(argv[1]) : 0) : doctor_examine(seconds, &report);
    if (err != CAIRN_OK)
        return command_failed(err);
    return part ? EXIT_CODE_DONE : show(report, json);
}
