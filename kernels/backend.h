/* The table of kernels that a backend fills. kernels/reference does it in plain loops (float32 and float64; what the
 * others are tested against), kernels/cpu for speed on x86-64 (float32, and bfloat16 with float32 sums), kernels/cuda on
 * NVIDIA's GPUs (the same types).
 *
 * Conventions. Arrays are dense and row-major. "act" is the compute type that the backend was opened with, for
 * activations, their gradients and the weights a product reads; sums are kept in float32 (float64 in a float64
 * backend), called "acc" below: gradients of weights, statistics, losses, master weights and moments. Pointers, those to
 * integers too, are to memory of the backend's alloc, but for descriptions and what is called the processor's. Every output
 * is overwritten unless a flag says that it is added to. No kernel allocates memory or depends on the number of threads in
 * its result's bits, products apart (the library may).
 * A kernel does not fail: what can be wrong is found when a plan or a workspace is made. Where the backend is a device,
 * calls return before they are carried out, one after the other in the order of the calls; what goes wrong there is kept,
 * nothing is computed any more, and finish tells it. */
#ifndef KERNELS_BACKEND_H
#define KERNELS_BACKEND_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/philox.h"
#include "kernels/experts.h"
#include "kernels/float8.h"
#include "tensor/dtype.h"

/* What a product goes through, or through whose gradient. */
enum matmul_gelu { MATMUL_PLAIN, MATMUL_GELU, MATMUL_D_GELU };

/* c[m,n] = a'[m,k] b'[k,n] (+ bias[n]) (+ c), where a' is a, stored [m,k], or its transpose, stored [k,m]; b' likewise. */
struct matmul_desc {
    int64_t m, n, k;
    bool transpose_a, transpose_b;
    bool bias;       /* bias is of act */
    bool accumulate; /* add to c */
    bool c_is_acc;   /* c is of acc (gradients of weights), else of act; a and b are of act */
    enum matmul_gelu gelu; /* other than MATMUL_PLAIN: c is of act, nothing is added to it */
    /* Both or neither: a and b are rounded to these types before they are multiplied, each scaled by float8_scale of its own greatest absolute
     * value as it is then; not both to E5M2. Where one is not finite, all of c is NaN. All arrays begin at multiples of 16 bytes. Where m, n or k
     * is no multiple of 16, nothing is rounded. Of cuda in bfloat16 on GPUs of compute capability 9.0 or later, and of reference. */
    enum float8 float8_a, float8_b;
    /* A word of what may be left out, which changes no bit: of two float8 products, one after the other without another between them, that have the
     * same a, unchanged, the first KEEPS_A and does not transpose it, and to the second, which does, A_IS_KEPT. */
    bool keeps_a, a_is_kept;
    /* Where the table has matmul_run_d_bias, and a' is a transpose, c of acc, no bias added, no GELU: the sums over k of a', as it was before any rounding,
     * are found too. */
    bool d_bias;
};
struct matmul; /* a product planned ahead; opaque */

/* What cuBLASLt asks of the sides of matrices in float8. */
enum { FLOAT8_SIDE = 16 };

static inline bool matmul_is_float8(const struct matmul_desc *d)
{
    return d->float8_a != FLOAT8_NONE && d->m % FLOAT8_SIDE == 0 && d->n % FLOAT8_SIDE == 0 && d->k % FLOAT8_SIDE == 0;
}

/* The algorithm that a device's library takes for a product, of several with other last bits. To another kind of device or library it means
 * nothing. */
struct product_choice {
    char product[128]; /* its shape, types and alignments, in words */
    bool timed;        /* it was the fastest of those that were tried */
    unsigned char algorithm[64]; /* all zeros: none of the library's, what it would do besides the product being done by a kernel */
    uint64_t workspace_bytes;
};

/* Dropout: element i of a tensor is kept if word (i % 4) of philox4x32(key, step, i / 4) is >= threshold,
 * threshold = rate * 2^32, and scaled by 1 / (1 - rate). FIRST is the position of the local tensor's first element in
 * the whole batch's (a multiple of 4), so that masks do not depend on which rank computes them. Rate 0: all kept. */
