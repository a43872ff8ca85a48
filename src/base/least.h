#ifndef BASE_LEAST_H
#define BASE_LEAST_H

#include <stdint.h>

#include "base/device_code.h"

DEVICE_CODE static inline int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

#endif
