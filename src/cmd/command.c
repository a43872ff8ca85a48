#include "cmd/command.h"

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
