/* Who owns which elements: the replicas of a piece of the model divide each bucket of its parameters among themselves. The owner sums
 * the gradient there, and under ZeRO (Rajbhandari et al., arXiv 1910.02054) keeps master weights and moments of these alone. Pure. */
#ifndef TRAIN_SHARES_H
#define TRAIN_SHARES_H

#include "graph/graph.h"

/* The elements [begin, begin + length) of a bucket that replica REPLICA of REPLICAS owns: whole chunks of the gradient's norm (kernels/
 * backend.h), as even as can be; ranges follow one another and cover the bucket. A lookup's bucket is shared as its parameters' is. */
void share_of_bucket(const struct graph *graph, int bucket, int replicas, int replica, int64_t *begin, int64_t *length);

/* Whether the bucket's parameters are experts', which fewer ranks hold. */
bool bucket_is_of_expert(const struct graph *graph, int bucket);

/* What of parameter P lies in the elements [begin, begin + length) of the flat vector: *FIRST, an element of P, and how many. */
int64_t share_of_parameter(const struct parameter *p, int64_t begin, int64_t length, int64_t *first);

#endif
