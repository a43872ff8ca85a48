#include "base/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const struct option_spec *find_long(const struct command_spec *command, const char *name, size_t length)
{
    for (const struct option_spec *o = command->options; o && o->name; o++)
        if (strlen(o->name) == length && strncmp(o->name, name, length) == 0)
            return o;
    return NULL;
}

static const struct option_spec *find_letter(const struct command_spec *command, char letter)
{
    for (const struct option_spec *o = command->options; o && o->name; o++)
        if (o->letter == letter)
            return o;
    return NULL;
}

static cairn_err store(const struct option_spec *o, const char *text)
{
    char *end;
    errno = 0;
    switch (o->kind) {
    case OPTION_FLAG:
        *(bool *)o->value = true;
        return CAIRN_OK;
    case OPTION_STRING:
        *(const char **)o->value = text;
        return CAIRN_OK;
    case OPTION_INT:
        *(long *)o->value = strtol(text, &end, 10);
        if (errno || end == text || *end)
            return FAIL(CAIRN_ECONFIG, "--%s takes a whole number, not '%s'", o->name, text);
        return CAIRN_OK;
    case OPTION_REAL:
        *(double *)o->value = strtod(text, &end);
        if (errno || end == text || *end)
            return FAIL(CAIRN_ECONFIG, "--%s takes a number, not '%s'", o->name, text);
        return CAIRN_OK;
    }
    return FAIL(CAIRN_EINVAL, "option --%s has an unknown kind", o->name);
}

/* One argument that begins with '-': sets *USED to how many of the remaining ARGV entries it took. */
static cairn_err take_option(const struct command_spec *command, int remaining, char **argv, int *used)
{
    const char *text = argv[0], *value = NULL;
    const struct option_spec *o;
    if (text[1] == '-') {
        size_t length = strcspn(text + 2, "=");
        o = find_long(command, text + 2, length);
        if (text[2 + length] == '=')
            value = text + 2 + length + 1;
    } else {
        o = find_letter(command, text[1]);
        if (text[2])
            value = text + 2;
    }
    if (!o)
        return FAIL(CAIRN_ECONFIG, "unknown option %s; usage: %s", text, command->usage);
    *used = 1;
    if (o->kind == OPTION_FLAG) {
        if (value)
            return FAIL(CAIRN_ECONFIG, "--%s takes no value", o->name);
    } else if (!value) {
        if (remaining < 2)
            return FAIL(CAIRN_ECONFIG, "--%s needs a value (%s)", o->name, o->argument);
        value = argv[1];
        *used = 2;
    }
    return store(o, value);
}

cairn_err options_parse(const struct command_spec *command, int *argc, char **argv, bool *help)
{
    int kept = 1;
    bool literal = false;
    *help = false;
    for (int i = 1; i < *argc;) {
        char *text = argv[i];
        if (literal || text[0] != '-' || !text[1]) { /* "-" alone is a file: standard input */
            argv[kept++] = text;
            i++;
        } else if (strcmp(text, "--") == 0) {
            literal = true;
            i++;
        } else if (strcmp(text, "--help") == 0 || strcmp(text, "-h") == 0) {
            *help = true;
            return CAIRN_OK;
        } else {
            int used = 0;
            TRY(take_option(command, *argc - i, argv + i, &used));
            i += used;
        }
    }
    *argc = kept;
    argv[kept] = NULL;
    return CAIRN_OK;
}

void options_help(const struct command_spec *command, FILE *out)
{
    fprintf(out, "usage: %s\n\n%s\n\noptions:\n", command->usage, command->summary);
    for (const struct option_spec *o = command->options; o && o->name; o++) {
        char left[64];
        snprintf(left, sizeof left, "%s%c%s--%s%s%s", o->letter ? "-" : "", o->letter ? o->letter : ' ',
                 o->letter ? ", " : "   ", o->name, o->argument ? " " : "", o->argument ? o->argument : "");
        fprintf(out, "  %-28s %s\n", left, o->help);
    }
    fprintf(out, "  %-28s %s\n", "-h, --help", "show this text");
    if (command->more)
        fprintf(out, "\n%s\n", command->more);
}
