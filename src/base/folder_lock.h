/* One writer in a run's folder at a time. */
#ifndef BASE_FOLDER_LOCK_H
#define BASE_FOLDER_LOCK_H

#include "base/error.h"

/* Locks FOLDER/lock until *FD is closed or this process ends, and writes into it who holds it. A holder of another job is
 * CAIRN_ECONFIG with its name. One of the same Slurm job, or of none if this process is of none, is given a few seconds to end; then one
 * of the same job is taken for lost with its node, its lock not yet given back by a file server, and passed over with a warning. File
 * systems without locks lock nothing: *FD is then open all the same. */
cairn_err folder_lock(const char *folder, int *fd);

/* Whether locks in FOLDER keep other processes of this node out, tried with a file that is removed again; CAIRN_EUNSUPPORTED where they do
 * not. */
cairn_err folder_lock_try(const char *folder);

#endif
