/* What every plug-in has of its own: the variable that the program looks for, and the functions by which its other files raise
 * errors. The message of the last failure is the program's. */
#include <config.h>
#include <stdarg.h>
#include <stdio.h>

#include "kernels/plugin.h"

cairn_err cairn_backend_open(const struct backend_options *, struct backend **); /* of the backend */

extern struct plugin cairn_backend_plugin __attribute__((visibility("default")));
struct plugin cairn_backend_plugin = {.stamp = PLUGIN_STAMP, .open = cairn_backend_open};

enum { MESSAGE_SIZE = 4096 };

cairn_err error_set(cairn_err code, const char *format, ...)
{
    char text[MESSAGE_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return cairn_backend_plugin.error_set(code, "%s", text);
}

cairn_err error_context(cairn_err code, const char *format, ...)
{
    char text[MESSAGE_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return cairn_backend_plugin.error_context(code, "%s", text);
}
