#include "base/duration.h"

#include <math.h>
#include <stdio.h>

char *duration_text(double seconds, char text[DURATION_SIZE])
{
    long s = seconds < 1e9 ? lround(seconds) : 1000000000;
    if (s >= 3600)
        snprintf(text, DURATION_SIZE, "%ld h %02ld min", s / 3600, s / 60 % 60);
    else if (s >= 60)
        snprintf(text, DURATION_SIZE, "%ld min %02ld s", s / 60, s % 60);
    else
        snprintf(text, DURATION_SIZE, "%ld s", s);
    return text;
}
