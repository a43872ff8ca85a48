/* Seconds until a Slurm allocation ends. */
#ifndef JOB_TIME_LEFT_H
#define JOB_TIME_LEFT_H

struct time_left;

/* Begins to watch the end of this process's allocation; NULL outside of Slurm or without memory. Lives as long as the process. */
struct time_left *time_left_open(void);

/* See job_seconds_left. Never waits for Slurm. */
double time_left_seconds(struct time_left *t);

/* The seconds in squeue's "%L", "1-02:03:04" for instance; negative when TEXT is no time ("UNLIMITED"). */
double time_left_parse(const char *text);

#endif
