/* GPT-2 (Radford et al., 2019): learned positions, pre-norm blocks, GELU, biases, the head tied to the token table or not. */
#ifndef MODEL_GPT_H
#define MODEL_GPT_H

#include "graph/graph.h"

struct gpt {
    int64_t layers, width, heads, vocabulary;
    bool tied;
    float dropout; /* of the embedding, the attention's probabilities and both residual branches */
};

/* Declares the model in GRAPH, up to the classifier. The final norm's output, for generating, goes to *HIDDEN and the table of
 * the head to *HEAD (either may be NULL). The classifier is added if CLASSIFY. Errors come out at graph_finish. */
void gpt_declare(struct graph *graph, const struct gpt *gpt, int64_t context, bool classify, tensor_id *hidden, tensor_id *head);

/* Its parameters, for the log. */
int64_t gpt_parameter_count(const struct gpt *gpt, int64_t context);

#endif
