/* The gradient of a step as a server gets it: partial sums by nodes of the tree (mesh/tree.h), of this server's share of each bucket, in
 * any order and maybe twice. Each addition is that of a node's children, left + right, so the sum has the bits of a bulk run's. */
#ifndef SERVER_SUMS_H
#define SERVER_SUMS_H

#include "graph/graph.h"
#include "mesh/tree.h"
#include "server/wire.h"

struct sums;

/* Shares of GRAPH's buckets that server SERVER of SERVERS owns; MICROBATCHES of a step. */
cairn_err sums_open(struct backend *backend, const struct graph *graph, int64_t microbatches, int servers, int server, struct sums **out);
void sums_close(struct sums *sums);

/* Bytes of a bucket's share; its payloads have as many. */
size_t sums_bytes(const struct sums *sums, int bucket);

/* Takes the partial sum NODE of BUCKET; what has come before is passed over. PAYLOAD is the sums' from here on. CAIRN_EFORMAT: there is
 * no such bucket or node, or it is not of its size. */
cairn_err sums_add(struct sums *sums, int bucket, struct tree_node node, struct wire_block *payload);

/* Whether all microbatches of all buckets are in. Then sums_join adds up a tied parameter's uses, and sums_of gives a bucket's sum. */
bool sums_are_whole(const struct sums *sums);
void sums_join(struct sums *sums);
void *sums_of(const struct sums *sums, int bucket);

/* For the next step. */
void sums_clear(struct sums *sums);

#endif
