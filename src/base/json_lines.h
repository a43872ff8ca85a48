/* Files of one JSON object a line (metrics.jsonl, events.jsonl): appended to whole lines at a time, so that a job that is
 * cut off leaves at most one broken line, which readers pass over. */
#ifndef BASE_JSON_LINES_H
#define BASE_JSON_LINES_H

#include <jansson.h>

#include "base/error.h"

struct json_lines;

/* Opens PATH for appending; a last line without its newline (a writer was cut off) is ended first. */
cairn_err json_lines_open(const char *path, struct json_lines **out);

/* Appends OBJECT with one write(2) and releases it (also on failure). A "time" member (seconds since 1970) is put first. */
cairn_err json_lines_write(struct json_lines *file, json_t *object);

void json_lines_close(struct json_lines *file);

/* Calls EACH for every line of PATH that is a JSON object, in order; lines that are not are passed over and, unless
 * empty, counted in *BROKEN (may be NULL). A missing file is CAIRN_ENOTFOUND. */
cairn_err json_lines_read(const char *path, void (*each)(json_t *object, void *context), void *context, int *broken);

#endif
