/* Durations for people. */
#ifndef BASE_DURATION_H
#define BASE_DURATION_H

#include <stddef.h>

enum { DURATION_SIZE = 32 };

/* "3 h 05 min", "2 min 09 s" or "7 s" of a number of seconds. Returns TEXT. */
char *duration_text(double seconds, char text[DURATION_SIZE]);

#endif
