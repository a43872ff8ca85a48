/* Shared by the files of graph/ alone. */
#ifndef GRAPH_GRAPH_INTERNAL_H
#define GRAPH_GRAPH_INTERNAL_H

#include "graph/graph.h"
#include "graph/staging.h"

enum tensor_role { ROLE_ACTIVATION, ROLE_PARAMETER, ROLE_STATISTIC, ROLE_GRADIENT };

/* Places in the list of steps, both included. */
struct interval {
    int first, last; /* first < 0: empty */
};

struct tensor {
    enum tensor_role role;
    enum dtype dtype;
    int64_t rows, width;     /* statistics: rows, 1 */
    int parameter;           /* index while declaring, by name after finishing; -1 */
    tensor_id alias;         /* its memory is that tensor's; -1 */
    tensor_id gradient;      /* of an activation, once derived; -1 */
    int producer;            /* the operation that makes it; -1 */
    struct interval life[2]; /* its memory is its own in these; the second where it is computed again */
    bool in_slot;            /* lives from one phase to another */
    int64_t offset;          /* bytes into its slot or into the scratch memory */
};

struct op;

enum { OP_STATISTICS = 13, OP_WORK = 10, OP_PARAMETERS = 5 };

/* What an operation's backward kernels read beside the gradient of its result. */
enum { READS_X = 1, READS_Y = 2, READS_STATISTICS = 4 };

/* What the graph knows of a kind of operation. */
struct op_class {
    const char *name;
    unsigned input_reads, weight_reads; /* READS_...: of backward_input, of backward_weight */
    bool in_place;                      /* the result is its input, changed where it is; so is its gradient */
    bool adds_to_gradient;              /* backward_input can add to a gradient of x that is there */
    bool backward_only;                 /* in training the forward phase leaves it to the backward phase */
    bool weights_with_input;            /* its backward_input makes the gradients of parameters too */
    bool across_replicas;               /* takes part in what other replicas compute, also in an idle pass */
    bool exchanges;                     /* speaks to other ranks, or reads what kernels found */
    cairn_err (*prepare)(struct graph *, struct op *); /* plans of products and the like; may be NULL */
    void (*forward)(struct graph *, struct op *);
    void (*backward_input)(struct graph *, struct op *);  /* gradients of activations; NULL: has none */
    void (*backward_weight)(struct graph *, struct op *); /* gradients of parameters; NULL: has none */
    void (*release)(struct graph *, struct op *);
};

struct op {
    const struct op_class *class;
    int unit;                     /* of the model */
    int segment;                  /* computed again as one; -1: kept */
    tensor_id x, h;               /* activations read; -1 */
    tensor_id y;                  /* activation made; -1 */
    tensor_id weight, bias, more[OP_PARAMETERS - 2]; /* parameters; -1 */
    tensor_id statistic[OP_STATISTICS]; /* kept for the backward pass; -1 */
    bool add_x;                   /* the gradient of x exists already: add to it */
    tensor_id work[OP_WORK];          /* memory for the forward step alone, then for the backward step alone; -1 */
    int forward_work;             /* so many are the forward step's */
    bool adds_bias;               /* of tensor ranks that share a product, one adds its bias */
    bool late;                    /* in training the forward phase need not have it */
    double epsilon;
    float rate;
    int64_t heads;
    bool is_lookup;               /* the weight's gradient goes to its lookup bucket */
    bool clears_lookup;           /* and the region must be cleared before */
    struct dropout dropout;
    struct matmul *forward_plan, *input_plan, *weight_plan;
    /* On a device a linear's product goes through the GELU that follows, or through the gradient of the one before; -1: neither. */
    int gelu_behind, gelu_before;
    bool in_product, gradient_in_product; /* of a GELU: the linear before, or behind, does it */
    int sum_before;   /* of a norm: the residual that it adds up, where that has no dropout; -1 */
    bool in_norm;     /* of a residual: such a norm follows */
    struct attention *attention;
    struct classifier *classifier;
    struct experts *experts;
};

/* A call of a kernel, with what has to happen around it: entries first..first + count - 1 of the graph's events. */
enum step_kind { STEP_FORWARD, STEP_BACKWARD_INPUT, STEP_BACKWARD_WEIGHT };
enum event_kind { EVENT_ACQUIRE, EVENT_BEGIN, EVENT_RELEASE, EVENT_READY }; /* the first two before the step */

struct event {
    enum event_kind kind;
    int step, bucket;
};

