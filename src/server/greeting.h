/* How a worker and a server recognize each other: a token that only those who were told it know, and configs that mean the same. */
#ifndef SERVER_GREETING_H
#define SERVER_GREETING_H

#include "base/config.h"
#include "io/dataset.h"
#include "server/message.h"
#include "server/wire.h"

/* A random token, and a NUL. */
cairn_err greeting_token(char token[MESSAGE_TOKEN_SIZE + 1]);

/* SERVERS, "TOKEN@ADDRESSES", in two. *ADDRESSES points into it. */
cairn_err greeting_parse(const char *servers, char token[MESSAGE_TOKEN_SIZE + 1], const char **addresses);

/* The payload of a hello. */
cairn_err greeting_write(const char *token, const struct config *config, const struct dataset *dataset, const char *host,
                         struct wire_block **out);

/* Whether HELLO with PAYLOAD may come in; if not, the message says why, and CAIRN_ECONFIG that it is of no use to come again. HOST gets the
 * name of its machine. */
cairn_err greeting_check(const struct wire_head *hello, const struct wire_block *payload, const char *token, const struct config *config,
                         const struct dataset *dataset, char *host, size_t size);

#endif
