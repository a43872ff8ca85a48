/* What a command's exit code says; the supervisor and sbatch scripts read it. */
#ifndef BASE_EXIT_CODE_H
#define BASE_EXIT_CODE_H

enum exit_code {
    EXIT_CODE_DONE = 0,
    EXIT_CODE_FAILED = 1,
    EXIT_CODE_USAGE = 2,    /* bad usage or config, or all checkpoints broken: starting again would not help */
    EXIT_CODE_NOT_THERE = 3, /* run --has-rank: surely not on this machine; srun has no such code of its own */
    EXIT_CODE_RESTART = 75, /* stopped at a checkpoint, wants to be started again (EX_TEMPFAIL of sysexits.h) */
};

#endif