struct dropout_moment {
    uint64_t step, microbatch;
};
struct dropout {
    float rate;
    struct philox_key key;
    uint64_t step;
    uint64_t first;
    /* Of a device alone, so that recorded calls can be told a new one: memory of alloc, read when they are carried out; step is added to STEP,
     * and microbatch times STRIDE (a multiple of 4) to FIRST. NULL: nothing is. */
    const struct dropout_moment *moment;
    uint64_t stride;
};

/* Rows of tokens to vectors. The tables' rows may be shared out over ranks, and so may the columns of a sequence. */
struct embedding_desc {
    int64_t rows, width;
    int64_t context;                  /* columns of each sequence here: row r is column r % context */
    int64_t token_first, token_count; /* the table of tokens has the rows of these alone; any other is looked up as zeros */
    int64_t position_count;           /* rows of the table of positions */
    const int32_t *positions;         /* [context] of each column, all different; NULL: 0, 1, 2, ...; memory of alloc */
};

struct attention_desc {
    int64_t batch, context, heads, head_size; /* qkv [batch, context, 3, heads, head_size]; causal */
    int64_t heads_all, head_first;            /* these are heads head_first.. of heads_all; 0 of 0: they are all */
    int64_t columns;                          /* the most of a rank where sequences are split; 0: they are whole */
    float dropout_rate;                       /* of the probabilities; known ahead so that none costs nothing */
};
struct attention; /* plan and workspace */

/* The columns of each sequence that a rank holds where sequences are split: one or two segments, ascending by position, one
 * after the other in memory. Two, the n-th from the front and the n-th from the end, give all ranks alike much to do. */
enum { SEGMENTS_MAX = 2 };
struct attention_span {
    int segments;
    struct {
        int64_t position, length;
    } segment[SEGMENTS_MAX];
};

/* The queries of one rank, and the keys and values of one that they meet: the same or another. */
struct attention_piece {
    struct attention_span query, key;
};

/* Linear layer to the vocabulary and cross-entropy in one, forward and backward at once, over blocks of rows so that
 * the logits of the whole batch are never in memory (rows x vocabulary would be the largest tensor of a small model). */
struct classifier_desc {
    int64_t rows, width, vocabulary;
    int64_t word_first;      /* the first word here, where the vocabulary is split over ranks; targets are the whole's words */
    int64_t vocabulary_most; /* the longest slice of any rank, so that all agree on the blocks; 0: vocabulary */
};
struct classifier;

struct adamw {
    double learning_rate, beta1, beta2, epsilon, weight_decay;
    double gradient_scale;                                      /* clipping: gradients are multiplied by it first */
    int64_t step;                                              /* 1 for the first update (bias correction) */
    bool stochastic;                                           /* rounding of the new weights */
};

/* Elements that an update changes: arrays of acc; COMPUTE (act) receives the new weights rounded, NULL where act is acc: to the nearest,
 * or stochastically, where act is bfloat16. Then element i adds a 16-bit half of philox4x32(key, step, (first + i) / 8) to the bits of the
 * float32, and the low 16 of the sum are dropped, so that the mean over all halves is the float32 itself. It is half h = (first + i) % 8: of
 * word h / 2 the low one where h is even, else the high one. What would become infinite so keeps its upper bits, which are the greatest
 * number; infinities stay, and NaN stays NaN. */
struct adamw_run {
    void *master, *moment1, *moment2, *compute;
    const void *gradient;
    int64_t n;
    bool decays; /* else without weight decay */
    struct philox_key key;
    uint64_t first; /* the position of element 0 in what KEY is of, so that bits do not depend on who computes them */
};

/* Sums of squares are taken over chunks of this many elements of each global array, in their order; whoever holds a
 * chunk computes it, all ranks add the chunks' sums in one order. */
enum { NORM_CHUNK = 1 << 10 };

/* sums[ceil(n / NORM_CHUNK)] (double, memory of alloc) of x[n] (acc): each the sum of squares of one chunk. */
struct squares_run {
    double *sums;
    const void *x;
    int64_t n;
};

struct backend; /* an opened backend; begins with its table */

/* A moment in the order of calls; opaque. */
struct backend_mark;

/* Of a device: calls of one lane are carried out in their order, those of two beside each other but for marks. */
enum backend_lane { LANE_COMPUTE, LANE_LINK, LANE_SHIFT, LANE_RING, BACKEND_LANES = LANE_RING + 4 }; /* LANE_RING and behind: mesh/device_ring.c */

