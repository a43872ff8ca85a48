/* libcairn: the job, data and checkpoint parts of Cairn for C programs. This header includes all public ones. */
#ifndef CAIRN_CAIRN_H
#define CAIRN_CAIRN_H

#include <cairn/error.h>

#endif
