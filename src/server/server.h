/* A parameter server: holds a share of the weights and their moments, gives parameters to workers, takes their gradients, applies the
 * optimizer, and writes checkpoints together with the other servers (collectively, by MPI; all else goes over server/wire.h). Server 0,
 * the head, also gives out the work (server/work.h) and tells how it goes. */
#ifndef SERVER_SERVER_H
#define SERVER_SERVER_H

#include "train/trainer.h"

struct server;

/* Collective over MESH, the servers. Opens the run as TRAINER, which is the caller's to close after the server, restores the newest
 * checkpoint, and listens. */
cairn_err server_open(struct trainer *trainer, struct job *job, struct mesh *mesh, const struct config *config, struct server **out);
void server_close(struct server *server); /* NULL is fine */

/* After an error of server_run: whether all servers met it. */
bool server_failed_together(const struct server *server);

/* What workers need to know, "TOKEN@ADDRESSES", in fewer bytes than this: it goes to the supervisor in a control line (job/heartbeat.h).
 * The same on all servers. The addresses are the head's; it tells workers the others'. Empty: the run is done already, nobody is needed. */
enum { SERVER_INVITATION_SIZE = 512 };
const char *server_invitation(const struct server *server);

/* Serves until the last step's checkpoint is written, or that of a stop (*STOPPED). WORKERS are expected to come: the first step waits a
 * while for them, so that it is shared by all. */
cairn_err server_run(struct server *server, int workers, bool *stopped);

#endif
