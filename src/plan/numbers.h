/* What the planner's counts share. */
#ifndef PLAN_NUMBERS_H
#define PLAN_NUMBERS_H

#include <stdint.h>

static inline int64_t share(int64_t n, int64_t parts) /* the largest of PARTS shares */
{
    return (n + parts - 1) / parts;
}

static inline int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

#endif
