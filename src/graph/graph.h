/* The graph of a piece of a model: a builder declares operations on tensors; finishing it checks shapes, derives the lists of kernel
 * calls for the forward and backward passes, and plans all activation memory. A step then runs those lists: no allocation, no shape
 * logic, no lookup.
 *
 * Builders call graph_* in order; the first mistake is kept and returned by graph_finish, so that builders need no checks.
 * Matrices of activations are [rows, width]; a microbatch has samples * columns rows, where columns is the context, or this rank's
 * part of it.
 *
 * A pass has phases, each run whole: forward, backward, and, where options.split_backward, the weights' gradients last. What a
 * microbatch keeps from one phase to a later one lies in a slot; as many microbatches can be on their way as there are slots.
 * What lives within a phase lies in one scratch memory. */
#ifndef GRAPH_GRAPH_H
#define GRAPH_GRAPH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "kernels/backend.h"
#include "mesh/group.h"
#include "tensor/shard.h"

struct graph;

typedef int tensor_id; /* of one graph; negative: none */

/* How a parameter begins. */
struct parameter_init {
    float constant;  /* plus */
    float deviation; /* a normal number times this; 0: the constant alone */
};

/* A parameter: this rank's slab of a persistent array with a global name. All parameters, sorted by name, lie in one flat vector; each
 * begins at a multiple of PARAMETER_ALIGN elements, and the gap before the next is zero. */
enum { PARAMETER_ALIGN = 16 };

struct parameter {
    char name[SHARD_NAME_SIZE]; /* without the "weights/" or "moment1/" in front */
    int dims;
    int64_t shape[SHARD_MAX_DIMS];                          /* of the whole array */
    int64_t first[SHARD_MAX_DIMS], extent[SHARD_MAX_DIMS];  /* of the slab */
    int64_t elements;                                       /* of the slab */
    struct parameter_init init;
    bool vector;     /* a bias or gain: takes no weight decay */
    bool divided;    /* tensor ranks have each a part; else the same */
    bool shared;     /* used at both ends of the model */
    bool of_expert;  /* held by those ranks alone that hold the expert */
    int64_t offset;  /* in the flat vector of parameters and of gradients */
    int bucket;
    int lookup;      /* the bucket where a tied parameter's use as lookup table is summed apart; -1: not tied */
};

/* Parameters that follow one another in the flat vector and whose gradients are complete at the same point of the backward pass: what
 * is exchanged between ranks, gathered and freed as one. */
struct graph_bucket {
    int64_t offset, elements; /* in the flat vector of gradients, and of parameters unless it is a lookup's */
    int lookup_of;            /* a tied parameter's bucket, of the same elements; -1: of parameters of its own */
};

enum graph_recompute {
    GRAPH_RECOMPUTE_NONE,
    GRAPH_RECOMPUTE_ATTENTION,
    GRAPH_RECOMPUTE_BLOCK,
    GRAPH_GATHER_AGAIN, /* of a segment: whenever rows are shared */
};

struct graph_options {
    int64_t samples, context; /* of a microbatch */
    bool training;            /* else forward only */
    bool join_lookups;        /* one microbatch a step: a tied parameter's uses may be joined at once */
    uint64_t seed;            /* of dropout */
    int recompute;            /* enum graph_recompute: which activations the backward pass computes again */
    bool split_backward;      /* weights' gradients in a phase of their own */
    struct group *tensor;     /* ranks that share each product; NULL: this one alone */
    bool sequence;            /* between products, those ranks share the rows */
    struct group *columns;    /* ranks that share each sequence; NULL: this one alone */
    struct group *experts;    /* ranks that share each block's experts; NULL: this one alone */
};

/* What a run asks of its surroundings; each may be NULL. An error ends the run. */
struct graph_hooks {
    void *context;
    /* Before the first write of a bucket's gradient in a pass: where it goes (acc); NULL in an idle pass: nowhere. After the last write. */
    cairn_err (*gradient_begin)(void *context, int bucket, void **gradient);
    cairn_err (*gradient_ready)(void *context, int bucket);
    bool ready_may_wait; /* gradient_ready need not be called at once: nothing is to be done with it beside the rest of the pass */
    /* Before a phase's first use of a bucket's parameters: where they are (act). After its last use. */
    cairn_err (*parameters_acquire)(void *context, int bucket, const void **parameters);
    cairn_err (*parameters_release)(void *context, int bucket);
    cairn_err (*progress)(void *context); /* after every operation */
};