struct step {
    int op;
    enum step_kind kind;
    bool again;            /* a forward step of the backward phase */
    int before, after;     /* events of this step: [before, after) come first, [after, next step's before) last */
    /* On a device, of the run of steps that begins here: recorded.c. */
    struct recorded *recorded;
    int recordings;
    unsigned warm; /* bit 0, bit 1: its kernels were started before, with dropout or without */
};

struct graph {
    struct backend *backend;
    struct graph_options options;
    struct graph_columns columns; /* this rank's */
    int64_t rows;                 /* of a microbatch: here */
    int32_t *positions;           /* of each column, the backend's; NULL: 0, 1, 2, ... */
    cairn_err error;              /* the first mistake of the builder */
    char error_message[512];
    struct tensor *tensors;
    int tensor_count, tensor_room;
    struct op *ops;
    int op_count, op_room;
    int unit, dropouts_in_unit, segment, segment_count, segment_depth; /* while declaring */
    struct parameter *parameters; /* in order of declaration, sorted by name when finished */
    int parameter_count, parameter_room;
    struct graph_bucket *buckets;
    int bucket_count;
    int64_t parameter_elements, gradient_elements;
    struct step *steps;           /* of all phases in a row, and a last one that only ends the list */
    int step_count, step_room;
    int phase_begin[4];           /* forward, backward, weights, end */
    struct event *events;
    int event_count, event_room;
    uint64_t *told;               /* room for recorded.c; NULL: nothing is recorded */
    char *slots, *scratch;        /* memory */
    int slot_count;
    bool own_scratch;
    size_t slot_bytes, scratch_bytes;
    int32_t *tokens;              /* on a device: inputs and targets of each slot; else NULL */
    struct dropout_moment *moments; /* on a device that records: of each slot; else NULL */
    tensor_id losses, stage_input, stage_output;
    struct graph_hooks hooks;
    int64_t *shares;              /* room for two numbers of each tensor rank; NULL: not needed */
    struct staging staging;
    void *join;                   /* what tensor ranks found of a block of rows, for the classifier; the backend's; NULL: not needed */
    size_t join_bytes;
    const void **bucket_parameters; /* by bucket: where they are now */
    void **bucket_gradients;
    /* of the current run */
    char *slot;
    const int32_t *inputs, *targets; /* the backend's */
    double loss_scale;
    bool dropping;                /* training's forward pass: dropout acts */
    bool idle;                    /* hooks alone */
    struct graph_experts_use experts_use;
    cairn_err run_error;          /* of an operation that spoke to other ranks */
};

static inline tensor_id tensor_owner(const struct graph *g, tensor_id id)
{
    while (id >= 0 && g->tensors[id].alias >= 0)
        id = g->tensors[id].alias;
    return id;
}

static inline void *tensor_data(const struct graph *g, tensor_id id)
{
    if (id < 0)
        return NULL;
    const struct tensor *t = &g->tensors[tensor_owner(g, id)];
    return (t->in_slot ? g->slot : g->scratch) + t->offset;
}

static inline void *gradient_of(const struct graph *g, tensor_id x)
{
    return tensor_data(g, g->tensors[x].gradient);
}

static inline struct parameter *parameter_of(struct graph *g, tensor_id id)
{
    return &g->parameters[g->tensors[id].parameter];
}

/* The bucket that takes a parameter's gradient, of a tied one's use as lookup table if LOOKUP. */
static inline int gradient_bucket(struct graph *g, tensor_id id, bool lookup)
{
    const struct parameter *p = parameter_of(g, id);
    return lookup && p->lookup >= 0 ? p->lookup : p->bucket;
}

/* The compute copy of a parameter. */
static inline const void *parameter_data(struct graph *g, tensor_id id)
{
    if (id < 0)
        return NULL;
    const struct parameter *p = parameter_of(g, id);
    size_t inside = (size_t)(p->offset - g->buckets[p->bucket].offset);
    return (const char *)g->bucket_parameters[p->bucket] + inside * dtype_size(g->backend->act);
}

/* Where a parameter's gradient goes in this run, NULL where none is wanted; of a tied one's use as lookup table if LOOKUP. */
static inline void *parameter_gradient(struct graph *g, tensor_id id, bool lookup)
{
    const struct parameter *p = parameter_of(g, id);
    int64_t inside = p->offset - g->buckets[p->bucket].offset;
    char *bucket = g->bucket_gradients[gradient_bucket(g, id, lookup)];
    return bucket ? bucket + (size_t)inside * dtype_size(g->backend->acc) : NULL;
}