/* A way between the devices of several processes, each a rank of the link; opaque. */
struct backend_link;
enum { LINK_ID_BYTES = 128 };

/* Calls that are carried out again with the same arguments; opaque. */
struct backend_recording;

/* To or from RANK of the link. DATA is memory of alloc. */
struct link_message {
    void *data;
    size_t bytes;
    int rank;
    bool receive;
};

/* When a device carried out a call. */
struct backend_span {
    const char *name;       /* a literal: "attention", "a product"; lives as long as the process */
    enum backend_lane lane;
    uint64_t begun, ended;  /* nanoseconds of this machine's CLOCK_MONOTONIC */
};

struct backend_table {
    const char *name; /* "reference", "cpu", "cuda" */
    /* The processor may read and write what alloc gives, calls are done when they return, finish cannot fail. */
    bool host_memory;
    void (*close)(struct backend *);
    /* Zeroed memory whose pages are there (touched) before the first step; NULL when there is none left. Freed by free. */
    void *(*alloc)(struct backend *, size_t bytes);
    void (*free)(struct backend *, void *, size_t bytes);
    /* Between the processor's memory and alloc's: FROM may change as soon as upload returns, and TO of download is there when it
     * returns. Where something has failed, download fills TO with bytes of 0xff (NaN, -1), so that nothing is taken for a result. */
    void (*upload)(struct backend *, void *to, const void *from, size_t bytes);
    void (*download)(struct backend *, void *to, const void *from, size_t bytes);
    void (*copy)(struct backend *, void *to, const void *from, size_t bytes); /* within alloc's; they do not overlap */
    void (*zero)(struct backend *, void *, size_t bytes);
    /* Waits until all calls so far are done; CAIRN_EDEVICE with what went wrong, now or before. */
    cairn_err (*finish)(struct backend *);
    /* A clock of the calls themselves: seconds from the moment when all calls before mark_set(FROM) were done to the one when
     * those before mark_set(TO) were; mark_seconds waits for it. NULL: no memory. */
    struct backend_mark *(*mark_create)(struct backend *);
    void (*mark_set)(struct backend_mark *);
    double (*mark_seconds)(const struct backend_mark *from, const struct backend_mark *to);
    void (*mark_destroy)(struct backend_mark *);
    /* ---- of devices alone, else NULL ----
     * Calls from now on are of LANE, until it is called again; the first is LANE_COMPUTE. Of others may be: add, sum_slices, copy, zero,
     * marks and what links do. Uploads, downloads and the clearing of new memory are always of LANE_COMPUTE. */
    void (*lane)(struct backend *, enum backend_lane);
    /* The lane's calls from now on come after what was called before mark_set; one that was never set is no wait. */
    void (*mark_wait)(const struct backend_mark *);
    /* Calls of kernels, products, copy and zero from now on are kept instead of carried out, until record_end, which returns them. record_begin
     * returns false where nothing can be recorded now; record_end NULL where something could not be: then nothing was done, and all of it has to be
     * called again. Each kernel and product must have been carried out once before. */
    bool (*record_begin)(struct backend *);
    struct backend_recording *(*record_end)(struct backend *);
    /* Carries them out, of LANE_COMPUTE, which costs as much as one call. What they read and write must be where it was. */
    void (*replay)(struct backend_recording *);
    void (*recording_destroy)(struct backend_recording *); /* calls under way go on */
    /* From now on the device notes when it carries out each kernel, product, copy, clearing and what links do, of MOST calls between two
     * takes. What a step needs is there after the first one. Changes no result, and costs some microseconds a call; nothing before. */
    cairn_err (*spans_open)(struct backend *, int64_t most);
    /* Waits for all calls so far. Returns the *COUNT spans since it was called last, in the order of the calls, those of a lane one after the
     * other in time; valid until the next call of the table. *LOST: how many calls more there were. None where something failed. */
    const struct backend_span *(*spans_take)(struct backend *, int64_t *count, int64_t *lost);
    /* Ranges of what the processor calls, one inside the other, for a profiler's picture; NULL too where no profiler is meant to look
     * (CAIRN_PROFILE). NUMBER tells those of a name apart; -1: it does not. NAME may change as soon as it returns. */
    void (*range_begin)(struct backend *, const char *name, int64_t number);
    void (*range_end)(struct backend *);

