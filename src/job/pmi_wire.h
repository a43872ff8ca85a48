/* The lines of PMI-1's wire protocol, as MPICH's simple PMI client speaks it over PMI_FD: "cmd=NAME key=value ...\n".
 * Source: MPICH's documentation of PMI-1 (wiki.mpich.org, "PMI v1 wire protocol"). Values have no spaces; the value of "value" in a
 * put runs to the end of the line. */
#ifndef JOB_PMI_WIRE_H
#define JOB_PMI_WIRE_H

#include <stdbool.h>
#include <stddef.h>

/* The client's buffer holds lines of 1024 bytes; an answer to get is its value and 40 bytes more. */
enum { PMI_LINE_SIZE = 1024, PMI_KVSNAME_MAX = 64, PMI_KEY_MAX = 64, PMI_VALUE_MAX = 900 };

/* Copies the value of NAME in LINE ("cmd=put kvsname=a key=b value=c") to OUT; false if it is not there or SIZE is too small.
 * REST: the value runs to the line's end, spaces included. */
bool pmi_wire_value(const char *line, const char *name, bool rest, char *out, size_t size);

/* The value of PMI_process_mapping for a job whose rank r is on node NODE_OF[r] (numbered by first appearance):
 * "(vector,(first node,nodes,ranks per node),...)". False if it takes SIZE bytes or more; the client does without then. */
bool pmi_wire_mapping(const int *node_of, int ranks, char *out, size_t size);

#endif
