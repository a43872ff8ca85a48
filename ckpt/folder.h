/* The folders of checkpoints: their names, what stands in them, and how they come and go. Serial. */
#ifndef CKPT_FOLDER_H
#define CKPT_FOLDER_H

#include "ckpt/checkpoint.h"

enum { FOLDER_PATH_SIZE = 4096, FOLDER_PART_NAME_SIZE = 24 };

cairn_err folder_step_path(const char *dir, int64_t step, const char *ending, char out[FOLDER_PATH_SIZE]);
void folder_part_name(int part, char out[FOLDER_PART_NAME_SIZE]);
cairn_err folder_join(const char *dir, const char *name, char out[FOLDER_PATH_SIZE]);

/* Makes DIR and the folders above it. */
cairn_err folder_make(const char *dir);
cairn_err folder_sync(const char *dir);

/* Removes a checkpoint's folder and the files in it; one that is not there is no error. */
cairn_err folder_remove(const char *path);

/* Removes what writers that were cut off left in DIR, saying so in one line. Only those of steps up to NEWEST. */
cairn_err folder_remove_unfinished(const char *dir, int64_t newest);

/* Puts the complete folder at FROM in the place of TO and makes that durable. A folder that stands at TO is exchanged and removed. */
cairn_err folder_commit(const char *dir, const char *from, const char *to);

/* Writes REASON into PATH and renames it to end in .broken; NEW_PATH tells its new name. */
cairn_err folder_set_aside(const char *path, const char *reason, char new_path[FOLDER_PATH_SIZE]);

/* Is PATH itself a checkpoint (by its name or by a state.h5 inside)? */
bool folder_is_checkpoint(const char *path);

/* All of *DATA (BYTES long) at AT, or an error that names PATH. Reading past the end is CAIRN_ECORRUPT: the file is cut off. */
cairn_err file_write(int fd, const char *path, const void *data, size_t bytes, int64_t at);
cairn_err file_read(int fd, const char *path, void *data, size_t bytes, int64_t at);

#endif