    /* ---- between devices: NULL where there are none, or this build knows no way between them ----
     * A link's first step: one rank makes its id, and tells it to all, each by its own means. Fails with CAIRN_EUNSUPPORTED, and why,
     * where the library is missing. */
    cairn_err (*link_id)(struct backend *, unsigned char id[LINK_ID_BYTES]);
    /* Returns when all SIZE ranks have called it with the same id, each with its own RANK, and have exchanged something; fails with CAIRN_ETIMEOUT if
     * that takes more than SECONDS. A link is of one lane at a time: calls of another one come after a mark. */
    cairn_err (*link_open)(struct backend *, const unsigned char *id, int size, int rank, double seconds, struct backend_link **);
    /* All of them at once, so that there is no order in which ranks could wait for each other. Between two ranks messages come in their order. */
    void (*link_exchange)(struct backend_link *, const struct link_message *messages, int count);
    /* data[n] (acc) becomes the sum over the ranks, the same on all, in an order that is the library's. */
    void (*link_sum)(struct backend_link *, void *data, int64_t n);
    void (*link_close)(struct backend_link *);
    /* sum[n] = slices[count][n] added up in their order, in acc, rounded once; of TYPE act or acc. */
    void (*sum_slices)(struct backend *, enum dtype type, void *sum, const void *slices, int count, int64_t n);
    /* One line for a checkpoint's numerics signature: backend, types, instruction set, libraries with versions, threads. */
    const char *(*signature)(struct backend *);

    /* ---- products ---- */
    cairn_err (*matmul_create)(struct backend *, const struct matmul_desc *, struct matmul **);
    void (*matmul_run)(struct matmul *, void *c, const void *a, const void *b, const void *bias);
    /* Where desc.gelu is MATMUL_GELU: inner[m,n] (act) becomes the product (+ bias), c its GELU, of the product rounded or not. Where it
     * is MATMUL_D_GELU: inner is read, and c becomes the product times GELU's derivative at inner. */
    void (*matmul_run_gelu)(struct matmul *, void *c, void *inner, const void *a, const void *b, const void *bias);
    /* Where desc.d_bias is set: d_bias[m] (acc) becomes the sums over k of a' (a linear layer's bias' gradient beside its weight's). NULL: desc.d_bias
     * may not be set, and bias_backward finds them. */
    void (*matmul_run_d_bias)(struct matmul *, void *c, void *d_bias, const void *a, const void *b);
    void (*matmul_destroy)(struct matmul *);
    /* Of devices alone, else NULL. All choices so far, those of products that are planned and those that were told; returns how many. LIST is
     * valid until the next product is planned or told of. */
    int (*choices)(struct backend *, const struct product_choice **list);
    /* From now on products take these, those that are planned already too. */
    cairn_err (*choose)(struct backend *, const struct product_choice *list, int count);

    /* ---- embedding: y[r, width] = token_table[tokens[r] - token_first] + position_table[position of r's column] ----
     * position_table NULL: no positions are added. */
    void (*embedding_forward)(struct backend *, void *y, const int32_t *tokens, const void *token_table,
                              const void *position_table, const struct embedding_desc *);
    /* d_position[position_count, width] (acc): overwritten, zeros where no column has the position; NULL: left out.
     * d_token[token_count, width] (acc): ADDED to; only the rows of tokens that occur are touched, each summed over the
     * occurrences in the order of r and then added once. */
    void (*embedding_backward)(struct backend *, void *d_token, void *d_position, const void *dy, const int32_t *tokens,
                               const struct embedding_desc *);

    /* ---- layer norm over the last dimension; mean and rstd[rows] (acc) are kept for the backward pass ---- */
    void (*layer_norm_forward)(struct backend *, void *y, void *mean, void *rstd, const void *x, const void *gain,
                               const void *bias, int64_t rows, int64_t width, double epsilon);
    void (*layer_norm_backward_input)(struct backend *, void *dx, const void *dy, const void *x, const void *gain,
                                      const void *mean, const void *rstd, int64_t rows, int64_t width, bool add_to_dx);
    void (*layer_norm_backward_weight)(struct backend *, void *d_gain, void *d_bias, const void *dy, const void *x,
                                       const void *mean, const void *rstd, int64_t rows, int64_t width);

