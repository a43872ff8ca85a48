/* What the planner knows of a model: its parameters and its operations, counted. Pure functions.
 *
 * A GPT of L blocks of width c: a block has 12 c^2 + 13 c parameters (model/gpt.c), and its products take 2 operations a weight and
 * token forward, twice that backward; attention's two products take 4 c s a token over a context of s. With E experts, each an MLP of
 * 8 c^2 + 5 c, and a router of E c in the MLP's place, a token's operations are those of the router and of the experts that it chooses. */
#ifndef PLAN_MODEL_H
#define PLAN_MODEL_H

#include "base/config.h"
#include "mesh/layout.h"

struct plan_model {
    int64_t layers, width, heads, context, vocabulary;
    bool tied;
    bool dropout; /* any */
    int64_t experts, choices; /* of each block; a token's. 0: one MLP for all tokens */
    double capacity_factor;
};

/* What activations and products are computed in. */
enum plan_type { PLAN_FLOAT32, PLAN_FLOAT16, PLAN_BFLOAT16, PLAN_TYPES };

extern const char *const plan_type_names[PLAN_TYPES];

static inline int plan_type_size(enum plan_type type)
{
    return type == PLAN_FLOAT32 ? 4 : 2;
}

/* How gradients go over the data group's links where not whole and at each step. */
struct plan_modes {
    enum config_compress compress;
    double compress_ratio;
    int compress_rank;
    int64_t local_steps; /* that replicas train apart; 0: they take each step together */
    bool outer_momentum;
};

/* How one step is shared. A batch is MICROBATCHES microbatches (V, over all replicas) of SAMPLES samples (b). */
struct plan_layout {
    struct layout axes;
    enum config_schedule schedule;
    int zero;                      /* 0..3 */
    bool sequence;
    enum config_recompute recompute;
    int64_t microbatches, samples; /* V and b */
    struct plan_modes modes;
};

/* The modes that CONFIG asks for. */
struct plan_modes plan_modes_of(const struct config *config);

/* The model that CONFIG describes. CAIRN_ECONFIG if it leaves the vocabulary to the dataset. */
cairn_err plan_model_of(const struct config *config, struct plan_model *model);

/* The type that CONFIG's precision stands for. CAIRN_ECONFIG for float64, which no plan is made for. */
cairn_err plan_type_of(const struct config *config, enum plan_type *type);

/* All parameters; those that a token's products read (embeddings aside, the head's among them; of experts, those of its choices). */
int64_t plan_parameters(const struct plan_model *model);
int64_t plan_product_parameters(const struct plan_model *model);

/* Operations of a step's forward and backward pass over SAMPLES samples, attention over whole squares as is customary (PaLM, arXiv
 * 2204.02311, appendix B; a causal kernel does about half of them). */
double plan_model_operations(const struct plan_model *model, int64_t samples);

/* The same and those that RECOMPUTE repeats: a whole forward pass of the blocks, or attention's products and, WITH_QKV, those that make
 * its input. */
double plan_hardware_operations(const struct plan_model *model, int64_t samples, enum config_recompute recompute, bool with_qkv);

/* The model in COUNT pieces (stages' chunks, by their global numbers), cut as the run time cuts (gpt_piece_of) or, EVEN, by blocks alone. */
struct plan_cut {
    int count;
    bool even;
    int64_t layers, last; /* of all; of the last piece unless even */
};
struct plan_cut plan_cut_of(const struct plan_model *model, int count, bool even);

/* Blocks of piece INDEX. */
int64_t plan_cut_layers(const struct plan_cut *cut, int index);

/* The layout as "data 4, tensor 8, pipeline 2, 1f1b, microbatch 1, zero 1, recompute block". */
enum { PLAN_LAYOUT_TEXT_SIZE = 192 };
char *plan_layout_text(const struct plan_layout *layout, char *out);

#endif
