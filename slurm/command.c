#include "slurm/command.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "slurm/child.h"

void command_add(struct command *c, const char *format, ...)
{
    char **more = realloc(c->word, (size_t)(c->count + 2) * sizeof *more), *word = NULL;
    va_list args;
    va_start(args, format);
    c->word = more ? more : c->word;
    if (!more || vasprintf(&word, format, args) < 0) {
        c->failed = true;
    } else {
        more[c->count++] = word;
        more[c->count] = NULL;
    }
    va_end(args);
}

void command_add_all(struct command *c, char *const *argv)
{
    for (; *argv; argv++)
        command_add(c, "%s", *argv);
}

void command_set(struct command *c, const char *name, const char *format, ...)
{
    char *value = NULL;
    va_list args;
    va_start(args, format);
    if (c->variables == COMMAND_VARIABLES || vasprintf(&value, format, args) < 0) {
        c->failed = true;
    } else {
        c->variable[c->variables].name = name;
        c->variable[c->variables++].value = value;
    }
    va_end(args);
}

cairn_err command_start(const struct command *c, int *output, pid_t *pid)
{
    if (c->failed || c->count == 0)
        return FAIL(CAIRN_ENOMEM, "no memory for a command");
    for (int i = 0; i < c->variables; i++)
        setenv(c->variable[i].name, c->variable[i].value, 1);
    cairn_err err = child_start(c->word, output, false, pid);
    for (int i = 0; i < c->variables; i++)
        unsetenv(c->variable[i].name);
    return err;
}

void command_free(struct command *c)
{
    for (int i = 0; i < c->count; i++)
        free(c->word[i]);
    for (int i = 0; i < c->variables; i++)
        free(c->variable[i].value);
    free(c->word);
    *c = (struct command){0};
}