static inline tensor_id op_parameter(const struct op *op, int i)
{
    return i == 0 ? op->weight : i == 1 ? op->bias : op->more[i - 2];
}

/* Whether in training the forward phase leaves the op to the backward phase. */
static inline bool op_is_late(const struct op *op)
{
    return op->class->backward_only || op->late;
}

/* Whether the op writes gradients of parameters in its step of KIND. */
static inline bool op_writes_weights(const struct op *op, enum step_kind kind)
{
    return kind == STEP_BACKWARD_WEIGHT || (kind == STEP_BACKWARD_INPUT && op->class->weights_with_input);
}

/* graph.c */
tensor_id graph_add_tensor(struct graph *g, enum tensor_role role, enum dtype dtype, int64_t rows, int64_t width);
struct op *graph_add_op(struct graph *g, const struct op_class *class); /* NULL after an error */
void graph_mistake(struct graph *g, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool graph_grow(struct graph *g, void **array, int count, int *room, size_t size); /* room for one more element; false: the graph's error */

/* ops.c: for all kinds of operations */
bool graph_is_activation(struct graph *g, tensor_id x, const char *op);
bool graph_is_parameter(struct graph *g, tensor_id p, int64_t rows, int64_t width, const char *op);
/* An activation made by OP. */
tensor_id graph_result(struct graph *g, struct op *op, int64_t rows, int64_t width);
tensor_id graph_statistic(struct graph *g, struct op *op, int64_t rows);
void graph_set_dropout(struct graph *g, struct op *op, float rate);
struct dropout graph_active_dropout(const struct graph *g, const struct op *op); /* what the forward pass drops: nothing outside training */

/* backward.c: gradients of activations, and which ops add to one that is there */
void graph_derive_backward(struct graph *g);

/* joins.c, after the backward pass is derived: which products go through GELUs, which norms add up what they norm */
void graph_join_gelus(struct graph *g);
void graph_join_residuals(struct graph *g);
bool graph_norm_adds(const struct graph *g, const struct op *sum); /* now: the residual SUM is left to the norm behind it */

/* steps.c: the list of steps */
cairn_err graph_list_steps(struct graph *g);

/* parameters.c: places of parameters, their buckets, and the events around steps */
cairn_err graph_place_parameters(struct graph *g); /* before the steps are listed */
cairn_err graph_make_buckets(struct graph *g);     /* after */

/* arena.c: offsets of all tensors that need memory of their own, and the sizes of a slot and of the scratch memory */
cairn_err graph_plan_memory(struct graph *g);

/* recorded.c: on a device, the end of the run of steps from FIRST on that can be given to it at once (FIRST: none), and giving it: RUN calls
 * their kernels. Events of the kind EVENT_BEGIN come before the run. What was recorded is of now: hooks and memory may not change. */
typedef void graph_steps_fn(struct graph *g, int first, int end);
cairn_err graph_prepare_recording(struct graph *g); /* after the steps are listed */
int graph_recorded_end(const struct graph *g, int first, int end);
void graph_run_recorded(struct graph *g, int first, int end, graph_steps_fn *run);
void graph_forget_recorded(struct graph *g);

/* ops_context.c: the attention of sequences that ranks share; and, for what depends on a row's place in the whole microbatch: the rows
 * FIRST.. of those here, up to COUNT, that follow one another there too; *PLACE is that of the first. */
void graph_ring_work(struct graph *g, struct op *op, int64_t heads, int64_t size);
int64_t graph_row_run(const struct graph *g, int64_t first, int64_t count, int64_t *place);
cairn_err graph_place_columns(struct graph *g);

extern const struct op_class op_ring_attention, op_experts;
extern const struct op_class op_embedding, op_layer_norm, op_rms_norm, op_linear, op_attention, op_gelu, op_swiglu, op_residual, op_classifier;
extern const struct op_class op_stage_input, op_stage_output, op_tensor_enter, op_tensor_leave, op_rows_gather, op_rows_scatter;

/* ops_tensor.c: whether tensor ranks share the rows between products; this rank's rows, *FIRST and how many; the sum over those ranks
 * of a gradient (acc) that each computed from its own rows; keeps the first error of a run */
bool graph_shares_rows(const struct graph *g);
int64_t graph_row_share(const struct graph *g, int64_t *first);
void graph_sum_over_rows(struct graph *g, void *gradient, int64_t n);
void graph_note(struct graph *g, cairn_err err);

#endif