    /* Two at once, where the device is faster so, else NULL. sum = x + h and its layer norm, x, h and sum [rows, width] and not the same memory: */
    void (*residual_layer_norm_forward)(struct backend *, void *sum, void *y, void *mean, void *rstd, const void *x, const void *h,
                                        const void *gain, const void *bias, int64_t rows, int64_t width, double epsilon);
    /* all gradients: */
    void (*layer_norm_backward)(struct backend *, void *dx, void *d_gain, void *d_bias, const void *dy, const void *x, const void *gain,
                                const void *mean, const void *rstd, int64_t rows, int64_t width, bool add_to_dx);

    /* ---- RMS norm over the last dimension (Zhang and Sennrich, arXiv 1910.07467): y = x rstd gain, rstd = 1 / sqrt(mean(x^2) + epsilon);
     * rstd[rows] (acc) is kept for the backward pass ---- */
    void (*rms_norm_forward)(struct backend *, void *y, void *rstd, const void *x, const void *gain, int64_t rows, int64_t width,
                             double epsilon);
    void (*rms_norm_backward_input)(struct backend *, void *dx, const void *dy, const void *x, const void *gain, const void *rstd,
                                    int64_t rows, int64_t width, bool add_to_dx);
    void (*rms_norm_backward_weight)(struct backend *, void *d_gain, const void *dy, const void *x, const void *rstd, int64_t rows,
                                     int64_t width);

    /* As layer norm's two at once: */
    void (*residual_rms_norm_forward)(struct backend *, void *sum, void *y, void *rstd, const void *x, const void *h, const void *gain,
                                      int64_t rows, int64_t width, double epsilon);
    void (*rms_norm_backward)(struct backend *, void *dx, void *d_gain, const void *dy, const void *x, const void *gain, const void *rstd,
                              int64_t rows, int64_t width, bool add_to_dx);

    /* d_bias[width] (acc) = sum over rows of dy */
    void (*bias_backward)(struct backend *, void *d_bias, const void *dy, int64_t rows, int64_t width);

    /* ---- GELU, tanh form (Hendrycks and Gimpel, arXiv 1606.08415) ---- */
    void (*gelu_forward)(struct backend *, void *y, const void *x, int64_t n);
    void (*gelu_backward)(struct backend *, void *dx, const void *dy, const void *x, int64_t n); /* dx may be dy */

    /* ---- SwiGLU (Shazeer, arXiv 2002.05202): y[rows, width] = silu(gate) up, silu(v) = v / (1 + exp(-v)); each row of x[rows, 2 width] is
     * its gate, then its up ---- */
    void (*swiglu_forward)(struct backend *, void *y, const void *x, int64_t rows, int64_t width);
    void (*swiglu_backward)(struct backend *, void *dx, const void *dy, const void *x, int64_t rows, int64_t width); /* dx [rows, 2 width] */

    /* ---- y = x + dropout(h) (residual); x may be NULL: y = dropout(h); y may be x or h ---- */
    void (*add_dropout_forward)(struct backend *, void *y, const void *x, const void *h, int64_t n, const struct dropout *);
    /* dh = dropout mask * dy; dh may be dy */
    void (*dropout_backward)(struct backend *, void *dh, const void *dy, int64_t n, const struct dropout *);

