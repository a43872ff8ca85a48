/* Raising errors (src/cairn/error.h tells what a caller sees of them).
 *
 *     if (fd < 0)
 *         return FAIL(CAIRN_ESYS, "cannot open %s: %s", path, strerror(errno));
 *     TRY(shape_check(s));                         // passes an error on
 *     TRY_CONTEXT(reader_open(r), "reading %s", path);   // passes it on with a context in front
 */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#include <cairn/error.h>

/* Sets this thread's message and returns CODE. */
cairn_err error_set(cairn_err code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts "context: " in front of this thread's message and returns CODE. */
cairn_err error_context(cairn_err code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* CAIRN_ENOSPACE for ENOSPC and EDQUOT, CAIRN_ENOTFOUND for ENOENT, CAIRN_ENOMEM for ENOMEM, else CAIRN_ESYS. */
cairn_err error_from_errno(int errnum);

#define FAIL(code, ...) error_set((code), __VA_ARGS__)

#define TRY(call)                      \
    do {                               \
        cairn_err try_err_ = (call);   \
        if (try_err_ != CAIRN_OK)      \
            return try_err_;           \
    } while (0)

#define TRY_CONTEXT(call, ...)                                \
    do {                                                      \
        cairn_err try_err_ = (call);                          \
        if (try_err_ != CAIRN_OK)                             \
            return error_context(try_err_, __VA_ARGS__);      \
    } while (0)

/* For functions that unwind: sets ERR (a cairn_err in scope) and jumps to LABEL if the call fails. */
#define TRY_GOTO(err, call, label)     \
    do {                               \
        (err) = (call);                \
        if ((err) != CAIRN_OK)         \
            goto label;                \
    } while (0)

#endif