/* This rank's columns of each sequence, in the order that inputs and targets have here: RUNS runs of them, of LENGTH from position FIRST
 * on. A rank has an early and a late run, so that all have as much of causal attention to do. */
enum { GRAPH_RUNS_MAX = 2 };
struct graph_columns {
    int64_t count;
    int runs;
    struct {
        int64_t first, length;
    } run[GRAPH_RUNS_MAX];
};
struct graph_columns graph_columns_of(int64_t context, int ranks, int rank);

struct graph *graph_new(struct backend *backend, const struct graph_options *options); /* NULL: no memory */
void graph_free(struct graph *graph);

/* ---- declaring ---- */

/* The following operations belong to unit NUMBER of the model, counted over all pieces: dropout's masks are told apart by it. */
void graph_unit(struct graph *graph, int number);

/* The operations between the two are computed again in the backward pass if options.recompute is KIND; a segment inside of another
 * counts for nothing. */
void graph_segment_begin(struct graph *graph, enum graph_recompute kind);
void graph_segment_end(struct graph *graph);

struct parameter_desc {
    const char *name;
    int dims;
    int64_t shape[SHARD_MAX_DIMS];
    int split; /* the dimension of which this one of the tensor ranks holds COUNT from FIRST on; -1: it holds the whole */
    int64_t first, count;
    int64_t first_expert, experts; /* OF_EXPERT: of dimension 0, another, this rank holds EXPERTS from FIRST_EXPERT on */
    struct parameter_init init;
    bool vector;
    bool shared; /* with another piece, or with another use in this one: its bucket is its own */
    bool of_expert; /* buckets have either such parameters or others */
};
tensor_id graph_parameter(struct graph *graph, const struct parameter_desc *desc);

/* The begin of a piece that is not the model's first: what graph_input is given. WIDTH of the activations. */
tensor_id graph_stage_input(struct graph *graph, int64_t width);
/* The end of a piece that is not the model's last. */
void graph_stage_output(struct graph *graph, tensor_id x);

/* rows of token_table[vocabulary, width] chosen by the input tokens, plus rows of position_table[context, width] */
tensor_id graph_embedding(struct graph *graph, tensor_id token_table, tensor_id position_table);
tensor_id graph_layer_norm(struct graph *graph, tensor_id x, tensor_id gain, tensor_id bias, double epsilon);
tensor_id graph_rms_norm(struct graph *graph, tensor_id x, tensor_id gain, double epsilon);
/* x weight^T + bias; weight[out, in]; bias may be none (-1) */
tensor_id graph_linear(struct graph *graph, tensor_id x, tensor_id weight, tensor_id bias);
/* qkv has the heads of this rank's share of HEADS. */
tensor_id graph_attention(struct graph *graph, tensor_id qkv, int64_t heads, float dropout);
/* A mixture of experts (kernels/experts.h): PARAMETERS are the router's weight[experts, width], and of the experts here (graph_expert_share)
 * expand weight[own, hidden, width] and bias[own, hidden], contract weight[own, width, hidden] and bias[own, width]. Between enter and leave
 * (below): of the hidden columns, a tensor rank has its share. */
struct graph_experts_desc {
    int64_t experts, choices, hidden;
    double capacity_factor, balance, z; /* coefficients of the router's losses */
};
tensor_id graph_experts(struct graph *graph, tensor_id x, const tensor_id parameters[5], const struct graph_experts_desc *desc);
int64_t graph_expert_share(const struct graph *graph, int64_t experts, int64_t *first);
tensor_id graph_gelu(struct graph *graph, tensor_id x);
/* silu(gate) up; the first half of the columns of x is the gate, the second the up. */
tensor_id graph_swiglu(struct graph *graph, tensor_id x);
tensor_id graph_dropout(struct graph *graph, tensor_id x, float rate);
tensor_id graph_residual(struct graph *graph, tensor_id x, tensor_id h, float dropout); /* x + dropout(h) */
/* The end of a stage that computes losses against the targets: weight[vocabulary, width]. */
void graph_classifier(struct graph *graph, tensor_id x, tensor_id weight);

/* Between enter and leave, tensor ranks compute each a part: of a product's columns (heads, words), or of the sums over its columns,
 * whose parts leave adds up. What is outside is equal on all, or, with options.sequence, shared by rows. */
