/* GPT-2 (Radford et al., 2019): learned positions, pre-norm blocks, GELU, biases, the head tied to the token table or not. */
#ifndef MODEL_GPT_H
#define MODEL_GPT_H

#include "graph/graph.h"

struct gpt {
    int64_t layers, width, heads, vocabulary;
    bool tied;
    float dropout; /* of the embedding, the attention's probabilities and both residual branches */
    int64_t experts, choices; /* of each block's MLP; 0: one MLP for all rows */
    double capacity_factor, balance, z; /* of the experts' router: kernels/experts.h */
};

/* A run of blocks, with the embedding before the first and the head after the last if it has these. */
struct gpt_piece {
    int64_t first, count; /* blocks */
    bool begins, ends;    /* the model */
};

/* Piece INDEX of COUNT (at most the layers): cut so that the most costly piece, in operations, costs as little as can be. */
struct gpt_piece gpt_piece_of(const struct gpt *gpt, int64_t context, int count, int index);

/* Declares a piece of the model in GRAPH. The last one's classifier is added if CLASSIFY; the final norm's output, for generating, goes to
 * *HIDDEN and the table of the head to *HEAD (either may be NULL). Errors come out at graph_finish. */
void gpt_declare(struct graph *graph, const struct gpt *gpt, const struct gpt_piece *piece, int64_t context, bool classify,
                 tensor_id *hidden, tensor_id *head);

/* The model's parameters, for the log. */
int64_t gpt_parameter_count(const struct gpt *gpt, int64_t context);

/* Of a microbatch of ROWS rows, those that an expert takes at most. */
int64_t gpt_expert_capacity(const struct gpt *gpt, int64_t rows);

#endif
