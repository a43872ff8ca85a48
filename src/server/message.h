/* What the frames between workers and servers say (server/wire.h). Fields not named are zero. */
#ifndef SERVER_MESSAGE_H
#define SERVER_MESSAGE_H

enum { MESSAGE_VERSION = 2, MESSAGE_TOKEN_SIZE = 32 }; /* hexadecimal digits */

/* Who says hello. */
enum message_role {
    ROLE_WORKER,       /* to the head: server 0, which gives out the work */
    ROLE_WORKER_BESIDE,/* to another server */
    ROLE_SERVER,       /* another server to the head */
};

enum message_type {
    /* Payload: the token, then a JSON object of facts. 0: version, 1: role, 2: the worker's number of its own, or the server's; of ROLE_WORKER_BESIDE
     * the id that the head gave it. */
    MESSAGE_HELLO = 1,
    MESSAGE_REFUSED, /* payload: why, text. 0: 1 if coming again is of no use */
    /* 0: the worker's id, 1: threads to compute with, 2: servers. Payload: their addresses, a line each. */
    MESSAGE_WELCOME,

    /* Worker to head. */
    MESSAGE_READY, /* asks for its first work. Payload: its numerics signature */
    MESSAGE_DONE,  /* 0..3: the work_item, 4: what it waited for data, a double. Payload: the losses, doubles. Asks for more */
    MESSAGE_STOP,  /* it was asked to stop. From other servers too. 0: 1 if maybe it alone: it waits for LEAVE */
    /* Head to worker. */
    MESSAGE_WORK,  /* 0..3: the work_item */
    MESSAGE_LEAVE, /* 0: the exit code */

    /* Worker to every server. */
    MESSAGE_PULL,     /* 0: steps that must have been applied */
    MESSAGE_PUSH,     /* 0: step, 1: first, 2: count, 3: bucket, 4 and 5: the tree's node, level and index. Payload: the server's share of it */
    MESSAGE_PUSH_END, /* 0: step, 1: first, 2: count, 3: the gradient's norm, a double */
    /* Every server to the worker. */
    MESSAGE_PARAMETERS, /* 0: steps applied, 1: bucket. Payload: the server's share */
    MESSAGE_PUSHED,     /* 0: step, 1: first: all of it is here, or was before */

    /* Between the other servers and the head. */
    MESSAGE_SQUARES, /* 0: step. Payload: the words of the exact sum of its share's squares */
    MESSAGE_NORM,    /* 0: step, 1: the gradient's norm, a double: apply it */
    MESSAGE_BASE,    /* 0: all steps before are done whole */
    MESSAGE_SAVE,    /* 0: step: the servers meet to write a checkpoint */
    MESSAGE_END,     /* 0: whether it was stopped */
};

#endif
