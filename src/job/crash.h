/* How a rank that crashes ends: at once, as the kernel does it, so that the launcher sees it. */
#ifndef JOB_CRASH_H
#define JOB_CRASH_H

/* Takes back what UCX, under MPICH and others, has set for SIGSEGV, SIGBUS, SIGILL and SIGFPE when it was loaded: its handler frees
 * memory before the process ends, and waits for ever where the crash was in malloc or free (seen with UCX 1.13.1). Other handlers
 * stay. UCX_HANDLE_ERRORS in the environment is a wish for UCX's: they stay then. */
void crash_at_once(void);

#endif
