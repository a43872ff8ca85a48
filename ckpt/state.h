/* state.h5: the table of a checkpoint, and every array whole as a virtual dataset. Serial. */
#ifndef CKPT_STATE_H
#define CKPT_STATE_H

#include "ckpt/table.h"

/* Writes and fsyncs FOLDER/state.h5. */
cairn_err state_write(const char *folder, const struct table *table);

/* Reads and checks FOLDER/state.h5; CAIRN_ECORRUPT if it is damaged or missing. */
cairn_err state_read(const char *folder, struct table *table);

/* Is the state sound, and has every part the size it tells? */
bool state_sizes_match(const char *folder);

#endif
