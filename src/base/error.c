#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <config.h> /* of configure; base/config.h is another */

/* Long enough for a path (PATH_MAX 4096 is rare) and three contexts; longer messages lose their end, never their begin. */
enum { MESSAGE_SIZE = 4096 };

static _Thread_local char message[MESSAGE_SIZE];

cairn_err error_set(cairn_err code, const char *format, ...)
{
    char text[MESSAGE_SIZE]; /* the arguments may point into the old message */
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    memcpy(message, text, sizeof message);
    return code;
}

cairn_err error_context(cairn_err code, const char *format, ...)
{
    char text[MESSAGE_SIZE];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (length >= 0 && length < MESSAGE_SIZE)
        snprintf(text + length, sizeof text - (size_t)length, ": %s", message);
    memcpy(message, text, sizeof message);
    return code;
}

cairn_err error_from_errno(int errnum)
{
    switch (errnum) {
    case ENOSPC:
    case EDQUOT: return CAIRN_ENOSPACE;
    case ENOENT: return CAIRN_ENOTFOUND;
    case ENOMEM: return CAIRN_ENOMEM;
    default: return CAIRN_ESYS;
    }
}

static const struct {
    const char *name, *meaning;
} codes[] = {
    {"CAIRN_OK", "no error"},
    {"CAIRN_ENOMEM", "no memory left"},
    {"CAIRN_EINVAL", "an argument the function does not take"},
    {"CAIRN_ECONFIG", "a config or command line that cannot be used"},
    {"CAIRN_ESYS", "a system call failed"},
    {"CAIRN_ENOTFOUND", "a file, key or object is not there"},
    {"CAIRN_EFORMAT", "a file is not of the form it should have"},
    {"CAIRN_ECORRUPT", "a checksum differs from the one stored"},
    {"CAIRN_ENOSPACE", "a disk or quota is full"},
    {"CAIRN_EMPI", "the MPI library failed"},
    {"CAIRN_EPMIX", "PMIx or the PMI bridge failed"},
    {"CAIRN_EUNSUPPORTED", "asked for something this build or machine does not have"},
    {"CAIRN_EPEER", "another rank failed"},
    {"CAIRN_ETIMEOUT", "a time limit passed"},
    {"CAIRN_ELIBRARY", "another library failed"},
    {"CAIRN_EDEVICE", "a GPU, or what was computed on it, failed"},
    {"CAIRN_ENODEVICE", "there is no GPU that can be used"},
};

static int code_index(cairn_err code)
{
    int count = (int)(sizeof codes / sizeof codes[0]);
    return code <= 0 && -code < count ? -code : -1;
}

const char *cairn_err_name(cairn_err code)
{
    int i = code_index(code);
    return i < 0 ? "unknown code" : codes[i].name;
}

const char *cairn_err_meaning(cairn_err code)
{
    int i = code_index(code);
    return i < 0 ? "not a code of this library" : codes[i].meaning;
}

const char *cairn_err_message(void)
{
    return message;
}

const char *cairn_version(void)
{
    return PACKAGE_VERSION;
}
