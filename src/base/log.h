/* Lines for people, on standard error: "cairn: text", or "cairn[RANK@HOST]: text" once a rank of several is known.
 * One write(2) a line, so that lines of ranks do not mix. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

/* From now on lines are marked with RANK and HOST (copied). */
void log_set_rank(int rank, const char *host);

/* As "cairn[worker NUMBER@HOST]: text". */
void log_set_worker(int number, const char *host);

void log_info(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_warning(const char *format, ...) __attribute__((format(printf, 1, 2))); /* "cairn: warning: text" */
void log_error(const char *format, ...) __attribute__((format(printf, 1, 2)));   /* "cairn: error: text" */

#endif
