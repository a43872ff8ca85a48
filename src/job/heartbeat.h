/* The supervisor's channel. Ranks started by `cairn run` have CAIRN_SUPERVISED=1 in their environment; each then writes
 * control lines to its standard output, which srun or mpiexec carries to the supervisor: no port, no file, and it works as
 * long as the launcher's own connections do. A control line is one write(2) of
 *     \001cairn KIND RANK HOST STEP PHASE TEXT\n
 * with fields separated by single spaces, TEXT running to the end of the line (maybe empty) and "-" for an empty PHASE.
 * The supervisor takes these lines out of what it passes on. Kinds:
 *     alive   every heartbeat_seconds, with the current step and phase; TEXT is the number of the Slurm step, if there is one
 *     restore the run goes on from checkpoint STEP, 0: from the start (from rank 0)
 *     commit  checkpoint STEP is committed (from rank 0)
 *     abort   the rank ends the step; TEXT says why
 *     leave   the rank leaves in order; TEXT is the exit code and, maybe, a space and why
 *     servers parameter servers listen for workers; TEXT is what these need in their environment as CAIRN_SERVERS (from rank 0,
 *             with each alive: one that is lost or damaged is made good by the next)
 * Without CAIRN_SUPERVISED nothing is written. */
#ifndef JOB_HEARTBEAT_H
#define JOB_HEARTBEAT_H

#include <stdbool.h>
#include <stdint.h>

#define HEARTBEAT_MARK "\001cairn"

enum heartbeat_kind { HEARTBEAT_ALIVE, HEARTBEAT_RESTORE, HEARTBEAT_COMMIT, HEARTBEAT_ABORT, HEARTBEAT_LEAVE, HEARTBEAT_SERVERS };

struct heartbeat {
    enum heartbeat_kind kind;
    int rank;
    char host[64];
    int64_t step;
    char phase[32];
    char text[512];
};

bool heartbeat_enabled(void);

/* Writes one control line if enabled. Safe from any thread. */
void heartbeat_send(enum heartbeat_kind kind, int rank, const char *host, int64_t step, const char *phase, const char *text);

/* Reads one line (without its newline) into *OUT; false when it is not a control line, or a damaged one. */
bool heartbeat_parse(const char *line, struct heartbeat *out);

#endif
