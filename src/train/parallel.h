/* What a config asks for under `parallel`, on the ranks that there are. */
#ifndef TRAIN_PARALLEL_H
#define TRAIN_PARALLEL_H

#include "base/config.h"
#include "mesh/layout.h"
#include "schedule/schedule.h"

/* The layout of RANKS ranks for CONFIG and a model of VOCABULARY tokens. CAIRN_ECONFIG, with the reason, where it does not fit or its
 * parts do not go together: the one place where combinations are refused. */
cairn_err parallel_layout(const struct config *config, int64_t vocabulary, int ranks, struct layout *out);

/* The schedule of that layout, of MICROBATCHES a replica. */
struct schedule_desc parallel_schedule(const struct config *config, int64_t microbatches);

#endif
