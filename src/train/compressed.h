/* Compressed sums (mesh/compress.h) of a gradient's buckets over the replicas, and what they keep, as arrays of a checkpoint.
 *
 * A bucket is summed in two packs: the parameters that tensor ranks hold whole, and those that they share. Of the former each
 * of them has the same gradient, and so chooses the same of it. */
#ifndef TRAIN_COMPRESSED_H
#define TRAIN_COMPRESSED_H

#include "graph/graph.h"
#include "mesh/compress.h"
#include "mesh/mesh.h"

struct compressed;

/* Local. For the COUNT pieces of the model that this rank has. All memory is taken here. */
cairn_err compressed_open(struct mesh *mesh, const struct compress_options *options, int count, struct graph *const *graphs,
                          struct compressed **out);
void compressed_close(struct compressed *compressed); /* NULL is fine */

/* Collective over the replicas, in the same order on all. GRADIENT, of a bucket that is no lookup's, from the bucket's begin, becomes the
 * sum over the replicas: one bucket after the other, each moved on by compressed_progress, until compressed_wait returns. */
cairn_err compressed_start(struct compressed *compressed, int piece, int bucket, float *gradient);
cairn_err compressed_progress(struct compressed *compressed);
cairn_err compressed_wait(struct compressed *compressed);

/* Bytes of this rank's buffers. */
int64_t compressed_memory(const struct compressed *compressed);

/* What checkpoints keep, in arrays that are named by a pack's first parameter: "compress/residual/..." [replicas, elements], of which each
 * replica has its own row, and where they are "compress/share_residual/..." and "compress/factor/...". They depend on the number of
 * replicas and of tensor ranks. SHARDS has room for compressed_shard_count. */
int compressed_shard_count(const struct compressed *compressed);
void compressed_shards(const struct compressed *compressed, struct shard *shards);

/* Nothing is kept, as at the begin of a training. */
void compressed_forget(struct compressed *compressed);

#endif
