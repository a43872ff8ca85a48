/* Shared by the files of graph/ alone. */
#ifndef GRAPH_GRAPH_INTERNAL_H
#define GRAPH_GRAPH_INTERNAL_H

#include "graph/graph.h"

enum { GRAPH_MAX_INPUTS = 3 };

enum tensor_role { ROLE_ACTIVATION, ROLE_PARAMETER, ROLE_STATISTIC, ROLE_GRADIENT };

struct tensor {
    enum tensor_role role;
    enum dtype dtype;
    int64_t rows, width;    /* statistics: rows, 1 */
    int parameter;          /* index while declaring, by name after finishing; -1 */
    tensor_id alias;        /* its memory is that tensor's; -1 */
    tensor_id gradient;     /* of an activation, once derived; -1 */
    int first_use, last_use;/* positions in forward list then backward list; the memory is its own between them */
    int64_t offset;         /* bytes into the arena */
    void *data;
};

struct op;

/* What the graph knows of a kind of operation. */
struct op_class {
    const char *name;
    cairn_err (*prepare)(struct graph *, struct op *); /* plans of products and the like; may be NULL */
    void (*forward)(struct graph *, struct op *);
    void (*backward_input)(struct graph *, struct op *);  /* gradients of activations; NULL: has none */
    void (*backward_weight)(struct graph *, struct op *); /* gradients of parameters; NULL: has none */
    void (*release)(struct graph *, struct op *);
};

struct op {
    const struct op_class *class;
    int number;
    tensor_id x, h;               /* activations read; -1 */
    tensor_id y;                  /* activation made; -1 */
    tensor_id weight, bias;       /* parameters; -1 */
    tensor_id statistic[2];       /* kept for the backward pass; -1 */
    bool add_x;                   /* the gradient of x exists already: add to it */
    double epsilon;
    float rate;
    int64_t heads;
    bool is_lookup;               /* the weight's gradient goes to its lookup region */
    bool clears_lookup;           /* and the region must be cleared before */
    struct dropout dropout;
    struct matmul *forward_plan, *input_plan, *weight_plan;
    struct attention *attention;
    struct classifier *classifier;
};

struct graph {
    struct backend *backend;
    struct graph_options options;
    int64_t rows;
    cairn_err error;              /* the first mistake of the builder */
    char error_message[512];
    struct tensor *tensors;
    int tensor_count, tensor_room;
    struct op *ops;
    int op_count, op_room;
    struct parameter *parameters; /* in order of declaration, sorted by name when finished */
    int parameter_count, parameter_room;
    int64_t parameter_elements, gradient_elements;
    void *arena;
    size_t arena_bytes;
    tensor_id losses;
    /* of the current run */
    const int32_t *inputs, *targets;
    const char *parameter_data;
    char *gradient_data;
    double loss_scale;
    bool dropping;                /* training's forward pass: dropout acts */
};

static inline void *tensor_data(struct graph *g, tensor_id id)
{
    return id < 0 ? NULL : g->tensors[id].data;
}

/* The compute copy of a parameter. */
static inline const void *parameter_data(struct graph *g, tensor_id id)
{
    if (id < 0)
        return NULL;
    const struct parameter *p = &g->parameters[g->tensors[id].parameter];
    return g->parameter_data + (size_t)p->offset * dtype_size(g->backend->act);
}

/* Where a parameter's gradient goes in this run; of a tied one's use as lookup table if LOOKUP. */
static inline void *parameter_gradient(struct graph *g, tensor_id id, bool lookup)
{
    const struct parameter *p = &g->parameters[g->tensors[id].parameter];
    int64_t offset = lookup && p->lookup >= 0 ? p->lookup : p->offset;
    return g->gradient_data + (size_t)offset * dtype_size(g->backend->acc);
}

/* graph.c */
tensor_id graph_add_tensor(struct graph *g, enum tensor_role role, enum dtype dtype, int64_t rows, int64_t width);
struct op *graph_add_op(struct graph *g, const struct op_class *class); /* NULL after an error */
void graph_mistake(struct graph *g, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* backward.c: gradients of activations, and which ops add to one that is there */
void graph_derive_backward(struct graph *g);

/* arena.c: offsets for all tensors that need memory of their own; *BYTES is the arena's size */
cairn_err graph_plan_arena(struct graph *g, size_t *bytes);

extern const struct op_class op_embedding, op_layer_norm, op_linear, op_attention, op_gelu, op_residual, op_classifier;

#endif