tensor_id graph_tensor_enter(struct graph *graph, tensor_id x);
tensor_id graph_tensor_leave(struct graph *graph, tensor_id x);
/* As graph_linear, of a part of the columns of x: one of the ranks alone adds the bias. */
tensor_id graph_linear_part(struct graph *graph, tensor_id x, tensor_id weight, tensor_id bias);
int graph_tensor_rank(const struct graph *graph);
int graph_tensor_size(const struct graph *graph);
int64_t graph_tensor_share(const struct graph *graph, int64_t n, int64_t *first); /* this rank's of N: how many from FIRST on */

cairn_err graph_finish(struct graph *graph);

/* ---- what it came to ---- */
int graph_parameter_count(const struct graph *graph);
const struct parameter *graph_parameter_at(const struct graph *graph, int index); /* in the order of names */
int graph_bucket_count(const struct graph *graph);
const struct graph_bucket *graph_bucket_at(const struct graph *graph, int index); /* those of lookups last */
int64_t graph_parameter_elements(const struct graph *graph); /* of the flat vector, gaps included */
int64_t graph_gradient_elements(const struct graph *graph);  /* the same and the lookups apart */
size_t graph_slot_bytes(const struct graph *graph);
size_t graph_scratch_bytes(const struct graph *graph);

/* ---- running ---- */

/* Memory for SLOTS microbatches, and SCRATCH (graph_scratch_bytes, of the backend's alloc, the caller's), which graphs that do not run
 * at once may share; NULL: the graph's own. */
cairn_err graph_allocate(struct graph *graph, int slots, void *scratch);

/* Where the parameters' compute copy is: act elements, flat. Read at every run; not needed with hooks that acquire them. */
void graph_bind_parameters(struct graph *graph, const void *parameters);
void graph_set_hooks(struct graph *graph, const struct graph_hooks *hooks);

/* A microbatch's way through the phases of training. */
struct graph_pass {
    int slot;
    int64_t step, microbatch;
    const int32_t *inputs, *targets; /* [samples, columns], the processor's, for all phases; NULL where the piece reads none */
    double loss_scale;               /* gradients are of it times the sum of losses */
    bool idle;                       /* nothing is computed; the hooks are called as if it were */
};

/* A piece that is not the first: INPUT (graph_slot_input) is filled before the forward phase. One that is not the last: OUTPUT is there
 * after it, until the next run; OUTPUT_GRADIENT is filled before the backward phase; INPUT_GRADIENT is there after it, until the next. */
enum graph_phase {
    GRAPH_FORWARD,
    GRAPH_BACKWARD, /* losses too */
    GRAPH_WEIGHTS,  /* nothing unless options.split_backward */
    GRAPH_EVALUATE, /* instead of the others: forward without dropout, and losses if there are targets */
};
cairn_err graph_run(struct graph *graph, enum graph_phase phase, const struct graph_pass *pass);

struct graph_boundary {
    void *input, *input_gradient, *output, *output_gradient; /* NULL: the piece has none */
    size_t input_bytes, output_bytes;
};
struct graph_boundary graph_boundary(struct graph *graph, int slot);

/* GRAPH_EVALUATE of a whole model: INPUTS and TARGETS [samples, context]. TARGETS may be NULL: then no losses. */
cairn_err graph_forward(struct graph *graph, const int32_t *inputs, const int32_t *targets);

/* All phases of PASS in a row, of a whole model; gradients go where the hooks say. */
cairn_err graph_forward_backward(struct graph *graph, const struct graph_pass *pass);

/* After the backward phase, or graph_forward: the losses of the first ROWS rows, or the mean over all, summed in their order in float64.
 * Where the backend is a device they wait for it; graph_keep_losses, of LOSSES [graph_rows] (acc, the backend's), does not:
 * graph_mean_of finds the mean of what was downloaded from there. */
cairn_err graph_sum_losses(const struct graph *graph, int64_t rows, double *sum); /* fails where the device has */
double graph_mean_loss(const struct graph *graph); /* where sequences are shared, this rank's part of it */
int64_t graph_rows(const struct graph *graph);     /* of a microbatch, here */
void graph_keep_losses(const struct graph *graph, void *losses);
double graph_mean_of(const struct graph *graph, const void *losses);

/* What routers decided in the backward phases since this was asked last, to be added up over ranks: choices of rows that no expert took,
 * and, of each block and microbatch, the rows that chose its most chosen expert. */
struct graph_experts_use {
    int64_t dropped, greatest;
};
struct graph_experts_use graph_take_experts_use(struct graph *graph);

/* The losses by row (acc), and a tensor's values (act) until the next run, in the backend's memory; only inference keeps every last
 * tensor. */
const void *graph_losses(const struct graph *graph);
const void *graph_tensor_data(const struct graph *graph, tensor_id tensor);

#endif
