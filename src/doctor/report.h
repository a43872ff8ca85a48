/* What the doctor finds: facts, each a JSON object
 *   {"name": "GPU 0, ECC", "mark": "ok" | "warning" | "trouble", "text": "...", "advice": "..." (with what is not ok), numbers by name}
 * A part's facts are written as they are found, one a line, so that those before a hang or a crash are not lost. */
#ifndef DOCTOR_REPORT_H
#define DOCTOR_REPORT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

enum mark { MARK_OK, MARK_WARNING, MARK_TROUBLE };

struct facts {
    FILE *out;
    json_t *numbers; /* of the next fact */
    bool failed;     /* some could not be written */
};

/* A number of the fact that is told next. */
void fact_number(struct facts *facts, const char *name, long long number);

/* ADVICE, one sentence: what to do. Left out with what is ok, where it may be NULL. */
void fact_tell(struct facts *facts, enum mark mark, const char *name, const char *advice, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* The report as a whole: {"host": ..., "troubles": N, "warnings": N, "parts": [{"name": ..., "facts": [...]}, ...]}. A report is NULL
 * where there is no memory, and so is all that is taken from it. */
json_t *report_new(void);

/* Adds part TITLE with the facts of TEXT, a line each; a last line that was cut off is left out. Returns the part, the report's. */
json_t *report_add(json_t *report, const char *title, const char *text);

/* Adds a fact to PART of REPORT. */
void report_tell(json_t *report, json_t *part, enum mark mark, const char *name, const char *advice, const char *text);

/* The last fact's name so far, NULL if there is none. */
const char *report_last(const json_t *part);

/* NUMBER of the part's fact NAME; -1 if it has none. */
long long report_number(const json_t *part, const char *name, const char *number);

int report_troubles(const json_t *report);

/* For people, on OUT. */
void report_print(const json_t *report, FILE *out);

#endif