    /* ---- attention: out[batch, context, heads, head_size]; log_sum[batch, heads, context] (acc) is kept ----
     * Probabilities are computed again in the backward pass. The dropout's element number is
     * ((b * heads_all + head_first + h) * context + query) * context + key, from first. */
    cairn_err (*attention_create)(struct backend *, const struct attention_desc *, struct attention **);
    void (*attention_forward)(struct attention *, void *out, void *log_sum, const void *qkv, const struct dropout *);
    void (*attention_backward)(struct attention *, void *d_qkv, const void *d_out, const void *out, const void *qkv,
                               const void *log_sum, const struct dropout *);
    /* Attention where sequences are split: this rank's queries meet each rank's keys and values in turn, with a running softmax
     * (Liu et al., arXiv 2310.01889). Positions tell what a query sees; what no query sees costs nothing. Sums are taken in the
     * order of the calls; the dropout's numbers are the whole sequence's. qkv, out, log_sum and d_out are as above, with COLUMNS,
     * this rank's, in place of context. What travels between ranks: kv[batch, columns, 2, heads, head_size] (act), keys and
     * values of a rank's qkv, and d_kv (acc), their gradients. */
    void (*attention_keys_values)(struct attention *, void *kv, const void *qkv, int64_t columns);
    /* running[batch, heads, columns, head_size + 2] (acc): the weighted sum of values, the greatest score, the sum of weights. */
    void (*attention_pieces_begin)(struct attention *, void *running, int64_t columns);
    void (*attention_piece_forward)(struct attention *, void *running, const void *qkv, const void *kv, const struct attention_piece *,
                                    const struct dropout *);
    void (*attention_pieces_end)(struct attention *, void *out, void *log_sum, const void *running, int64_t columns);
    /* d_query[batch, columns, heads, head_size] (acc) and d_kv of this rank's keys are set to zero ... */
    void (*attention_pieces_backward_begin)(struct attention *, void *d_query, void *d_kv, int64_t columns);
    /* ... added to, d_kv being that of the piece's keys ... */
    void (*attention_piece_backward)(struct attention *, void *d_query, void *d_kv, const void *d_out, const void *out, const void *qkv,
                                     const void *kv, const void *log_sum, const struct attention_piece *, const struct dropout *);
    /* ... and rounded, when d_kv is back with the sums of all ranks. */
    void (*attention_pieces_backward_end)(struct attention *, void *d_qkv, const void *d_query, const void *d_kv, int64_t columns);
    void (*attention_destroy)(struct attention *);

    /* ---- classifier: logits = x[rows,width] weight[vocabulary,width]^T; losses[rows] (acc) ----
     * classifier_loss and classifier_loss_and_gradients are for a vocabulary that is not split. */
    cairn_err (*classifier_create)(struct backend *, const struct classifier_desc *, struct classifier **);
    void (*classifier_loss)(struct classifier *, void *losses, const void *x, const void *weight, const int32_t *targets);
    /* Losses too; gradients of scale * (sum of losses): dx (act) and d_weight[vocabulary,width] (acc), overwritten. */
    void (*classifier_loss_and_gradients)(struct classifier *, void *losses, void *dx, void *d_weight, const void *x,
                                          const void *weight, const int32_t *targets, double scale);
    /* The same for a slice of the vocabulary: for each block of rows in turn, its logits; what all slices found is joined; then
     * its losses and gradients. x, targets, losses and dx are those of all rows, stats and joined of the block's.
     * Returns how many blocks there are, and in *ROWS how many rows each has but the last, which may have fewer. */
    int64_t (*classifier_blocks)(const struct classifier *, int64_t *rows);
    /* stats[rows][3] (acc): the row's greatest logit, the sum of exp(logit - greatest), and the target's logit, 0 if the target
     * is not of this slice. KEEP: gradients will be wanted. */
    void (*classifier_block_logits)(struct classifier *, int64_t block, void *stats, const void *x, const void *weight,
                                    const int32_t *targets, bool keep);
    /* joined[rows][2] (acc) of stats[slices][rows][3], added up in the order of slices: the logarithm of the sum of all
     * exp(logit), and the target's logit. */
    void (*classifier_join)(struct backend *, void *joined, const void *stats, int64_t slices, int64_t rows);
    /* The block's losses, the same on all ranks. Where dx is not NULL, gradients as above: dx is this slice's part of a sum over
     * slices; d_weight is overwritten by block 0 and added to by the others. */
    void (*classifier_block_finish)(struct classifier *, int64_t block, void *losses, void *dx, void *d_weight, const void *joined,
                                    const void *x, const void *weight, const int32_t *targets, double scale);
    void (*classifier_destroy)(struct classifier *);

    /* ---- vectors, of acc but for add_act's ---- */
    void (*add)(struct backend *, void *sum, const void *a, const void *b, int64_t n); /* sum = a + b; sum may be a or b */
    void (*add_act)(struct backend *, void *sum, const void *a, const void *b, int64_t n); /* rounded once */
    /* Of many arrays at once: a device is started a few times for all of them. */
    void (*sum_squares)(struct backend *, const struct squares_run *runs, int count);
    /* One AdamW update (Loshchilov and Hutter, arXiv 1711.05101) of all runs, which do not overlap. */
    void (*adamw)(struct backend *, const struct adamw_run *runs, int count, const struct adamw *);
    /* The COMPUTE that an update of number STEP would have left of MASTER; nothing else is changed, nor moments and gradients read. */
    void (*round_weights)(struct backend *, const struct adamw_run *runs, int count, bool stochastic, int64_t step);

