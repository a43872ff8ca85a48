/* Coordinated checkpoints: whole named global arrays, written in parts, committed at once, verified at every read
 * (doc/formats/checkpoint.md).
 *
 * DIR/step-00000120/ holds part-0000.h5 ... (one a writing node) and state.h5, whose virtual datasets show every global array
 * whole. While it is written its name ends in .tmp; what is found broken is renamed to end in .broken. */
#ifndef CKPT_CHECKPOINT_H
#define CKPT_CHECKPOINT_H

#include <mpi.h>
#include <stdbool.h>
#include <stdint.h>

#include "tensor/shard.h"

/* What is saved beside the arrays. Strings are owned by whoever filled the struct. */
struct checkpoint_facts {
    int64_t step;
    char *config;     /* merged config, YAML */
    char *signature;  /* numerics signature, lines */
    char *extra;      /* JSON object with whatever the caller wants back (position, metrics) */
};

/* Who writes: the communicator and which node each of its ranks is on. */
struct checkpoint_group {
    MPI_Comm comm;
    const int *node_of; /* [size of comm], nodes numbered from 0 */
};

/* Collective. Writes, fsyncs, verifies sizes, renames: after CAIRN_OK the checkpoint is durable and complete. On failure on any
 * rank all ranks fail with the same code and message, nothing of earlier checkpoints is touched, and the .tmp folder is removed. A
 * disk that is full is CAIRN_ENOSPACE on all ranks. Ranks that hold the same box of the same array hold copies of one slab, and
 * split its writing; boxes that overlap otherwise, or do not cover their array, are CAIRN_EINVAL. A step that is there already is
 * exchanged for the new one. .tmp folders of other steps are removed: one job writes into DIR at a time. */
cairn_err checkpoint_save(const struct checkpoint_group *group, const char *dir, const struct checkpoint_facts *facts,
                          const struct shard *shards, int count);

/* Collective. Finds the newest valid checkpoint in DIR and fills the shards, whatever layout it was written from. Every element
 * of every shard must be there, of the same type and global shape; every slab's checksum is compared. One that is broken is
 * set aside (renamed to .broken, with the reason in a file REASON inside it and in the log) and the one before it is tried.
 * *FACTS (owned by the caller, checkpoint_facts_free) tells which was loaded. CAIRN_ENOTFOUND if there is none: a fresh start.
 * CAIRN_ECORRUPT if there were some and all are broken now: the shards may hold anything. CAIRN_ECONFIG if the checkpoint is sound
 * and of another model: an array is missing, of another type or shape, or is asked for by no rank although others of its top
 * group are ("weights/..."; groups that nobody asks for are passed over). Nothing is set aside for any reason but damage. */
cairn_err checkpoint_restore(const struct checkpoint_group *group, const char *dir, struct checkpoint_facts *facts,
                             const struct shard *shards, int count);

/* Collective. Fills the shards, which may be a part of what is there, from the one checkpoint folder PATH; one that is broken is an
 * error (CAIRN_ECORRUPT) and stays as it is. */
cairn_err checkpoint_load(const struct checkpoint_group *group, const char *path, const struct shard *shards, int count);

/* The checkpoint that PATH stands for: itself, or the newest complete one in it or in PATH/checkpoints. Serial. */
cairn_err checkpoint_find(const char *path, char *found, size_t size);

/* The facts alone of the newest (by name) checkpoint, or of the folder itself if DIR is a checkpoint; serial, no array is read. */
cairn_err checkpoint_read_facts(const char *path, struct checkpoint_facts *facts);
void checkpoint_facts_free(struct checkpoint_facts *facts);

/* Removes all but the KEEP newest valid ones (0: keeps all), from one rank; valid means that the state is sound and every part has
 * its size. .broken ones are left for people; .tmp ones of steps up to the newest complete one are removed. */
cairn_err checkpoint_prune(const char *dir, int keep);

/* ---- looking from outside, serial, without MPI ---- */

struct checkpoint_entry {
    int64_t step;
    char path[4096];
    int64_t bytes;
    enum { CHECKPOINT_COMPLETE, CHECKPOINT_TMP, CHECKPOINT_BROKEN } state;
};

/* All in DIR by step; *ENTRIES is freed by the caller. */
cairn_err checkpoint_list(const char *dir, struct checkpoint_entry **entries, int *count);

/* Reads every byte of PATH (a checkpoint's folder) and compares checksums; *MESSAGE (freed by the caller, NULL when sound) names the
 * first fault. Fails only if it could not be told (no permission, no memory). */
cairn_err checkpoint_verify(const char *path, char **message);

/* A hash over all elements of the arrays whose names begin with PREFIX ("weights/" for the weights), in the order of their names:
 * equal whatever layout wrote the checkpoint. HEX receives 16 hexadecimal digits and a NUL. */
cairn_err checkpoint_hash(const char *path, const char *prefix, char hex[17]);

#endif
