/* Lines of the PMI-1 wire protocol, as MPICH's client sends them over the descriptor in PMI_FD: "cmd=put kvsname=K key=A
 * value=B\n"; some begin with "mcmd=" and end with a line "endcmd". Source: MPICH, src/pmi/simple/simple_pmi.c and
 * simple_pmiutil.c (4.0). Pure functions on text; nothing here trusts what it reads. */
#ifndef JOB_PMI_WIRE_H
#define JOB_PMI_WIRE_H

#include <stdbool.h>
#include <stddef.h>

/* What we tell the client. MPICH's client builds a whole line in 1024 bytes (PMIU_MAXLINE) and cuts what is longer: with these
 * limits a longest name, key and value still fit into one line. */
enum {
    PMI_LINE_MAX = 1024,
    PMI_NAME_MAX = 96,
    PMI_KEY_MAX = 64,
    PMI_VALUE_MAX = 768,
};

enum pmi_command {
    PMI_UNKNOWN,
    PMI_INIT,
    PMI_GET_MAXES,
    PMI_GET_APPNUM,
    PMI_GET_UNIVERSE_SIZE,
    PMI_GET_MY_KVSNAME,
    PMI_PUT,
    PMI_GET,
    PMI_GETBYIDX,
    PMI_BARRIER,
    PMI_SPAWN,
    PMI_PUBLISH,
    PMI_UNPUBLISH,
    PMI_LOOKUP,
    PMI_FINALIZE,
    PMI_ABORT,
};

struct pmi_request {
    enum pmi_command command;
    char name[32];              /* of the command, for messages */
    char kvsname[PMI_NAME_MAX]; /* empty if not given */
    char key[PMI_KEY_MAX];
    char value[PMI_VALUE_MAX];
    int version;                /* pmi_version= */
    int index;                  /* idx= */
    int exitcode;               /* exitcode= */
    const char *wrong;          /* static text if a field is missing, too long or not a number; else NULL */
};

/* Reads one line (no newline, NUL-ended). Always fills *OUT. */
void pmi_request_parse(const char *line, struct pmi_request *out);

/* The value of field NAME in LINE into TO: false if it is not there or does not fit with its NUL (*TOO_LONG, if not
 * NULL, tells the two apart). A value ends at a space, but "value=" and "msg=" run to the end of the line. */
bool pmi_field(const char *line, const char *name, char *to, size_t size, bool *too_long);

/* MPICH's process mapping for ranks 0..SIZE-1 on nodes NODE_OF[r] (any numbers; equal means the same node):
 * "(vector,(first node,nodes,ranks per node),...)", nodes renumbered in order of their lowest ranks. The blocks are repeated by
 * the reader until all ranks have a node, so a cyclic map is one block. False if it does not fit. */
bool pmi_mapping_write(const int *node_of, int size, char *out, size_t out_size);

/* The reader of the same, as MPICH does it: fills NODE_OF[0..SIZE-1]; false if TEXT is no mapping. */
bool pmi_mapping_read(const char *text, int *node_of, int size);

#endif
