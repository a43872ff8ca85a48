/* The trace of a training (base/trace.h), where its config asks for one: RUN/trace/rank-0003.json of each rank, and at the end
 * RUN/trace.json of all of them. Of a run that was started again it shows the newest start. Does nothing where none is asked for. */
#ifndef TRAIN_TRACING_H
#define TRAIN_TRACING_H

#include "base/config.h"
#include "mesh/mesh.h"

/* Collective. Opens this rank's trace and measures how far its clock is from rank 0's. */
cairn_err tracing_open(struct mesh *mesh, const struct config *config);

/* Writes this rank's file. What cannot be written is lost with a warning: it ends no training. */
void tracing_write(void);

/* Collective. Writes all files, and rank 0 joins them. */
cairn_err tracing_join(struct mesh *mesh, const struct config *config);

#endif
