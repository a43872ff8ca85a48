/* Sums of gradients over ranks with fewer bytes sent, and what was not sent kept for the next time (error feedback), so that over
 * the steps nothing is lost. Of float32, bucket by bucket:
 *  - bf16: what is sent is rounded to bfloat16, by each rank to the owner of a share, and by the owner to all;
 *  - topk: of each rank the RATIO of its elements that are largest in magnitude, with their indices;
 *  - powersgd: of a matrix M two factors of rank RANK: P = M Q, made orthonormal, and M' P, each summed over the ranks; the latter is
 *    the next step's Q (T. Vogels et al., "PowerSGD", arXiv 1905.13727, 2019). Vectors, and matrices whose factors would be no
 *    smaller, are sent whole.
 * All ranks get the same bits. What is sent is counted in the group. */
#ifndef MESH_COMPRESS_H
#define MESH_COMPRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "mesh/group.h"

enum compress_kind { COMPRESS_NONE, COMPRESS_BF16, COMPRESS_TOPK, COMPRESS_POWERSGD };

struct compress_options {
    enum compress_kind kind;
    double ratio;  /* topk: 0 < ratio <= 1 */
    int rank;      /* powersgd: at least 1 */
    uint64_t seed; /* powersgd: of the first Q */
};

struct compressor;

/* Local. GROUP must live longer. */
cairn_err compressor_create(struct group *group, const struct compress_options *options, struct compressor **out);
void compressor_destroy(struct compressor *compressor); /* NULL is fine */

/* A tensor of a bucket: row-major, one row for a vector. */
struct compress_tensor {
    int64_t rows, columns;
};

/* A bucket of COUNT tensors, one after another, at most 2^31 - 1 elements; all memory is taken here. *BUCKET numbers count
 * from 0. */
cairn_err compressor_add_bucket(struct compressor *compressor, const struct compress_tensor *tensors, int count, int *bucket);

/* Bytes for messages, which all buckets share. */
int64_t compressor_room(const struct compressor *compressor);

/* Collective. GRADIENT, this rank's, becomes the sum over the ranks of what they sent of theirs and of what they kept before. */
cairn_err compress_sum(struct compressor *compressor, int bucket, float *gradient);

/* The same while the caller goes on, one bucket at a time, in the same order on all ranks: what can be done without waiting is done by
 * each compress_progress. *DONE: the sum is there. */
cairn_err compress_start(struct compressor *compressor, int bucket, float *gradient);
cairn_err compress_progress(struct compressor *compressor, bool *done);

/* All buckets are as when they were added. */
void compressor_forget(struct compressor *compressor);

/* What a bucket remembers from step to step, to be kept in checkpoints: arrays NUMBER 0, 1, ... of float32. */
enum { COMPRESS_STATES = 3 };
struct compress_state {
    const char *name; /* "residual": not sent yet; "share_residual": of this rank's share of the sum (bf16); "factor": Q (powersgd) */
    float *data;
    int64_t count;  /* 0: this kind has none */
    bool share;     /* of this rank's share (tree_share) of the bucket's elements */
    bool alike;     /* the same on all ranks */
};
struct compress_state compressor_state(struct compressor *compressor, int bucket, int number);

/* The parts that need no other rank. */

/* X is rounded to bfloat16; returns what is lost, exactly. Nothing is lost of infinities and NaN; finite numbers stay finite. */
float compress_round(float x, uint16_t *rounded);

/* The K of N elements that are largest in magnitude, of equal ones the first; NaN is the largest of all. Indices rise. */
void compress_select(const float *x, int64_t n, int64_t k, int32_t *indices);

/* Makes the COUNT columns of length N, one after another, orthonormal (modified Gram-Schmidt); one that depends on those before
 * it, within rounding, becomes zero. */
void compress_orthonormalize(float *columns, int64_t n, int count);

#endif
