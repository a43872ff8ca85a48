/* libcairn for C programs. This header includes all public ones: as yet errors and the version. */
#ifndef CAIRN_CAIRN_H
#define CAIRN_CAIRN_H

#include <cairn/error.h>

#endif