    /* ---- mixture of experts (kernels/experts.h): x, y [rows, width], packed [experts, capacity, width], of act ---- */
    cairn_err (*router_create)(struct backend *, const struct router_desc *, struct router **);
    /* expert, gate, probability and log_sum; weight[experts, width] */
    void (*router_forward)(struct router *, const struct routing *, const void *x, const void *weight);
    /* Then place, taken and losses. MOST NULL: of whole rows, load too. Else ranks share the rows: load is the caller's, and MOST
     * [experts] (memory of alloc) how many of the rows here each expert takes, of all that chose it. */
    void (*router_place)(struct router *, const struct routing *, const int32_t *most);
    /* d_logits[rows, experts] (acc), of the gates and both losses, kept for router_backward_weight; dx by way of the logits
     * alone (NULL: left out): dispatch_backward gives what comes through the experts. The choice itself has no gradient. */
    void (*router_backward_input)(struct router *, void *d_logits, void *dx, const void *d_gate, const struct routing *,
                                  const void *weight, const struct router_scales *, bool add_to_dx);
    /* d_weight[experts, width] (acc) */
    void (*router_backward_weight)(struct router *, void *d_weight, const void *d_logits, const void *x);
    void (*router_destroy)(struct router *);
    /* Rows of x to their places; zeros in all places that are left. */
    void (*dispatch)(struct router *, void *packed, const void *x, const struct routing *);
    void (*dispatch_backward)(struct router *, void *dx, const void *d_packed, const struct routing *, bool add_to_dx);
    /* y = sum over a row's choices, in their order, of gate * packed row; of dropped ones nothing, not even where the
     * packed rows that no choice has are NaN. */
    void (*combine)(struct router *, void *y, const void *packed, const struct routing *);
    /* d_packed (zeros where no choice is) and d_gate[rows, choices] (acc; 0 for dropped ones). */
    void (*combine_backward)(struct router *, void *d_packed, void *d_gate, const void *dy, const void *packed,
                             const struct routing *);
};

struct backend {
    const struct backend_table *table;
    enum dtype act, acc;
    int threads;
    char unit[32]; /* which device it is, of those of its node; "" where it is the processor */
    char device[64];     /* what kind of device, in its driver's words; "" likewise */
    int64_t memory, free_memory; /* bytes of the device's, all and when it was opened; 0: the processor, or not known */
    char products[192]; /* the kind of device and the library that product_choices are of; "" likewise */
    bool timed_products; /* of products that are planned from now on; as the options had it */
    bool float8; /* whether linear layers are to be computed in float8; as the options had it */
    /* Called again and again while the thread that opened the backend waits for a device, which may wait for other ranks, and they for what this
     * one has under way. May be set at any time; NULL: nothing to do. */
    void (*idle)(void *context);
    void *idle_context;
};

static inline void backend_range_begin(struct backend *b, const char *name, int64_t number)
{
    if (b->table->range_begin)
        b->table->range_begin(b, name, number);
}

static inline void backend_range_end(struct backend *b)
{
    if (b->table->range_end)
        b->table->range_end(b);
}

struct backend_options {
    enum dtype act;
    int threads;             /* 0: as many as this process may use */
    const char *instruction_set; /* "auto", or the highest to use: "baseline", "v3", "v4" */
    bool timed_products;     /* of a device: a product's algorithm is the fastest of some that are tried; else the library's first */
    bool float8;             /* linear layers are to be computed in float8: the backend must be able to, and its signature says so */
    bool waits_for_ranks;    /* of a device: kernels that wait for other ranks run beside others: no code is loaded late, which could wait for them */
    int device;              /* of those that this process sees, where the backend is a device; taken modulo how many there are */
};

/* NAME: "reference", "cpu" or "cuda". Fails with CAIRN_EUNSUPPORTED and what there is instead; with CAIRN_ENODEVICE, and why,
 * where there is no device that the backend can use. */
cairn_err backend_open(const char *name, const struct backend_options *, struct backend **);

#endif
