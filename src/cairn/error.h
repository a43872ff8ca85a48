/* Errors: one code, one message.
 *
 * Every function of Cairn that can fail returns a cairn_err: CAIRN_OK (0), or a negative code. What went wrong, with
 * the objects it went wrong with, is kept as text per thread until the next failure on that thread. */
#ifndef CAIRN_ERROR_H
#define CAIRN_ERROR_H

#ifdef __cplusplus
extern "C" {
#endif

typedef int cairn_err;

enum {
    CAIRN_OK = 0,
    CAIRN_ENOMEM = -1,       /* no memory left */
    CAIRN_EINVAL = -2,       /* an argument the function does not take */
    CAIRN_ECONFIG = -3,      /* a config or a command line that cannot be used */
    CAIRN_ESYS = -4,         /* a system call failed */
    CAIRN_ENOTFOUND = -5,    /* a file, key or object is not there */
    CAIRN_EFORMAT = -6,      /* a file is not of the form it should have */
    CAIRN_ECORRUPT = -7,     /* a checksum differs from the one stored */
    CAIRN_ENOSPACE = -8,     /* a disk or quota is full */
    CAIRN_EMPI = -9,         /* the MPI library failed */
    CAIRN_EPMIX = -10,       /* PMIx or the PMI bridge failed */
    CAIRN_EUNSUPPORTED = -11,/* asked for something this build or machine does not have */
    CAIRN_EPEER = -12,       /* another rank failed; its message is told by that rank */
    CAIRN_ETIMEOUT = -13,    /* a time limit passed */
    CAIRN_ELIBRARY = -14,    /* another library failed (its name is in the message) */
    CAIRN_EDEVICE = -15,     /* a GPU, or what was computed on it, failed */
    CAIRN_ENODEVICE = -16,   /* there is no GPU that can be used */
};

/* The code's name, e.g. "CAIRN_ENOSPACE". Never NULL; static storage. */
const char *cairn_err_name(cairn_err code);

/* One line that tells the code's meaning. Never NULL; static storage. */
const char *cairn_err_meaning(cairn_err code);

/* The message of this thread's last failure, its contexts outermost first, separated by ": ". Empty if none failed yet.
 * The text belongs to the library and holds until this thread's next failing call. */
const char *cairn_err_message(void);

/* The library's version, e.g. "0.1.0". Static storage. */
const char *cairn_version(void);

#ifdef __cplusplus
}
#endif
#endif
