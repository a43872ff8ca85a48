/* Who is what in a training with parameter servers (parallel.sync: server), by environment and world:
 *  - CAIRN_SERVERS is set, to what servers tell: this process is a worker of its own, in no world with others. Its number is CAIRN_WORKER,
 *    or SLURM_PROCID, or 0;
 *  - CAIRN_WORKERS is set, to how many will come: all ranks of this world are servers, and the first tells the supervisor how workers reach
 *    them (job/heartbeat.h);
 *  - neither: the first parallel.servers ranks are servers, the others workers. */
#ifndef SERVER_ROLES_H
#define SERVER_ROLES_H

#include "train/trainer.h"

struct roles_end {
    bool stopped; /* at a checkpoint, on a signal */
    bool tells;   /* this rank tells how it ended: TRAINER is the head server's */
};

/* Collective over MESH. Trains until the last step or a stop. On failure TRAINER's failed_alone says whether others know. */
cairn_err roles_train(struct trainer *trainer, struct job *job, struct mesh *mesh, const struct config *config, struct roles_end *end);

#endif
